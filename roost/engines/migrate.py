"""Bring a database's schema to this release's, one migration after the other.

Migrations are the files `sql/migrations/<version>_<name>.sql`. Each runs in a transaction of its own together
with its row in `roost.migrations`; nodes that start at the same time wait for each other. A database that is
newer than this release is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.resources import files
from typing import NamedTuple

import asyncpg

from roost.core.ids import LANES
from roost.core.ports import EngineUnavailable
from roost.engines import statements
from roost.engines.connections import Connection, translated
from roost.engines.transit import tls_of

SQL = statements.load("migrate")
_ADVISORY_LOCK = 0x526F6F7374  # "Roost"


class Migration(NamedTuple):
    """One step of the schema."""

    version: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All migrations of this release, in order."""
    folder = files("roost.engines").joinpath("sql", "migrations")
    found = []
    for file in folder.iterdir():
        version, _, name = file.name.removesuffix(".sql").partition("_")
        found.append(Migration(int(version), name, file.read_text()))
    return sorted(found)


SCHEMA_VERSION = migrations()[-1].version


async def migrate(url: str, *, region: str, timeout_s: float = 10.0) -> list[Migration]:
    """Apply what is missing; returns it. Raises `EngineUnavailable`, also for a database that is too new."""
    applied = []
    with translated():
        connection = await asyncpg.connect(url, ssl=tls_of(url), timeout=timeout_s)
        try:
            await connection.execute(SQL["wait_for_others"], _ADVISORY_LOCK)
            version = await _version(connection)
            if version > SCHEMA_VERSION:
                raise EngineUnavailable(
                    f"The database has schema {version}, and this release knows {SCHEMA_VERSION}: run a newer Roost."
                )
            for migration in migrations():
                if migration.version > version:
                    await _apply(connection, migration, region)
                    applied.append(migration)
        finally:
            await connection.close(timeout=timeout_s)
    return applied


async def _version(connection: Connection) -> int:
    if not await connection.fetchval(SQL["has_migrations"]):
        return 0
    return int(await connection.fetchval(SQL["version"]))


async def _apply(connection: Connection, migration: Migration, region: str) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        if migration.version == 1:
            await connection.execute(SQL["create_lanes"], LANES, region)
        await connection.execute(SQL["applied"], migration.version, migration.name, datetime.now(UTC))
