"""Whether anything known is wrong with the locked dependencies, as pip-audit knows it; and whether it knows at all.

Where no source of advisories can be reached, pip-audit skips what it was asked and still says "no known
vulnerabilities". Here that is told for what it is: nothing was looked up. With `--required` it is a failure, too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOUND, UNKNOWN = 1, 3


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The status, and lines that tell why, of a report of pip-audit's."""
    known = [each for each in report["dependencies"] if "skip_reason" not in each]
    skipped = [each["name"] for each in report["dependencies"] if "skip_reason" in each]
    found = [
        f"{each['name']} {each['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no release'}"
        for each in known
        for fault in each["vulns"]
    ]
    if found:
        return FOUND, found
    if not known:
        return UNKNOWN, [f"NOT AUDITED: no source of advisories knows any of the {len(skipped)} packages from here."]
    beside = [f"Not looked up: {', '.join(skipped)}."] if skipped else []
    return 0, [f"Nothing is known to be wrong with {len(known)} packages.", *beside]


def main(arguments: list[str]) -> int:
    """Audit the lock files that are named."""
    locks = [lock for lock in arguments if not lock.startswith("--")]
    audit = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--require-hashes", "--format", "json"]
    done = subprocess.run(
        [*audit, "--progress-spinner", "off", *(part for lock in locks for part in ("-r", lock))],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    try:
        status, lines = judge(json.loads(done.stdout))
    except (json.JSONDecodeError, KeyError):
        why = (done.stderr.strip().splitlines() or ["pip-audit says nothing"])[-1]
        status, lines = UNKNOWN, [f"NOT AUDITED: {why}"]
    print("\n".join(lines))
    return 0 if status == UNKNOWN and "--required" not in arguments else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
