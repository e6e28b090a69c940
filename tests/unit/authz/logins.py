"""A node's logins on the reference engine, with a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from roost.authz.door import Door
from roost.authz.identity import Identity
from roost.authz.logins import Logins
from roost.authz.principal import Caller, Origin, Principal
from roost.authz.records import Means
from roost.authz.revocations import Revocations
from roost.authz.sessions import About, Tokens
from roost.commands.writer import Writer
from roost.core.errors import Code, RoostError
from roost.crypto.signing import SigningKeys
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.hub import Hub
from roost.queries.reader import Reader
from roost.settings import PasswordHash, Settings

PASSWORD = "correct horse battery staple"
HERE = Origin("192.0.2.7")
CHEAP = PasswordHash(8, 1, 1)
ADMIN = Caller(Principal("admin", "admin"), HERE)


class Doorkeeper:
    """Lets users in to what is theirs, and admins to everything."""

    def enter(self, caller: Caller, action: str, user: str | None = None, collection: str | None = None) -> None:
        if caller.principal.kind != "admin" and caller.principal.id != user:
            raise RoostError(Code.FORBIDDEN, action)

    async def told(self, caller: Caller, action: str, user: str | None, collections: Any = None) -> None:
        pass


class Noted(list[tuple[str, str, str]]):
    """What was put on record: action, outcome, and detail."""

    def __call__(self, who: Any, action: str, *, outcome: str = "allowed", detail: str | None = None, **_: Any) -> None:
        self.append((action, outcome, detail or ""))


class Node:
    """What one node holds for logging in. Several may share an engine and a data directory."""

    def __init__(self, folder: Path, engine: Memory | None = None, **settings: Any) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        usual = Settings(signup="open", password_hash=CHEAP)
        self.settings = msgspec.structs.replace(usual, **settings)
        self.engine = engine or Memory()
        self.hub = Hub(10)
        self.bulletin = Bulletin(self.engine, self.hub, timeout_s=5)
        self.writer = Writer(self.engine, self.settings, clock=self.clock, committed=self.hub.publish)
        self.reader = Reader(self.engine, self.settings)
        self.revocations = Revocations(self.bulletin, self.writer, self.clock)
        self.keys = SigningKeys.load_or_create(folder)
        self.identity = Identity(self.keys, now=lambda: self.clock().timestamp(), revoked=self.revocations.revoked)
        self.noted = Noted()
        means = Means(self.reader, self.writer, self.settings, self.clock, self.noted)
        self.logins = Logins(means, self.keys, self.identity, self.revocations, cast("Door", Doorkeeper()))

    def clock(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def ada(self) -> Tokens:
        return await self.logins.sign_up(HERE, "ada", PASSWORD, About())

    async def log_in(self, password: str = PASSWORD, user: str = "ada") -> Tokens:
        return await self.logins.log_in(HERE, user, password, About())

    async def refresh(self, tokens: Tokens | str) -> str:
        """The next refresh token."""
        token = tokens if isinstance(tokens, str) else tokens.refresh_token
        granted = await self.logins.oauth.token({"grant_type": "refresh_token", "refresh_token": token}, None, HERE)
        assert granted.refresh_token is not None
        return granted.refresh_token

    async def caller(self, tokens: Tokens) -> Caller:
        return Caller(await self.identity.authenticate(tokens.access_token), HERE)

    async def is_good(self, tokens: Tokens) -> bool:
        """Whether the access token is taken."""
        try:
            await self.identity.authenticate(tokens.access_token)
        except RoostError as refusal:
            if refusal.code is not Code.UNAUTHENTICATED:
                raise
            return False
        return True


@asynccontextmanager
async def running(node: Node) -> AsyncIterator[Node]:
    await node.engine.open()
    keeping = asyncio.ensure_future(node.bulletin.keep())
    try:
        await node.bulletin.until(0)
        yield node
    finally:
        keeping.cancel()
        node.logins.close()
        await node.writer.close()


async def refused(work: Coroutine[Any, Any, Any]) -> Code:
    with pytest.raises(RoostError) as refusal:
        await work
    return refusal.value.code
