"""An engine that is met over a network: its certificate is looked at, and nothing is said to one that shows none.

Names that would be another machine's are this one's here; TLS ends in a stand-in before the real PostgreSQL.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from roost.core.ports import EngineUnavailable
from roost.engines.connections import Connections
from tests.support.pgtls import TlsPostgres
from tests.support.server import Server
from tests.support.tls import Authority

NAME = "db.example"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names of other machines lead here; and nothing of who runs the tests is read."""
    resolve = socket.getaddrinfo

    def here(host: Any, *rest: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if str(host).endswith(".example") else host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


Ask = Callable[[str], Awaitable[TlsPostgres]]


def asks(server: Server, files: tuple[Path, Path] | None, query: str, name: str = NAME) -> TlsPostgres:
    """Ask the server's own PostgreSQL something, as if it were elsewhere; the stand-in, which has counted."""
    inner = urlsplit(server.engine_url)
    given = parse_qs(inner.query)
    path = Path(given["host"][0]) / f".s.PGSQL.{given.get('port', ['5432'])[0]}"
    user, database = given.get("user", [inner.username])[0], inner.path.strip("/")

    async def whole() -> TlsPostgres:
        async with TlsPostgres(path, files).running() as standing:
            url = f"postgresql://{user}@{name}:{standing.port}/{database}{query}"
            connections = Connections(url, size=1, timeout_s=10)
            await connections.open()
            try:
                ((one,),) = await connections.fetch("SELECT 1")
                assert one == 1
            finally:
                await connections.close()
            return standing

    return asyncio.run(whole())


@pytest.mark.usefixtures("elsewhere")
def test_one_with_the_right_certificate_is_asked(server: Server, authority: Authority) -> None:
    standing = asks(server, authority.issue(NAME), f"?sslrootcert={authority.file}")
    assert (standing.sealed, standing.open) == (1, 0)


@pytest.mark.usefixtures("elsewhere")
def test_the_machine_s_own_authorities_are_asked_where_none_is_named(
    server: Server, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    assert asks(server, authority.issue(NAME), "").sealed == 1


@pytest.mark.usefixtures("elsewhere")
def test_one_with_another_name_is_not_asked(server: Server, authority: Authority) -> None:
    with pytest.raises(EngineUnavailable, match="certificate is not one to trust"):
        asks(server, authority.issue("other.example"), f"?sslrootcert={authority.file}")


@pytest.mark.usefixtures("elsewhere")
def test_one_of_an_unknown_authority_is_not_asked(server: Server, authority: Authority) -> None:
    with pytest.raises(EngineUnavailable, match="certificate is not one to trust"):
        asks(server, authority.issue(NAME), "")


@pytest.mark.usefixtures("elsewhere")
def test_one_that_says_it_speaks_no_tls_is_not_asked(server: Server) -> None:
    """PostgreSQL's own default would go on in the clear."""
    with pytest.raises(EngineUnavailable, match="speaks no TLS"):
        asks(server, None, "")


@pytest.mark.usefixtures("elsewhere")
def test_what_the_url_says_is_done(server: Server, authority: Authority) -> None:
    assert asks(server, None, "?sslmode=disable").open == 1
    assert asks(server, authority.issue("other.example"), "?sslmode=require").sealed == 1
    assert asks(server, None, "", name="127.0.0.1").open == 1
