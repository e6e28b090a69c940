"""A worker's end: whoever is connected is told why, before the process is gone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from roost.app import App
from roost.settings import Settings

LAST_WORDS_S = 0.2
"""Longer than everything else takes that a worker without connections does at its end."""


def test_a_worker_that_stops_waits_for_the_last_words_of_its_sockets(tmp_path: Path) -> None:
    told: list[str] = []

    async def go() -> None:
        app = App(Settings(engine="memory:", data=tmp_path))
        begun, end = asyncio.Event(), asyncio.Event()
        asked = iter((None, end))

        async def receive() -> dict[str, Any]:
            if (wanted := next(asked)) is not None:
                await wanted.wait()
            return {}

        async def send(message: dict[str, Any]) -> None:
            told.append(message["type"])
            begun.set()

        async def conversation() -> None:
            with app._hub.follow("ada") as follower:
                while not follower.released:
                    await follower.wait(0, None)
            await asyncio.sleep(LAST_WORDS_S)
            told.append("why it ends")

        living = asyncio.ensure_future(app({"type": "lifespan"}, receive, send))  # type: ignore[arg-type]
        await begun.wait()
        app._sockets.add(asyncio.create_task(conversation()))
        await asyncio.sleep(0)
        end.set()
        await living

    asyncio.run(go())
    assert told == ["lifespan.startup.complete", "why it ends", "lifespan.shutdown.complete"]
