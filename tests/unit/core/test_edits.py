"""Sets: what an element is, and that large sets are looked through quickly. The rest is in `tests/vectors`."""

from __future__ import annotations

from typing import Any

import pytest

from roost.core import edits, patch
from roost.core.edits import Edit


@pytest.mark.parametrize(
    ("before", "wanted", "added", "removed"),
    [
        ([True, 1, 2], 1, [True, 1, 2], [True, 2]),
        ([True, 2], 1, [True, 2, 1], [True, 2]),
        ([False, 0, 0.0, 0], 0, [False, 0, 0.0, 0], [False]),
        ([1, 1.0], True, [1, 1.0, True], [1, 1.0]),
        ([{"a": [True]}, {"a": [1]}], {"a": [1.0]}, [{"a": [True]}, {"a": [1]}], [{"a": [True]}]),
        ([None, "x"], None, [None, "x"], ["x"]),
        (["a", "b", "a", "c", "a"], "a", ["a", "b", "a", "c", "a"], ["b", "c"]),
        ([], 1, [1], []),
    ],
)
def test_elements_are_json_values(before: list[Any], wanted: Any, added: list[Any], removed: list[Any]) -> None:
    def after(op: Any) -> str:
        return repr(edits.apply(before, [Edit(op, "", wanted)]))

    assert (after("add"), after("remove")) == (repr(added), repr(removed))


def test_elements_are_compared_one_by_one_only_where_they_may_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0

    def counted(one: Any, other: Any) -> bool:
        nonlocal compared
        compared += 1
        return patch.equal(one, other)

    monkeypatch.setattr(edits, "equal", counted)
    large = [*range(2, 5_000), *([[True]] * 5_000)]
    value = edits.apply(large, [Edit("add", "", 7), Edit("add", "", -7), Edit("remove", "", 9), Edit("remove", "", -9)])
    assert compared == 2
    assert len(value) == len(large)
    edits.apply(large, [Edit("remove", "", [1])])
    assert compared <= 2 + 1_000, "that is no set, and not looked through"
