"""What is on record of an erasure, for whoever has to prove it."""

from __future__ import annotations

from datetime import datetime

import msgspec

from roost.core import erasure
from roost.core.errors import Code, RoostError
from roost.core.ids import ERASURES, SHREDDINGS, SYSTEM_USER
from roost.core.moment import NOW
from roost.core.ports import DocumentRef
from roost.queries.reader import Reader


class Receipt(msgspec.Struct, frozen=True):
    """That a user was erased: when, by which event, and how many events and documents there had been.

    `shredded_at` is when older copies of the database had become unreadable; None before.
    """

    user: str
    erased_at: datetime
    seq: int
    events: int
    documents: int
    shredded_at: datetime | None


async def receipt(reader: Reader, user: str) -> Receipt:
    """The receipt of a user who was erased. Raises `NOT_FOUND`."""
    missing = RoostError(Code.NOT_FOUND, f"The user {user!r} was not erased.")
    try:
        document = (await reader.document(DocumentRef(SYSTEM_USER, ERASURES, user), NOW)).document
    except RoostError as refusal:
        if refusal.code is not Code.NOT_FOUND:
            raise
        raise missing from None
    if document is None or document.value is None:
        raise missing
    record = erasure.decode_record(document.value)
    before = erasure.shredding_key(document.version - 1)
    page = await reader.page(SYSTEM_USER, SHREDDINGS, "", before, 1, NOW)
    shreddings = [erasure.decode_shredding(found.value or b"") for found in page.documents]
    shredded_at = shreddings[0].shredded_at if shreddings else None
    return Receipt(user, record.erased_at, record.seq, record.events, record.documents, shredded_at)
