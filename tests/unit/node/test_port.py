"""A port is kept from the first check to the last worker, and never shared with a stranger."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from roost.node import port
from roost.node.directory import CannotStart
from roost.node.port import Port, reserve

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the parent process binds for all workers")


@pytest.fixture
def reserved() -> Iterator[Port]:
    found = reserve("127.0.0.1", 0)
    yield found
    found.reservation.close()


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "PATIENCE_S", 0.0)


def listener(number: int, *options: int) -> socket.socket:
    opened = socket.socket()
    try:
        for option in options:
            opened.setsockopt(socket.SOL_SOCKET, option, 1)
        opened.bind(("127.0.0.1", number))
        opened.listen()
    except BaseException:
        opened.close()
        raise
    return opened


@linux
def test_workers_share_a_reserved_port(reserved: Port) -> None:
    both = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    with listener(reserved.number, *both), listener(reserved.number, *both):
        socket.create_connection((reserved.reachable, reserved.number)).close()


@linux
@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,)])
def test_a_stranger_cannot_take_a_reserved_port(reserved: Port, options: tuple[int, ...]) -> None:
    with pytest.raises(OSError, match="in use"):
        listener(reserved.number, *options)


@linux
def test_a_second_server_cannot_reserve_it(reserved: Port) -> None:
    with pytest.raises(CannotStart, match=f"Port {reserved.number} of 127.0.0.1 is taken: .* --port"):
        reserve("127.0.0.1", reserved.number)


def test_a_port_that_workers_could_share_is_taken_all_the_same() -> None:
    with listener(0, socket.SO_REUSEADDR, socket.SO_REUSEPORT) as other, pytest.raises(CannotStart, match="is taken"):
        reserve("127.0.0.1", other.getsockname()[1])


def test_a_port_that_gets_free_in_time_is_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "PATIENCE_S", 30.0)
    other = listener(0)
    number = other.getsockname()[1]
    monkeypatch.setattr("time.sleep", lambda _: other.close())
    reserve("127.0.0.1", number).reservation.close()


@pytest.mark.parametrize(
    ("host", "number", "said"),
    [
        ("no.such.host.invalid", 0, "no.such.host.invalid is not an address of this machine: .* --host"),
        ("192.0.2.1", 0, "192.0.2.1 is not an address of this machine: .* --host"),
        ("127.0.0.1", 70_000, "70000 is not a port: .* --port"),
        ("127.0.0.1", -1, "-1 is not a port: .* --port"),
    ],
)
def test_what_cannot_be_reserved_is_said(host: str, number: int, said: str) -> None:
    with pytest.raises(CannotStart, match=said):
        reserve(host, number)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1:1"), ("0.0.0.0", "http://127.0.0.1:1"), ("::", "http://[::1]:1")]
)
def test_its_url_is_one_that_can_be_reached(host: str, url: str) -> None:
    with socket.socket() as reservation:
        assert Port(host, 1, reservation).url == url
