"""Certificates: the server's own, read again when they are renewed, and those that clients show."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import structlog

from roost.authz.principal import Principal
from roost.core.errors import Code, RoostError

POLL_S = 1.0
ALPN = ("http/1.1",)
Clients = Literal["optional", "services", "required"]

log = structlog.get_logger(__name__)


class BadCertificates(Exception):
    """Certificate, key or authorities cannot be used; the text says why, and what to do."""


class Certificates:
    """The TLS context of a server, by files in PEM: the chain, its key, and for clients' certificates the authorities.

    Raises `BadCertificates`.
    """

    def __init__(self, chain: Path, key: Path, authorities: Path | None = None, clients: Clients = "optional") -> None:
        self._files = [chain, key, *([authorities] if authorities else [])]
        self._chain, self._key, self._authorities = chain, key, authorities
        self._required = clients == "required"
        self._seen = self._look()
        self.context = self._load()
        """What the next connection is served with."""

    async def keep(self) -> None:
        """Read the files again whenever they have changed. What cannot be used changes nothing, and is logged."""
        while True:
            await asyncio.sleep(POLL_S)
            seen = self._look()
            if seen == self._seen:
                continue
            try:
                self.context = self._load()
            except BadCertificates as error:
                # Chain and key may be written one after the other, and the pair fits a moment later.
                log.error("the renewed certificate cannot be used; the one before goes on", reason=str(error))  # noqa: TRY400  # its text says all
            else:
                log.info("a renewed certificate is in force", file=str(self._chain))
            self._seen = seen

    def _look(self) -> list[tuple[int, int, int]]:
        """What tells that a file is another now; of one that is missing, nothing."""
        found = []
        for file in self._files:
            with suppress(OSError):
                status = file.stat()
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return found

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(list(ALPN))
        try:
            context.load_cert_chain(self._chain, self._key, password=_no_password)
        except (OSError, ValueError) as error:
            raise BadCertificates(f"{self._chain} and {self._key} are no certificate and its key: {error}.") from error
        if self._authorities is not None:
            try:
                context.load_verify_locations(self._authorities)
            except OSError as error:
                raise BadCertificates(f"{self._authorities} holds no certificates of authorities: {error}.") from error
            context.verify_mode = ssl.CERT_REQUIRED if self._required else ssl.CERT_OPTIONAL
        return context


def names_of(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    """The names in a client's certificate that was verified: DNS names, URIs and common names."""
    if not certificate:
        return frozenset()
    alternative = {name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")}
    common = {value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"}
    return frozenset(alternative | common)


def check_certificate(clients: Clients, principal: Principal, names: frozenset[str]) -> None:
    """See that a service that must show a certificate has shown one that names it. Raises `FORBIDDEN`."""
    if clients == "services" and principal.kind == "service" and principal.id not in names:
        detail = "A service shows a certificate with its name here: connect with one, to Roost itself."
        raise RoostError(Code.FORBIDDEN, detail)


def _no_password() -> str:
    # Otherwise OpenSSL would ask for it on the terminal.
    raise ValueError("the key is encrypted: give it without a password")
