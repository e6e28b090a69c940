"""What is shown of a document, of an event, of the inbox: nothing of what is masked, whatever form it comes in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.authz.view import MASK, Sight, View, mask
from roost.core import edits as editing
from roost.core.edits import Edit
from roost.core.events import Document, Event, erasure
from roost.core.ids import INBOX
from roost.core.siblings import Sibling

AT = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "4111-1111"
MASKED = frozenset({"number", "owner"})
NAMES = st.sampled_from(["number", "owner", "note", "numbers", "n"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.integers(-9, 9), st.text(max_size=5), st.none(), st.booleans()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


def encode(value: Any) -> bytes:
    return msgspec.json.encode(value)


def view(**sights: Sight) -> View:
    """Sees everything that is not named."""
    return View(lambda collection: sights.get(collection, frozenset()))


def document(value: Any, collection: str = "cards", siblings: bytes | None = None) -> Document:
    return Document(collection, "k", 3, None if value is None else encode(value), AT, siblings)


def event(value: Any, collection: str = "cards", edits: bytes | None = None) -> Event:
    kind: Any = "delete" if value is None else "put"
    return Event(3, kind, collection, "k", None if value is None else encode(value), AT, "user:ada", edits=edits)


@given(st.dictionaries(NAMES, VALUES))
def test_of_an_object_exactly_the_masked_members_are_replaced(members: dict[str, Any]) -> None:
    shown = msgspec.json.decode(mask(encode(members), MASKED))
    assert shown == {name: MASK if name in MASKED else value for name, value in members.items()}
    assert list(shown) == list(members)


@given(VALUES.filter(lambda value: not isinstance(value, dict)))
def test_what_is_no_object_is_masked_as_a_whole(value: Any) -> None:
    assert msgspec.json.decode(mask(encode(value), MASKED)) == MASK


def test_a_document_is_shown_with_all_of_its_siblings_masked() -> None:
    beside = encode([Sibling(1, msgspec.Raw(encode({"number": SECRET})), AT)])
    shown = view(cards=MASKED).document(document({"number": SECRET, "note": "mine"}, siblings=beside))
    assert shown is not None
    assert SECRET not in str(shown)
    assert shown.value == encode({"number": MASK, "note": "mine"})


def test_an_event_of_a_masked_document_does_not_tell_its_edits() -> None:
    edits = editing.encode([Edit("set", "/number", SECRET)])
    shown = view(cards=MASKED).event(event({"number": SECRET, "note": "mine"}, edits=edits))
    assert shown is not None
    assert SECRET not in str(shown)
    assert shown.edits is None


def test_what_is_not_seen_is_left_out() -> None:
    narrow = view(cards=None)
    assert narrow.documents([document({"a": 1}), document(1, "notes")]) == [document(1, "notes")]
    assert narrow.events([event({"a": 1}), event(None), event(1, "notes")]) == [event(1, "notes")]
    assert narrow.narrowed(["cards", "notes"]) == ["notes"]


def test_what_is_seen_is_shown_as_it_is() -> None:
    for each in (document({"number": SECRET}), document(None)):
        assert view().document(each) is each
    for one in (event({"number": SECRET}), event(None)):
        assert view().event(one) is one


def test_the_end_of_a_log_is_shown_to_whoever_sees_the_log() -> None:
    end = erasure(4, AT, "admin")
    assert View(lambda _: None).event(end) == end


LOST: list[dict[str, Any]] = [
    {"value": {"number": SECRET, "note": "mine"}},
    {"edits": [{"op": "set", "path": "/number", "value": SECRET}, {"op": "set", "path": "/note", "value": "mine"}]},
    {
        "edits": [
            {"op": "set", "path": "/number/first", "value": SECRET},
            {"op": "set", "path": "/note", "value": "mine"},
        ]
    },
    {
        "edits": [
            {"op": "set", "path": "", "value": {"number": SECRET}},
            {"op": "set", "path": "/note", "value": "mine"},
        ]
    },
    {"version": 2, "value": {"number": SECRET, "note": "mine"}},
]


@pytest.mark.parametrize("lost", LOST)
def test_the_inbox_masks_by_the_collection_that_a_conflict_is_about(lost: dict[str, Any]) -> None:
    conflict = {
        "at": "2026-01-01T00:00:00Z",
        "policy": "lww",
        "outcome": "merged",
        "collection": "cards",
        "key": "k",
        "kept": {"version": 2, "value": {"number": SECRET}},
        "lost": lost,
    }
    for narrowed, there in ((view(cards=MASKED), True), (view(cards=None), False), (view(**{INBOX: None}), False)):
        for shown in (narrowed.document(document(conflict, INBOX)), narrowed.event(event(conflict, INBOX))):
            assert SECRET not in str(shown)
            assert (shown is not None) is there
            if shown is not None:
                assert b"mine" in (shown.value or b"")
    assert view().document(document(conflict, INBOX)) == document(conflict, INBOX)


def test_a_conflict_without_values_stays_one() -> None:
    conflict = {"collection": "cards", "key": "k", "kept": {"version": None, "value": None}, "lost": {"value": None}}
    shown = view(cards=MASKED).document(document(conflict, INBOX))
    assert shown is not None
    assert msgspec.json.decode(shown.value or b"") == conflict


def test_a_conflict_about_the_inbox_does_not_tell_of_the_conflict_there() -> None:
    inner = {"collection": "cards", "kept": {"value": {"number": SECRET}}, "lost": {"value": SECRET}}
    outer = {"collection": INBOX, "key": "1", "kept": {"version": 3, "value": inner}, "lost": {"value": None}}
    for narrowed in (view(cards=MASKED), view(cards=None)):
        for shown in (narrowed.document(document(outer, INBOX)), narrowed.event(event(outer, INBOX))):
            assert shown is not None
            assert msgspec.json.decode(shown.value or b"") == outer | {"kept": {"version": 3}}


@pytest.mark.parametrize("value", [[1], 1, {"collection": 1}, {}])
def test_what_is_no_conflict_is_left_out_of_the_inbox(value: Any) -> None:
    assert view().documents([document(value, INBOX)]) == []


def test_each_collection_is_decided_once_for_a_view() -> None:
    asked: list[str] = []

    def sight(collection: str) -> Sight:
        asked.append(collection)
        return frozenset()

    some = View(sight)
    some.documents([document(1), document(2), document(3, "notes")])
    some.events([event(1)])
    assert asked == ["cards", "notes"]
