"""Every setting, and every limit of a process, in one frozen value.

`from_env` reads `ROOST_<NAME IN CAPITALS>`; the command line overrides; `to_env` hands the result to worker
processes. Limits that decide what a log may hold are `roost.core.limits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from roost.core.definitions import Policy
from roost.core.limits import Limits


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Times in seconds and sizes in bytes where the name says so."""

    data: Path = Path("data")
    """Everything a node keeps of its own: the signing key, and the embedded engine's files."""
    engine: str | None = None
    """The URL of a PostgreSQL; None for the embedded one, `memory:` for the reference engine (tests)."""
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    region: str = "local"
    """The region that this engine's lanes are in."""
    default_policy: Policy = "lww"
    policies: dict[str, Policy] = {}
    """Conflict policies by collection, where they differ from the default. A collection's definition comes first."""
    log_level: str = "info"

    writers: int = 1
    """Group-commit writers a worker; each owns a share of the lanes and one connection."""
    readers: int = 2
    """Connections a worker for batched point reads."""
    pool: int = 4
    """Connections a worker for every other read."""
    batch_commands_max: int = 256
    queue_commands_max: int = 4_096
    """Commands (or point reads) waiting in a worker; one more is answered `overloaded`."""
    pages_max: int = 1_000
    """Reads of the pool waiting in a worker; one more is answered `overloaded`."""
    waiters_max: int = 20_000
    """Long polls and streams held by a worker; one more is answered `overloaded`."""
    heartbeat_s: float = 15.0
    """How often a stream on which nothing happens says that it is there."""
    engine_timeout_s: float = 10.0
    """How long a request waits for the engine, retries included, before it is answered `unavailable`."""
    hello_timeout_s: float = 10.0
    """How long a WebSocket may take to say who it is."""
    body_timeout_s: float = 30.0
    """How long a request's body may take to arrive."""
    notify: bool = True
    """Whether processes wake each other after a commit, where the engine can (PostgreSQL: NOTIFY)."""
    tail_interval_s: float = 0.1
    """How often a worker looks for commits of other processes that nobody woke it for."""
    presence_refresh_s: float = 60.0
    """How often a worker says that its devices are still connected; without that, they are not after 2.5 times that."""
    compact_interval_s: float = 3600.0
    """About how often a node folds old events away; 0: never."""
    history_keep_s: float = 30 * 24 * 3600.0
    """How long events are kept at least; never shorter than answers to idempotent requests, which refer to them."""
    device_away_s: float = 30 * 24 * 3600.0
    """How long a device may stay away and still find every event that it has not read."""
    device_forget_s: float = 365 * 24 * 3600.0
    """How long a device may stay away before it is not known any more: by then nobody pushes what it pushed again."""
    token_ttl_s: int = 30 * 24 * 3600
    limits: Limits = Limits()

    @classmethod
    def from_env(cls, env: Mapping[str, str], **overrides: object) -> Self:
        """Settings from `ROOST_*` variables; overrides that are None do not count. Raises `msgspec.ValidationError`."""
        given: dict[str, object] = {}
        for field in msgspec.structs.fields(cls):
            text = env.get(f"ROOST_{field.name.upper()}")
            if text is not None:
                given[field.name] = msgspec.json.decode(text) if text.startswith("{") else text
        given.update({name: value for name, value in overrides.items() if value is not None})
        return msgspec.convert(given, cls, strict=False, dec_hook=lambda kind, value: kind(value))

    def to_env(self) -> dict[str, str]:
        """The `ROOST_*` variables from which `from_env` makes the same settings again."""
        env = {}
        for name, value in msgspec.to_builtins(self, enc_hook=str).items():
            if value is not None:
                env[f"ROOST_{name.upper()}"] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return env

    def policy_of(self, collection: str) -> Policy:
        """The conflict policy of a collection that is not defined."""
        return self.policies.get(collection, self.default_policy)
