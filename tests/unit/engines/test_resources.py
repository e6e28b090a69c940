"""The embedded PostgreSQL takes a small part of what memory there is, within bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from roost.engines.embedded import resources


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max", None), (str(1 << 30), "128MB"), (str(8 << 30), "512MB"), (str(1 << 50), None)],
)
def test_shared_buffers_follow_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: str | None
) -> None:
    file = tmp_path / "memory.max"
    file.write_text(f"{limit}\n")
    monkeypatch.setattr(resources, "_LIMITS", (tmp_path / "absent", file))
    monkeypatch.setattr(resources, "sysconf", {"SC_PHYS_PAGES": 1 << 22, "SC_PAGE_SIZE": 1 << 12}.__getitem__)
    # Without a limit of its own, 16 GiB: a sixteenth is the most.
    assert resources.shared_buffers() == (expected or "1024MB")
