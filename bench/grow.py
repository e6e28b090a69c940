"""Many users at once, for the run at a million documents: rows straight into the tables.

The API would take minutes for what COPY does in seconds. Every row is what Roost itself would have written (one
`put` event a user, at the next position of its lane, and its document and head), so `roost verify` accepts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.postgres import Postgres
from roost.core.ids import lane_of

VALUE = '{"theme":"dark","language":"en-GB","density":"compact","sidebar":true,"fontSize":14,"note":"%06d-%09d"}'
"""The same 110 bytes as in requests.lua."""


def user_id(number: int) -> str:
    """The users that requests.lua writes and reads."""
    return f"u{number:07d}"


def grow(postgres: Postgres, folder: Path, first: int, last: int) -> None:
    """Give each user from number `first` up to, not with, `last` one document. The server must not be writing."""
    positions = {
        int(lane): int(pos)
        for lane, pos in (row.split("|") for row in postgres.query("SELECT lane, pos FROM roost.lanes").splitlines())
    }
    script = folder / "grow.sql"
    with script.open("w") as out:
        out.writelines(statements(positions, first, last))
    postgres.run(
        "psql", "-Xqv", "ON_ERROR_STOP=1", "--single-transaction", "-f", str(script), folder=Path("/"), timeout_s=300
    )
    script.unlink()


def statements(positions: dict[int, int], first: int, last: int) -> Iterator[str]:
    """A psql script: one COPY, and what follows from it."""
    at = datetime.now(UTC).isoformat()
    yield "CREATE TEMP TABLE grown (lane integer, user_id text, pos bigint, value text);\nCOPY grown FROM STDIN;\n"
    for number in range(first, last):
        user = user_id(number)
        lane = lane_of(user)
        positions[lane] += 1
        yield f"{lane}\t{user}\t{positions[lane]}\t{VALUE % (number, 0)}\n"
    yield "\\.\n"
    yield f"""
        INSERT INTO roost.users (lane, user_id, seq, floor, created_at, updated_at, counts)
        SELECT lane, user_id, 1, 0, '{at}', '{at}', '{{"preferences":1}}' FROM grown;
        INSERT INTO roost.documents (lane, user_id, collection, key, version, value, updated_at)
        SELECT lane, user_id, 'preferences', 'ui', 1, convert_to(value, 'UTF8'), '{at}' FROM grown;
        INSERT INTO roost.events (lane, user_id, seq, pos, kind, collection, key, value, actor, at)
        SELECT lane, user_id, 1, pos, 'put', 'preferences', 'ui', convert_to(value, 'UTF8'), 'admin', '{at}' FROM grown;
        UPDATE roost.lanes l SET pos = g.pos FROM (SELECT lane, max(pos) AS pos FROM grown GROUP BY lane) g
        WHERE g.lane = l.lane;
    """
    yield "ANALYZE roost.users; ANALYZE roost.documents; ANALYZE roost.events;\n"
