"""Finding the file of a connection: found among many, and not looked for everywhere when it is gone."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from roost.core.errors import RoostError
from roost.wire import upgrade

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a connection: the client's, the server's."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        served, _ = listening.accept()
    with client, served:
        yield client, served


def scope_of(served: socket.socket) -> dict[str, object]:
    ends = {"client": served.getpeername(), "server": served.getsockname()}
    return {"http_version": "1.1", "scheme": "http", **ends}


def test_the_duplicate_is_of_the_connection(pair: Pair) -> None:
    client, served = pair
    with upgrade.take(scope_of(served), ()) as taken:
        served.close()
        taken.sendall(b"x")
        assert client.recv(1) == b"x"


def test_a_connection_that_is_gone_is_not_looked_for_among_all_numbers(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, served = pair
    scope = scope_of(served)
    client.close()
    served.close()
    tried: list[int] = []

    def dup(file: int) -> int:
        tried.append(file)
        raise OSError

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 20, 1 << 20))
    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(RoostError):
        upgrade.take(scope, ())
    assert max(tried) == len(tried) - 1, "each once"
    if upgrade.STATUS.exists():
        assert len(tried) < 1 << 18
