"""`roost serve` as a user meets it: what it prints, how it stops, and how it says that it cannot start."""

from __future__ import annotations

import asyncio
import os
import pty
import pwd
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import msgspec
import psutil
import pytest

from roost.node.directory import FORMAT, MARK
from tests.support.server import Server, until

DOCUMENT = "/v1/users/ada/docs/preferences/ui"
ABSENT = "postgresql://ada:secret@127.0.0.1:1/roost"


def roost(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A `roost` command, run to its end."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ROOST_", "PG"))}
    return subprocess.run(
        [sys.executable, "-m", "roost", *arguments],
        env=inherited | environment, capture_output=True, text=True, timeout=120, check=False, cwd="/",
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *said: str, status: int = 1) -> None:
    """A command failed with one line, which says all of `said`."""
    assert done.returncode == status, done
    assert done.stdout == ""
    assert done.stderr.startswith("roost: ")
    assert done.stderr.count("\n") == 1
    for part in said:
        assert part in done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data") as server:
        yield server


def curl(line: str) -> httpx.Response:
    """Send what a printed curl line would."""
    words = iter(shlex.split(line)[1:])
    method, url, headers, content = "GET", "", {}, None
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-d":
            content = next(words)
        else:
            url = word
    return httpx.request(method, url, headers=headers, content=content, timeout=30)


def test_it_prints_what_one_needs_to_begin(server: Server) -> None:
    said = server.log.read_text()
    assert server.url in said
    assert str(server.data) in said
    assert "\x1b" not in said
    assert "eyJ" not in said  # as tokens begin: what is printed to a file is not for secrets
    lines = [line for line in said.splitlines() if line.startswith("curl ")]
    (command,) = {found[1] for line in lines if (found := re.search(r"\$\(.*?roost (.*?)\)", line))}
    token = roost(*shlex.split(command)).stdout.strip()
    put, get = (re.sub(r"\$\(.*?\)", token, line) for line in lines)
    assert curl(put).status_code == 201
    assert curl(get).json() == {"theme": "dark"}
    (admin,) = (line for line in said.splitlines() if "roost token --admin" in line)
    token = roost(*shlex.split(admin.split("roost ")[1])).stdout.strip()
    with server.client(token) as client:
        assert client.get("/v1/users").status_code == 200


def test_a_person_at_a_terminal_has_a_line_with_a_token_to_paste(tmp_path: Path) -> None:
    end, terminal = pty.openpty()
    arguments = ["serve", "--data", str(tmp_path / "data"), "--engine", "memory:", "--port", "0"]
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "2000"}
    with subprocess.Popen([sys.executable, "-m", "roost", *arguments], stdout=terminal, env=environment) as process:
        os.close(terminal)
        said = ""
        try:
            while said.count("curl ") < 2 or not said.endswith("\n"):
                said += os.read(end, 65_536).decode()
            put, get = (line for line in said.splitlines() if line.startswith("curl "))
            assert curl(put).status_code == 201
            assert curl(get).json() == {"theme": "dark"}
        finally:
            process.terminate()
            os.close(end)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, "Ctrl-C"])
def test_it_stops_with_all_that_it_started_and_finds_its_data_again(server: Server, by: signal.Signals | str) -> None:
    with server.client() as client:
        assert client.put(DOCUMENT, json={"theme": "dark"}).status_code == 201
    started = psutil.Process(server.pid).children(recursive=True)
    if isinstance(by, signal.Signals):
        assert server.stop(by) == 0, server.log.read_text()
    else:  # a terminal signals its whole group, and that is not the workers' or PostgreSQL's
        assert server.pid not in {os.getpgid(pid) for pid in (*server.listening(), server.postmaster())}
        os.killpg(server.pid, signal.SIGINT)
        assert server.stop() == 0, server.log.read_text()
    assert "error" not in server.log.read_text().lower()
    assert (server.data / "postgres.log").read_text().endswith("database system is shut down\n")
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive
    left = {path.name for path in server.data.iterdir()}
    assert left == {
        *(MARK, "lock", "postgres", "postgres.log", "signing_key.json"),
        *("keyring.json", ".keyring.json.lock"),
    }
    with server.start().client() as client:
        assert client.get(DOCUMENT).json() == {"theme": "dark"}


def test_a_stop_answers_the_requests_that_are_held(server: Server) -> None:
    poll = f"GET /v1/users/ada/events?after=1&wait=30 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.admin()}"
    with server.client() as client, socket.create_connection(("127.0.0.1", server.port)) as held:
        client.put(DOCUMENT, json=1)
        held.sendall(f"{poll}\r\n\r\n".encode())
        for _ in range(10):  # answered after the poll was taken up
            assert client.get("/v1/users").status_code == 200
        assert server.stop() == 0
        answer = held.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"events":[]' in answer


def test_it_stops_while_it_starts(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    server.launch()
    until((tmp_path / "data" / "lock").exists)
    assert server.stop() == 0
    server.end()
    with server as server:
        assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused(
            roost("serve", "--data", str(tmp_path / "data"), "--port", str(port)),
            f"Port {port} of 127.0.0.1 is taken: stop what listens there, or choose another with --port.",
        )
    assert not (tmp_path / "data").exists()


def test_a_data_directory_in_use_is_said(server: Server) -> None:
    refused(
        roost("serve", "--data", str(server.data), "--port", "0"),
        f"in use by process {server.pid}: stop that one, or choose another with --data.",
    )
    assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200


def test_a_newer_format_is_said(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text(f'{{"format": {FORMAT + 1}, "created_at": "2030-01-01T00:00:00Z"}}')
    refused(roost("serve", "--data", str(tmp_path), "--port", "0"), f"has format {FORMAT + 1}", "run a newer Roost.")


@pytest.mark.parametrize("command", ["serve", "migrate", "verify"])
def test_an_engine_that_cannot_be_reached_is_said_without_its_password(tmp_path: Path, command: str) -> None:
    port = ("--port", "0") if command == "serve" else ()
    done = roost(command, "--data", str(tmp_path / "data"), "--engine", ABSENT, *port)
    refused(done, "does not answer", "postgresql://127.0.0.1:1/roost", "--engine")
    assert "secret" not in done.stderr


def test_a_path_that_cannot_be_a_data_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(roost("serve", "--data", str(tmp_path / "file"), "--port", "0"), "cannot be used", "--data")


def test_a_wrong_setting_is_said() -> None:
    refused(roost("serve", ROOST_PORT="eighty"), "A setting is wrong", "`ROOST_PORT`", "ROOST_*")


def test_the_reference_engine_serves_in_one_process_only(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    refused(roost("serve", "--data", data, "--engine", "memory:", "--port", "0", "--workers", "2"), "--workers 1")
    with Server(tmp_path / "data", engine="memory:") as server, server.client() as client:
        assert client.put(DOCUMENT, json=1).status_code == 201


def test_workers_that_cannot_start_end_the_server(tmp_path: Path) -> None:
    serve_nothing = (
        "from roost.node.port import reserve; from roost.node.workers import Workers, Settings;"
        "Workers(reserve('127.0.0.1', 0), Settings(workers=2), up=print, target='roost.app:nothing').run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", serve_nothing], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "has no attribute 'nothing'" in done.stderr
    assert "The workers end as they start" in done.stderr


def readable_by(become: list[str]) -> list[str]:
    """A `roost` that another user may run: this interpreter, or the system's of the same release with our packages."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in ([sys.executable], ["env", f"PYTHONPATH={path}", system]):
        command = [*interpreter, "-m", "roost"]
        if subprocess.run([*become, *command, "--version"], check=False, capture_output=True, cwd="/").returncode == 0:
            return command
    pytest.skip("only root may read this checkout, or its interpreter")


def test_it_runs_as_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root this becomes another user; for an ordinary user every other test shows it."""
    if os.geteuid() != 0:
        pytest.skip("every test here runs as an ordinary user")
    nobody = pwd.getpwnam("nobody")
    become = ["setpriv", "--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups", "--", "env"]
    command = readable_by(become)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(Server, "command", lambda _, *arguments: [*become, *command, *arguments])
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        server = Server(Path(folder) / "data")
        with server:
            with server.client() as client:
                assert psutil.Process(server.postmaster()).uids().effective == nobody.pw_uid
                assert client.put(DOCUMENT, json=1).status_code == 201
            assert server.stop() == 0
            with server.start().client() as client:
                assert client.get(DOCUMENT).json() == 1


def test_migrate_and_verify_work_beside_a_server_and_without(server: Server) -> None:
    with server.client() as client:
        client.put(DOCUMENT, json={"theme": "dark"})
    data = str(server.data)
    for _ in range(2):
        assert roost("migrate", "--data", data).stdout == "The schema is up to date.\n"
        assert "1 users, 1 events and 1 documents" in roost("verify", "--data", data).stdout
        server.stop()
    assert not (server.data / "run.json").exists()


def test_verify_tells_what_differs(server: Server) -> None:
    with server.client() as client:
        client.put(DOCUMENT, json={"theme": "dark"})

    async def damage() -> None:
        connection = await asyncpg.connect(server.engine_url)
        await connection.execute("UPDATE roost.documents SET version = 7")
        await connection.close()

    asyncio.run(damage())
    done = roost("verify", "--data", str(server.data))
    assert done.returncode == 1
    assert "ada" in done.stdout.splitlines()[0]
    assert "dark" not in done.stdout
    assert "1 differences" in done.stdout


@pytest.mark.parametrize("command", ["migrate", "verify", "token --admin"])
def test_commands_for_a_data_directory_want_one(tmp_path: Path, command: str) -> None:
    refused(roost(*command.split(), "--data", str(tmp_path)), "is no data directory of Roost's", "--data")
    assert not list(tmp_path.iterdir())


def test_tokens_are_good_for_what_they_were_made_for(server: Server) -> None:
    with server.client() as client:
        client.put(DOCUMENT, json=1)

    def statuses(*whose: str) -> list[int]:
        token = roost("token", "--data", str(server.data), *whose).stdout.strip()
        with server.client(token) as client:
            return [client.get(DOCUMENT).status_code, client.get("/v1/users").status_code]

    assert statuses("--user", "ada") == [200, 403]
    assert statuses("--user", "bob", "--ttl", "90s") == [403, 403]
    assert statuses("--service", "billing", "--ttl", "12h") == [200, 200]
    assert statuses("--admin") == [200, 200]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "name one of"),
        ("--admin --user ada", "name one of"),
        ("--admin --ttl soon", "90s, 15m, 12h or 30d"),
        ("--admin --ttl 0d", "90s, 15m, 12h or 30d"),
        ("--admin --ttl 99999d", "at most ten years"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(tmp_path: Path, arguments: str, said: str) -> None:
    (tmp_path / MARK).write_bytes(msgspec.json.encode({"format": FORMAT, "created_at": "2026-01-01T00:00:00Z"}))
    done = roost("token", "--data", str(tmp_path), *arguments.split())
    refused(done, said, "see `roost token --help`.", status=2)


@pytest.mark.parametrize("arguments", ["nosuch", "serve --nosuch", "serve --workers 0", "token --user", "serve more"])
def test_a_wrong_command_line_is_one_line(arguments: str) -> None:
    refused(roost(*arguments.split()), "--help`.", status=2)


def test_help_and_version_need_nothing() -> None:
    assert "serve" in roost("--help").stdout
    assert roost("--version").stdout.startswith("roost ")
    for command in ("serve", "migrate", "verify", "token"):
        assert "--data" in roost(command, "--help").stdout
