"""How much one caller may ask of a worker: requests a second, and requests at a time.

Rates are token buckets in the form of one number for each name: the moment at which everything that was taken so far
would be filled in again (GCRA, as telephone networks count cells). A worker has its share of a node's rate.
"""

from __future__ import annotations

import math
from ipaddress import ip_address

from roost.authz.principal import Principal
from roost.core.addresses import subscriber
from roost.core.errors import Code, RoostError
from roost.settings import Settings
from roost.wire import metrics

NAMES_MAX = 50_000
"""Names whose rate is remembered, of each kind."""


class Buckets:
    """Under each name `rate` a second, and `burst` at once after a quiet time.

    Names are bounded: those that have nothing to remember go first, then those that came first.
    """

    def __init__(self, rate: float, burst: float, names_max: int = NAMES_MAX) -> None:
        self._interval = 1 / rate if rate > 0 else 0.0
        # The least part of a second is lost in sums of large numbers, and would be asked for again and again.
        self._tolerance = self._interval * max(burst - 1, 0.0) + 1e-6
        self._names_max = names_max
        self._full_at: dict[str, float] = {}

    def take(self, name: str, now: float) -> float:
        """Take one at the time `now`, in seconds; returns 0, or the seconds to wait, where none was taken."""
        full_at = self._full_at.get(name)
        if full_at is None:
            if len(self._full_at) >= self._names_max:
                self._forget(now)
            full_at = now
        elif full_at < now:
            full_at = now
        elif full_at - now > self._tolerance:
            return full_at - now - self._tolerance
        self._full_at[name] = full_at + self._interval
        return 0.0

    def owe(self, name: str, now: float) -> float:
        """Take one in any case; returns 0, or the seconds until it is due."""
        full_at = self._full_at.get(name, now)
        if len(self._full_at) >= self._names_max:
            self._forget(now)
        self._full_at[name] = max(full_at, now) + self._interval
        return max(full_at - now - self._tolerance, 0.0)

    def __len__(self) -> int:
        return len(self._full_at)

    def _forget(self, now: float) -> None:
        """Make room, for many at once: what one pays for all is little for each."""
        self._full_at = {name: full_at for name, full_at in self._full_at.items() if full_at > now}
        for name in list(self._full_at)[: len(self._full_at) - self._names_max * 9 // 10]:
            del self._full_at[name]


class Limiter:
    """The limits of a worker. Times are of one clock that never goes back, in seconds."""

    def __init__(self, settings: Settings) -> None:
        def buckets(rate: float) -> Buckets | None:
            share = rate / settings.workers
            return Buckets(share, max(share * settings.rate_burst_s, 1.0)) if rate > 0 else None

        self._addresses = buckets(settings.rate_address)
        self._principals = {
            "user": buckets(settings.rate_principal),
            "support": buckets(settings.rate_principal),
            "analyst": buckets(settings.rate_principal),
            "service": buckets(settings.rate_service),
            "admin": buckets(settings.rate_service),
        }
        self._held_max = settings.held_address or math.inf
        self._held: dict[str, int] = {}
        self._names: dict[str, str] = {}

    def enter(self, address: str, now: float) -> str:
        """A request of an address begins; returns the name by which `release` is owed. Raises `RATE_LIMITED`."""
        name = self._names.get(address)
        if name is None:
            name = self._name(address)
        if name:
            if self._addresses is not None:
                wait = self._addresses.take(name, now)
                if wait:
                    raise _refusal("address", wait)
            held = self._held.get(name, 0)
            if held >= self._held_max:
                raise _refusal("held", 1.0)
            self._held[name] = held + 1
        return name

    def admits(self, address: str, now: float) -> bool:
        """Count a connection of an address; whether it may be taken."""
        name = self._name(address)
        return not name or self._addresses is None or not self._addresses.take(name, now)

    def principal(self, principal: Principal, now: float) -> None:
        """Count a request of a principal. Raises `RATE_LIMITED`."""
        buckets = self._principals[principal.kind]
        if buckets is not None and (wait := buckets.take(principal.id, now)):
            raise _refusal("principal", wait)

    def frame(self, principal: Principal, now: float) -> float:
        """Count a frame of a principal; returns the seconds until it is its turn."""
        buckets = self._principals[principal.kind]
        return 0.0 if buckets is None else buckets.owe(principal.id, now)

    def release(self, name: str) -> None:
        """A request is over."""
        if name:
            held = self._held[name] - 1
            if held:
                self._held[name] = held
            else:
                del self._held[name]

    def _name(self, address: str) -> str:
        """What an address is counted by: an IPv6 address with those beside it, which one subscriber has all of.

        Empty for this machine: its programs, or a proxy on it that nobody said to trust.
        """
        name = self._names.get(address)
        if name is None:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            name = self._names[address] = _named(address)
        return name


def _named(address: str) -> str:
    parsed = ip_address(address) if address else None
    return "" if parsed is None or parsed.is_loopback else subscriber(address)


def _refusal(limit: str, wait_s: float) -> RoostError:
    metrics.limited(limit)
    what = {
        "address": "More requests come from your address than are answered",
        "principal": "You send more requests than are answered",
        "held": "More requests of your address are under way than may be",
    }[limit]
    return RoostError(Code.RATE_LIMITED, f"{what}: wait a while.", retry_after_s=math.ceil(wait_s))
