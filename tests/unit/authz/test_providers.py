"""The keys of other issuers: found, kept fresh, asked for when they are missing, and good while nobody answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from roost.authz import oidc
from roost.authz.oidc import CannotFetch
from roost.authz.principal import Principal
from roost.core.errors import Code, RoostError
from roost.core.issuers import Issuer
from tests.support.listener import Listener
from tests.support.tokens import made
from tests.unit.authz.issuer import AUDIENCE, DISCOVERY_URL, KEYS_URL, ONE, OTHER, TWO, URL, World, token


def test_keys_are_found_by_discovery(world: Callable[..., World]) -> None:
    given = world(Issuer(audience=AUDIENCE))
    assert given.authenticate(token()).id == "ada"
    assert given.web.asked == [DISCOVERY_URL, KEYS_URL]


@pytest.mark.parametrize(
    "page",
    [
        CannotFetch("no"),
        b"",
        b"<html>",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"x": ' + b"[" * 100_000,
        {"jwks_uri": KEYS_URL},
        {"issuer": URL},
        {"issuer": URL + "/", "jwks_uri": KEYS_URL},
        {"issuer": "https://evil.example", "jwks_uri": KEYS_URL},
        {"issuer": URL, "jwks_uri": "http://keys.example/keys"},
        {"issuer": URL, "jwks_uri": "file:///etc/passwd"},
        {"issuer": URL, "jwks_uri": "https://a@keys.example/keys"},
        {"issuer": URL, "jwks_uri": 7},
    ],
)
def test_a_discovery_document_that_is_wrong_leads_nowhere(world: Callable[..., World], page: Any) -> None:
    given = world(Issuer(audience=AUDIENCE))
    given.web.pages[DISCOVERY_URL] = json.dumps(page).encode() if isinstance(page, dict) else page
    given.refused(token(), Code.UNAVAILABLE)
    assert given.web.asked == [DISCOVERY_URL]


def test_a_new_key_is_asked_for_once_and_known_from_then_on(world: Callable[..., World]) -> None:
    given = world()
    given.authenticate(token())
    given.web.publish(ONE, TWO)
    given.elapsed += oidc.PAUSE_S
    for sub in ("ada", "bob", "cyd"):
        assert given.authenticate(token(TWO, sub=sub)).id == sub
    assert given.web.asked == [KEYS_URL] * 2


def test_many_tokens_by_unknown_keys_cause_few_questions(world: Callable[..., World]) -> None:
    given = world()
    given.authenticate(token())
    for number in range(20):
        assert "does not publish" in given.refused(token(made("ES256", f"unknown-{number}"))).detail
    assert given.web.asked == [KEYS_URL]
    given.web.publish(ONE, TWO)
    given.refused(token(TWO))
    given.elapsed += oidc.PAUSE_S
    given.authenticate(token(TWO))
    assert given.web.asked == [KEYS_URL] * 2


def test_tokens_that_arrive_together_ask_once(world: Callable[..., World]) -> None:
    given = world()

    async def together() -> None:
        given.web.wait = asyncio.Event()
        waiting = [asyncio.create_task(given.identity.authenticate(token(sub=f"user{n}"))) for n in range(20)]
        await given.web.questions(1)
        waiting[0].cancel()  # its client has gone; the others want the answer yet
        given.web.wait.set()
        arrived = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(arrived[0], asyncio.CancelledError)
        assert [principal.id for principal in arrived[1:] if isinstance(principal, Principal)] == [
            f"user{n}" for n in range(1, 20)
        ]

    asyncio.run(together())
    assert given.web.asked == [KEYS_URL]


def test_while_a_provider_is_away_known_keys_are_good_and_others_wait(world: Callable[..., World]) -> None:
    given = world()
    given.authenticate(token())
    given.web.publish(ONE, TWO)
    there, given.web.pages[KEYS_URL] = given.web.pages[KEYS_URL], CannotFetch("no route")
    given.elapsed += oidc.PAUSE_S
    with capture_logs() as logs:
        for _ in range(3):
            refusal = given.refused(token(TWO), Code.UNAVAILABLE)
            assert refusal.retry_after_s == oidc.PAUSE_S
            given.elapsed += oidc.PAUSE_S
    assert [entry["why"] for entry in logs] == ["CannotFetch('no route')"], "told again each time"
    given.refused(token(TWO), Code.UNAVAILABLE)
    assert given.authenticate(token(sub="bob")).id == "bob"
    given.refused(token(TWO), Code.UNAVAILABLE)
    assert len(given.web.asked) == 5, "asked again before the pause was over"
    given.refused(token(OTHER))
    given.web.pages[KEYS_URL] = there
    given.elapsed += oidc.PAUSE_S
    assert given.authenticate(token(TWO)).id == "ada"


@pytest.mark.parametrize("page", [b"", b"<html>", b"{}", b'{"keys": 7}', ValueError("never thought of")])
def test_what_is_no_key_set_takes_no_key_away(world: Callable[..., World], page: bytes | Exception) -> None:
    given = world()
    given.authenticate(token())
    given.web.pages[KEYS_URL] = page
    given.elapsed += oidc.PAUSE_S
    given.refused(token(TWO), Code.UNAVAILABLE)
    given.authenticate(token(sub="bob"))


def test_a_provider_that_hangs_is_given_up(world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "FETCH_S", 0.05)
    given = world()

    async def hang() -> None:
        given.web.wait = asyncio.Event()
        await given.identity.authenticate(token())

    with pytest.raises(RoostError) as refused:
        asyncio.run(hang())
    assert refused.value.code is Code.UNAVAILABLE
    given.web.wait = None
    given.elapsed += oidc.PAUSE_S
    given.authenticate(token())


def test_keys_are_kept_fresh_and_withdrawn_ones_are_forgotten_with_their_tokens(world: Callable[..., World]) -> None:
    given = world(refresh_s=0.001)
    two = token(TWO)

    async def live() -> None:
        keeping = asyncio.create_task(given.identity.keep())
        given.web.publish(ONE, TWO)
        await given.web.questions(2)
        assert (await given.identity.authenticate(token())).id == "ada"
        first = token()
        await given.identity.authenticate(first)
        await given.identity.authenticate(two)
        given.web.publish(TWO)
        await given.web.questions(2)
        for gone in (first, token(sub="bob")):
            with pytest.raises(RoostError, match="does not publish"):
                await given.identity.authenticate(gone)
        await given.identity.authenticate(two)
        keeping.cancel()

    asyncio.run(live())


def test_keeping_goes_on_while_the_provider_is_away(
    world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "PAUSE_S", 0.001)
    given = world()

    async def live() -> None:
        given.web.pages[KEYS_URL] = CannotFetch("no route")
        keeping = asyncio.create_task(given.identity.keep())
        await given.web.questions(3)
        given.web.publish(ONE)
        await given.web.questions(1)
        assert (await given.identity.authenticate(token())).id == "ada"
        keeping.cancel()

    asyncio.run(live())


def test_fetching_takes_what_is_there_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oidc, "FETCH_S", 60)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1]
        while (await reader.readline()).strip():
            pass
        plain = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
        big = b"x" * (oidc.FETCH_BYTES_MAX + 1)
        answers = {
            b"/good": plain,
            b"/moved": b"HTTP/1.1 302 Found\r\nlocation: /good\r\ncontent-length: 0\r\n\r\n",
            b"/gone": b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            b"/big": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(big), big),
            b"/endless": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n40001\r\n%b\r\n" % big,
            b"/short": b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
            b"/odd": b"\x00\x01\x02\r\n\r\n",
        }
        writer.write(answers[path])
        await writer.drain()

    async def fetch() -> None:
        async with Listener(serve) as listener:
            base = f"http://127.0.0.1:{listener.port}"
            assert await oidc.fetch(f"{base}/good") == b"{}"
            for path in ("moved", "gone", "big", "endless", "short", "odd"):
                with pytest.raises(CannotFetch):
                    await oidc.fetch(f"{base}/{path}")
        with pytest.raises(CannotFetch):
            await oidc.fetch(f"{base}/good")

    asyncio.run(fetch())
