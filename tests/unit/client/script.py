"""A server that says what a test wants: answers a `Call` step by step, with a clock that only pauses move."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from roost.client.errors import RoostError
from roost.client.exchange import Answer, Apart, Call, Limits, Lost, Pause, Request, Session

T = TypeVar("T")

WRITTEN = {"etag": '"7"', "roost-seq": "7", "last-modified": "Sun, 22 Nov 2026 10:00:00 GMT"}


class Script:
    """Plays `outcomes` in order; `sent` and `pauses` say what the call did."""

    def __init__(self, *outcomes: Answer | Lost, took_s: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[Request] = []
        self.pauses: list[float] = []
        self.now = 1000.0
        self.took_s = took_s

    def session(self, token: object = "t", limits: Limits | None = None, chance: float = 1.0) -> Session:
        return Session(
            "http://h/base/",
            token,  # type: ignore[arg-type]
            limits or Limits(),
            clock=lambda: self.now,
            chance=lambda: chance,
        )

    def play(self, call: Call[T]) -> T:
        back: Answer | Lost | RoostError | None = None
        while True:
            try:
                todo = call.send(back)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(todo, Pause):
                self.pauses.append(todo.seconds)
                self.now += todo.seconds
                back = None
            elif isinstance(todo, Apart):
                back = self._aside(todo.call)
            else:
                self.sent.append(todo)
                self.now += self.took_s
                back = self.answer(todo)

    def answer(self, request: Request) -> Answer | Lost:
        """What comes of a request."""
        return self.outcomes.pop(0)

    def _aside(self, call: Call[None]) -> RoostError | None:
        try:
            self.play(call)
        except RoostError as error:
            return error
        return None


def ok(body: object = None, status: int = 200, **headers: str) -> Answer:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {**WRITTEN, **given}, msgspec.json.encode(body))


def problem(status: int, code: str, *, headers: dict[str, str] | None = None, **more: object) -> Answer:
    body = {"type": "x", "title": "T", "status": status, "code": code, "detail": "D.", "request_id": "r1", **more}
    return Answer(status, headers or {}, msgspec.json.encode(body))
