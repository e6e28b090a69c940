"""Which engines are reached by TLS, verified in full, and which may be reached by less."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from roost.engines.transit import remote_hosts, tls_of, weakness

HERE = [
    "postgresql:///roost?host=/tmp",
    "postgresql://roost@localhost/roost",
    "postgresql://roost@127.0.0.1:5432/roost",
    "postgresql://roost@127.9.9.9,localhost:6/roost",
    "postgresql://roost@[::1]:5432/roost",
    "postgresql://roost@/roost?host=/var/run/postgresql&port=5433",
    "postgresql://%2Fvar%2Frun/roost",
    "postgresql:///roost",
    "memory:",
]
ELSEWHERE = {
    "postgresql://roost@db/roost": ["db"],
    "postgresql://roost:p%40ss@db.example:5432/roost": ["db.example"],
    "postgresql://roost@localhost,db2:5433/roost": ["db2"],
    "postgresql://roost@10.0.0.7/roost": ["10.0.0.7"],
    "postgresql://roost@[2001:db8::1]:5432/roost": ["2001:db8::1"],
    "postgresql:///roost?host=db": ["db"],
    "postgresql://roost@localhost.evil.example/roost": ["localhost.evil.example"],
    "postgresql://roost@127.0.0.1.evil.example/roost": ["127.0.0.1.evil.example"],
}


@pytest.fixture(autouse=True)
def nobody_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGHOST"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("url", HERE)
def test_this_machine_is_reached_as_the_url_says(url: str) -> None:
    assert remote_hosts(url) == []
    assert tls_of(url) is None
    assert weakness(url) is None


@pytest.mark.parametrize("url", ELSEWHERE)
def test_another_one_must_show_a_certificate_with_its_name(url: str, tmp_path: Path) -> None:
    assert remote_hosts(url) == ELSEWHERE[url]
    tls = tls_of(url)
    assert isinstance(tls, ssl.SSLContext)
    assert tls.check_hostname
    assert tls.verify_mode is ssl.CERT_REQUIRED
    joined = "&" if "?" in url else "?"
    assert tls_of(f"{url}{joined}sslrootcert=/some/where.pem") == "verify-full"
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert tls_of(url) == "verify-full"


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_less_is_taken_when_it_is_asked_for_and_warned_of(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ELSEWHERE:
        joined = "&" if "?" in url else "?"
        asked = f"{url}{joined}sslmode={mode}"
        assert tls_of(asked) is None
        assert mode in (weakness(asked) or "")
        assert "p%40ss" not in (weakness(asked) or "")
        monkeypatch.setenv("PGSSLMODE", mode)
        assert tls_of(url) is None
        assert weakness(url) is not None
        monkeypatch.delenv("PGSSLMODE")
    assert weakness("postgresql://localhost/roost?sslmode=disable") is None
    assert weakness("postgresql://db/roost?sslmode=verify-full") is None


def test_the_environment_may_name_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert isinstance(tls_of("postgresql:///roost"), ssl.SSLContext)
    assert tls_of("postgresql://localhost/roost") is None
