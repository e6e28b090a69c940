"""Mistakes that people make on the command line, and what they are told."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path

import pytest

from tests.support.server import Server
from tests.support.shell import Shell, failed

names = (f"mistaken-{number}" for number in count(1))


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


def test_a_token_that_is_piped_in_is_saved_and_not_the_environments(shell: Shell) -> None:
    own, admin = shell.server.token(next(names)), shell.server.admin()
    saved = shell.run("login", stdin=admin + "\n", ROOST_TOKEN=own)
    assert (saved.returncode, "ROOST_TOKEN goes before it" in saved.stderr) == (0, True)
    (file,) = shell.home.rglob("profiles.json")
    assert json.loads(file.read_text())["default"]["token"] == admin
    saved = shell.run("login", ROOST_TOKEN=own)
    assert (saved.returncode, "ROOST_TOKEN" in saved.stderr) == (0, False)
    assert json.loads(file.read_text())["default"]["token"] == own


def test_a_collection_without_documents_says_so(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "preferences", "ui", "1")
    shown = shell.run("get", user, "preference")
    assert (shown.returncode, shown.stdout) == (0, "{}\n")
    assert f"`roost get {user}`" in shown.stderr


def test_an_erasure_that_nobody_can_confirm_is_none(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "a", "x", "1")
    asked = shell.run("erase", user)
    assert (asked.returncode, "--yes" in asked.stderr) == (1, True)
    asked = shell.run("erase", user, stdin="n\n")
    assert (asked.returncode, "--yes" in asked.stderr) == (130, False)
    assert shell.json("get", user, "a", "x") == 1
    assert shell.run("erase", user, stdin="y\n").returncode == 0


def test_what_is_not_there_is_named(shell: Shell) -> None:
    failed(shell.run("policy", "remove", "nobodys"), "There are no policies 'nobodys'")
    failed(shell.run("import", "nothing.jsonl"), "may it be read")
    failed(shell.run("token", "--admin", "--data", "nothing"), f"{shell.home / 'nothing'} is no data directory")


def test_an_option_that_cannot_be_is_told_in_plain_words(shell: Shell) -> None:
    refused = shell.run("collections", "notes", "--conflict", "sibling")
    failed(refused, "'--conflict': 'sibling' is not one of 'cas', 'lww', 'merge', 'siblings'", code=2)


def test_a_token_that_may_not_is_told_which_may(shell: Shell) -> None:
    own = shell.server.token(next(names))
    failed(shell.run("users", "--token", own), "of the user whose state it is, or of an admin")
    failed(shell.run("users", "--token", "forged"), "with the server's --data")


def test_a_head_that_is_none_does_not_pass_for_a_proof(shell: Shell) -> None:
    data = ("--data", str(shell.server.data))
    head = shell.run("audit", "head", *data).stdout.strip()
    assert shell.run("audit", "verify", *data, "--head", head).returncode == 0
    for wrong in ("", head[:-1], "nonsense"):
        proved = shell.run("audit", "verify", *data, "--head", wrong)
        assert (proved.returncode, "not one of this trail" in proved.stdout) == (1, True), proved


def test_shredding_prints_what_it_did_and_nothing_else(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "a", "x", "1")
    shell.json("erase", user, "--yes")
    shredded = shell.run("keys", "shred", "--data", str(shell.server.data))
    assert (shredded.returncode, shredded.stderr) == (0, "")
    assert shredded.stdout.count("\n") == 1
