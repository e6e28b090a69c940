"""The vectors that every client of the protocol runs (`tests/vectors`), run by the Python one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roost.core import edits
from roost.core.edits import ABSENT, Edit
from roost.core.errors import RoostError
from roost.core.limits import Limits
from roost.core.patch import equal
from roost.sync import frames
from tests.unit.sync.device import Device

VECTORS = Path(__file__).parents[2] / "vectors"


def read(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def named(name: str, part: str | None = None) -> list[Any]:
    vectors = read(name) if part is None else read(name)[part]
    assert len({vector["name"] for vector in vectors}) == len(vectors)
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def same(one: Any, other: Any) -> bool:
    return one is other if ABSENT in (one, other) else equal(one, other)


def edits_in(vector: Any) -> list[Edit]:
    return edits.decode(json.dumps(vector["edits"]))


@pytest.mark.parametrize("vector", named("edits.json", "apply"))
def test_what_edits_make_of_a_value(vector: Any) -> None:
    before = vector.get("before", ABSENT)
    kept = json.dumps(before) if before is not ABSENT else None
    assert same(edits.apply(before, edits_in(vector)), vector.get("after", ABSENT))
    assert kept is None or json.dumps(before) == kept


@pytest.mark.parametrize("vector", named("edits.json", "fits"))
def test_whether_an_edit_fits(vector: Any) -> None:
    assert edits.fits(vector.get("value", ABSENT), msgspec.convert(vector["edit"], Edit)) is vector["fits"]


@pytest.mark.parametrize("vector", named("edits.json", "difference"))
def test_what_the_difference_is(vector: Any) -> None:
    before, after = vector.get("before", ABSENT), vector.get("after", ABSENT)
    found = edits.difference(before, after)
    assert msgspec.to_builtins(found) == vector["edits"]
    assert same(edits.apply(before, found), after)


@pytest.mark.parametrize("vector", named("edits.json", "bad"))
def test_what_is_no_edit(vector: Any) -> None:
    with pytest.raises((RoostError, msgspec.ValidationError)) as refusal:
        edits.check(edits_in(vector), Limits())
    if isinstance(refusal.value, RoostError):
        assert refusal.value.pointer == vector["pointer"]
    else:
        assert f"`$[{vector['pointer'][1:]}]" in str(refusal.value)


@pytest.mark.parametrize("vector", named("replica.json"))
def test_what_a_device_does(vector: Any) -> None:
    device = Device(vector["device"], vector.get("collections"))
    for number, step in enumerate(vector["steps"]):
        seen = device.do(step)
        assert seen == step["expect"], f"step {number}: {step['do']}"
        assert equal(seen, step["expect"]), "true is not 1"


@pytest.mark.parametrize("side", ["client", "server"])
def test_what_a_frame_is(side: str) -> None:
    reader = frames.client_frame if side == "client" else frames.server_frame
    for vector in read("frames.json")[side]:
        text = vector["text"] if "text" in vector else json.dumps(vector["frame"])
        try:
            frame = reader(text)
        except msgspec.DecodeError:
            assert not vector["valid"], vector
        else:
            assert vector["valid"], vector
            told = json.loads(frames.encode(frame))
            assert without_defaults(told) == without_defaults(vector["frame"])


def without_defaults(value: Any) -> Any:
    """A frame without the members that say as much as leaving them out."""
    if isinstance(value, list):
        return [without_defaults(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: without_defaults(item) for name, item in value.items()}
    for name in ("device", "mutation"):
        if "seq" in kept and kept.get(name, 0) is None:
            del kept[name]
    if isinstance(kept.get("at"), str):
        kept["at"] = kept["at"].replace(".000000Z", "Z")
    if isinstance(kept.get("seen_at"), str):
        kept["seen_at"] = kept["seen_at"].replace(".000000Z", "Z")
    return kept
