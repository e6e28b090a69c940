"""Leaving: what somebody takes along, and what is left to prove that nothing else is. The gate's part that does so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeAlias

import msgspec

from roost.authz.view import View
from roost.commands.erasures import Erasures
from roost.core.errors import Code, RoostError
from roost.core.events import Device, Document, Event, Head
from roost.core.ids import HIDDEN, SESSIONS
from roost.feed.presence import Presence
from roost.queries.export import Export, Place
from roost.queries.reader import Reader
from roost.queries.receipts import Receipt, receipt

ISSUER = "roost"
EVENT = "user_erased"


class Proof(msgspec.Struct, frozen=True):
    """A receipt, and the same as a JWS by the key that signs tokens. It is no token: it has no kind and no end."""

    receipt: Receipt
    signed: str


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a session: nothing that would let anybody into it."""

    session: str = ""
    created_at: datetime
    used_at: datetime
    expires_at: datetime
    name: str | None = None
    device: str | None = None
    client: str | None = None
    address: str = ""


_login = msgspec.json.Decoder(Login, strict=False).decode
"""Of a stored session, what is told of it: times are seconds since 1970 there, and other members are passed over."""


Item: TypeAlias = Head | Document | Device | Event | Login


class Told(NamedTuple):
    """A piece of an export as it is shown: see `roost.queries.export.Piece`. `following` is a place as text."""

    head: Head
    items: list[Item]
    following: str | None


_place = msgspec.json.Decoder(Place).decode


def check_place(text: str) -> str:
    """Return `text` if that is a place in an export, or raise `INVALID_REQUEST`."""
    try:
        place = _place(text)
    except msgspec.DecodeError as error:
        raise RoostError(Code.INVALID_REQUEST, "This is no place in an export.") from error
    if "\0" in place.key:
        raise RoostError(Code.INVALID_REQUEST, "No document has such a key.")
    return text


class Departures:
    """Erases and exports. `sign` makes a compact JWS of claims."""

    def __init__(
        self, erasures: Erasures, reader: Reader, presence: Presence, sign: Callable[[dict[str, Any]], str]
    ) -> None:
        self._erasures = erasures
        self._reader = reader
        self._presence = presence
        self._sign = sign

    async def erase(self, user: str, actor: str) -> Proof:
        """Erase a user; to repeat it gives the same receipt. Raises `NOT_FOUND`."""
        await self._erasures.erase(user, actor)
        return await self.proof(user)

    async def proof(self, user: str) -> Proof:
        """What there is to prove of an erasure. Raises `NOT_FOUND` where the user was not erased."""
        found = await receipt(self._reader, user)
        claims = {
            "iss": ISSUER,
            "sub": user,
            "event": EVENT,
            "erased_at": _stamp(found.erased_at),
            "seq": found.seq,
            "events": found.events,
            "documents": found.documents,
        }
        if found.shredded_at is not None:
            claims["shredded_at"] = _stamp(found.shredded_at)
        return Proof(found, self._sign(claims))

    async def export(
        self, user: str, seeing: Callable[[], View], sessions: Callable[[], bool], after: str | None
    ) -> AsyncGenerator[Told, None]:
        """Everything about a user that a view shows, from a place on; and of `sessions`, that they are there.

        Both are asked again for each piece.
        """
        place = Place() if after is None else _place(after)
        async for piece in Export(self._reader, user, self._presence.devices).pieces(place):
            view, logins = seeing(), sessions()
            items = [shown for item in piece.items if (shown := _shown(item, view, logins=logins)) is not None]
            following = None if piece.following is None else msgspec.json.encode(piece.following).decode()
            yield Told(piece.head, items, following)


def _shown(item: Item, view: View, *, logins: bool) -> Item | None:
    if isinstance(item, Document):
        if item.collection == SESSIONS:
            if not logins:
                return None
            return msgspec.structs.replace(_login(item.value or b"null"), session=item.key)
        return view.document(item)
    if isinstance(item, Event):
        return view.event(item)
    if isinstance(item, Head):
        counts = {collection: count for collection, count in item.counts.items() if collection not in HIDDEN}
        return msgspec.structs.replace(item, counts=counts)
    return item


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
