"""A real `roost serve` that speaks TLS, with certificates of an authority of its own."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import httpx
import trustme

from roost.node import directory
from tests.support.server import START_S, Server, until


class Authority:
    """Makes certificates, in PEM files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "authority.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, *names: str, common_name: str | None = None) -> tuple[Path, Path]:
        """The files of a fresh certificate and its key; the same names again replace both, each at once."""
        made = self._ca.issue_cert(*names, common_name=common_name, key_type=trustme.KeyType.ECDSA)
        stem = (names or (common_name or "",))[0].replace("/", "_")
        files = self._folder / f"{stem}.crt", self._folder / f"{stem}.key"
        chain = b"".join(each.bytes() for each in made.cert_chain_pems)
        for file, content in zip(files, (chain, made.private_key_pem.bytes()), strict=True):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(file)
        return files

    def trusting(self, shown: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        """What a client that knows this authority connects with, showing a certificate if it has one."""
        context = ssl.create_default_context(cafile=str(self.file))
        if shown is not None:
            context.load_cert_chain(*shown)
        return context


class TlsServer(Server):
    """`roost serve` whose connections are TLS, with a certificate of `authority`."""

    def __init__(self, data: Path, authority: Authority, *, workers: int = 1, **settings: str) -> None:
        chain, key = authority.issue("127.0.0.1")
        super().__init__(data, workers=workers, tls_cert=str(chain), tls_key=str(key), **settings)
        self.authority = authority

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._port}"

    def await_ready(self, patience_s: float = START_S) -> None:
        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"roost serve ended: {self.log.read_text()}"
            with suppress(httpx.HTTPError, directory.CannotStart):
                self._port = self._port or httpx.URL(directory.running(self.data).address).port or 0
                if httpx.get(f"{self.url}/readyz", verify=self.authority.trusting()).status_code == 200:
                    return len(self.listening()) == self.workers
            return False

        until(ready, patience_s, f"{self.url} is ready")
        self._remember()

    def client(self, token: str | None = None, shown: tuple[Path, Path] | None = None) -> httpx.Client:
        """An HTTP client with a token (an admin's, where none is given), and a certificate if it has one to show."""
        headers = {"authorization": f"Bearer {self.admin() if token is None else token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, verify=self.authority.trusting(shown))
