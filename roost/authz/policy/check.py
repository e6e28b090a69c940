"""Cedar policies as somebody wrote them: read one by one, held to the schema, and refused with line and reason.

Everything that could make a policy silently mean nothing is refused too: names that no user can have, documents and
parts of the server that are not there, templates, which nobody fills in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
from cedarpy import PolicySet, Schema, policies_to_json_str, validate_policies

from roost.core.errors import RoostError
from roost.core.ids import check_user

TEXT_CHARS_MAX = 64 << 10
POLICIES_MAX = 200
"""Policies in one text."""
DEPTH_MAX = 50
"""Brackets within brackets. Cedar reads them by recursion, and a stack that overflows there ends the process."""
PRINCIPALS = frozenset(("User", "Service", "Support", "Analyst", "Admin"))

# A comment, a text, or the end of a policy: nowhere else does Cedar have a semicolon.
_tokens = re.compile(r'//[^\n]*|"(?:[^"\\\n]|\\.)*"|;').finditer
# As Cedar's own lexer tells texts and comments from the rest.
_brackets = re.compile(r'//[^\n\r]*|"(?:\\.|[^"\\])*"|[(\[{]|[)\]}]').finditer
_blank = re.compile(r"(?:\s+|//[^\n]*)*").match
_id = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}").fullmatch
_POSITIONAL = "`policy0`"


class Fault(NamedTuple):
    """What is wrong, and in which line (from 1) the policy begins that it is wrong with."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


class PolicyFaults(Exception):
    """A text cannot be taken. `faults` are in the order of its lines."""

    def __init__(self, name: str, faults: list[Fault]) -> None:
        super().__init__(name, faults)
        self.name = name
        self.faults = faults

    def __str__(self) -> str:
        return f"The policies {self.name!r}: {'; '.join(map(str, self.faults))}."


class Policy(NamedTuple):
    """One policy: its id (`<name of the text>/<@id, or its number>`), where it stands, and Cedar's JSON form of it."""

    id: str
    line: int
    json: dict[str, Any]
    text: str

    @property
    def detail(self) -> str | None:
        """What its author says to those whom it refuses (`@detail`)."""
        detail: str | None = self.json.get("annotations", {}).get("detail")
        return detail


@cache
def shipped(name: str) -> str:
    """A file of this package."""
    return files("roost.authz.policy").joinpath(name).read_text()


@cache
def schema() -> Schema:
    """The schema, read once."""
    return Schema.from_str(shipped("roost.cedarschema"))


@lru_cache(maxsize=64)
def read(name: str, text: str) -> tuple[Policy, ...]:
    """The policies of a text, in order. Raises `PolicyFaults`."""
    if len(text) > TEXT_CHARS_MAX:
        raise PolicyFaults(name, [Fault(1, f"it has more than {TEXT_CHARS_MAX} characters")])
    policies: list[Policy] = []
    faults: list[Fault] = []
    for number, (line, piece) in enumerate(_pieces(text), 1):
        if number > POLICIES_MAX:
            faults.append(Fault(line, f"it has more than {POLICIES_MAX} policies"))
            break
        try:
            policy = _policy(name, number, line, piece)
        except ValueError as error:
            faults.append(Fault(line, str(error)))
            continue
        if any(other.id == policy.id for other in policies):
            faults.append(Fault(line, f"there is another policy {policy.id!r}"))
        faults.extend(Fault(line, reason) for reason in _mistakes(policy))
        policies.append(policy)
    if faults:
        raise PolicyFaults(name, faults)
    return tuple(policies)


def entities(node: Any) -> Iterator[tuple[str, str]]:
    """Every entity that a part of a policy names, as (type, id)."""
    for each in nodes(node):
        match each:
            case {"type": str(type_), "id": str(id_)}:
                yield type_, id_


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object within a part of a policy's JSON form, itself included."""
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from nodes(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from nodes(inner)


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """The text of each policy, with the line in which it begins."""
    start = 0
    for token in _tokens(text):
        if token[0] == ";":
            yield _begins(text, start), text[start : token.end()]
            start = token.end()
    blank = _blank(text, start)
    if blank is None or blank.end() < len(text):
        yield _begins(text, start), text[start:]


def _begins(text: str, start: int) -> int:
    blank = _blank(text, start)
    return text.count("\n", 0, blank.end() if blank else start) + 1


def _policy(name: str, number: int, line: int, piece: str) -> Policy:
    """Raises `ValueError` for what Cedar cannot read."""
    if _depth(piece) > DEPTH_MAX:
        raise ValueError(f"it has brackets more than {DEPTH_MAX} deep")
    PolicySet.from_str(piece)  # says best what is wrong
    try:
        text = policies_to_json_str(piece)
        PolicySet.from_json_str(text)
        parsed = msgspec.json.decode(text)
    except (ValueError, RecursionError):
        raise ValueError("it holds too much within one expression: make several policies of it") from None
    if parsed["templates"]:
        raise ValueError("it is a template: say whom and what it is about")
    if len(parsed["staticPolicies"]) != 1:
        raise ValueError("it is no policy")
    (json,) = parsed["staticPolicies"].values()
    own = json.get("annotations", {}).get("id")
    if own is not None and not _id(own):
        raise ValueError("an @id is letters, digits, `_`, `.` and `-`")
    return Policy(f"{name}/{own or number}", line, json, piece.strip())


def _depth(piece: str) -> int:
    """How deep brackets stand within brackets."""
    depth = deepest = 0
    for token in _brackets(piece):
        depth = max(depth + (token[0] in "([{") - (token[0] in ")]}"), 0)
        deepest = max(deepest, depth)
    return deepest


def _mistakes(policy: Policy) -> Iterator[str]:
    for error in validate_policies(policy.text, schema()).errors:
        yield error.error.removeprefix(f"for policy {_POSITIONAL}, ")
    for type_, id_ in entities(policy.json):
        if type_ == "Documents":
            yield "documents have no names of their own: say `resource.collection` and `resource in User::…`"
        elif type_ in PRINCIPALS and not _is_name(id_):
            yield f"no {type_} can be named {id_!r}"


def _is_name(name: str) -> bool:
    try:
        check_user(name)
    except RoostError:
        return False
    return True
