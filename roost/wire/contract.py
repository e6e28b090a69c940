"""The whole HTTP contract, in one table. The order is the order in which routes are tried: documents first."""

from __future__ import annotations

from roost.wire import documents, events, service, users
from roost.wire.operations import Operation

OPERATIONS: tuple[Operation, ...] = (
    *documents.OPERATIONS,
    *events.OPERATIONS,
    *users.OPERATIONS,
    *service.OPERATIONS,
)
