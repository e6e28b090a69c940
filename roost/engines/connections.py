"""Connections to a PostgreSQL-wire engine, and what their errors mean to Roost.

Whatever the driver raises is translated here, once: the engine is unavailable, the transaction lost a race,
or it is a bug and passes through.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from roost.core.ports import EngineFull, EngineUnavailable, TransactionLost
from roost.engines.transit import tls_of

Connection = Any
"""A connection or record of the driver, which has no types of its own."""
Record = Any

# Every hot statement is a handful of index look-ups for each row of its arrays. A plan made while a table was
# small or not analysed yet would scan it, and stay in the connection's cache while the table grows.
PLANNER = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}

_LOST = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    # The schema was migrated under a statement that was prepared before.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
_FULL = (asyncpg.DiskFullError,)
_GONE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.PostgresIOError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into those of `roost.core.ports`."""
    try:
        yield
    except _LOST as error:
        raise TransactionLost from error
    except _FULL as error:
        raise EngineFull from error
    except _GONE as error:
        raise EngineUnavailable(_why(error)) from error


def _why(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The engine's certificate is not one to trust: {error.verify_message.rstrip('.')}."
    if "rejected SSL upgrade" in str(error):
        return "The engine speaks no TLS, which one on another machine should (or say sslmode=disable in its URL)."
    return f"The engine {'refuses' if _is_told(error) else 'does not answer'} ({type(error).__name__})."


def _is_told(error: BaseException | None) -> bool:
    """Whether the engine itself said so; the driver uses the same types for what it finds out."""
    return hasattr(error, "severity")


def said(error: EngineUnavailable) -> str:
    """What the engine itself said of why it refuses, as a sentence: for its operator, and nobody else."""
    return f" It says: {str(error.__cause__).rstrip('.')}." if _is_told(error.__cause__) else ""


class Connections:
    """A bounded set of connections of one purpose, opened when they are first needed.

    Waiting for a free one, opening it and each statement are bounded by `timeout_s`.
    """

    def __init__(self, url: str, *, size: int, timeout_s: float) -> None:
        self._url = url
        self._size = size
        self._timeout_s = timeout_s
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Get ready; connects to nothing yet."""
        timeout_s = self._timeout_s
        self._pool = asyncpg.create_pool(
            self._url,
            ssl=tls_of(self._url),
            min_size=0,
            max_size=self._size,
            timeout=timeout_s,
            command_timeout=timeout_s,
            # Roost leaves no state on a connection, so the usual reset between two uses would be a wasted round trip.
            reset=_no_reset,
            max_inactive_connection_lifetime=300,
            server_settings={**PLANNER, "application_name": "roost"},
        )

        with translated():
            await self._pool

    async def close(self) -> None:
        """End every connection, at once."""
        if self._pool is not None:
            self._pool.terminate()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """A connection, for one statement or transaction at a time."""
        if self._pool is None:
            raise EngineUnavailable("The engine is not open.")
        with translated():
            async with self._pool.acquire(timeout=self._timeout_s) as connection:
                yield connection

    @asynccontextmanager
    async def moment(self) -> AsyncIterator[Connection]:
        """A connection on which every statement sees one and the same moment."""
        async with self.use() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    async def fetch(self, statement: str, *arguments: Any) -> list[Record]:
        """All rows of one statement."""
        async with self.use() as connection:
            rows: list[Record] = await connection.fetch(statement, *arguments)
            return rows


async def _no_reset(connection: Connection) -> None:
    pass
