"""TLS on the way to the engine: what is asked of it by default, and what is wrong with less.

An engine on this machine is reached without. One that is elsewhere must show a certificate of an authority that is
known here, with the name by which it was called (`sslmode=verify-full`), unless its URL or `PGSSLMODE` says otherwise:
PostgreSQL's own default would go on in the clear whenever somebody on the way says that the engine speaks no TLS.
"""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

STRICT = "verify-full"


def tls_of(url: str) -> ssl.SSLContext | str | None:
    """What the driver is told about TLS beside the URL; None: what the URL says. Raises `OSError` for wrong files."""
    where = urlsplit(url)
    if _mode(where) or not remote_hosts(url):
        return None
    own_roots = Path.home() / ".postgresql" / "root.crt"
    if _given(where, "sslrootcert") or own_roots.exists():
        return STRICT
    # The driver knows no "the authorities of this machine", so it is given what they are.
    context = ssl.create_default_context()
    chain, key = _given(where, "sslcert"), _given(where, "sslkey")
    if chain is not None:
        context.load_cert_chain(chain, key)
    return context


def weakness(url: str) -> str | None:
    """What somebody on the way to a remote engine could do, where its URL asks for less than is the default."""
    mode = _mode(urlsplit(url))
    hosts = remote_hosts(url)
    if not hosts or mode in (None, STRICT):
        return None
    told = {"verify-ca": "any certificate of its authority stands for it"}.get(
        mode or "", "whoever is on the way can read and answer in its place"
    )
    return f"sslmode={mode} to the engine at {', '.join(hosts)}: {told}. Take {STRICT}, unless that way is your own."


def remote_hosts(url: str) -> list[str]:
    """The hosts of an engine's URL that are not this machine."""
    where = urlsplit(url)
    named = where.netloc.rpartition("@")[2] or ",".join(parse_qs(where.query).get("host", [])) or _environment("PGHOST")
    hosts = [_without_port(host) for host in named.split(",") if host]
    return [host for host in hosts if not _is_local(host)]


def _is_local(host: str) -> bool:
    if not host or host.startswith(("/", "%2F", "%2f", "@")) or host.lower() == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _mode(where: SplitResult) -> str | None:
    return _given(where, "sslmode")


def _given(where: SplitResult, name: str) -> str | None:
    found = parse_qs(where.query).get(name, [_environment(f"PG{name.upper()}")])[-1]
    return found or None


def _environment(name: str) -> str:
    return os.environ.get(name, "")
