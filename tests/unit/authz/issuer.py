"""An identity with one other issuer, whose documents and clocks the test holds in its hands."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc.jwk import Key

from roost.authz.identity import Identity
from roost.authz.oidc import CannotFetch
from roost.authz.principal import Principal
from roost.core.errors import Code, RoostError
from roost.core.issuers import Issuer
from roost.crypto.signing import SigningKeys
from tests.support.tokens import made, published, signed

URL = "https://id.example/realm"
KEYS_URL = "https://keys.example/keys"
DISCOVERY_URL = f"{URL}/.well-known/openid-configuration"
AUDIENCE = "https://roost.example"
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
ONE, TWO, OTHER = made("ES256", "one"), made("ES256", "two"), made("ES256", "one")


class Web:
    """A provider's documents; what is an exception, cannot be had."""

    def __init__(self, *keys: Key) -> None:
        self.asked: list[str] = []
        self._asked = asyncio.Event()
        self.wait: asyncio.Event | None = None
        self.pages: dict[str, bytes | Exception] = {}
        self.publish(*keys)
        self.pages[DISCOVERY_URL] = json.dumps({"issuer": URL, "jwks_uri": KEYS_URL, "more": []}).encode()

    def publish(self, *keys: Key) -> None:
        self.pages[KEYS_URL] = published(keys)

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        self._asked.set()
        if self.wait is not None:
            await self.wait.wait()
        page = self.pages.get(url, CannotFetch(f"{url} answers 404"))
        if isinstance(page, Exception):
            raise page
        return page

    async def questions(self, more: int) -> None:
        """Wait until so many more were asked."""
        end = len(self.asked) + more
        async with asyncio.timeout(20):
            while len(self.asked) < end:
                self._asked.clear()
                await self._asked.wait()


class World:
    """An identity whose clocks stand still, and its provider."""

    def __init__(self, own: SigningKeys, issuer: Issuer | None = None, **more: Any) -> None:
        self.web = Web(ONE)
        self.now = NOW
        issuer = issuer or Issuer(audience=AUDIENCE, jwks_uri=KEYS_URL, **more)
        self.identity = Identity(own, now=self._now, issuers={URL: issuer}, fetch=self.web.fetch)
        self.elapsed = 0.0
        self.identity._providers[URL]._monotonic = lambda: self.elapsed

    def _now(self) -> float:
        return self.now.timestamp()

    def authenticate(self, token: str) -> Principal:
        return asyncio.run(self.identity.authenticate(token))

    def refused(self, token: str, code: Code = Code.UNAUTHENTICATED) -> RoostError:
        with pytest.raises(RoostError) as refused:
            self.authenticate(token)
        assert refused.value.code is code
        return refused.value


def claims(**changed: Any) -> dict[str, Any]:
    """The claims of a good access token; None leaves one out."""
    now = int(NOW.timestamp())
    usual = {"iss": URL, "sub": "ada", "aud": AUDIENCE, "iat": now, "exp": now + 60, "jti": "x", "client_id": "web"}
    return {name: value for name, value in {**usual, **changed}.items() if value is not None}


def token(key: Key = ONE, *, typ: str | None = "at+jwt", **changed: Any) -> str:
    return signed(key, claims(**changed), alg="ES256", kid=key.kid, typ=typ)
