"""Edits: what somebody did to a JSON value, field by field, so that edits of several people can be merged.

An edit addresses one place by a JSON Pointer (RFC 6901) whose tokens are names of object members; `""` is the
whole value. A place is a register (`set`, `unset`), a counter (`inc`) or a set (`add`, `remove`): an array without
repetitions. Use a place as one of these only: a counter that is also set, or a set that is also counted, is still
the same on every replica, but what comes of it depends on the order in which edits arrive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from roost.core.errors import Code, RoostError
from roost.core.limits import NUMBER_MAX, Limits
from roost.core.patch import equal

ABSENT: Final = UNSET
"""The value of a place that does not exist, and of a document that does not."""

_ALIKE_MAX = 1_000
"""An array with so many elements that are told apart by nothing but true and 1 is no set, and not looked through."""

_bad_escape = re.compile(r"~(?![01])").search


class Edit(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, dict=True):
    """One edit of one place.

    `value` is what to `set`, the whole number to `inc` by, or the element to `add` or `remove`; `unset` has none.
    """

    op: Literal["set", "unset", "inc", "add", "remove"]
    path: str
    value: Any | UnsetType = UNSET

    @cached_property
    def tokens(self) -> list[str]:
        """The names on the way to the place."""
        return tokens_of(self.path)

    @property
    def replaces(self) -> bool:
        """Whether it puts something in the place of what was there, rather than adding to it."""
        return self.op in ("set", "unset")


def whole(value: Any) -> Edit:
    """The edit that puts `value` in the place of everything."""
    return Edit("set", "", value)


def tokens_of(path: str) -> list[str]:
    """A JSON Pointer, taken apart. Raises `INVALID_REQUEST`."""
    if not path:
        return []
    if path[0] != "/" or _bad_escape(path):
        raise RoostError(Code.INVALID_REQUEST, "A path is a JSON Pointer: empty, or /names/separated/so.")
    return [token.replace("~1", "/").replace("~0", "~") for token in path[1:].split("/")]


def path_of(tokens: Sequence[str]) -> str:
    """A JSON Pointer, put together."""
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def check(edits: Sequence[Edit], limits: Limits) -> None:
    """Raise `INVALID_REQUEST` (or `TOO_LARGE`), with a pointer to the edit, for edits that no value could take."""
    if len(edits) > limits.batch_ops_max:
        raise RoostError(Code.TOO_LARGE, f"At most {limits.batch_ops_max} edits of one document.", pointer="")
    for index, edit in enumerate(edits):
        problem = None
        if (edit.path and edit.path[0] != "/") or _bad_escape(edit.path):
            problem = "a path is a JSON Pointer: empty, or /names/separated/so"
        elif len(edit.tokens) > limits.depth_max:
            problem = "the path is too long"
        elif (edit.value is UNSET) != (edit.op == "unset"):
            problem = "`unset` has no value, every other edit has one"
        elif edit.op == "unset" and not edit.path:
            problem = "the whole document is not unset, but deleted"
        elif edit.op == "inc" and (type(edit.value) is not int or abs(edit.value) > NUMBER_MAX):
            problem = "a counter goes up or down by a whole number"
        if problem:
            raise RoostError(Code.INVALID_REQUEST, f"Not an edit: {problem}.", pointer=f"/{index}")


def apply(value: Any, edits: Sequence[Edit]) -> Any:
    """`value` after the edits. Never fails: an edit that does not fit is passed over, see `fits`.

    Values are not changed in place. A `set` makes the objects that are missing on its way, in place of
    whatever else is there.
    """
    for edit in edits:
        value = _applied(value, edit, edit.tokens)
    return value


def fits(value: Any, edit: Edit) -> bool:
    """Whether the place is of the edit's kind, and nothing but objects is on the way to it.

    An `inc` fits nothing, and a counter that stays within ±2^53.
    """
    for token in edit.tokens:
        if value is ABSENT:
            break
        if not isinstance(value, dict):
            return False
        value = value.get(token, ABSENT)
    if edit.replaces or value is ABSENT:
        return True
    return _can_go(value, edit.value) if edit.op == "inc" else isinstance(value, list)


def fitted(value: Any, edits: Sequence[Edit]) -> Any:
    """`value` after edits of which each must fit. Raises `PATCH_FAILED`, with a pointer to the edit."""
    for index, edit in enumerate(edits):
        if not fits(value, edit):
            detail = f"`{edit.op}` does not fit what is at {edit.path!r}."
            raise RoostError(Code.PATCH_FAILED, detail, pointer=f"/{index}")
        value = apply(value, [edit])
    return value


def difference(before: Any, after: Any) -> list[Edit]:
    """The edits that make `before` into `after`: a register for each member that differs, objects member by member."""
    found: list[Edit] = []
    _compare(before, after, [], found)
    return found


def covers(path: list[str], other: list[str]) -> bool:
    """Whether `path` is `other`, or on the way to it."""
    return other[: len(path)] == path


def encode(edits: Sequence[Edit]) -> bytes:
    """Edits as JSON."""
    return msgspec.json.encode(edits)


decode = msgspec.json.Decoder(list[Edit]).decode
"""Edits from what `encode` made of them."""


def _applied(value: Any, edit: Edit, tokens: list[str]) -> Any:
    if not tokens:
        return _changed(value, edit)
    name, *rest = tokens
    members = value if isinstance(value, dict) else {}
    if edit.op != "set" and value is not ABSENT and members is not value:
        return value
    before = members.get(name, ABSENT)
    after = _applied(before, edit, rest)
    if after is before:
        return value
    if after is ABSENT:
        return {member: item for member, item in members.items() if member != name}
    return {**members, name: after}


def _changed(value: Any, edit: Edit) -> Any:
    """The place itself after the edit."""
    if edit.op == "set":
        return edit.value
    if edit.op == "unset":
        return ABSENT
    if edit.op == "inc":
        return edit.value if value is ABSENT else value + edit.value if _can_go(value, edit.value) else value
    if value is not ABSENT and not isinstance(value, list):
        return value
    elements = [] if value is ABSENT else value
    return _with(elements, edit.value, value) if edit.op == "add" else _without(elements, edit.value, value)


def _with(elements: list[Any], added: Any, before: Any) -> Any:
    return before if next(_places(elements, added), None) is not None else [*elements, added]


def _without(elements: list[Any], removed: Any, before: Any) -> Any:
    gone = set(_places(elements, removed))
    return [element for place, element in enumerate(elements) if place not in gone] if gone else before


def _places(elements: list[Any], wanted: Any) -> Iterator[int]:
    """Where an element is in a set. `index` looks, because a loop of ours takes twenty times as long."""
    place, others = -1, 0
    with suppress(ValueError):
        while others < _ALIKE_MAX:
            place = elements.index(wanted, place + 1)
            # It takes true for 1, which JSON does not.
            if equal(elements[place], wanted):
                yield place
            else:
                others += 1


def _can_go(value: Any, by: Any) -> bool:
    return type(value) is int and abs(value + by) <= NUMBER_MAX


def _compare(before: Any, after: Any, tokens: list[str], found: list[Edit]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            _compare(before.get(name, ABSENT), after.get(name, ABSENT), [*tokens, name], found)
    elif after is ABSENT:
        found.append(Edit("unset", path_of(tokens)))
    elif before is ABSENT or not equal(before, after):
        found.append(Edit("set", path_of(tokens), after))
