"""Everything about one user, piece by piece, in bounded memory, from any of these places on.

A piece is at most a page of documents or of events, or all of the devices. Documents come as they are when their page
is read, each with its version; then the log, up to where it stands by then: so whoever takes in all of it has at
least what was there when it began, however long that took.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from roost.core.events import Device, Document, Event, Head
from roost.core.limits import NUMBER_MAX
from roost.core.moment import NOW
from roost.queries.reader import Reader

PAGE_ITEMS = 500

Part = Literal["user", "documents", "devices", "events"]


class Place(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where an export goes on: in this part, behind this document or event."""

    part: Part = "user"
    collection: str = ""
    key: str = ""
    seq: Annotated[int, Meta(ge=0, le=NUMBER_MAX)] = 0


class Piece(msgspec.Struct, frozen=True):
    """What comes next: `items`, and where it goes on; None behind the last one. `head` is the user's by then."""

    head: Head
    items: list[Head | Document | Device | Event]
    following: Place | None


class Export:
    """Reads one user. `devices` gives the user's devices as the node knows them."""

    def __init__(self, reader: Reader, user: str, devices: Callable[[str], Awaitable[list[Device]]]) -> None:
        self._reader = reader
        self._user = user
        self._devices = devices

    async def pieces(self, place: Place) -> AsyncIterator[Piece]:
        """All pieces from a place on. Raises what reads raise, also in the middle."""
        following: Place | None = place
        while following is not None:
            piece = await self._piece(following)
            yield piece
            following = piece.following

    async def _piece(self, place: Place) -> Piece:
        match place.part:
            case "user":
                head = await self._reader.head(self._user)
                return Piece(head, [head], Place("documents"))
            case "documents":
                return await self._documents(place)
            case "devices":
                head = await self._reader.head(self._user)
                return Piece(head, [*await self._devices(self._user)], Place("events"))
            case "events":
                return await self._events(place)

    async def _documents(self, place: Place) -> Piece:
        head = await self._reader.head(self._user)
        collections = sorted(name for name in head.counts if name >= place.collection)
        if not collections:
            return Piece(head, [], Place("devices"))
        name = collections[0]
        after = place.key if name == place.collection else ""
        page = await self._reader.page(self._user, name, "", after or None, PAGE_ITEMS, NOW)
        # Behind a collection comes whatever name is greater: no name has a NUL.
        place = Place("documents", name, page.documents[-1].key) if page.more else Place("documents", f"{name}\0")
        return Piece(page.head, [*page.documents], place)

    async def _events(self, place: Place) -> Piece:
        log = await self._reader.log(self._user, place.seq, PAGE_ITEMS, None, kept=True)
        following = None if log.reached >= log.head.seq else Place("events", seq=log.reached)
        return Piece(log.head, [*log.events], following)
