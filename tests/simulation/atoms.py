"""Atoms: the smallest things that a person puts into a document, each of them once, so that each can be traced.

An atom is a token, a text that is written by one edit only, or a count: an `inc` goes up by a power of two that nobody
else uses at that place, so the bits of a counter tell which counted, and one that counted twice shows as another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

Atom = str | tuple[str, int]
"""A token, or the path of a counter and a power of two."""


def atoms(value: Any, path: str = "") -> set[Atom]:
    """All atoms of a JSON value."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, bool) or value is None:
        return set()
    if isinstance(value, int):
        return bits(path, value)
    if isinstance(value, list):
        return {atom for element in value for atom in atoms(element, path)}
    return {atom for name, member in value.items() for atom in atoms(member, f"{path}/{name}")}


def bits(path: str, value: int) -> set[Atom]:
    """The counts that a counter has seen."""
    return {(path, 1 << place) for place in range(value.bit_length()) if value >> place & 1}


def asked(edits: Iterable[dict[str, Any]]) -> set[Atom]:
    """What edits, as JSON, would put into a document."""
    found: set[Atom] = set()
    for edit in edits:
        if edit["op"] in ("set", "inc", "add"):
            found |= atoms(edit["value"], edit["path"])
    return found


def of_bytes(value: bytes | None) -> set[Atom]:
    """All atoms of an encoded value."""
    return set() if value is None else atoms(json.loads(value))
