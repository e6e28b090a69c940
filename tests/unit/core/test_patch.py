"""Both kinds of patch, by the examples of their RFCs and by laws that hold for all values."""

from __future__ import annotations

import copy
import gc
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.core import jsonvalue, patch
from roost.core.errors import Code, RoostError
from roost.core.limits import Limits

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 1.0, 1.5]) | st.sampled_from("abc")
KEYS = st.sampled_from(["a", "b", "", "~", "/", "0", "01", "-"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
POINTERS = st.lists(KEYS | st.sampled_from("0123"), max_size=3).map(jsonvalue.pointer_of)
OPERATIONS = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]),
            "path": POINTERS,
            "from": POINTERS,
            "value": VALUES,
        }
    ),
    max_size=6,
)


def same(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)


def refusal(document: Any, operations: Any, limits: Limits | None = None) -> RoostError:
    before = copy.deepcopy((document, operations))
    with pytest.raises(RoostError) as caught:
        patch.apply(document, operations, limits or Limits())
    assert same((document, operations), before)
    return caught.value


# The table of RFC 7396, appendix A, and a few of our own below the line.
@pytest.mark.parametrize(
    ("target", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        # ---
        (None, {"a": {"b": None}}, {"a": {}}),
        ({"a": 1}, {}, {"a": 1}),
        (3, {}, {}),
        ({}, {"a": [None, {"b": None}]}, {"a": [None, {"b": None}]}),
    ],
)
def test_merge(target: Any, change: Any, result: Any) -> None:
    before = copy.deepcopy((target, change))
    assert same(patch.merge(target, change), result)
    assert same((target, change), before)


@given(VALUES, VALUES)
def test_merging_twice_is_merging_once(target: Any, change: Any) -> None:
    before = copy.deepcopy((target, change))
    once = patch.merge(target, change)
    assert same(patch.merge(once, change), once)
    assert same((target, change), before)


def op(name: str, path: str, /, **members: Any) -> dict[str, Any]:
    return {"op": name, "path": path, **{name.removesuffix("_"): item for name, item in members.items()}}


# First the examples of RFC 6902, appendix A.
@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        ({"foo": "bar"}, [op("add", "/baz", value="qux")], {"foo": "bar", "baz": "qux"}),
        ({"foo": ["bar", "baz"]}, [op("add", "/foo/1", value="qux")], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [op("remove", "/baz")], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [op("remove", "/foo/1")], {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": 1}, [op("replace", "/baz", value="boo")], {"baz": "boo", "foo": 1}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [op("move", "/qux/thud", from_="/foo/waldo")],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        (
            {"foo": ["all", "grass", "cows", "eat"]},
            [op("move", "/foo/3", from_="/foo/1")],
            {"foo": ["all", "cows", "eat", "grass"]},
        ),
        (
            {"baz": "qux", "foo": ["a", 2, "c"]},
            [op("test", "/baz", value="qux"), op("test", "/foo/1", value=2)],
            {"baz": "qux", "foo": ["a", 2, "c"]},
        ),
        ({"foo": "bar"}, [op("add", "/child", value={"grandchild": {}})], {"foo": "bar", "child": {"grandchild": {}}}),
        ({"foo": "bar"}, [op("add", "/baz", value="qux", xyz=123)], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [op("test", "/~01", value=10)], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [op("add", "/foo/-", value=["abc", "def"])], {"foo": ["bar", ["abc", "def"]]}),
        # ---
        ({"a": 1}, [], {"a": 1}),
        ({"a": 1}, [op("add", "", value=[1])], [1]),
        ({"a": 1}, [op("replace", "", value=None)], None),
        ({"a": 1}, [op("test", "", value={"a": 1.0})], {"a": 1}),
        ({"a": {"b": 1}}, [op("copy", "", from_="/a")], {"b": 1}),
        ({"a": {"b": 1}}, [op("move", "", from_="/a")], {"b": 1}),
        ({"a": 1}, [op("move", "", from_="")], {"a": 1}),
        ({"a": [1]}, [op("move", "/a", from_="/a")], {"a": [1]}),
        ({"a": 1}, [op("add", "/a", value=2)], {"a": 2}),
        ({"a": 1}, [op("add", "/a", value=None)], {"a": None}),
        ({"": {"": 1}}, [op("replace", "//", value=2)], {"": {"": 2}}),
        ({"0": {"01": 1}}, [op("remove", "/0/01")], {"0": {}}),
        ({"-": 1}, [op("remove", "/-")], {}),
        ([], [op("add", "/0", value=1), op("add", "/1", value=2), op("add", "/0", value=0)], [0, 1, 2]),
        ([[1], [2]], [op("move", "/0/-", from_="/1")], [[1, [2]]]),
        ([1, 2], [op("move", "/-", from_="/0")], [2, 1]),
        ({"a": {"b": 1}}, [op("copy", "/a/c", from_="/a")], {"a": {"b": 1, "c": {"b": 1}}}),
        (
            {"a": [1]},
            [op("copy", "/b", from_="/a"), op("add", "/a/-", value=2), op("add", "/b/0", value=0)],
            {"a": [1, 2], "b": [0, 1]},
        ),
        (
            {"a": {}},
            [
                op("add", "/a/x", value=1),
                op("copy", "/b", from_="/a"),
                op("add", "/a/y", value=2),
                op("add", "/b/z", value=3),
            ],
            {"a": {"x": 1, "y": 2}, "b": {"x": 1, "z": 3}},
        ),
    ],
)
def test_json_patch(document: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy((document, operations))
    assert same(patch.apply(document, operations), result)
    assert same((document, operations), before)


@pytest.mark.parametrize(
    ("document", "operation"),
    [
        ({"foo": "bar"}, op("add", "/baz/bat", value="qux")),
        ({"a": 1}, op("remove", "/b")),
        ({"a": 1}, op("replace", "/b", value=1)),
        ({"a": 1}, op("move", "/c", from_="/b")),
        ({"a": 1}, op("copy", "/c", from_="/b")),
        ({"a": 1}, op("test", "/b", value=None)),
        ({"a": 1}, op("remove", "")),
        ({"a": {"b": 1}}, op("move", "/a/b", from_="/a")),
        ({"a": {"b": 1}}, op("move", "/a/b/c", from_="/a")),
        ({"a": 1}, op("move", "/a", from_="")),
        ({"a": 1}, op("move", "/b", from_="/b")),
        ("text", op("add", "/0", value=1)),
        (None, op("add", "/a", value=1)),
        ({"a": "text"}, op("test", "/a/0", value="t")),
        ([1], op("add", "/2", value=1)),
        ([1], op("remove", "/1")),
        ([1], op("remove", "/-")),
        ([1], op("test", "/-", value=1)),
        ([1], op("replace", "/-", value=1)),
        ([[1]], op("add", "/-/0", value=1)),
        ([1, 2], op("test", "/01", value=2)),
        ([1, 2], op("add", "/00", value=2)),
        ([1], op("test", "/-1", value=1)),
        ([1], op("test", "/+0", value=1)),
        ([1], op("test", "/ 0", value=1)),
        ([1], op("test", "/0.0", value=1)),
        ([1], op("test", "/٠", value=1)),
        ([1], op("test", "/", value=1)),
        ([1], op("test", "/1e0", value=1)),
        ([1], op("add", "/" + "9" * 5000, value=1)),
        ({"a": 1}, op("test", "/a", value="1")),
        ({"a": 1}, op("test", "/a", value=True)),
        ({"a": True}, op("test", "/a", value=1)),
        ({"a": [0]}, op("test", "/a", value=[False])),
        ({"a": {"b": 0.0}}, op("test", "/a", value={"b": False})),
        ({"a": None}, op("test", "/a", value=False)),
        ({"a": [1, 2]}, op("test", "/a", value=[1])),
        ({"a": [1]}, op("test", "/a", value={"0": 1})),
        ({"a": {"b": 1}}, op("test", "/a", value={"b": 1, "c": 1})),
        ({"a": {"b": 1}}, op("test", "/a", value={"c": 1})),
    ],
)
def test_a_patch_that_does_not_fit_the_document_fails_as_a_whole(document: Any, operation: Any) -> None:
    error = refusal(document, [op("test", "", value=document), operation])
    assert (error.code, error.pointer) == (Code.PATCH_FAILED, "/1")


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (0, -0.0), ({"a": 1, "b": [2.0]}, {"b": [2], "a": 1.0}), ("é", "é"), (None, None), (True, True)],
)
def test_equal_values_pass_a_test(one: Any, other: Any) -> None:
    assert patch.apply(one, [op("test", "", value=other)]) == one


@pytest.mark.parametrize(
    "operation",
    [
        None,
        [],
        "add",
        {},
        {"path": "/a", "value": 1},
        op("put", "/a", value=1),
        op("Add", "/a", value=1),
        {"op": ["add"], "path": "/a", "value": 1},
        {"op": {}, "path": "/a", "value": 1},
        {"op": "add", "value": 1},
        {"op": "add", "path": None, "value": 1},
        {"op": "add", "path": ["a"], "value": 1},
        op("add", "a", value=1),
        op("add", "/a~", value=1),
        op("add", "/a~2", value=1),
        op("add", "/~~0", value=1),
        op("add", "/a"),
        op("replace", "/a"),
        op("test", "/a"),
        op("move", "/a"),
        op("copy", "/a"),
        op("copy", "/a", from_=1),
        op("move", "/a", from_="b"),
    ],
)
def test_a_malformed_operation_is_refused_at_its_place(operation: Any) -> None:
    error = refusal({"a": 1}, [op("add", "/b", value=1), operation])
    assert (error.code, error.pointer) == (Code.INVALID_REQUEST, "/1")


@pytest.mark.parametrize("operations", [None, {}, "add", 1, op("add", "/a", value=1)])
def test_a_patch_is_an_array(operations: Any) -> None:
    assert refusal({}, operations).code is Code.INVALID_REQUEST


class Plain:
    """RFC 6902 in the plainest form: a deep copy, changed in place, by three primitives."""

    def __init__(self, document: Any) -> None:
        self.root = {"": copy.deepcopy(document)}

    def place(self, pointer: str, *, inserting: bool = False) -> tuple[Any, Any]:
        """The container and the subscript that a pointer names."""
        *path, last = ["", *(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])]
        container: Any = self.root
        for token in path:
            container = container[self.index(container, token)]
        if inserting and last == "-" and isinstance(container, list):
            return container, len(container)
        return container, self.index(container, last, room=inserting)

    def index(self, container: Any, token: str, *, room: bool = False) -> Any:
        if isinstance(container, dict):
            return token
        if not isinstance(container, list) or token != str(int(token)) or not 0 <= int(token) < len(container) + room:
            raise LookupError
        return int(token)

    def get(self, pointer: str) -> Any:
        container, index = self.place(pointer)
        return container[index]

    def remove(self, pointer: str) -> Any:
        container, index = self.place(pointer)
        if container is self.root:
            raise LookupError
        return container.pop(index)

    def add(self, pointer: str, value: Any) -> None:
        container, index = self.place(pointer, inserting=True)
        if isinstance(container, list):
            container.insert(index, copy.deepcopy(value))
        else:
            container[index] = copy.deepcopy(value)

    def apply(self, operation: dict[str, Any]) -> None:
        path, source, value = operation["path"], operation["from"], operation["value"]
        match operation["op"]:
            case "add":
                self.add(path, value)
            case "remove":
                self.remove(path)
            case "replace":
                self.get(path)
                container, index = self.place(path)
                container[index] = copy.deepcopy(value)
            case "copy":
                self.add(path, self.get(source))
            case "test" if not same_json(self.get(path), value):
                raise LookupError
            case "move" if path == source:
                self.get(source)
            case "move" if (path + "/").startswith(source + "/"):
                raise LookupError
            case "move":
                self.add(path, self.remove(source))


def plainly(document: Any, operations: list[dict[str, Any]]) -> Any:
    plain = Plain(document)
    for operation in operations:
        plain.apply(operation)
    return plain.root[""]


def same_json(one: Any, other: Any) -> bool:
    def normal(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: normal(item) for key, item in value.items()}
        if isinstance(value, list):
            return [normal(item) for item in value]
        return float(value) if isinstance(value, int) and not isinstance(value, bool) else value

    return json.dumps(normal(one), sort_keys=True) == json.dumps(normal(other), sort_keys=True)


@given(VALUES, OPERATIONS)
def test_sharing_never_shows(document: Any, operations: list[dict[str, Any]]) -> None:
    before = copy.deepcopy((document, operations))
    try:
        expected = plainly(document, operations)
    except (LookupError, ValueError, TypeError, AttributeError):
        assert refusal(document, operations).code is Code.PATCH_FAILED
    else:
        assert same(patch.apply(document, operations), expected)
    assert same((document, operations), before)


def test_a_patch_has_a_largest_number_of_operations() -> None:
    limits = Limits(batch_ops_max=3)
    assert patch.apply([], [op("add", "/-", value=1)] * 3, limits) == [1, 1, 1]
    assert refusal([], [op("add", "/-", value=1)] * 4, limits).code is Code.TOO_LARGE


@pytest.mark.parametrize(
    "operations",
    [
        [op("copy", "/-", from_="")] * 500,
        [op("copy", f"/{number}", from_="/0") for number in range(1, 500)],
        [op("add", "/-", value="x" * 1000), *[op("copy", "/-", from_="/1")] * 400],
        [op("add", "/-", value={"k" * 1000: 1}), *[op("copy", "/-", from_="/1")] * 400],
    ],
)
def test_copies_cannot_explode(operations: Any) -> None:
    assert refusal([["x"] * 1000], operations).code is Code.TOO_LARGE


def test_copies_within_a_value_are_free() -> None:
    operations = [op("copy", f"/{number}", from_="/0") for number in range(1, 200)]
    assert patch.apply([["x"] * 100], operations) == [["x"] * 100] * 200


@pytest.mark.parametrize("wide", [{str(number): number for number in range(20_000)}, list(range(20_000))])
def test_an_operation_costs_its_path_and_not_the_document(wide: Any) -> None:
    def seconds(operations: int) -> float:
        change = [op("replace", "/deep/7", value=None)] * operations
        start = time.process_time()
        patch.apply({"deep": wide}, change)
        return time.process_time() - start

    # A copy of the document for each operation would take a hundred times as long.
    gc.disable()  # it would look through all that the tests before this one have left
    try:
        assert min(seconds(400) for _ in range(3)) < 50 * min(seconds(4) for _ in range(3))
    finally:
        gc.enable()
