"""A data directory has one owner, a format that this release knows, and is never somebody else's folder."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from roost.node import directory
from roost.node.directory import FORMAT, MARK, CannotStart, DataDirectory, InUse, Mark, Run

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
OPEN_ELSEWHERE = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from roost.node.directory import DataDirectory
DataDirectory.open(Path(sys.argv[1]), lambda: datetime.now(UTC))
print("owned", flush=True)
sys.stdin.read()
"""


def opened(path: Path) -> DataDirectory:
    return DataDirectory.open(path, lambda: AT)


def test_a_new_one_says_its_format_and_when_it_was_made(tmp_path: Path) -> None:
    with opened(tmp_path / "deep" / "data") as owned:
        mark = msgspec.json.decode((owned.path / MARK).read_bytes(), type=Mark)
    assert mark == Mark(FORMAT, AT)
    assert directory.exists(owned.path)


def test_it_is_found_again_as_it_was(tmp_path: Path) -> None:
    opened(tmp_path).close()
    DataDirectory.open(tmp_path, lambda: pytest.fail("it is not made again")).close()


def test_it_has_one_owner_as_long_as_that_one_lives(tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", OPEN_ELSEWHERE, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "owned\n"
        with pytest.raises(InUse, match=f"in use by process {other.pid}: .* --data"):
            opened(tmp_path)
        other.kill()
        other.wait()
        opened(tmp_path).close()


def test_a_program_that_the_owner_started_does_not_own_it(tmp_path: Path) -> None:
    owned = opened(tmp_path)
    with subprocess.Popen(["sleep", "60"], pass_fds=[owned._lock], stdout=subprocess.DEVNULL) as inheritor:
        owned.close()
        second = subprocess.run(
            [sys.executable, "-c", OPEN_ELSEWHERE, str(tmp_path)], input="", capture_output=True, text=True, check=False
        )
        inheritor.kill()
    assert second.stdout == "owned\n"


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    opened(tmp_path).close()
    newer = msgspec.json.encode({"format": FORMAT + 1, "created_at": AT, "more": True})
    (tmp_path / MARK).write_bytes(newer)
    with pytest.raises(CannotStart, match=f"has format {FORMAT + 1}, and this Roost knows {FORMAT}: run a newer Roost"):
        opened(tmp_path)
    assert (tmp_path / MARK).read_bytes() == newer


@pytest.mark.parametrize("broken", [b"", b"{", b'{"format": "one"}'])
def test_a_broken_mark_is_refused(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / MARK).write_bytes(broken)
    with pytest.raises(CannotStart, match="is not what Roost wrote"):
        opened(tmp_path)


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(CannotStart, match=r"holds thesis\.tex and no data of Roost's: .* --data"):
        opened(tmp_path)
    assert not directory.exists(tmp_path)


@pytest.mark.parametrize("name", ["lost+found", "signing_key.json", ".gitkeep"])
def test_what_a_mount_or_a_key_left_does_not_matter(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    opened(tmp_path).close()
    assert directory.exists(tmp_path)


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(CannotStart, match=r"cannot be used \(Not a directory\): .* --data"):
            opened(path)


def test_others_learn_how_to_reach_its_server(tmp_path: Path) -> None:
    run = Run(1, "http://127.0.0.1:8080", "postgresql://roost@/roost")
    with opened(tmp_path) as owned:
        owned.announce(run)
        assert directory.running(tmp_path) == run
        assert (tmp_path / directory.RUN).stat().st_mode & 0o077 == 0
    with pytest.raises(CannotStart, match="just starting or stopping"):
        directory.running(tmp_path)
