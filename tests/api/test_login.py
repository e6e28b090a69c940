"""Clients that log in with a password, and stay so: over many tokens, over kills, until the session is ended."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from roost.client import Client, Limits, Login, LoginFile, SessionEnded, SyncClient, Tokens, Unauthenticated, UserExists
from roost.client.replica import Replica
from tests.support.server import Server, until
from tests.support.shell import Shell, failed
from tests.support.tcp import TcpProxy

PASSWORD = "correct horse battery staple"
CHEAP = '{"memory_kib":64,"iterations":1,"lanes":1}'
PATIENCE_S = 60.0
LIFETIMES = 2
names = (f"login-{number}" for number in count(1))


def unforgiving(data: Path, access_ttl_s: int) -> Server:
    """A server whose tokens are short, and which forgives no refresh token that comes twice."""
    return Server(
        data,
        engine="memory:",
        signup="open",
        password_hash=CHEAP,
        access_ttl_s=str(access_ttl_s),
        refresh_grace_s="0",
    )


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with unforgiving(tmp_path_factory.mktemp("login") / "data", 2) as server:
        yield server


@pytest.fixture
def unhurried(tmp_path: Path) -> Iterator[Server]:
    """A fifth of a token's time is left when it is renewed: here so much that a process may stand still in it."""
    with unforgiving(tmp_path / "data", 12) as server:
        yield server


@pytest.fixture(scope="module")
def forgiving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that survives its death, and takes a refresh token again for longer than it takes to be back."""
    folder = tmp_path_factory.mktemp("login")
    with Server(folder / "data", signup="open", password_hash=CHEAP, refresh_grace_s="60") as server:
        yield server


def signed_up(server: Server, file: Path, url: str | None = None) -> Login:
    """A new user, logged in; kept in a file."""
    with SyncClient(url or server.url, Login(LoginFile(file))) as client:
        return client.sign_up(next(names), PASSWORD, device="phone")


def user_of(login: Login) -> str:
    assert login.user is not None
    return login.user


def test_all_that_share_a_login_live_over_many_tokens(unhurried: Server, tmp_path: Path) -> None:
    """Tasks, threads, and a replica: each refresh token is used up once."""
    file = tmp_path / "login"

    async def tasks(url: str, user: str) -> None:
        async with Client(url, Login(LoginFile(file))) as client:
            seen: set[str | None] = set()
            while len(seen) <= LIFETIMES:
                await asyncio.gather(*[client.user(user).get() for _ in range(4)])
                seen.add(await client.bearer())

    def thread(url: str, user: str, login: Login) -> None:
        with SyncClient(url, login) as client:
            seen: set[str | None] = set()
            while len(seen) <= LIFETIMES:
                client.user(user).get()
                seen.add(client.bearer())

    async def device(url: str, user: str) -> None:
        login = Login(LoginFile(file))
        async with Replica(tmp_path / "phone.roost", url, user, login) as replica, Client(url, login) as client:
            seen: set[str | None] = set()
            while len(seen) <= LIFETIMES:
                replica.inc("counts", "c", "/n")
                await replica.synced()
                seen.add(await client.bearer())
                assert replica.problem is None

    async def main() -> None:
        async with TcpProxy(unhurried.port).running() as proxy, asyncio.timeout(PATIENCE_S):
            shared = await asyncio.to_thread(signed_up, unhurried, file, proxy.url)
            user = user_of(shared)
            threads = [asyncio.to_thread(thread, proxy.url, user, shared) for _ in range(2)]
            await asyncio.gather(tasks(proxy.url, user), device(proxy.url, user), *threads)
            # The device had one WebSocket for all of that time: its tokens were renewed within.
            assert proxy.upgrades == 1

    asyncio.run(main())


def test_a_renewal_goes_on_where_the_call_that_wanted_it_is_cancelled(strict: Server, tmp_path: Path) -> None:
    async def main() -> None:
        login = signed_up(strict, tmp_path / "login")
        async with Client(strict.url, login) as client:
            for _ in range(10):
                login.refused(str(login.tokens and login.tokens.access_token))
                before = login.tokens
                call = asyncio.create_task(client.user(user_of(login)).get())
                await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await asyncio.to_thread(until, partial(renewed_since, login, before), PATIENCE_S)
            await client.user(user_of(login)).get()

    asyncio.run(main())


def renewed_since(login: Login, before: Tokens | None) -> bool:
    return login.tokens != before


def test_a_session_that_is_ended_elsewhere_says_so(strict: Server, tmp_path: Path) -> None:
    async def main() -> None:
        login = signed_up(strict, tmp_path / "login")
        user = user_of(login)
        async with (
            Client(strict.url, login) as client,
            Client(strict.url) as other,
            Replica(tmp_path / "phone.roost", strict.url, user, login) as replica,
        ):
            await other.log_in(user, PASSWORD, name="the laptop")
            await replica.synced()
            listed = await other.user(user).sessions()
            assert {(each.device, each.name) for each in listed} == {("phone", None), (None, "the laptop")}
            renamed = await other.user(user).name_session(str(login.session), "the lost phone")
            assert renamed.name == "the lost phone"
            await other.user(user).end_session(str(login.session))
            changes = replica.changes()
            async with asyncio.timeout(PATIENCE_S):
                while not isinstance(replica.problem, SessionEnded):
                    await anext(changes)
            with pytest.raises(SessionEnded, match="log in again"):
                await client.user(user).get()
            assert not (tmp_path / "login").exists()
            await client.log_in(user, PASSWORD)
            assert (await client.user(user).get()).user == user

    asyncio.run(main())


def test_logging_out_and_changing_a_password(strict: Server, tmp_path: Path) -> None:
    login = signed_up(strict, tmp_path / "login")
    user = user_of(login)
    with SyncClient(strict.url) as other, SyncClient(strict.url, login) as client:
        with pytest.raises(UserExists):
            other.sign_up(user, PASSWORD)
        with pytest.raises(Unauthenticated, match="wrong"):
            other.log_in(user, "a wrong password")
        kept = other.log_in(user, PASSWORD)
        other.change_password("another password", current=PASSWORD)
        until(lambda: ended(lambda: client.user(user).get()), PATIENCE_S)
        assert other.user(user).get().user == user
        other.log_out()
        assert kept.user is None
        with pytest.raises(Unauthenticated):
            other.user(user).get()
        other.log_in(user, "another password")


def ended(call: Callable[[], object]) -> bool:
    try:
        call()
    except SessionEnded:
        return True
    return False


DYING = """
import os, signal, sys
from roost.client import Login, LoginFile, SyncClient

class Dying(LoginFile):
    def save(self, tokens):
        os.kill(os.getpid(), signal.SIGKILL)

login = Login(Dying(sys.argv[1]))
login.refused(login.tokens.access_token)
SyncClient(sys.argv[2], login).user(login.user).get()
"""


def test_a_process_that_is_killed_with_the_answer_in_its_hands_goes_on(forgiving: Server, tmp_path: Path) -> None:
    file = tmp_path / "login"
    user = user_of(signed_up(forgiving, file))
    before = json.loads(file.read_bytes())
    ran = subprocess.run([sys.executable, "-c", DYING, str(file), forgiving.url], timeout=60, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert json.loads(file.read_bytes()) == before
    login = Login(LoginFile(file))
    login.refused(before["access_token"])
    with SyncClient(forgiving.url, login) as client:
        assert client.user(user).get().user == user
    assert json.loads(file.read_bytes())["refresh_token"] != before["refresh_token"]


def test_a_server_that_is_killed_loses_nobodys_session(forgiving: Server, tmp_path: Path) -> None:
    """Its clients do nothing but renew when it dies, so that some of them have lost an answer."""
    logins = [signed_up(forgiving, tmp_path / f"login-{number}") for number in range(4)]
    renewed = [0] * len(logins)
    killed = False

    async def renew(number: int) -> None:
        login = logins[number]
        async with Client(forgiving.url, login, limits=Limits(attempts=200, deadline_s=60)) as client:
            goal = sys.maxsize
            while renewed[number] < goal:
                login.refused(str(login.tokens and login.tokens.access_token))
                await client.user(user_of(login)).get()
                renewed[number] += 1
                if killed and goal == sys.maxsize:
                    goal = renewed[number] + 3

    async def main() -> None:
        nonlocal killed
        async with asyncio.TaskGroup() as group, asyncio.timeout(60):
            for number in range(len(logins)):
                group.create_task(renew(number))
            await asyncio.to_thread(until, lambda: min(renewed) >= 2, PATIENCE_S)
            await asyncio.to_thread(forgiving.kill)
            killed = True
            await asyncio.to_thread(forgiving.start)

    asyncio.run(main())
    assert min(renewed) >= 5


# The command line


@pytest.fixture
def shell(strict: Server, tmp_path: Path) -> Shell:
    return Shell(strict, tmp_path)


def test_whoever_logs_in_on_the_command_line_stays_so(shell: Shell) -> None:
    user, url = next(names), shell.server.url
    begun = shell.run("login", user, "--sign-up", "--url", url, known=False, stdin=PASSWORD + "\n")
    assert (begun.returncode, begun.stdout) == (0, "")
    assert f"Logged in as {user}" in begun.stderr
    (file,) = shell.home.rglob("profiles.json")
    assert file.stat().st_mode & 0o777 == 0o600
    first = json.loads(file.read_bytes())["default"]["login"]
    assert PASSWORD not in file.read_text()
    # The token has its time before another process begins; several that find it over renew it once.
    shell.run("put", user, "a", "x", "1", known=False)
    commands = [shell.start("get", user, "a", "x", known=False) for _ in range(4)]
    assert [command.communicate(timeout=60) for command in commands] == [("1\n", "")] * 4
    until(lambda: shell.run("get", user, known=False).returncode == 0 and renewed(file, first), PATIENCE_S)
    # What is given in the environment goes before.
    failed(shell.run("get", user, known=False, ROOST_TOKEN="forged"), "unauthenticated")
    done = shell.run("logout", known=False)
    assert done.returncode == 0, done.stderr
    failed(shell.run("get", user, known=False, ROOST_URL=url), "unauthenticated")


def renewed(file: Path, first: dict[str, str]) -> bool:
    return bool(json.loads(file.read_bytes())["default"]["login"]["refresh_token"] != first["refresh_token"])


def test_a_login_that_fails_is_one_line(shell: Shell) -> None:
    user, url = next(names), shell.server.url
    failed(shell.run("login", user, "--url", url, known=False, stdin="a wrong password\n"), "password is wrong")
    failed(shell.run("login", user, "--url", url, known=False), "password is needed")
    failed(shell.run("login", "--sign-up", "--url", url, known=False), "Name the user", code=2)
    assert not list(shell.home.rglob("profiles.json"))


def test_a_session_that_was_ended_says_what_to_do(shell: Shell) -> None:
    user, url = next(names), shell.server.url
    shell.run("login", user, "--sign-up", "--url", url, known=False, stdin=PASSWORD + "\n")
    assert shell.run("sessions", "end", user, "--all").returncode == 0
    until(lambda: shell.run("get", user, known=False).returncode != 0, PATIENCE_S)
    failed(shell.run("get", user, known=False), "roost login")
