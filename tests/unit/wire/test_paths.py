"""A path of plain names is told by a short cut: it comes to the same as the way by which all others go."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from roost.core.ports import DocumentRef
from roost.wire import http
from roost.wire.documents import DOCUMENT
from tests.unit.wire.support import Server

PIECES = st.sampled_from(
    [*"aAzZ09_.:@|~-%/ \n\r\t;&+,=*\x00\x7f\x85\xe9\xff", "%2F", "%2f", "%41", "%0A", "%C3%A9", ".."]
)
PLAIN = st.from_regex(r"[a-z][a-z0-9_]{0,3}", fullmatch=True)
LONG = st.builds(str.__mul__, st.sampled_from("aA1._"), st.sampled_from([1, 48, 49, 128, 129, 200, 201]))
NAME = st.one_of(PLAIN, PLAIN, LONG, st.lists(PIECES, max_size=4).map("".join))


def asked(server: Server, path: str) -> tuple[int, list[DocumentRef]]:
    """How a read of the path is answered, and which document the gate was asked for."""
    server.gate.asked.clear()
    return server.get(path).status, [ref for method, ref, *_ in server.gate.asked if method == "document"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(NAME, NAME, NAME, st.sampled_from(["", "", "", "/", "\n", "/history"]))
@example("ada", "notes", "..", "")
@example("ada", "notes", ".", "")
@example("ada", "notes", "k\n", "")
@example("ada\n", "notes", "k", "")
def test_the_short_cut_leads_where_the_long_way_does(
    server: Server, user: str, collection: str, key: str, rest: str
) -> None:
    path = DOCUMENT.format(user=user, collection=collection, key=key) + rest
    short = asked(server, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "_plain_document", re.compile("nothing").fullmatch)
        assert asked(server, path) == short
