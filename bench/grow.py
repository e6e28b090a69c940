"""Many users at once, for the run at a million documents: rows straight into the tables.

The API would take minutes for what COPY does in seconds. Every row is what Roost itself would have written (one
`put` event a user, at the next position of its lane, its document and head, sealed by a key of its own), so `roost
verify` accepts it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.postgres import BenchFailed, Postgres
from roost.core.ids import lane_of
from roost.crypto.keyring import FILE_NAME, FileKeyring
from roost.crypto.seal import KEY_BYTES, Seal, Slot, Wrap

VALUE = '{"theme":"dark","language":"en-GB","density":"compact","sidebar":true,"fontSize":14,"note":"%06d-%09d"}'
"""The same 110 bytes as in requests.lua."""


def user_id(number: int) -> str:
    """The users that requests.lua writes and reads."""
    return f"u{number:07d}"


def grow(postgres: Postgres, data: Path, folder: Path, first: int, last: int) -> None:
    """Give each user from number `first` up to, not with, `last` one document. The server must not be writing.

    `data` is the server's data directory, whose keyring wraps their keys.
    """
    positions = {
        int(lane): int(pos)
        for lane, pos in (row.split("|") for row in postgres.query("SELECT lane, pos FROM roost.lanes").splitlines())
    }
    script = folder / "grow.sql"
    with script.open("w") as out:
        out.writelines(statements(positions, _wrap(data), first, last))
    postgres.run(
        "psql", "-Xqv", "ON_ERROR_STOP=1", "--single-transaction", "-f", str(script), folder=Path("/"), timeout_s=300
    )
    script.unlink()


def statements(positions: dict[int, int], wrap: Wrap, first: int, last: int) -> Iterator[str]:
    """A psql script: one COPY, and what follows from it."""
    at = datetime.now(UTC).isoformat()
    yield (
        "CREATE TEMP TABLE grown (lane integer, user_id text, pos bigint, value bytea, wrapped bytea);\n"
        "COPY grown FROM STDIN;\n"
    )
    for number in range(first, last):
        user, secret = user_id(number), secrets.token_bytes(KEY_BYTES)
        lane = lane_of(user)
        positions[lane] += 1
        value = Seal(user, 1, secret).seal((VALUE % (number, 0)).encode(), "preferences", "ui", 1, Slot.VALUE)
        wrapped = wrap.wrap(secret, user, 1)
        yield f"{lane}\t{user}\t{positions[lane]}\t\\\\x{value.hex()}\t\\\\x{wrapped.hex()}\n"
    yield "\\.\n"
    yield f"""
        INSERT INTO roost.user_keys (lane, user_id, generation, kek, wrapped, outdated)
        SELECT lane, user_id, 1, '{wrap.kek}', wrapped, false FROM grown;
        INSERT INTO roost.users (lane, user_id, seq, floor, created_at, updated_at, counts, generation)
        SELECT lane, user_id, 1, 0, '{at}', '{at}', '{{"preferences":1}}', 1 FROM grown;
        INSERT INTO roost.documents (lane, user_id, collection, key, version, value, updated_at)
        SELECT lane, user_id, 'preferences', 'ui', 1, value, '{at}' FROM grown;
        INSERT INTO roost.events (lane, user_id, seq, pos, kind, collection, key, value, actor, at)
        SELECT lane, user_id, 1, pos, 'put', 'preferences', 'ui', value, 'admin', '{at}' FROM grown;
        UPDATE roost.lanes l SET pos = g.pos FROM (SELECT lane, max(pos) AS pos FROM grown GROUP BY lane) g
        WHERE g.lane = l.lane;
    """
    yield "ANALYZE roost.users; ANALYZE roost.documents; ANALYZE roost.events; ANALYZE roost.user_keys;\n"


def _wrap(data: Path) -> Wrap:
    """The key-encryption key of a server that has no other."""
    keyring = FileKeyring(data / FILE_NAME)
    kek = keyring.current
    secret = keyring.get(kek) if kek else None
    if kek is None or secret is None:
        raise BenchFailed(f"{keyring.path} holds no key: the server has not started.")
    return Wrap(kek, secret)
