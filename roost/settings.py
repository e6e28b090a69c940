"""Every setting, and every limit of a process, in one frozen value.

`from_env` reads `ROOST_<NAME IN CAPITALS>`; the command line overrides; `to_env` hands the result to worker
processes. Limits that decide what a log may hold are `roost.core.limits`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self

import msgspec

from roost.core.definitions import Policy
from roost.core.issuers import Issuer, Url
from roost.core.limits import Limits

_origin = re.compile(r"https?://[a-z0-9.-]+(?::\d{1,5})?|https?://\[[0-9a-f:]+\](?::\d{1,5})?").fullmatch

_PREFIX = "ROOST_"
_CLIENTS_OWN = ("url", "token", "profile", "purpose")
"""What the command line's clients read."""
SPARE_CONNECTIONS = 1_024
"""Connections that a worker takes beside its long polls and streams."""


class PasswordHash(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What it costs to hash a password with argon2id: the least that OWASP recommends."""

    memory_kib: int = 19 * 1024
    iterations: int = 2
    lanes: int = 1


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
    policy_dir: Path | None = None
    """A directory of Cedar policies (`*.cedar`) that are in force beside those that ship."""
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
    keyring: str = "file"
    """Where the keys are that users' keys are sealed with: `file` (keyring.json in the data directory), `file:PATH`,
    `awskms:KEY` (the same file, sealed by AWS KMS), or `none`: nothing is sealed."""
    key_cache_users: int = 50_000
    """Users whose keys a worker keeps opened."""
    key_cache_s: float = 300.0
    """How long it keeps them."""
    retention_interval_s: float = 3600.0
    """About how often a node lets go of what was kept long enough, and finishes what was cut off; 0: never."""
    shred_interval_s: float = 7 * 24 * 3600.0
    """How often, at most, the key-encryption key is replaced so that old copies of erased users cannot be read."""
    token_ttl_s: int = 30 * 24 * 3600
    issuers: dict[Url, Issuer] = {}
    """Whose tokens are accepted besides Roost's own, by the issuer's URL as it stands in `iss`."""
    public_url: str | None = None
    """Where callers reach this server, as `https://id.example.com`; None: at the host that a request names."""
    signup: Literal["open", "off"] = "off"
    """Whether strangers may sign up by themselves; admins and services may sign users up in any case."""
    access_ttl_s: int = 600
    """How long an access token of a session is good."""
    refresh_ttl_s: int = 30 * 24 * 3600
    """How long a session lasts that is not used."""
    refresh_grace_s: float = 10.0
    """How long a refresh token that was used may be sent again, by a client that lost the answer."""
    code_ttl_s: int = 60
    """How long an authorization code is good."""
    sessions_max: int = 100
    """Sessions of a user; one more ends the one that was used least lately."""
    password_hash: PasswordHash = PasswordHash()
    password_threads: int = 2
    """Passwords that a worker hashes at once, each with the memory that `password_hash` says."""
    login_account_max: int = 20
    """Failed logins of one account in `login_window_s`, over all of a node's workers."""
    login_address_max: int = 200
    """Failed logins and sign-ups from one address in `login_window_s`, over all of a node's workers."""
    login_window_s: float = 900.0
    audit_queue_max: int = 10_000
    """Records that wait in a worker for their place on the audit trail; how many more there were goes on record."""
    audit_flood_s: float = 10.0
    """For how long denials of one caller, beyond a few, are told as one number."""
    audit_keep_s: float = 2 * 365 * 24 * 3600.0
    """How long audit records are kept; 0: for ever."""
    audit_interval_s: float = 60.0
    """How often a node looks for audit records to delete, and writes down where the trail ends."""
    tls_cert: Path | None = None
    """The server's certificate with its chain, in PEM; with it Roost speaks TLS, and reads it again when it changes."""
    tls_key: Path | None = None
    """The certificate's key, in PEM, without a password."""
    tls_client_ca: Path | None = None
    """Authorities, in PEM, that clients' certificates are verified by."""
    tls_clients: Literal["optional", "services", "required"] = "optional"
    """Who must show a certificate: nobody, services (one that names them), or every connection."""
    tls_inside: int = 0
    """The port of a worker's own HTTP server, behind its TLS; `roost serve` sets it for each worker."""
    hsts_s: int = 365 * 24 * 3600
    """How long browsers are to insist on TLS once they have seen it; 0: they are not told to."""
    cors_origins: tuple[str, ...] = ()
    """Origins (`https://app.example`) whose pages may call the API and open WebSockets, beside Roost's own."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of proxies that are believed when they say where a request comes from."""
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
    """The one header in which they say so."""
    connections_address: int = 2_000
    """Connections that a worker takes from one address, where TLS ends in it."""
    held_address: int = 2_000
    """Requests of one address that a worker has under way; a stream counts as long as it is open. 0: no limit."""
    rate_address: float = 2_000.0
    """Requests a second that a node answers one address. 0: no limit. This machine's own addresses have none."""
    rate_principal: float = 1_000.0
    """Requests and frames a second that a node answers one principal, services and admins apart. 0: no limit."""
    rate_service: float = 0.0
    """The same for each service and admin."""
    rate_burst_s: float = 10.0
    """Seconds' worth of requests that may come at once after a quiet time."""
    head_timeout_s: float = 30.0
    """How long a request's head may take to arrive, and an idle connection of HTTP/1 is kept."""
    limits: Limits = Limits()

    @classmethod
    def from_env(cls, env: Mapping[str, str], **overrides: object) -> Self:
        """Settings from `ROOST_*` variables; overrides that are None do not count. Raises `msgspec.ValidationError`."""
        given: dict[str, object] = {}
        for field in msgspec.structs.fields(cls):
            text = env.get(_PREFIX + field.name.upper())
            if text is not None:
                given[field.name] = _decode(text, listed=field.type == tuple[str, ...])
        given.update({name: value for name, value in overrides.items() if value is not None})
        return msgspec.convert(given, cls, strict=False, dec_hook=lambda kind, value: kind(value))

    @classmethod
    def misspelt(cls, env: Mapping[str, str]) -> dict[str, str]:
        """Variables that are no setting, and the one that each seems to have been meant for.

        Others whose names begin so are not Roost's: orchestrators make them from the names of services.
        """
        known = {*cls.__struct_fields__, *_CLIENTS_OWN}
        given = {name: name.removeprefix(_PREFIX).lower() for name in env if name.startswith(_PREFIX)}
        near = {name: get_close_matches(short, known, 1, 0.8) for name, short in given.items() if short not in known}
        return {name: _PREFIX + found[0].upper() for name, found in near.items() if found}

    def __post_init__(self) -> None:
        """Raise `ValueError` for what no worker could start with."""
        for one in self.trusted_proxies:
            ip_network(one)
        wrong = [one for one in self.cors_origins if not _origin(one)]
        if wrong:
            raise ValueError(f"cors_origins: {wrong[0]!r} is no origin like https://app.example (and none is `*`)")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        if self.tls_client_ca is None and self.tls_clients != "optional":
            raise ValueError("tls_clients needs tls_client_ca, which certificates are verified by")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert: clients' certificates are part of TLS")

    def to_env(self) -> dict[str, str]:
        """The `ROOST_*` variables from which `from_env` makes the same settings again."""
        env = {}
        for name, value in msgspec.to_builtins(self, enc_hook=str).items():
            if value is not None:
                env[_PREFIX + name.upper()] = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        return env

    @property
    def connections_max(self) -> int:
        """Connections that a worker takes: streams, and others beside them."""
        return self.waiters_max + SPARE_CONNECTIONS

    def policy_of(self, collection: str) -> Policy:
        """The conflict policy of a collection that is not defined."""
        return self.policies.get(collection, self.default_policy)

    def named_elsewhere(self, user: str) -> bool:
        """Whether tokens of another issuer may be this user's, so that nobody may take the name by signing up."""
        return any(user.startswith(issuer.prefix) for issuer in self.issuers.values())


def _decode(text: str, *, listed: bool) -> object:
    """What a variable holds: JSON where it is an object or a list; a list may also be names between commas."""
    if text.startswith("{") or (listed and text.startswith("[")):
        return msgspec.json.decode(text)
    return [one.strip() for one in text.split(",") if one.strip()] if listed else text
