"""Migrations: applied in order they give the schema, applied again they do nothing, and what is newer is left alone.

Schemas are compared as `pg_dump` writes them. Each test has a database of its own.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from roost.core.events import Event, Head
from roost.core.ids import LANES, lane_of
from roost.core.ports import Engine, EngineUnavailable, Log
from roost.engines import migrate
from roost.engines.embedded import binaries
from roost.engines.postgres import Postgres
from roost.queries.verify import verify
from roost.settings import Settings

Result = TypeVar("Result")
LANES_OF = "SELECT lane, region, pos FROM roost.lanes ORDER BY lane"
numbers = count()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


async def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What a statement gives in the database at `url`."""
    connection = await asyncpg.connect(url)
    try:
        if ";" in statement:
            await connection.execute(statement)
            return []
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


@pytest.fixture
def empty(database: str) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    name = f"migrations_{next(numbers)}"
    run(rows(database, f"CREATE DATABASE {name}"))
    yield urlunsplit(urlsplit(database)._replace(path=f"/{name}"))
    run(rows(database, f"DROP DATABASE {name} WITH (FORCE)"))


def schema(url: str) -> str:
    """The schema of a database, in SQL."""
    command = [str(binaries.find().folder / "pg_dump"), "--schema-only", "--no-owner", "--dbname", url]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    # Newer ones guard their output with a key that differs each time.
    return re.sub(r"^\\(un)?restrict .*\n", "", dumped, flags=re.MULTILINE)


def apply(url: str) -> list[int]:
    """Migrate; the versions that this applied."""
    return [step.version for step in run(migrate.migrate(url, region="local"))]


def versions(url: str) -> list[tuple[Any, ...]]:
    return run(rows(url, "SELECT version, name FROM roost.migrations ORDER BY version"))


ALL = [(step.version, step.name) for step in migrate.migrations()]


def test_migrations_in_order_give_the_schema(empty: str, database: str) -> None:
    run(rows(empty, files("roost.engines").joinpath("sql", "schema.sql").read_text()))
    assert "CREATE TABLE roost.events" in schema(database)
    assert schema(empty) == schema(database)


def test_migrations_are_numbered_without_holes() -> None:
    assert [version for version, _ in ALL] == list(range(1, len(ALL) + 1))
    assert ALL[-1][0] == migrate.SCHEMA_VERSION


def test_migrating_again_does_nothing(empty: str) -> None:
    assert apply(empty) == [version for version, _ in ALL]
    before = schema(empty), run(rows(empty, "SELECT * FROM roost.migrations")), run(rows(empty, LANES_OF))
    assert apply(empty) == []
    assert (schema(empty), run(rows(empty, "SELECT * FROM roost.migrations")), run(rows(empty, LANES_OF))) == before
    assert versions(empty) == ALL


def test_every_lane_is_there_with_the_region(empty: str) -> None:
    run(migrate.migrate(empty, region="eu"))
    assert run(rows(empty, LANES_OF)) == [(lane, "eu", 0) for lane in range(LANES)]


def test_nodes_that_start_together_migrate_once(empty: str) -> None:
    async def together() -> list[list[migrate.Migration]]:
        return await asyncio.gather(*(migrate.migrate(empty, region="local") for _ in range(8)))

    applied = [step.version for each in run(together()) for step in each]
    assert applied == [version for version, _ in ALL]
    assert versions(empty) == ALL
    assert len(run(rows(empty, LANES_OF))) == LANES


def test_a_newer_schema_is_refused_and_left_alone(empty: str) -> None:
    apply(empty)
    newer = migrate.SCHEMA_VERSION + 1
    run(rows(empty, f"INSERT INTO roost.migrations VALUES ({newer}, 'from_tomorrow', '2100-01-01');"))
    before = schema(empty), versions(empty)
    with pytest.raises(EngineUnavailable, match=rf"schema {newer}.*newer Roost"):
        apply(empty)
    assert (schema(empty), versions(empty)) == before


def test_a_migration_that_fails_leaves_nothing_of_itself(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the ones before it stay; the next start goes on from there."""
    version = migrate.SCHEMA_VERSION + 1
    broken = migrate.Migration(version, "broken", "CREATE TABLE roost.half (a integer); SELECT 1 / 0;")
    whole = migrate.Migration(version, "whole", "CREATE TABLE roost.half (a integer);")
    steps = migrate.migrations()
    monkeypatch.setattr(migrate, "SCHEMA_VERSION", version)
    monkeypatch.setattr(migrate, "migrations", lambda: [*steps, broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        apply(empty)
    assert versions(empty) == ALL
    assert "half" not in schema(empty)
    monkeypatch.setattr(migrate, "migrations", lambda: [*steps, whole])
    assert apply(empty) == [version]
    assert versions(empty) == [*ALL, (version, "whole")]


def test_an_old_node_runs_on_a_newer_schema_and_a_new_one_not_on_an_older(empty: str) -> None:
    """So that an upgrade needs no downtime: first the schema, then one node after the other."""

    async def ping() -> None:
        engine = Postgres(empty, Settings(), page_bytes_max=1, snapshot_bytes_max=1)
        await engine.open()
        try:
            await engine.ping()
        finally:
            await engine.close()

    with pytest.raises(EngineUnavailable):
        run(ping())
    apply(empty)
    run(ping())
    run(rows(empty, f"INSERT INTO roost.migrations VALUES ({migrate.SCHEMA_VERSION + 1}, 'more', '2100-01-01');"))
    run(ping())
    run(rows(empty, "DELETE FROM roost.migrations; INSERT INTO roost.migrations VALUES (0, 'old', '2000-01-01');"))
    with pytest.raises(EngineUnavailable, match="run `roost migrate`"):
        run(ping())


WRITTEN_BY_0001 = """
UPDATE roost.lanes SET pos = {seq} WHERE lane = {lane};
INSERT INTO roost.users (lane, user_id, seq, floor, created_at, updated_at, counts)
    VALUES ({lane}, 'ada', {seq}, 0, '{at}', '{at}', '{{"notes": 1}}')
    ON CONFLICT (lane, user_id) DO UPDATE SET seq = excluded.seq;
INSERT INTO roost.documents (lane, user_id, collection, key, version, value, updated_at)
    VALUES ({lane}, 'ada', 'notes', 'k', {seq}, '{seq}', '{at}')
    ON CONFLICT (lane, user_id, collection, key) DO UPDATE SET version = excluded.version, value = excluded.value;
INSERT INTO roost.events
    (lane, user_id, seq, pos, kind, collection, key, value, actor, device, mutation, at)
    VALUES ({lane}, 'ada', {seq}, {seq}, 'put', 'notes', 'k', '{seq}', 'user:ada', NULL, NULL, '{at}');
"""
"""A write, as a node of the first release makes it."""


def test_an_upgrade_rewrites_no_table_and_nodes_of_the_first_release_write_on(
    empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, lane = datetime(2026, 1, 1, tzinfo=UTC), lane_of("ada")
    files_of = "SELECT relname, relfilenode FROM pg_class WHERE relnamespace = 'roost'::regnamespace AND relkind = 'r'"

    def write(seq: int) -> None:
        run(rows(empty, WRITTEN_BY_0001.format(seq=seq, lane=lane, at=at.isoformat())))

    async def log() -> Log | None:
        engine = Postgres(empty, Settings(), page_bytes_max=1 << 20, snapshot_bytes_max=1)
        await engine.open()
        assert await differences(engine) == []
        try:
            return await engine.log("ada", 0, 10, None)
        finally:
            await engine.close()

    steps = migrate.migrations()
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "migrations", lambda: steps[:1])
        assert apply(empty) == [1]
    write(1)
    before = set(run(rows(empty, files_of)))
    assert apply(empty) == [version for version, _ in ALL[1:]]
    assert before <= set(run(rows(empty, files_of)))
    write(2)
    found = run(log())
    assert found is not None
    assert found.head == Head("ada", 2, 0, at, at, {"notes": 1})
    assert found.events == [Event(seq, "put", "notes", "k", b"%d" % seq, at, "user:ada") for seq in (1, 2)]


async def differences(engine: Engine) -> list[str]:
    """What `roost verify` finds."""
    found: list[str] = []
    await verify(engine, found.append)
    return found


def test_what_cannot_be_reached_is_told_in_one_line() -> None:
    with pytest.raises(EngineUnavailable) as told:
        run(migrate.migrate("postgresql://roost@127.0.0.1:1/roost", region="local", timeout_s=5))
    assert "\n" not in str(told.value)
