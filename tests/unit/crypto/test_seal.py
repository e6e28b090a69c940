"""Sealing: what was sealed for a place opens there, and nowhere else, nor after the least change."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.crypto.seal import FORMAT, OVERHEAD, NotSealed, Seal, Slot, Wrap, generation_of

SECRET = bytes(range(32))
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
seqs = st.integers(0, 2**63)
places = st.tuples(names, names, seqs, st.sampled_from(Slot))
generations = st.integers(1, 2**31 - 1)


@given(names, generations, st.binary(max_size=200), places)
def test_it_opens_where_it_was_sealed(user: str, generation: int, value: bytes, place: Any) -> None:
    seal = Seal(user, generation, SECRET)
    sealed = seal.seal(value, *place)
    assert seal.open(sealed, *place) == value
    assert len(sealed) == len(value) + OVERHEAD
    assert sealed.startswith(FORMAT)
    assert generation_of(sealed) == generation
    assert len(value) < 8 or value not in sealed


@given(places, places, names, names, generations, generations)
def test_it_opens_nowhere_else(place: Any, other: Any, user: str, stranger: str, number: int, another: int) -> None:
    sealed = Seal(user, number, SECRET).seal(b"value", *place)
    here = user, number, place
    for whose, which, where in ((user, number, other), (stranger, number, place), (user, another, place)):
        opener = Seal(whose, which, SECRET)
        if (whose, which, where) == here:
            assert opener.open(sealed, *where) == b"value"
        else:
            with pytest.raises(NotSealed):
                opener.open(sealed, *where)
    with pytest.raises(NotSealed):
        Seal(user, number, SECRET[::-1]).open(sealed, *place)


def test_names_cannot_be_shifted_into_each_other() -> None:
    seal = Seal("ada", 1, SECRET)
    sealed = seal.seal(b"value", "ab", "c", 1, Slot.VALUE)
    for place in (("a", "bc", 1), ("abc", "", 1), ("", "abc", 1)):
        with pytest.raises(NotSealed):
            seal.open(sealed, *place, Slot.VALUE)
    with pytest.raises(NotSealed):
        Seal("ad", 1, SECRET).open(sealed, "aab", "c", 1, Slot.VALUE)


@given(st.binary(max_size=100), st.data())
def test_the_least_change_is_noticed(value: bytes, data: st.DataObject) -> None:
    seal = Seal("ada", 1, SECRET)
    place = "notes", "a", 7, Slot.VALUE
    sealed = bytearray(seal.seal(value, *place))
    # Below the head, which says whose key it is and is bound by itself.
    at = data.draw(st.integers(5, len(sealed) - 1))
    sealed[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NotSealed):
        seal.open(bytes(sealed), *place)
    with pytest.raises(NotSealed):
        seal.open(bytes(sealed[: data.draw(st.integers(0, len(sealed) - 1))]), *place)


@given(st.binary(max_size=80))
def test_whatever_is_stored_is_sealed_in_clear_or_neither(stored: bytes) -> None:
    generation = generation_of(stored)
    if generation == 0:
        assert stored
        assert not stored.startswith(FORMAT)
    elif generation > 0:
        assert len(stored) >= OVERHEAD
    with pytest.raises(NotSealed):
        Seal("ada", max(generation, 1), SECRET).open(stored, "notes", "a", 1, Slot.VALUE)


def test_json_is_never_taken_for_sealed() -> None:
    for text in (b"1", b'"\\u0001"', b"{}", b"null", b"-1", b"[" + b" " * 50 + b"]"):
        assert generation_of(text) == 0


@given(names, names, generations, generations)
def test_a_users_key_is_wrapped_for_this_user_alone(user: str, stranger: str, number: int, another: int) -> None:
    wrap = Wrap("k", SECRET)
    wrapped = wrap.wrap(SECRET, user, number)
    assert wrap.unwrap(wrapped, user, number) == SECRET
    assert SECRET not in wrapped
    for whose, which in ((stranger, number), (user, another)):
        if (whose, which) != (user, number):
            with pytest.raises(NotSealed):
                wrap.unwrap(wrapped, whose, which)
    with pytest.raises(NotSealed):
        Wrap("k", SECRET[::-1]).unwrap(wrapped, user, number)


def test_a_check_proves_the_key() -> None:
    wrap = Wrap("k", SECRET)
    assert wrap.proves(wrap.check())
    assert not Wrap("k", SECRET[::-1]).proves(wrap.check())
    assert not Wrap("other", SECRET).proves(wrap.check())


def test_what_is_derived_depends_on_key_and_purpose() -> None:
    one, other = Seal("$a", 1, SECRET), Seal("$a", 1, SECRET[::-1])
    derived = {one.derive(b"audit"), one.derive(b"else"), other.derive(b"audit")}
    assert len(derived) == 3
    assert {len(key) for key in derived} == {32}
    assert one.derive(b"audit") == Seal("$b", 9, SECRET).derive(b"audit")
