"""An import under a kill at any request: what is in, is in once, and the state never says more than that."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.cli import importer
from roost.cli.importer import BadLine, Changed, Import, ImportState, Reader
from roost.client import Client, Forbidden, Limits

FRESH = ImportState(id="i", url="http://h", logs=False)


class Killed(Exception):
    """The process ends here."""


class FakeServer:
    """Applies batches, all or none, once for each idempotency key; refuses what a value asks it to."""

    def __init__(self) -> None:
        self.applied: list[tuple[str, str, int]] = []
        self.answers: dict[str, httpx.Response] = {}
        self.requests = 0
        self.kill_at = -1

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        user = request.url.path.split("/")[3]
        ops = json.loads(request.content)["ops"]
        key = request.headers["idempotency-key"]
        answer = self.answers.get(key) or self.answers.setdefault(key, self._apply(user, ops))
        if self.requests == self.kill_at:
            raise Killed
        return httpx.Response(answer.status_code, content=answer.content)

    def _apply(self, user: str, ops: list[dict[str, Any]]) -> httpx.Response:
        for index, op in enumerate(ops):
            if op["value"] == "too large":
                return self._refuse(413, "too_large", f"/ops/{index}")
            if op["value"] == "forbidden":
                return self._refuse(403, "forbidden", None)
        self.applied += [(user, op["key"], op["value"]) for op in ops]
        return httpx.Response(200, json={"seq": len(self.applied), "results": []})

    def _refuse(self, status: int, code: str, pointer: str | None) -> httpx.Response:
        errors = [] if pointer is None else [{"pointer": pointer, "message": "no"}]
        return httpx.Response(status, json={"code": code, "detail": "No.", "errors": errors})


def text_of(items: list[tuple[int, int, Any]]) -> bytes:
    """Lines of (user, key, value); a user under 0 makes a line that is no document."""
    lines = [
        json.dumps({"user": f"u{user}", "collection": "a", "key": f"k{key}", "value": value}) if user >= 0 else "{"
        for user, key, value in items
    ]
    return "".join(line + "\n" for line in lines).encode()


class Outcome(NamedTuple):
    """How an import ended: every state that it saved, the lines it left out, and why it stopped, if it did."""

    saved: list[ImportState]
    left_out: list[int]
    error: Exception | None


def run(
    server: FakeServer, text: bytes, state: ImportState = FRESH, *, skip: bool = False, concurrency: int = 3
) -> Outcome:
    """Import with chunks of at most three lines."""
    outcome = Outcome([state], [], None)

    async def main() -> Exception | None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(server)) as http:
            client = Client("http://h", limits=Limits(attempts=1), http=http)
            work = Import(
                client,
                state,
                skip=skip,
                report=lambda error: outcome.left_out.append(error.line),
                saved=outcome.saved.append,
            )
            try:
                await work.run(Reader(io.BytesIO(text), state, work.bad), concurrency=concurrency)
            except Exception as error:  # noqa: BLE001  # whatever it is, the test says what it should be
                return error
            finally:
                outcome.saved.append(work.state)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "CHUNK_DOCUMENTS", 3)
        return outcome._replace(error=asyncio.run(main()))


@given(
    rows=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2)), max_size=30),
    concurrency=st.integers(1, 4),
    kills=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=3),
)
def test_every_line_is_applied_once_wherever_it_is_killed(
    rows: list[tuple[int, int]], concurrency: int, kills: list[tuple[int, int]]
) -> None:
    items = [(user, key, number) for number, (user, key) in enumerate(rows)]
    text = text_of(items)
    server = FakeServer()
    state = FRESH
    for kill_at, kept in kills:
        server.requests, server.kill_at = 0, kill_at
        saved = run(server, text, state, skip=True, concurrency=concurrency).saved
        # The file may hold any state that was saved until then: the last ones are not on disk yet.
        state = saved[min(kept, len(saved) - 1)]
    server.kill_at = -1
    assert run(server, text, state, skip=True, concurrency=concurrency).error is None
    good = [(f"u{user}", f"k{key}", number) for user, key, number in items if user >= 0]
    assert Counter(server.applied) == Counter(good)
    last = {(user, key): value for user, key, value in good}
    assert {(user, key): value for user, key, value in server.applied} == last


@given(rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=25), concurrency=st.integers(1, 4))
def test_it_stops_at_the_first_refused_line_with_all_before_it_in_and_goes_on_once_that_is_mended(
    rows: list[tuple[int, bool]], concurrency: int
) -> None:
    items: list[tuple[int, int, Any]] = [
        (user, number, "too large" if bad else number) for number, (user, bad) in enumerate(rows)
    ]
    server = FakeServer()
    state = FRESH
    for number, (user, bad) in enumerate(rows):
        if bad:
            stopped = run(server, text_of(items), state, concurrency=concurrency)
            assert isinstance(stopped.error, BadLine)
            assert stopped.error.line == number + 1
            state = stopped.saved[-1]
            assert state.lines <= number
            assert {key for _, key, _ in server.applied} >= {f"k{before}" for before in range(number)}
            items[number] = (user, number, number)
    assert run(server, text_of(items), state, concurrency=concurrency).error is None
    assert Counter(value for _, _, value in server.applied) == Counter(range(len(rows)))


@given(rows=st.lists(st.tuples(st.integers(-1, 3), st.booleans()), max_size=25), concurrency=st.integers(1, 4))
def test_what_is_refused_is_left_out_and_told_by_number(rows: list[tuple[int, bool]], concurrency: int) -> None:
    items = [(user, number, "too large" if bad else number) for number, (user, bad) in enumerate(rows)]
    server = FakeServer()
    outcome = run(server, text_of(items), skip=True, concurrency=concurrency)
    wrong = {number + 1 for number, (user, bad) in enumerate(rows) if bad or user < 0}
    assert (outcome.error, sorted(outcome.left_out)) == (None, sorted(wrong))
    assert {value + 1 for _, _, value in server.applied} == set(range(1, len(rows) + 1)) - wrong


def test_a_refusal_that_no_line_is_to_blame_for_ends_it_even_where_lines_may_be_left_out() -> None:
    items = [(user, 0, "forbidden" if user == 1 else user) for user in range(4)]
    outcome = run(FakeServer(), text_of(items), skip=True)
    assert isinstance(outcome.error, Forbidden)
    assert outcome.left_out == []
    assert outcome.saved[-1].lines <= 1


def test_a_file_that_changed_before_the_state_is_refused() -> None:
    server = FakeServer()
    text = text_of([(user, 0, user) for user in range(4)])
    state = run(server, text).saved[-1]
    assert (state.size, state.lines) == (len(text), 4)
    assert run(server, text + text_of([(9, 0, 9)]), state).error is None
    assert isinstance(run(server, text.replace(b"u0", b"u7"), state).error, Changed)
    assert isinstance(run(server, text[:-1], state).error, Changed)
    assert len(server.applied) == 5


def test_a_line_of_any_length_is_counted_right() -> None:
    server = FakeServer()
    huge = b'"' + b"x" * (2 * importer.LINE_BYTES_MAX) + b'"\n'
    text = text_of([(0, 0, 0)]) + huge + text_of([(1, 0, 1)]) + huge[:-1]
    outcome = run(server, text, skip=True)
    assert (outcome.error, outcome.left_out) == (None, [2, 4])
    assert sorted(value for _, _, value in server.applied) == [0, 1]
