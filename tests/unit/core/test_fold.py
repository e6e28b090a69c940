"""The fold, and that `differences` sees each way in which stored state can part from its log."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.core.events import Document, Event, Head, Kind
from roost.core.fold import NAMED_MAX, Fold, chained, differences, fold, superseded
from tests.contract.writing import START, STEPS, Step, head_of, log_of

replace = msgspec.structs.replace
SECOND = timedelta(seconds=1)


def put(seq: int, key: str, value: bytes | None = b"1") -> Event:
    kind: Kind = "put" if value is not None else "delete"
    return Event(seq, kind, "notes", key, value, START + seq * SECOND, "user:ada")


LOG = [put(1, "a"), put(2, "b"), put(3, "a", b"2"), put(4, "b", None), put(5, "c", b"{}")]
HEAD = head_of("ada", LOG)
DOCUMENTS = list(fold(LOG).documents.values())


def test_the_last_event_of_a_document_is_the_document() -> None:
    assert fold(LOG).documents == {
        ("notes", "a"): Document("notes", "a", 3, b"2", START + 3 * SECOND),
        ("notes", "b"): Document("notes", "b", 4, None, START + 4 * SECOND),
        ("notes", "c"): Document("notes", "c", 5, b"{}", START + 5 * SECOND),
    }


def test_tombstones_are_not_counted() -> None:
    assert fold(LOG).counts == {"notes": 2}
    assert fold([put(1, "a"), put(2, "a", None)]).counts == {}
    assert fold([]).counts == {}


@given(STEPS)
def test_a_log_differs_in_nothing_from_its_own_fold(steps: list[Step]) -> None:
    events = log_of(steps)
    folded = fold(events)
    assert differences(head_of("ada", events), folded.documents.values(), folded) == []
    assert len({fold(events[:seq]).digest for seq in range(len(events) + 1)}) == len(events) + 1


def test_a_digest_tells_order_and_every_part_of_an_event() -> None:
    digests = {fold(LOG).digest, fold([*LOG[:3], LOG[4], LOG[3]]).digest}
    for change in (
        {"seq": 6},
        {"kind": "delete"},
        {"collection": "carts"},
        {"key": "d"},
        {"value": None},
        {"at": START},
        {"actor": "admin"},
        {"device": "phone"},
        {"mutation": 1},
    ):
        digests.add(fold([*LOG[:4], replace(LOG[4], **change)]).digest)
    assert len(digests) == 11
    assert chained(fold(LOG[:4]).digest, LOG[4]) == fold(LOG).digest


@pytest.mark.parametrize(
    ("events", "difference"),
    [
        ([LOG[0], *LOG[2:]], "event 3 follows event 1"),
        (LOG[1:], "event 2 follows event 0"),
        ([*LOG[:3], LOG[2], *LOG[3:]], "event 3 follows event 3"),
        ([*LOG[:2], LOG[3], LOG[2], LOG[4]], "event 4 follows event 2"),
        ([*LOG[:4], replace(LOG[4], at=LOG[0].at)], "event 5 is older than the event before it"),
        ([*LOG[:4], replace(LOG[4], kind="delete")], "event 5 is a delete with a value"),
        ([*LOG[:4], replace(LOG[4], value=None)], "event 5 is a put without a value"),
    ],
)
def test_a_flaw_of_the_log_is_found(events: list[Event], difference: str) -> None:
    assert difference in differences(HEAD, DOCUMENTS, fold(events))


@pytest.mark.parametrize(
    ("head", "documents", "difference"),
    [
        (replace(HEAD, seq=4), DOCUMENTS, "the head stands at 4, the log ends at 5"),
        (replace(HEAD, seq=6), DOCUMENTS, "the head stands at 6, the log ends at 5"),
        (replace(HEAD, updated_at=START), DOCUMENTS, "the head was updated at"),
        (replace(HEAD, counts={"notes": 3}), DOCUMENTS, "the head counts 3 notes, the log adds up to 2 notes"),
        (replace(HEAD, counts={}), DOCUMENTS, "the head counts nothing, the log adds up to 2 notes"),
        (replace(HEAD, counts={"carts": 0, "notes": 2}), DOCUMENTS, "the head counts 0 carts, 2 notes"),
        (HEAD, DOCUMENTS[1:], "notes/a: in the log, but not stored"),
        (HEAD, [*DOCUMENTS, Document("notes", "d", 1, b"1", START)], "notes/d: stored, but not in the log"),
        (HEAD, [replace(DOCUMENTS[0], version=1), *DOCUMENTS[1:]], "notes/a: stored at version 1, 3 in the log"),
        (HEAD, [replace(DOCUMENTS[0], value=b"3"), *DOCUMENTS[1:]], "notes/a: version 3 is stored with another value"),
        (HEAD, [replace(DOCUMENTS[0], value=None), *DOCUMENTS[1:]], "notes/a: version 3 is stored with another value"),
        (HEAD, [replace(DOCUMENTS[0], updated_at=START), *DOCUMENTS[1:]], "notes/a: version 3 is stored with the time"),
        (HEAD, [DOCUMENTS[0], DOCUMENTS[2]], "notes/b: in the log, but not stored"),
    ],
)
def test_what_is_stored_otherwise_than_the_log_says_is_found(
    head: Head, documents: list[Document], difference: str
) -> None:
    assert [found for found in differences(head, documents, fold(LOG)) if found.startswith(difference)]
    assert len(differences(head, documents, fold(LOG))) == 1


def test_no_difference_shows_a_value() -> None:
    secret = replace(DOCUMENTS[0], value=b'"secret"')
    assert "secret" not in " ".join(differences(HEAD, [secret, *DOCUMENTS[1:]], fold(LOG)))


def test_a_log_that_is_wrong_throughout_is_told_in_few_words() -> None:
    folded = fold(put(2 * number, str(number)) for number in range(1000))
    found = differences(replace(HEAD, seq=folded.seq), [], folded)
    assert len(found) < 3 * NAMED_MAX
    assert "and 980 more like these" in found


def kept(events: list[Event], floor: int) -> Fold:
    """What is left of a log that was folded up to `floor`, added up."""
    gone, folded = superseded(events[:floor], floor), Fold(floor)
    for event in events:
        if event.seq not in gone:
            folded.add(event)
    return folded


@given(STEPS, st.data())
def test_what_is_left_of_a_folded_log_adds_up_to_the_same(steps: list[Step], data: st.DataObject) -> None:
    events = log_of(steps)
    floor = data.draw(st.integers(0, len(events)))
    head, documents = head_of("ada", events), fold(events).documents
    folded = kept(events, floor)
    assert differences(replace(head, floor=floor), documents.values(), folded) == []
    assert {name: one for name, one in documents.items() if one.value is not None or one.version > floor} == {
        name: one for name, one in folded.documents.items() if one.value is not None or one.version > floor
    }


FLOOR = 4
FOLDED = [event for event in LOG if event.seq not in superseded(LOG[:FLOOR], FLOOR)]


def test_the_event_at_the_floor_stays_and_no_other_deletion() -> None:
    assert [event.seq for event in FOLDED] == [3, 4, 5]
    assert superseded(LOG, 5) == {1, 2, 4}


def test_events_that_siblings_come_from_stay() -> None:
    log = [put(1, "a"), put(2, "a"), put(3, "a"), put(4, "a"), put(5, "b")]
    log[2] = replace(log[2], beside=(2,))
    log[3] = replace(log[3], beside=(2, 3))
    assert superseded(log, 5) == {1}
    assert kept(log, 5).documents == fold(log).documents
    assert superseded([*log, put(6, "a")], 6) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("events", "difference"),
    [
        (FOLDED[::2], "event 5 follows event 3"),
        ([FOLDED[0], FOLDED[1], replace(FOLDED[2], seq=6)], "event 6 follows event 4"),
        ([FOLDED[1], FOLDED[0], FOLDED[2]], "event 3 follows event 4"),
        (FOLDED[1:], "notes/a: stored, but not in the log"),
    ],
)
def test_a_flaw_of_a_folded_log_is_found(events: list[Event], difference: str) -> None:
    folded = Fold(FLOOR)
    for event in events:
        folded.add(event)
    assert difference in differences(HEAD, DOCUMENTS, folded)


def test_only_what_was_deleted_up_to_the_floor_may_be_stored_without_an_event() -> None:
    folded = Fold(FLOOR)
    for event in FOLDED:
        folded.add(event)
    buried = Document("notes", "d", FLOOR, None, START)
    assert differences(HEAD, [*DOCUMENTS, buried], folded) == []
    for strange in (replace(buried, version=5), replace(buried, value=b"1")):
        assert "notes/d: stored, but not in the log" in differences(HEAD, [*DOCUMENTS, strange], folded)


def test_a_head_whose_clock_is_behind_its_log_is_found() -> None:
    log = [replace(LOG[0], clock=7), *LOG[1:]]
    assert differences(replace(HEAD, clock=7), DOCUMENTS, fold(log)) == []
    assert differences(replace(HEAD, clock=9), DOCUMENTS, fold(log)) == []
    assert differences(HEAD, DOCUMENTS, fold(log)) == ["the head's clock is 0, the log's 7"]


@given(STEPS, st.data())
def test_a_fold_can_go_on_from_a_prefix(steps: list[Step], data: st.DataObject) -> None:
    events = log_of(steps)
    folded: Fold = fold(events[: data.draw(st.integers(0, len(events)))])
    for event in events[folded.seq :]:
        folded.add(event)
    assert (folded.documents, folded.counts, folded.digest) == (
        fold(events).documents,
        fold(events).counts,
        fold(events).digest,
    )
    assert all(one.at <= other.at for one, other in pairwise(events))
