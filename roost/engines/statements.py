"""SQL statements by name, read from the `.sql` files beside this module.

Every statement that Roost sends stands in such a file under a line `-- name: <name>`, so that it can be
read, explained and tried as SQL.
"""

from __future__ import annotations

import re
from importlib.resources import files

_named = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(*names: str) -> dict[str, str]:
    """All statements of the files `sql/<name>.sql`, by statement name. Raises `ValueError` for a name twice."""
    found: dict[str, str] = {}
    for name in names:
        _, *parts = _named.split(files("roost.engines").joinpath("sql", f"{name}.sql").read_text())
        for statement, text in zip(parts[::2], parts[1::2], strict=True):
            if statement in found:
                msg = f"statement {statement!r} stands twice"
                raise ValueError(msg)
            found[statement] = text.strip().removesuffix(";")
    return found
