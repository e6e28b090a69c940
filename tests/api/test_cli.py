"""The commands against a running server, as processes: what they print, how they fail, how they go on after a kill."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from roost.cli.shop import customers
from roost.client import SyncClient
from tests.support.server import Server, until
from tests.support.shell import Shell, failed

names = (f"cli-{number}" for number in count(1))


@pytest.fixture
def shell(server: Server, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for exports: nobody else's users are on it."""
    with Server(tmp_path_factory.mktemp("quiet") / "data", engine="memory:") as server:
        yield server


@pytest.fixture
def alone(quiet: Server, tmp_path: Path) -> Shell:
    return Shell(quiet, tmp_path)


def write_lines(path: Path, items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


# Documents


def test_a_document_from_its_first_version_to_its_end(shell: Shell) -> None:
    user = next(names)
    assert shell.json("put", user, "prefs", "ui", '{"theme": "dark"}', "--if-absent") == {"version": 1, "seq": 1}
    assert shell.json("put", user, "prefs", "ui", "-", stdin='{"theme": "light"}')["version"] == 2
    assert shell.json("patch", user, "prefs", "ui", '{"size": 1}') == {"theme": "light", "size": 1}
    assert shell.json("patch", user, "prefs", "ui", '[{"op": "remove", "path": "/size"}]') == {"theme": "light"}
    assert shell.json("get", user, "prefs", "ui") == {"theme": "light"}
    assert shell.json("get", user, "prefs", "ui", "--full")["version"] == 4
    assert shell.json("get", user, "prefs", "ui", "--at-seq", "1") == {"theme": "dark"}
    assert shell.json("get", user, "prefs") == {"ui": {"theme": "light"}}
    assert shell.json("get", user) == {"prefs": {"ui": {"theme": "light"}}}
    assert shell.json("delete", user, "prefs", "ui", "--if-version", "4") == {"version": 5, "seq": 5}
    assert [it["version"] for it in shell.lines("history", user, "prefs", "ui", "--limit", "2")] == [5, 4]
    (first, *_) = shell.lines("events", user)
    assert shell.json("get", user, "prefs", "ui", "--at", first["at"]) == {"theme": "dark"}
    assert [it["seq"] for it in shell.lines("events", user, "--after", "3", "--collections", "prefs")] == [4, 5]
    assert shell.json("users", user)["seq"] == 5
    assert len(shell.lines("users", "--limit", "1")) == 1


def test_following_prints_events_as_they_happen(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "a", "x", "1")
    following = shell.start("events", user, "--follow")
    try:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["value"] == 1
        shell.json("put", user, "a", "x", "2")
        assert json.loads(following.stdout.readline())["value"] == 2
    finally:
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=30)
    assert "Traceback" not in errors


def test_failures_are_one_line_with_a_next_step(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "a", "x", "1")
    failed(shell.run("get", user, "a", "none"), f"`roost get {user}`")
    failed(shell.run("get", "nobody-at-all"), "`roost users`")
    failed(shell.run("put", user, "a", "x", "2", "--if-version", "9"), "--if-version 1")
    failed(shell.run("put", user, "a", "x", "dark"), "quote it twice", code=2)
    failed(shell.run("put", user, "a", "x", '{"a": 1, "a": 2}'), "twice", code=2)
    failed(shell.run("put", user, "a", "x/y", "1"), "invalid_name")
    failed(shell.run("get", user, "--at", "yesterday"), "2026-11-22T10:00", code=2)
    failed(shell.run("get", user, "--token", "forged"), "roost token")
    failed(shell.run("users", "--token", shell.server.token(user)), "roost token --admin")
    failed(shell.run("get", user, "--url", "http://127.0.0.1:9"), "roost serve")
    failed(shell.run("get", user, "--url", "127.0.0.1:9"), "http://")
    failed(shell.run("get", user, "--profile", "none"), "roost login")
    own = shell.server.token(user)
    for ran in (shell.run("bench", "--token", own), shell.run("shop", "--url", shell.server.url, "--token", own)):
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "roost token --admin" in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_pipe_that_closes_early_is_no_error(shell: Shell) -> None:
    user = next(names)
    with SyncClient(shell.server.url, shell.server.admin()) as client:
        batch = client.user(user).batch()
        for number in range(500):
            batch.put("a", f"k{number}", "x" * 200)
        batch.commit()
    reading = shell.start("events", user)
    assert reading.stdout is not None
    reading.stdout.readline()
    reading.stdout.close()
    assert reading.stderr is not None
    assert reading.stderr.read() == ""
    reading.stderr.close()
    assert reading.wait(30) == 0


# Profiles


def test_a_profile_is_saved_for_its_owner_only_and_used(shell: Shell) -> None:
    user = next(names)
    token = shell.server.token(user)
    saved = shell.run("login", "--url", shell.server.url, known=False, stdin=token + "\n")
    assert saved.returncode == 0, saved.stderr
    (file,) = shell.home.rglob("profiles.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shell.run("put", user, "a", "x", "1", known=False).returncode == 0
    other = shell.run(
        "login", "--profile", "other", "--url", shell.server.url, "--token", shell.server.admin(), known=False
    )
    assert other.returncode == 0, other.stderr
    assert shell.run("users", "--profile", "other", known=False).returncode == 0
    failed(shell.run("users", known=False), "forbidden")
    failed(shell.run("login", "--url", shell.server.url, known=False, stdin="forged\n"), "unauthenticated")
    assert shell.run("logout", known=False).returncode == 0
    failed(shell.run("logout", known=False), "no profile")


def test_a_saved_token_goes_to_its_own_server_only(shell: Shell, quiet: Server) -> None:
    shell.run("login", "--url", shell.server.url, known=False, stdin=shell.server.admin() + "\n")
    failed(shell.run("users", "--url", quiet.url, known=False), "unauthenticated")


# Export and import


def documents(users: int, each: int, prefix: str = "") -> list[dict[str, Any]]:
    prefix = prefix or next(names)
    return [
        {"user": f"{prefix}-{user}", "collection": "a", "key": f"k{key}", "value": {"n": key}}
        for user in range(users)
        for key in range(each)
    ]


def seqs(server: Server, items: list[dict[str, Any]]) -> set[int]:
    """The seqs that the users of an import have."""
    with SyncClient(server.url, server.admin()) as client:
        return {client.user(user).get().seq for user in {item["user"] for item in items}}


@pytest.mark.parametrize("logs", [(), ("--logs",)])
def test_what_is_exported_is_imported(alone: Shell, shell: Shell, logs: tuple[str, ...]) -> None:
    items = documents(130, 3)
    assert alone.run("import", str(write_lines(alone.home / "in", items))).returncode == 0
    alone.json("delete", items[0]["user"], "a", "k0")
    exported = alone.run("export", "out", *logs)
    assert exported.returncode == 0, exported.stderr
    mine = [line for line in (alone.home / "out").read_text().splitlines() if items[0]["user"][:-1] in line]
    assert len(mine) == (130 * 3 + 1 if logs else 130 * 3 - 1)
    (shell.home / "mine").write_text("\n".join(mine))
    imported = shell.run("import", "mine", *logs)
    assert imported.returncode == 0, imported.stderr
    again = shell.run(
        "export", *logs, *(f"--user={user}" for user in dict.fromkeys(json.loads(line)["user"] for line in mine))
    )
    drop = () if logs else ("version",)
    assert [without(line, *drop) for line in again.stdout.splitlines()] == [without(line, *drop) for line in mine]


def without(line: str, *members: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name not in members}


def noted(state: Path) -> int:
    """How many bytes of its file an import has noted as being in. Before it begins and at its end there is no state."""
    with suppress(FileNotFoundError):
        return int(json.loads(state.read_text())["size"])
    return 0


def test_an_import_killed_anywhere_and_repeated_applies_nothing_twice(shell: Shell) -> None:
    items = documents(1_200, 40)
    file = write_lines(shell.home / "in", items)
    state = shell.home / "in.import-state"
    # What is left at the last of them takes longer than this process may stand still before it kills.
    for share in (0.1, 0.3, 0.5):
        running = shell.start("import", str(file), "--concurrency", "4")
        until(
            lambda share=share, running=running: (
                running.poll() is not None  # type: ignore[misc]
                or noted(state) > share * file.stat().st_size
            ),
            120,
        )
        running.kill()
        running.communicate()
    assert state.exists(), "it was over before it was killed: take more documents"
    last = shell.run("import", str(file), "--concurrency", "4")
    assert last.returncode == 0, last.stderr
    assert last.stderr.startswith("Going on after line ")
    assert not state.exists()
    assert seqs(shell.server, items) == {40}


def test_chunks_that_were_applied_but_not_noted_are_not_applied_again(shell: Shell) -> None:
    items = documents(5, 4)
    file = write_lines(shell.home / "in", items)
    state = shell.home / "in.import-state"
    known = {"id": "i1", "url": shell.server.url, "logs": False}
    for _ in range(2):
        # As if killed before anything was noted but the id.
        state.write_text(json.dumps(known))
        assert shell.run("import", str(file)).returncode == 0
    assert seqs(shell.server, items) == {4}
    # A new import of the same file is a new intent.
    assert shell.run("import", str(file)).returncode == 0
    assert seqs(shell.server, items) == {8}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "truncated"),
        ('{"user": "u", "collection": "a", "key": "k"}', "value"),
        ('{"user": "u", "collection": "A", "key": "k", "value": 1}', "collection"),
        ('{"user": "u", "collection": "a", "key": "k", "value": 1, "seq": 3}', "--logs"),
        ('{"user": "u", "collection": "a", "key": "k", "value": 1e999}', "2^53"),
        (json.dumps({"user": "u", "collection": "a", "key": "k", "value": "x" * 300_000}), "too_large"),
        ("x" * 5_000_000, "longer"),
    ],
)
def test_bad_lines_stop_it_or_are_left_out_with_their_numbers(shell: Shell, line: str, why: str) -> None:
    good = documents(1, 4)
    file = shell.home / "in"
    lines = [json.dumps(item) for item in good]
    file.write_text("\n".join([*lines[:2], line, "", *lines[2:]]))
    stopped = shell.run("import", "in")
    failed(stopped, "line 3: ")
    assert why in stopped.stderr
    # What only the server can refuse is found out while the lines behind it may be on their way.
    assert seqs(shell.server, good) in ([{2}, {4}] if why == "too_large" else [{2}])
    skipped = shell.run("import", "in", "--on-error", "skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "line 3: " in skipped.stderr
    assert "1 lines were left out" in skipped.stderr
    assert seqs(shell.server, good) == {4}


def test_a_line_refused_in_the_middle_of_a_chunk_leaves_the_others(shell: Shell) -> None:
    items = documents(1, 6)
    items[2]["value"] = "x" * 300_000
    items[4]["value"] = "x" * 300_000
    write_lines(shell.home / "in", items)
    ran = shell.run("import", "in", "--on-error", "skip")
    assert [f"line {number}: " in ran.stderr for number in range(1, 7)] == [False, False, True, False, True, False]
    assert seqs(shell.server, items) == {4}


def test_a_mended_line_goes_on_and_a_changed_beginning_does_not(shell: Shell) -> None:
    items = documents(3, 4)
    file = write_lines(shell.home / "in", [*items[:8], {"user": "u"}, *items[8:]])
    failed(shell.run("import", "in"), "line 9: ")
    write_lines(file, items)
    mended = shell.run("import", "in")
    assert mended.stderr.startswith("Going on after line 8.")
    assert seqs(shell.server, items) == {4}
    write_lines(file, [*items[:8], {"user": "u"}])
    failed(shell.run("import", "in"), "line 9: ")
    items[0]["value"] = "changed"
    write_lines(file, items)
    ran = shell.run("import", "in")
    assert ran.returncode == 1
    assert "remove" in ran.stderr


def test_the_last_line_of_a_document_wins(shell: Shell) -> None:
    user = next(names)
    items = [{"user": user, "collection": "a", "key": "k", "value": number} for number in range(1200)]
    write_lines(shell.home / "in", items)
    assert shell.run("import", "in").returncode == 0
    assert shell.json("get", user, "a", "k") == 1199


def test_a_state_is_good_for_its_own_server_and_kind_only(shell: Shell) -> None:
    write_lines(shell.home / "in", documents(1, 1))
    state = shell.home / "in.import-state"
    state.write_text(json.dumps({"id": "i", "url": "http://elsewhere", "logs": False}))
    failed(shell.run("import", "in"), "http://elsewhere")
    state.write_text("{")
    failed(shell.run("import", "in"), "Remove it")
    failed(shell.run("import", "none"), "No such file")


def test_logs_that_contradict_are_refused(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "a", "x", "1")
    (event,) = shell.lines("events", user)
    write_lines(shell.home / "in", [{"user": user, **event, "value": 2}])
    failed(shell.run("import", "--logs", "in"), "log_conflict")
    write_lines(shell.home / "in", [{"user": user, **event}])
    (shell.home / "in.import-state").unlink()
    assert shell.run("import", "--logs", "in").returncode == 0
    assert shell.json("users", user)["seq"] == 1


def test_a_log_with_holes_is_told_of_by_the_export_and_by_the_import(shell: Shell) -> None:
    user = next(names)
    with SyncClient(shell.server.url, shell.server.admin()) as client:
        client.sign_up(user, "correct horse battery")
    shell.json("put", user, "a", "x", "1")
    exported = shell.run("export", "out", "--logs", "--user", user)
    assert (exported.returncode, "not imported" in exported.stderr) == (0, True), exported.stderr
    lines = (shell.home / "out").read_text().replace(user, next(names))
    (shell.home / "in").write_text(lines)
    failed(shell.run("import", "--logs", "in"), "An export lacks events that are not shown")


@pytest.mark.parametrize("logs", [[], ["--logs"]])
def test_an_export_carries_what_is_defined(alone: Shell, logs: list[str]) -> None:
    alone.json("put", user := next(names), "torn", "n", "1")
    assert alone.json("collections", "torn", "--conflict", "siblings", "--privacy", "sensitive", "--masked", "phone")
    assert alone.run("export", "all", *logs).returncode == 0
    exported = [json.loads(line) for line in (alone.home / "all").read_text().splitlines()]
    definition = {"conflict": "siblings", "privacy": "sensitive", "masked": ["phone"]}
    assert {"collection": "torn", "definition": definition} in exported
    assert alone.run("collections", "torn", "--default").returncode == 0
    assert alone.json("delete", user, "torn", "n")
    if logs:  # what is there already is compared
        assert alone.json("users", user)["seq"] == 2
    ran = alone.run("import", "all", *logs)
    assert ran.returncode == 0, ran.stderr
    assert definition.items() <= alone.json("collections", "torn").items()
    assert alone.run("collections", "torn", "--default").returncode == 0
    write_lines(alone.home / "wrong", [{"collection": "torn", "definition": {"conflict": "x"}}])
    failed(alone.run("import", "wrong", *logs), "line 1: ")


def test_an_export_goes_on_where_it_was(alone: Shell) -> None:
    items = documents(3_000, 1)
    assert alone.run("import", str(write_lines(alone.home / "in", items))).returncode == 0
    assert alone.run("export", "whole").returncode == 0
    # One user at a time, so that the pages after the first take longer than this process may stand still.
    running = alone.start("export", "part", "--concurrency", "1")
    state = alone.home / "part.export-state"
    until(lambda: state.exists() or running.poll() is not None)
    running.kill()
    running.communicate()
    assert state.exists(), "it was over before it was killed: take more users"
    with (alone.home / "part").open("ab") as part:
        part.write(b'{"half a li' * 100_000)
    resumed = alone.run("export", "part")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.startswith("Going on after ")
    assert (alone.home / "part").read_bytes() == (alone.home / "whole").read_bytes()
    assert not state.exists()
    failed(alone.run("export", "part"), "exists")


# Collections, edits, siblings, conflicts


def test_a_collection_is_defined_shown_and_forgotten(shell: Shell) -> None:
    failed(shell.run("collections", "cli_notes"), "cli_notes is not defined. The server's settings say what")
    defined = shell.json("collections", "cli_notes", "--conflict", "siblings")
    assert (defined["name"], defined["conflict"]) == ("cli_notes", "siblings")
    assert shell.json("collections", "cli_notes") == defined
    more = ("--privacy", "sensitive", "--masked", "phone,iban", "--ttl", "90d")
    assert shell.json("collections", "cli_notes", *more) == {
        "name": "cli_notes",
        "version": defined["version"] + 1,
        "conflict": "siblings",
        "privacy": "sensitive",
        "masked": ["phone", "iban"],
        "ttl_s": 90 * 24 * 3600,
    }
    defined = shell.json("collections", "cli_notes", "--masked", "", "--ttl", "never")
    assert (defined["privacy"], "masked" in defined, "ttl_s" in defined) == ("sensitive", False, False)
    assert defined in shell.lines("collections")
    failed(shell.run("collections", "cli_notes", "--conflict", "cas", "--if-version", "0"), "version_conflict")
    user = next(names)
    shell.json("put", user, "cli_notes", "n", "1")
    shell.json("put", user, "cli_notes", "n", "2")
    assert [line["value"] for line in shell.lines("siblings", user, "cli_notes", "n")] == [1, 2]
    failed(shell.run("delete", user, "cli_notes", "n"), "precondition_required")
    assert shell.run("collections", "cli_notes", "--default").returncode == 0
    failed(shell.run("collections", "cli_notes"), "is not defined")
    for wrong in (
        ("--default",),
        ("--conflict", "cas"),
        ("a", "--default", "--conflict", "cas"),
        ("a", "--conflict", "x"),
    ):
        assert shell.run("collections", *wrong).returncode == 2


def test_a_document_is_edited_field_by_field(shell: Shell) -> None:
    user = next(names)
    assert shell.json("edit", user, "carts", "main", '{"op": "inc", "path": "/apples", "value": 2}') == {"apples": 2}
    edits = '[{"op": "inc", "path": "/apples", "value": 1}, {"op": "add", "path": "/tags", "value": "x"}]'
    assert shell.json("edit", user, "carts", "main", stdin=edits) == {"apples": 3, "tags": ["x"]}
    failed(shell.run("edit", user, "carts", "main", '{"op": "inc", "path": "/tags", "value": 1}'), "patch_failed")


def test_an_inbox_without_conflicts_has_no_lines(shell: Shell) -> None:
    user = next(names)
    shell.json("put", user, "carts", "main", "1")
    assert shell.lines("conflicts", user) == []
    failed(shell.run("conflicts", user, "--dismiss", "0000000000000001"), "not_found")


# Bench and demo


def test_bench_measures(shell: Shell) -> None:
    ran = shell.run("bench", "--seconds", "0.2", "--connections", "4", "--users", "5")
    assert ran.returncode == 0, ran.stderr
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [it["operation"] for it in results] == ["put", "get", "4 get : 1 put"]
    assert all(it["calls"] > 0 and 0 < it["p50_ms"] <= it["p99_ms"] <= it["max_ms"] for it in results)


def test_the_shop_shows_logs_conflicts_and_history(quiet: Server, tmp_path: Path) -> None:
    ran = Shell(quiet, tmp_path).run("shop", "--customers", "150", "--url", quiet.url, "--token", quiet.service("shop"))
    assert ran.returncode == 0, ran.stderr
    assert "150 customers" in ran.stdout
    assert "both edits live on" in ran.stdout
    assert "each once, in order" in ran.stdout
    assert "service:shop" in ran.stdout
    assert "Time travel" in ran.stdout


def test_the_shop_brings_its_own_server_and_takes_it_away(shell: Shell) -> None:
    temporary = shell.home / "tmp"
    temporary.mkdir(mode=0o755)
    ran = shell.run("shop", "--customers", "10", known=False, TMPDIR=str(temporary), ROOST_ENGINE="nonsense://")
    assert ran.returncode == 0, ran.stderr
    assert "10 customers" in ran.stdout
    assert list(temporary.iterdir()) == []


def test_the_same_seed_gives_the_same_shop() -> None:
    def shop(seed: int) -> list[Any]:
        return [(it.user, it.documents, len(it.visits), it.two_devices) for it in customers(seed, 50)]

    assert shop(1) == shop(1)
    assert shop(1) != shop(2)
