"""Files that are replaced: whole, private, and without leftovers that hold what had to go."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from roost import files


@pytest.mark.parametrize("locked", [False, True])
def test_a_file_is_replaced_whole_and_for_its_owner_alone(tmp_path: Path, locked: bool) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old and longer")
    path.chmod(0o644)
    files.replace(path, b"new", locked=locked)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_what_a_killed_process_left_goes_with_the_next_replacement(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    files.draft(path, b"never came to be", locked=True)
    files.replace(path, b"new", locked=True)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("secret", b"new")]


@pytest.mark.parametrize("locked", [False, True])
def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path, locked: bool) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        files.replace(path, b"new", locked=locked)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]
