"""Which state of a log a read is about."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """Now, unless `seq` or `at` (at most one of them) names a moment of the past.

    `at_least` is a seq that a write returned: the read must see that write, or be refused.
    """

    seq: int | None = None
    at: datetime | None = None
    at_least: int | None = None


NOW = Moment()
