"""What `roost serve` does, in order: port, data directory, engine, schema, workers; and all of it back again."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import structlog

from roost import app
from roost.authz.policy.check import PolicyFaults
from roost.authz.policy.policies import from_directory
from roost.core.ports import EngineUnavailable
from roost.crypto.keyring import KeyringError
from roost.crypto.ledger import LedgerError
from roost.crypto.signing import SigningKeyError, SigningKeys
from roost.engines.connections import said
from roost.engines.embedded import Embedded
from roost.engines.transit import weakness
from roost.node import directory
from roost.node.directory import CannotStart, DataDirectory, InUse, Run
from roost.node.port import reserve
from roost.node.signals import stopped_by_signals
from roost.node.workers import Workers
from roost.settings import Settings
from roost.wire.front import INSIDE
from roost.wire.tls import BadCertificates, Certificates

log = structlog.get_logger("roost.serve")

MEMORY = "memory:"
METRICS = "roost-metrics-"
"""How the names of folders of metrics begin."""


class Node(NamedTuple):
    """A server that is up. `settings` are those of its workers; `fresh` if it has just made its data directory."""

    settings: Settings
    url: str
    fresh: bool


def serve(settings: Settings, up: Callable[[Node], None]) -> None:
    """Serve until a signal asks to stop; `up` is called once, when the server answers.

    Raises `CannotStart` or `EngineUnavailable`; nothing is left running then.
    """
    if settings.engine == MEMORY and settings.workers > 1:
        raise CannotStart("The engine memory: is one process's own: use --workers 1.")
    for variable, meant in Settings.misspelt(os.environ).items():
        log.warning("a variable that is no setting", variable=variable, meant=meant)
    _check_tls(settings)
    settings = _with_policies(settings)
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        port = reserve(settings.host, settings.port)
        stack.callback(port.reservation.close)
        fresh = not directory.exists(settings.data)
        owned = stack.enter_context(DataDirectory.open(settings.data, app.clock))
        engine = settings.engine or stack.enter_context(Embedded(owned.path))
        with _named(settings.engine):
            settings = msgspec.structs.replace(settings, data=owned.path, engine=engine, port=port.number)
            asyncio.run(app.migrate(settings))
            _unlock(settings)
            _reconcile(settings)
        _check_key(owned.path)
        os.environ.update(settings.to_env())
        _forget_metrics(owned.path)
        metrics = stack.enter_context(_metrics()) if settings.workers > 1 else None
        url = port.url if settings.tls_cert is None else port.url.replace("http:", "https:", 1)
        owned.announce(Run(os.getpid(), url, engine, metrics))
        inside = [] if settings.tls_cert is None else [reserve(INSIDE, 0) for _ in range(settings.workers)]
        for each in inside:
            stack.callback(each.reservation.close)
        Workers(port, settings, inside=inside, up=lambda: up(Node(settings, url, fresh))).run()


def _with_policies(settings: Settings) -> Settings:
    """See that the directory of policies can be taken, and name it for workers. Raises `CannotStart`."""
    if settings.policy_dir is None:
        return settings
    try:
        from_directory(settings.policy_dir)
    except PolicyFaults as faults:
        raise CannotStart(f"{faults} Correct them (`roost policy check FILE`).") from None
    return msgspec.structs.replace(settings, policy_dir=settings.policy_dir.resolve())


@contextmanager
def engine_at(settings: Settings) -> Iterator[Settings]:
    """The settings with the URL of their engine: the named one, a running server's, or one that runs for the while.

    Raises `CannotStart` or `EngineUnavailable`.
    """
    if settings.engine is not None:
        with _named(settings.engine):
            yield settings
        return
    if not directory.exists(settings.data):
        raise CannotStart(f"{settings.data} is no data directory of Roost's: name it with --data.")
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        try:
            owned = stack.enter_context(DataDirectory.open(settings.data, app.clock))
        except InUse:
            engine = directory.running(settings.data).engine
        else:
            engine = stack.enter_context(Embedded(owned.path))
        yield msgspec.structs.replace(settings, engine=engine)


@contextmanager
def _named(engine: str | None) -> Iterator[None]:
    """Say which engine it is that does not answer, if the caller named it, but not the password."""
    try:
        yield
    except EngineUnavailable as error:
        if engine is None:
            raise
        where = urlsplit(engine)
        shown = f"{where.scheme}://{where.netloc.rpartition('@')[2]}{where.path}"
        detail = f"{error.detail}{said(error)} It is {shown}: see that it runs, or name another with --engine."
        raise CannotStart(detail) from error


def _unlock(settings: Settings) -> None:
    try:
        asyncio.run(app.unlock(settings, _adopting))
    except KeyringError as error:
        raise CannotStart(error.detail) from error


def _reconcile(settings: Settings) -> None:
    """A database that was restored has people back who were erased: not for anybody to see."""
    try:
        count = asyncio.run(app.reconcile(settings))
    except LedgerError as error:
        raise CannotStart(f"{error.detail} Restore it, or see that it may be written.") from error
    if count:
        log.warning("erased again whom the shred ledger has", users=count)


def _adopting(done: int, _of: int | None) -> None:
    log.info("adopting what is stored in clear", users=done)


def _check_key(data: Path) -> None:
    try:
        SigningKeys.load_or_create(data)
    except SigningKeyError as error:
        raise CannotStart(str(error)) from error


def _check_tls(settings: Settings) -> None:
    """See that certificates can be used, and warn of an engine that is reached by less than is the default."""
    weak = weakness(settings.engine or "")
    if weak is not None:
        log.warning(weak)
    if settings.tls_cert is None or settings.tls_key is None:
        return
    if settings.workers > 1 and sys.platform != "linux":
        raise CannotStart("TLS with several workers takes Linux: use --workers 1, or a proxy that ends TLS.")
    try:
        Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.tls_clients)
    except BadCertificates as error:
        raise CannotStart(f"{error} See ROOST_TLS_CERT, ROOST_TLS_KEY and ROOST_TLS_CLIENT_CA.") from error


@contextmanager
def _metrics() -> Iterator[str]:
    """A folder for what the workers count together: in memory, where a full disk cannot end them as they count."""
    memory = Path("/dev/shm")  # noqa: S108  # only the parent of a private folder
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=METRICS, dir=parent) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        yield folder


def _forget_metrics(data: Path) -> None:
    """Remove the folder of a server that was killed."""
    with suppress(CannotStart):
        left = directory.running(data).metrics
        if left is not None and Path(left).name.startswith(METRICS):
            shutil.rmtree(left, ignore_errors=True)
