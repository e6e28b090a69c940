"""How often somebody may fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.authz import throttle
from roost.authz.throttle import Throttle
from roost.core.errors import Code, RoostError


def taken(bucket: Throttle, name: str = "ada") -> int | None:
    """None if the attempt is looked at, else the seconds to wait."""
    try:
        bucket.take(name)
    except RoostError as refusal:
        if refusal.code is not Code.RATE_LIMITED:
            raise
        return refusal.retry_after_s
    return None


@given(st.integers(1, 20), st.lists(st.floats(0, 100), max_size=60))
def test_never_more_than_the_share_of_a_window_and_what_came_since(most: int, pauses: list[float]) -> None:
    now = 0.0
    bucket = Throttle(most, 60, lambda: now)
    looked_at: list[float] = []
    for pause in pauses:
        now += pause
        if taken(bucket) is None:
            looked_at.append(now)
    for begin in range(len(looked_at)):
        for end in range(begin, len(looked_at)):
            assert end - begin + 1 <= most + (looked_at[end] - looked_at[begin]) * most / 60 + 1e-6


@given(st.integers(1, 20), st.floats(0.1, 1_000))
def test_whoever_waits_as_long_as_told_is_looked_at(most: int, window_s: float) -> None:
    now = 0.0
    bucket = Throttle(most, window_s, lambda: now)
    while (wait_s := taken(bucket)) is None:
        pass
    now += wait_s + 1e-6
    assert taken(bucket) is None


def test_names_have_nothing_to_do_with_each_other() -> None:
    bucket = Throttle(1, 60, lambda: 0.0)
    assert [taken(bucket, name) for name in ("ada", "grace", "ada")] == [None, None, 60]
    bucket.give_back("ada")
    bucket.give_back("ada")  # never more than there were
    assert [taken(bucket), taken(bucket)] == [None, 60]


def test_a_share_of_less_than_one_is_one_attempt_less_often() -> None:
    bucket = Throttle(0.5, 60, lambda: 0.0)
    assert [taken(bucket), taken(bucket)] == [None, 120]


def test_there_are_so_many_buckets_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "BUCKETS_MAX", 10)
    bucket = Throttle(1, 60, lambda: 0.0)
    for number in range(100):
        taken(bucket, f"name-{number}")
    assert len(bucket._buckets) == 10
