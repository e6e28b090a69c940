"""The whole HTTP contract, in one table. The order is the order in which routes are tried: documents first."""

from __future__ import annotations

from roost.wire import (
    audit,
    clients,
    collections,
    conflicts,
    documents,
    erasure,
    events,
    logins,
    oauth,
    policies,
    push,
    service,
    users,
    websocket,
)
from roost.wire.operations import Operation

OPERATIONS: tuple[Operation, ...] = (
    *documents.OPERATIONS,
    *events.OPERATIONS,
    *conflicts.OPERATIONS,
    *push.OPERATIONS,
    *websocket.OPERATIONS,
    *users.OPERATIONS,
    *erasure.OPERATIONS,
    *collections.OPERATIONS,
    *policies.OPERATIONS,
    *audit.OPERATIONS,
    *logins.OPERATIONS,
    *oauth.OPERATIONS,
    *clients.OPERATIONS,
    *service.OPERATIONS,
)
