"""Fresh users on the server that the tests of a process share.

Users' logs are independent, so a test that keeps to users of its own is alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import httpx
import pytest

from tests.support.api import Account
from tests.support.server import Server

numbers = count(1)


@pytest.fixture
def account(server: Server) -> Iterator[Callable[[], Account]]:
    """Makes users that nobody has used yet; they come into being with their first write."""
    accounts: list[Account] = []

    def fresh() -> Account:
        accounts.append(Account(server, f"user-{next(numbers)}"))
        return accounts[-1]

    yield fresh
    for each in accounts:
        each.close()


@pytest.fixture
def ada(account: Callable[[], Account]) -> Account:
    """A user."""
    return account()


@pytest.fixture
def admin(server: Server) -> Iterator[Account]:
    """An administrator's client; its own user is nobody."""
    account = Account(server, f"nobody-{next(numbers)}", server.admin())
    yield account
    account.close()


@pytest.fixture
def unharmed(server: Server) -> Iterator[None]:
    """Whatever the test sends: the same process answers afterwards, and nothing surprised it."""
    workers, noted = server.listening(), server.log.stat().st_size
    yield
    assert httpx.get(f"{server.url}/healthz", verify=False, timeout=30).json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/readyz", verify=False, timeout=30).json() == {"status": "ok"}
    assert server.listening() == workers
    with server.log.open("rb") as log:
        log.seek(noted)
        assert b"Traceback" not in log.read()
