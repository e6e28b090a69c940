"""The whole HTTP contract, in one table. The order is the order in which routes are tried: documents first."""

from __future__ import annotations

from roost.wire import collections, conflicts, documents, events, push, service, users, websocket
from roost.wire.operations import Operation

OPERATIONS: tuple[Operation, ...] = (
    *documents.OPERATIONS,
    *events.OPERATIONS,
    *conflicts.OPERATIONS,
    *push.OPERATIONS,
    *websocket.OPERATIONS,
    *users.OPERATIONS,
    *collections.OPERATIONS,
    *service.OPERATIONS,
)
