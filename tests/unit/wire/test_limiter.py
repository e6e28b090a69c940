"""Rates, by their definition: never more than the burst and what time has filled in since, and never less."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.authz.principal import Principal
from roost.core.errors import Code, RoostError
from roost.settings import Settings
from roost.wire.limiter import Buckets, Limiter

ADDRESS = "203.0.113.9"
ADA = Principal("user", "ada")


class Bucket:
    """A token bucket as it is told to children."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, burst, burst, 0.0

    def take(self, now: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        taken = self.tokens >= 1
        self.tokens -= taken
        return taken


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=200), st.integers(1, 5))
def test_it_is_a_token_bucket_for_each_name(asked: list[tuple[str, int]], burst: int) -> None:
    """In quarters of a second, and four a second, so that numbers are exact."""
    buckets, models, now = Buckets(4, burst), {name: Bucket(4, burst) for name in "ab"}, 0.0
    for name, passed in asked:
        now += passed / 16
        assert (buckets.take(name, now) == 0) == models[name].take(now)


@given(st.floats(0.1, 1000), st.floats(1, 100), st.floats(0, 1e6))
def test_who_waits_as_long_as_is_said_is_served(rate: float, burst: float, now: float) -> None:
    buckets = Buckets(rate, burst)
    wait = max(buckets.take("a", now) for _ in range(int(burst) + 1))
    assert wait == 0 or buckets.take("a", now + wait + 1e-6) == 0


def test_frames_are_spread_over_time_not_refused() -> None:
    buckets = Buckets(10, 1)
    assert [round(buckets.owe("a", 5.0), 3) for _ in range(4)] == [0, 0.1, 0.2, 0.3]
    assert buckets.owe("a", 6.0) == 0


def test_names_are_bounded_and_the_busy_are_remembered() -> None:
    buckets = Buckets(1, 1, names_max=100)
    for number in range(80):
        buckets.take(str(number), 0.0)
    for number in range(10_000):  # all these have been quiet long enough, each time
        assert buckets.take(f"new {number}", 10.0 + number) == 0
        assert len(buckets) <= 100
    assert buckets.take("new 9999", 10.0 + 9_999) > 0
    for number in range(1000):  # and these have not
        buckets.take(f"all at once {number}", 20_000.0)
        assert len(buckets) <= 100
    assert buckets.take("all at once 999", 20_000.0) > 0


def is_refused(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except RoostError as error:
        return error.code is Code.RATE_LIMITED and (error.retry_after_s or 0) >= 1
    return False


def test_the_quiet_are_forgotten_before_the_busy() -> None:
    buckets = Buckets(1, 1, names_max=100)
    for _ in range(1000):
        buckets.owe("busy", 0.0)
    for number in range(150):
        buckets.take(f"quiet {number}", float(number))
    assert buckets.take("busy", 150.0) > 0


def refused(limiter: Limiter, address: str = ADDRESS, now: float = 0.0) -> bool:
    return is_refused(lambda: limiter.enter(address, now))


def test_a_worker_has_its_share_of_a_node_s_rate() -> None:
    alone = Limiter(Settings(rate_address=40, rate_burst_s=1))
    one_of_four = Limiter(Settings(rate_address=40, rate_burst_s=1, workers=4))
    assert [refused(alone) for _ in range(41)].index(True) == 40
    assert [refused(one_of_four) for _ in range(11)].index(True) == 10


def test_neighbours_of_one_ipv6_subscriber_are_one_and_others_are_not() -> None:
    limiter = Limiter(Settings(rate_address=2, rate_burst_s=1))
    assert not refused(limiter, "2001:db8::1")
    assert not refused(limiter, "2001:db8::ffff:2")
    assert refused(limiter, "2001:db8::3")
    assert not refused(limiter, "2001:db8:0:1::1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", ""])
def test_this_machine_is_not_limited(address: str) -> None:
    limiter = Limiter(Settings(rate_address=1, rate_burst_s=1, held_address=1))
    assert not any(refused(limiter, address) for _ in range(10))
    assert not limiter._held


def test_each_kind_of_principal_has_its_rate() -> None:
    limiter = Limiter(Settings(rate_principal=1, rate_service=2, rate_burst_s=1))

    def served(principal: Principal) -> int:
        return [is_refused(lambda: limiter.principal(principal, 0.0)) for _ in range(5)].index(True)

    assert [served(Principal(kind, "x")) for kind in ("user", "support", "analyst")] == [1, 1, 1]
    assert [served(Principal(kind, "x")) for kind in ("service", "admin")] == [2, 2]
    assert served(Principal("user", "y")) == 1
    unlimited = Limiter(Settings(rate_principal=0))
    for _ in range(1000):
        unlimited.principal(ADA, 0.0)
        assert unlimited.frame(ADA, 0.0) == 0


def test_requests_under_way_are_counted_until_they_are_over() -> None:
    limiter = Limiter(Settings(held_address=2))
    first, second = limiter.enter(ADDRESS, 0.0), limiter.enter(ADDRESS, 0.0)
    assert refused(limiter)
    limiter.enter("203.0.113.10", 0.0)
    limiter.release(first)
    third = limiter.enter(ADDRESS, 0.0)
    assert refused(limiter)
    for each in (second, third):
        limiter.release(each)
    assert limiter._held.keys() == {"203.0.113.10"}
    assert not any(refused(Limiter(Settings(held_address=0))) for _ in range(10))
