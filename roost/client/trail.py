"""What the client asks of the audit trail; see `roost.client.protocol`."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from roost.client.asking import decoded
from roost.client.errors import refused_here
from roost.client.exchange import Ask, Call, Session, exchange
from roost.client.models import AuditFilter, AuditPage

_PARAMETERS = {"since": "from", "until": "to"}


def page(
    session: Session, after: str | None, limit: int | None, wait_s: float, narrowed: AuditFilter
) -> Call[AuditPage]:
    """One page of the audit trail (for admins)."""
    query: dict[str, object] = {"after": after, "limit": limit, "wait": f"{wait_s:g}" if wait_s else None}
    for name, value in narrowed.items():
        if isinstance(value, datetime) and value.tzinfo is None:
            raise refused_here("invalid_request", f"`{name}` needs a time zone, or nobody knows which moment is meant.")
        query[_PARAMETERS.get(name, name)] = value.isoformat() if isinstance(value, datetime) else value
    given = {name: value for name, value in query.items() if value is not None}
    target = "/v1/audit?" + urlencode(given) if given else "/v1/audit"
    return decoded((yield from exchange(session, Ask("GET", target, wait_s=wait_s))), AuditPage)
