"""The shred ledger: what is in it is on disk, and what a crash or a hand did to it harms no other line."""

from __future__ import annotations

import multiprocessing
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from roost.core.errors import Code
from roost.crypto.ledger import Entry, Ledger, LedgerError

AT = datetime(2026, 1, 31, tzinfo=UTC)


def entries(*users: str) -> list[Entry]:
    return [Entry(user, AT) for user in users]


def add(path: Path, number: int) -> None:
    for step in range(50):
        Ledger(path).add(entries(f"user-{number}-{step}"))


def test_entries_come_back_in_order(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "keys" / "shredded.jsonl")
    assert list(ledger.entries()) == []
    ledger.add(entries("ada", "bob"))
    ledger.add(entries("eve@example.com"))
    assert list(Ledger(ledger.path).entries()) == entries("ada", "bob", "eve@example.com")
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600


def test_an_entry_is_on_disk_when_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def counted(file: int) -> None:
        synced.append(os.fstat(file).st_size if stat.S_ISREG(os.fstat(file).st_mode) else -1)
        fsync(file)

    monkeypatch.setattr(os, "fsync", counted)
    ledger = Ledger(tmp_path / "shredded.jsonl")
    ledger.add(entries("ada"))
    assert synced == [ledger.path.stat().st_size, -1]  # the file, then the folder that has it now
    ledger.add(entries("bob"))
    assert synced[2:] == [ledger.path.stat().st_size]


@pytest.mark.parametrize("cut", [1, 7, 20])
def test_a_line_that_was_cut_short_takes_no_other_along(tmp_path: Path, cut: int) -> None:
    ledger = Ledger(tmp_path / "shredded.jsonl")
    ledger.add(entries("ada", "bob"))
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    ledger.add(entries("eve"))
    left = entries("ada", "bob", "eve") if cut == 1 else entries("ada", "eve")
    assert list(ledger.entries()) == left


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff", b'{"user":"$roost","at":"2026-01-31T00:00:00Z"}', b"[" * 2000])
def test_what_is_no_entry_is_passed_over(tmp_path: Path, line: bytes) -> None:
    ledger = Ledger(tmp_path / "shredded.jsonl")
    ledger.add(entries("ada"))
    with ledger.path.open("ab") as file:
        file.write(line + b"\n")
    ledger.add(entries("bob"))
    assert list(ledger.entries()) == entries("ada", "bob")


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shredded.jsonl"
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=add, args=(path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = [entry.user for entry in Ledger(path).entries()]
    assert sorted(found) == sorted(f"user-{number}-{step}" for number in range(4) for step in range(50))


def test_a_ledger_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    (tmp_path / "shredded.jsonl").mkdir()
    ledger = Ledger(tmp_path / "shredded.jsonl")
    with pytest.raises(LedgerError) as refusal:
        ledger.add(entries("ada"))
    assert refusal.value.code is Code.UNAVAILABLE
    with pytest.raises(LedgerError):
        list(ledger.entries())
