"""On a PostgreSQL of the machine's own, which speaks TLS and nothing else: every connection there is sealed."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import asyncpg
import pytest

from tests.support.server import Server
from tests.support.system_postgres import running
from tests.support.tls import Authority

NAME = "localhost"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def connections(url: str, tls: ssl.SSLContext) -> list[tuple[bool, str]]:
    """Of each connection to the database but the one that asks: whether it is sealed, and by which version."""

    async def ask() -> list[tuple[bool, str]]:
        statement = "SELECT ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE datname IS NOT NULL"
        connection = await asyncpg.connect(url, ssl=tls)
        try:
            return [tuple(row) for row in await connection.fetch(f"{statement} AND pid <> pg_backend_pid()")]
        finally:
            await connection.close()

    return asyncio.run(ask())


def test_a_server_works_on_it_by_tls_alone(tmp_path: Path, authority: Authority) -> None:
    with running(authority.issue(NAME), authority.file) as url:
        engine = f"{url}?sslmode=verify-full&sslrootcert={authority.file}"
        with Server(tmp_path / "data", engine=engine, workers=2) as server, server.client() as client:
            assert client.put("/v1/users/ada/docs/notes/k", json={"kept": True}).status_code == 201
            assert client.get("/v1/users/ada/docs/notes/k").json() == {"kept": True}
            server.verify()
            made = connections(url, authority.trusting())
            assert len(made) >= server.workers
            assert all(sealed for sealed, _ in made)
            assert {version for _, version in made} <= {"TLSv1.2", "TLSv1.3"}


def test_a_server_shows_the_certificate_that_is_asked_for(tmp_path: Path, authority: Authority) -> None:
    chain, key = authority.issue(common_name="roost")
    with running(authority.issue(NAME), authority.file, asks_for_certificates=True) as url:
        engine = f"{url}?sslmode=verify-full&sslrootcert={authority.file}"
        shown = f"{engine}&sslcert={chain}&sslkey={key}"
        with Server(tmp_path / "data", engine=shown) as server, server.client() as client:
            assert client.put("/v1/users/ada/docs/notes/k", json=1).status_code == 201
        refused(tmp_path, engine, "certificate")


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("sslmode=verify-full&sslrootcert={other}", "certificate"),
        ("sslmode=disable", "no encryption"),
    ],
)
def test_a_server_does_not_start_on_less(tmp_path: Path, authority: Authority, query: str, why: str) -> None:
    other = Authority(tmp_path / "other").file
    with running(authority.issue(NAME), authority.file) as url:
        refused(tmp_path, f"{url}?{query.format(other=other)}", why)


def test_a_server_does_not_start_with_another_machine_s_certificate(tmp_path: Path, authority: Authority) -> None:
    with running(authority.issue("db.example"), authority.file) as url:
        refused(tmp_path, f"{url}?sslmode=verify-full&sslrootcert={authority.file}", "certificate")


def refused(folder: Path, engine: str, why: str) -> None:
    """See that a server says in one line, without the password, why it does not start."""
    started = Server(folder / "refused").run("serve", "--data", str(folder / "refused"), "--engine", engine, "--port=0")
    assert started.returncode == 1
    assert why in started.stderr
    assert "open-sesame" not in started.stderr + started.stdout
    assert len(started.stderr.splitlines()) <= 2
