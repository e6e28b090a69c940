"""The audit of dependencies never calls clean what nobody has looked at."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[2] / ".ci" / "audit.py"
spec = importlib.util.spec_from_file_location("audit", FILE)
assert spec is not None
assert spec.loader is not None
audit: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(audit)

GOOD = {"name": "good", "version": "1", "vulns": []}
BAD = {
    "name": "bad",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "X", "fix_versions": []}],
}
SKIPPED = {"name": "unseen", "skip_reason": "not found"}


def judged(*dependencies: dict[str, Any]) -> tuple[int, str]:
    status, lines = audit.judge({"dependencies": list(dependencies), "fixes": []})
    return status, "\n".join(lines)


def test_what_is_wrong_is_told() -> None:
    status, text = judged(GOOD, BAD, SKIPPED)
    assert status == audit.FOUND
    assert "bad 2: CVE-1, fixed in 3" in text
    assert "X, fixed in no release" in text


def test_nothing_known_is_said_of_what_was_looked_up_only() -> None:
    assert judged(GOOD) == (0, "Nothing is known to be wrong with 1 packages.")
    status, text = judged(GOOD, SKIPPED)
    assert status == 0
    assert "Not looked up: unseen." in text


def test_what_nobody_knows_is_not_clean() -> None:
    assert judged(SKIPPED, SKIPPED)[0] == audit.UNKNOWN
    assert "NOT AUDITED" in judged(SKIPPED)[1]
    assert judged()[0] == audit.UNKNOWN
