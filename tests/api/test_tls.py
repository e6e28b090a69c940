"""TLS that ends in Roost: certificates renewed while connections live, clients' certificates, WebSockets, limits."""

from __future__ import annotations

import asyncio
import base64
import http.client
import os
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from cryptography import x509

from tests.support.server import until
from tests.support.tls import Authority, TlsServer
from tests.support.websocket import opened, put
from tests.support.websocket import socket as websocket

CONNECTIONS = 40
DOCUMENT = "/v1/users/ada/docs/notes/k"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsServer]:
    with TlsServer(
        tmp_path_factory.mktemp("secure") / "data",
        authority,
        workers=2,
        tls_client_ca=str(authority.file),
        tls_clients="services",
        connections_address=str(CONNECTIONS),
        heartbeat_s="2",
    ) as server:
        with server.client() as client:
            client.put(DOCUMENT, json=0)
        yield server


def dial(server: TlsServer, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
    """A bare TLS connection."""
    plain = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    return (context or server.authority.trusting()).wrap_socket(plain, server_hostname="127.0.0.1")


def serial(connection: ssl.SSLSocket) -> int:
    """The serial number of the certificate that the server showed."""
    shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number


def get(connection: ssl.SSLSocket, token: str, path: str = DOCUMENT) -> int:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: roost\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def refused(connect: Callable[[], ssl.SSLSocket]) -> None:
    """The connection is closed, in the handshake or (as TLS 1.3 tells a client late) at the first word after it."""
    with suppress(ssl.SSLError, ConnectionError), connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: roost\r\n\r\n")
        assert not connection.recv(100)


# What is offered


def test_what_speaks_no_tls_or_an_old_one_gets_nothing(secure: TlsServer) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=20) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: roost\r\n\r\n")
        got = b""
        with suppress(ConnectionError):
            while part := plain.recv(1000):
                got += part
        assert b"HTTP/1.1" not in got
    old = secure.authority.trusting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
        dial(secure, old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(secure: TlsServer, version: ssl.TLSVersion) -> None:
    context = secure.authority.trusting()
    context.minimum_version = context.maximum_version = version
    with dial(secure, context) as connection:
        assert get(connection, secure.token("ada")) == 200
        assert get(connection, secure.token("ada")) == 200


def test_every_size_arrives_whole(secure: TlsServer) -> None:
    """Across the borders of TLS records, in both directions."""
    with secure.client() as client:
        for size in (1, 16_000, 16_384, 16_385, 33_000, 250_000):
            value = base64.b64encode(os.urandom(size))[:size].decode()
            assert client.put(DOCUMENT, json=value).status_code == 200
            assert client.get(DOCUMENT).json() == value


def test_answers_say_to_insist_on_tls(secure: TlsServer) -> None:
    with secure.client() as client:
        for path in (DOCUMENT, "/healthz", "/docs", "/nothing"):
            assert client.get(path).headers["strict-transport-security"] == "max-age=31536000"


def test_the_http_server_behind_it_answers_nobody_else(secure: TlsServer) -> None:
    """Its port is this machine's, yet another program here is not to pass TLS, certificates and limits by."""
    ports = {
        each.laddr.port
        for worker in secure.listening()
        for each in psutil.Process(worker).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    } - {secure.port}
    assert len(ports) == secure.workers
    for port in ports:
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30).status_code == 403


# Certificates


def test_a_renewed_certificate_is_served_and_nobody_is_dropped(secure: TlsServer) -> None:
    token = secure.token("ada")

    async def whole() -> None:
        tls = secure.authority.trusting()
        async with websocket(secure.port, "ada", token, tls=tls, device="phone", after=0) as device:
            await device.until_live()
            with dial(secure) as before:
                held = serial(before)
                secure.authority.issue("127.0.0.1")

                def renewed() -> bool:
                    with ExitStack() as stack:
                        fresh = [stack.enter_context(dial(secure)) for _ in range(4)]
                        return held not in {serial(each) for each in fresh}

                await asyncio.to_thread(until, renewed, 30.0, "each worker shows the new certificate")
                assert get(before, token) == 200
                pushed = await device.push(put(1, "notes", "renewed", 1))
                assert pushed["results"][0]["status"] == "applied"

    workers = secure.listening()
    asyncio.run(whole())
    assert secure.listening() == workers


def test_a_certificate_that_cannot_be_used_changes_nothing(secure: TlsServer) -> None:
    chain, key = secure.authority.issue("127.0.0.1")
    good = chain.read_bytes(), key.read_bytes()
    noted = secure.log.stat().st_size
    chain.write_bytes(good[0][: len(good[0]) // 2])

    def said(text: str) -> Callable[[], bool]:
        return lambda: secure.log.read_bytes()[noted:].count(text.encode()) >= secure.workers

    until(said("the renewed certificate cannot be used"))
    with dial(secure) as connection:
        assert get(connection, secure.token("ada")) == 200
    chain.write_bytes(good[0])
    until(said("a renewed certificate is in force"))


def test_a_server_says_which_certificate_it_cannot_use(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    (chain, _), (_, other) = authority.issue("127.0.0.1"), authority.issue("elsewhere")
    server = TlsServer(tmp_path / "data", authority)
    server._settings |= {"tls_cert": str(chain), "tls_key": str(other)}
    run = server.run("serve", "--data", str(server.data), "--port", "0")
    assert run.returncode != 0
    assert "are no certificate and its key" in run.stderr
    assert "ROOST_TLS_KEY" in run.stderr
    assert len(run.stderr.strip().splitlines()) <= 3


# Clients' certificates


@pytest.mark.parametrize(
    ("names", "status"),
    [(None, 403), ((["elsewhere"], None), 403), ((["billing"], None), 200), (([], "billing"), 200)],
)
def test_a_service_shows_a_certificate_that_names_it(
    secure: TlsServer, authority: Authority, names: tuple[list[str], str | None] | None, status: int
) -> None:
    shown = None if names is None else authority.issue(*names[0], common_name=names[1])
    with secure.client(secure.service("billing"), shown) as client:
        answer = client.get(DOCUMENT)
        assert answer.status_code == status
        assert status == 200 or answer.json()["code"] == "forbidden"
    if status == 403:
        request = answer.headers["roost-request-id"]
        until(lambda: request in {record["request_id"] for record in turned_away(secure)}, what="it is on record")


def turned_away(server: TlsServer) -> list[dict[str, Any]]:
    with server.client() as admin:
        query = {"actor": "service:billing", "action": "login", "outcome": "denied"}
        return admin.get("/v1/audit", params=query).raise_for_status().json()["records"]  # type: ignore[no-any-return]


def test_others_need_none(secure: TlsServer) -> None:
    for token in (secure.token("ada"), secure.admin()):
        with secure.client(token) as client:
            assert client.get(DOCUMENT).status_code == 200


def test_a_service_s_socket_needs_one_too(secure: TlsServer, authority: Authority) -> None:
    async def close_code(tls: ssl.SSLContext) -> int:
        async with opened(secure.port, "ada", tls=tls) as device:
            await device.say("hello", token=secure.service("billing"), device="d")
            heard = asyncio.ensure_future(device.hear("welcome"))
            done, _ = await asyncio.wait((heard,), timeout=20)
            assert done
            return 0 if heard.exception() is None else (await device.closed())[0]

    assert asyncio.run(close_code(authority.trusting())) == 4403
    assert asyncio.run(close_code(authority.trusting(authority.issue("billing")))) == 0


def test_a_stranger_s_certificate_is_refused(secure: TlsServer, tmp_path: Path) -> None:
    stranger = Authority(tmp_path).issue("billing")
    context = secure.authority.trusting(stranger)
    refused(lambda: dial(secure, context))


def test_everybody_shows_one_where_it_is_required_and_sockets_close_in_order(
    tmp_path: Path, authority: Authority
) -> None:
    shown = authority.issue("laptop")
    server = TlsServer(tmp_path / "data", authority, tls_client_ca=str(authority.file), tls_clients="required")
    server.authority = _Showing(authority, shown)

    async def stop() -> None:
        tls = authority.trusting(shown)
        async with websocket(server.port, "ada", server.token("ada"), tls=tls, device="phone") as device:
            stopping = asyncio.ensure_future(asyncio.to_thread(server.stop))
            assert (await device.closed())[0] == 1001
            assert await stopping == 0

    with server:
        refused(lambda: dial(server, authority.trusting()))
        with server.client(server.token("ada"), shown) as client:
            assert client.put(DOCUMENT, json=1).status_code == 201
        asyncio.run(stop())


class _Showing(Authority):
    """An authority whose clients show a certificate unless they say otherwise."""

    def __init__(self, authority: Authority, shown: tuple[Path, Path]) -> None:
        self.file = authority.file
        self._shown = shown

    def trusting(self, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        return super().trusting(shown or self._shown)


# WebSockets


def test_a_websocket_over_tls_follows_pushes_and_closes(secure: TlsServer) -> None:
    token = secure.token("eve")
    large = base64.b64encode(os.urandom(180_000)).decode()

    async def whole() -> None:
        tls = secure.authority.trusting()
        async with websocket(secure.port, "eve", token, tls=tls, device="phone") as phone:
            assert (await phone.push(put(1, "notes", "k", large)))["results"][0]["seq"] == 1
            async with websocket(secure.port, "eve", token, tls=tls, device="laptop", after=0) as laptop:
                (event,) = await laptop.until_live()
                assert event["value"] == large
                await phone.push(put(2, "notes", "k", 2))
                assert [event["value"] for event in await laptop.events(2)] == [2]
                await laptop.say("what")
                assert (await laptop.closed())[0] == 4400
            await phone.say("ping")
            assert await phone.hear() == {"type": "pong"}

    asyncio.run(whole())


# Limits


def test_one_address_takes_so_many_connections_and_no_more(secure: TlsServer, authority: Authority) -> None:
    most = CONNECTIONS * secure.workers
    held: list[ssl.SSLSocket] = []
    tls = authority.trusting()
    turned_away = 0
    try:
        for _ in range(most + 20):
            try:
                held.append(dial(secure, tls))
            except (ssl.SSLError, OSError):
                turned_away += 1
        assert turned_away >= 20
        assert len(held) <= most
    finally:
        for each in held:
            each.close()

    def served() -> bool:
        with suppress(ssl.SSLError, OSError), dial(secure, tls) as connection:
            return get(connection, secure.token("ada")) == 200
        return False

    until(served, what="there is room again")
    counted: Any = httpx.get(
        f"{secure.url}/metrics", verify=tls, headers={"authorization": f"Bearer {secure.admin()}"}, timeout=30
    ).text
    assert 'roost_limited_total{limit="connections"}' in counted
