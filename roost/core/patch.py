"""Changing a JSON value by a description of the change: JSON Merge Patch (RFC 7396) and JSON Patch (RFC 6902).

Values are never changed in place: what a patch does not touch is shared between the value before and the value
after. Sharing makes `copy` cheap in memory however often it is repeated, and the value that it describes
exponentially large; so what copies may add is bounded by the size that a value may have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

from roost.core.errors import Code, RoostError
from roost.core.limits import Limits

Container = dict[str, Any] | list[Any]
_DEFAULT_LIMITS = Limits()
_index = re.compile(r"0|[1-9][0-9]{0,8}").fullmatch
_bad_escape = re.compile(r"~(?![01])").search


def merge(target: Any, patch: Any) -> Any:
    """Return `target` changed by a merge patch: null removes a member, objects merge, anything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, item in patch.items():
        if item is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), item)
    return merged


def apply(document: Any, operations: Any, limits: Limits = _DEFAULT_LIMITS) -> Any:
    """Return `document` changed by the operations of a JSON Patch, all or none.

    Raises, each with a pointer to the operation: `INVALID_REQUEST` where the patch is malformed, `PATCH_FAILED`
    where a `test` fails or a path leads nowhere, `TOO_LARGE` where its copies add more than a value may hold.
    """
    if not isinstance(operations, list):
        raise RoostError(Code.INVALID_REQUEST, "A JSON Patch is an array of operations.", pointer="")
    if len(operations) > limits.batch_ops_max:
        raise RoostError(Code.TOO_LARGE, f"A JSON Patch has at most {limits.batch_ops_max} operations.", pointer="")
    patching = _Patching(document, limits)
    for number, operation in enumerate(operations):
        try:
            patching.carry_out(operation)
        except RoostError as error:
            error.pointer = f"/{number}"
            raise
    return patching.document


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values: `1` is `1.0`, but `true` is not `1`, and the order of members does not matter."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(item, other[key]) for key, item in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


class _Patching:
    """A document on its way through a patch.

    `_own` holds the containers that this patch has made and that stand in one place only: they are changed in
    place, all others are replaced by a shallow copy first, together with the containers that lead to them.
    """

    def __init__(self, document: Any, limits: Limits) -> None:
        self.document = document
        self._own: dict[int, Container] = {}
        self._limits = limits
        self._copied = 0

    def carry_out(self, operation: Any) -> None:
        if not isinstance(operation, dict):
            _malformed("An operation is an object.")
        action = _ACTIONS.get(operation.get("op")) if isinstance(operation.get("op"), str) else None
        if action is None:
            _malformed(f"The member 'op' is one of {', '.join(_ACTIONS)}.")
        action(self, operation)

    def add(self, operation: Mapping[str, Any]) -> None:
        self._insert(_pointer(operation, "path"), _value(operation))

    def remove(self, operation: Mapping[str, Any]) -> None:
        self._take(_pointer(operation, "path"))

    def replace(self, operation: Mapping[str, Any]) -> None:
        path, value = _pointer(operation, "path"), _value(operation)
        if not path:
            self.document = value
            return
        parent = self._writable(path[:-1])
        _item(parent, path[-1])
        parent[_step(parent, path[-1])] = value

    def move(self, operation: Mapping[str, Any]) -> None:
        path, source = _pointer(operation, "path"), _pointer(operation, "from")
        if source == path[: len(source)]:
            if source != path:
                _failed("A value cannot be moved into itself.")
            self._find(source)
            return
        self._insert(path, self._take(source))

    def copy(self, operation: Mapping[str, Any]) -> None:
        path, source = _pointer(operation, "path"), _pointer(operation, "from")
        value = self._find(source)
        self._copied += _weight(value, self._limits.value_bytes_max - self._copied)
        if self._copied > self._limits.value_bytes_max:
            raise RoostError(Code.TOO_LARGE, "The copies are more than a value may hold.")
        # The copied containers now stand in two places, and which they are would take a walk to say.
        self._own.clear()
        self._insert(path, value)

    def test(self, operation: Mapping[str, Any]) -> None:
        path, value = _pointer(operation, "path"), _value(operation)
        if not equal(self._find(path), value):
            _failed("The value is not the one that the test expects.")

    def _find(self, path: list[str]) -> Any:
        item = self.document
        for token in path:
            item = _item(item, token)
        return item

    def _insert(self, path: list[str], value: Any) -> None:
        if not path:
            self.document = value
            return
        parent = self._writable(path[:-1])
        if isinstance(parent, list):
            index = len(parent) if path[-1] == "-" else _position(path[-1])
            if index > len(parent):
                _failed("The index is beyond the end of the array.")
            parent.insert(index, value)
        else:
            parent[path[-1]] = value

    def _take(self, path: list[str]) -> Any:
        if not path:
            _failed("The whole document cannot be removed by a patch; delete it instead.")
        parent = self._writable(path[:-1])
        _item(parent, path[-1])
        return parent.pop(_step(parent, path[-1]))

    def _writable(self, path: list[str]) -> Any:
        """The container at `path`, made this patch's own together with all that lead to it."""
        parent = self.document = self._owned(self.document)
        for token in path:
            item = self._owned(_item(parent, token))
            parent[_step(parent, token)] = item
            parent = item
        return parent

    def _owned(self, item: Any) -> Any:
        if id(item) in self._own:
            return item
        if not isinstance(item, dict | list):
            _failed("The path leads into a value that is neither an object nor an array.")
        own = item.copy()
        self._own[id(own)] = own
        return own


_ACTIONS: dict[Any, Callable[[_Patching, Mapping[str, Any]], None]] = {
    "add": _Patching.add,
    "remove": _Patching.remove,
    "replace": _Patching.replace,
    "move": _Patching.move,
    "copy": _Patching.copy,
    "test": _Patching.test,
}


def _pointer(operation: Mapping[str, Any], name: str) -> list[str]:
    """The reference tokens of the JSON Pointer (RFC 6901) in a member of an operation."""
    text = operation.get(name)
    if not isinstance(text, str) or (text and not text.startswith("/")) or _bad_escape(text):
        _malformed(f"The member {name!r} is a JSON Pointer: '/' before each step, ~0 for '~' and ~1 for '/'.")
    return [token.replace("~1", "/").replace("~0", "~") for token in text.split("/")[1:]]


def _value(operation: Mapping[str, Any]) -> Any:
    if "value" not in operation:
        _malformed("The member 'value' is missing.")
    return operation["value"]


def _item(container: Any, token: str) -> Any:
    """What stands at `token` in a container; the path leads nowhere if nothing does."""
    if isinstance(container, dict):
        if token not in container:
            _failed("The path leads to a member that does not exist.")
        return container[token]
    if not isinstance(container, list):
        _failed("The path leads into a value that is neither an object nor an array.")
    index = _position(token)
    if index >= len(container):
        _failed("The index is beyond the end of the array.")
    return container[index]


def _step(container: Container, token: str) -> Any:
    """`token` as Python's subscript of a container."""
    return token if isinstance(container, dict) else int(token)


def _position(token: str) -> int:
    if not _index(token):
        _failed("An array's index is digits without a leading zero.")
    return int(token)


def _weight(value: Any, enough: int) -> int:
    """At most the bytes that `value` takes as JSON, counted until they are more than `enough`."""
    weight, waiting = 0, [value]
    while waiting and weight <= enough:
        item = waiting.pop()
        weight += 1
        if isinstance(item, str):
            weight += len(item)
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            weight += sum(map(len, item))
            waiting += cast("dict[str, Any]", item).values()
    return weight


def _malformed(detail: str) -> NoReturn:
    raise RoostError(Code.INVALID_REQUEST, detail)


def _failed(detail: str) -> NoReturn:
    raise RoostError(Code.PATCH_FAILED, detail)
