"""`prefix_end`, which turns a prefix into a range of an index."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roost.engines.postgres import prefix_end

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
edges = st.text(st.sampled_from("a\ud7ff\ue000\U0010ffff"), max_size=4)


@given(prefix=texts | edges, other=texts | edges, tail=texts | edges)
def test_the_range_holds_exactly_what_starts_with_the_prefix(prefix: str, other: str, tail: str) -> None:
    end = prefix_end(prefix)
    for text in (other, prefix + tail):
        in_range = text.encode() >= prefix.encode() and (end is None or text.encode() < end.encode())
        assert in_range == text.startswith(prefix)
