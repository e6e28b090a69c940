"""Every limit that the state itself has, in one frozen value.

Limits of a process (queues, timeouts, pools) are in `roost.settings`; these here decide what a log may
hold, so every node and every engine must agree on them.
"""

from __future__ import annotations

import msgspec

NUMBER_MAX = 2**53
"""Numbers beyond ±2^53 are refused, not rounded: JavaScript clients could not read them back."""

USER_CHARS_MAX = 128
COLLECTION_CHARS_MAX = 48
KEY_BYTES_MAX = 200
DEVICE_CHARS_MAX = 64
IDEMPOTENCY_KEY_CHARS_MAX = 128


class Limits(msgspec.Struct, frozen=True):
    """Defaults are those of the public contract. Sizes in bytes unless the name says otherwise."""

    body_bytes_max: int = 1 << 20
    value_bytes_max: int = 256 << 10
    depth_max: int = 64
    batch_ops_max: int = 500
    change_bytes_max: int = 8 << 20
    """What the ops of one batch or mutation read and write in all: a short edit of a large value takes all of it."""
    documents_max: int = 10_000
    """Documents a user and collection."""
    collections_max: int = 100
    """Collections with at least one document, a user."""
    page_items_max: int = 1_000
    page_items: int = 100
    page_bytes_max: int = 8 << 20
    """A page ends early, with a cursor, once its values reach this size."""
    snapshot_bytes_max: int = 64 << 20
    wait_s_max: int = 30
    idempotency_hours: int = 24
    push_mutations_max: int = 100
    """Mutations in one push."""
    devices_max: int = 1_000
    """Devices of one user."""
    concurrent_events_max: int = 1_000
    """Events of one document that an edit may not have seen and still be merged with; one more refuses it."""
    siblings_max: int = 10
    """Values that stand beside each other in one document."""
    clock_ahead_s: int = 60
    """How far a device's clock may be ahead of the server's; what is more is cut off."""
