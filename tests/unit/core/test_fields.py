"""Queryable fields: the declared members of an object, as they stand in it, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.core.fields import FIELD_BYTES_MAX, fields_of

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["city", "age", "é", "", "a\nb"])


@given(st.dictionaries(names, values), st.lists(names, unique=True))
def test_they_are_the_declared_members(value: dict[str, object], queryable: list[str]) -> None:
    fields = fields_of(json.dumps(value).encode(), queryable)
    kept = {name: value[name] for name in queryable if name in value}
    assert (json.loads(fields) if fields else {}) == kept


@pytest.mark.parametrize("value", [None, b"1", b'"city"', b"[]", b'["city"]', b"null", b"{}", b'{"other":1}'])
def test_what_has_none_of_them_has_no_fields(value: bytes | None) -> None:
    assert fields_of(value, ["city"]) is None


def test_a_long_member_is_left_out_and_the_others_stay() -> None:
    for size, kept in ((FIELD_BYTES_MAX - 2, {"city": 0, "age": 1}), (FIELD_BYTES_MAX - 1, {"age": 1})):
        value = {"city": "x" * size, "age": 1}
        fields = fields_of(json.dumps(value, separators=(",", ":")).encode(), ["city", "age"])
        assert set(json.loads(fields or b"{}")) == set(kept)
