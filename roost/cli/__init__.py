"""The command line: `roost`.

Nothing is imported here, because every worker process of a server imports this module on its way in.
"""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    from roost.cli.root import run

    run()
