"""What a node decides by: the definitions of collections, as the bulletin has them, and else the settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from roost.core.ids import DEFINITIONS, INBOX, SYSTEM_USER
from roost.engines.memory import Memory
from roost.feed.bulletin import Bulletin
from roost.feed.definitions import Definitions
from roost.feed.hub import Hub
from roost.settings import Settings
from tests.contract.writing import Write, write

SETTINGS = Settings(policies={"payments": "cas"}, default_policy="merge")


def policies(*defined: tuple[str, bytes | None]) -> Callable[[str], str]:
    """The conflict policy of a collection, once these were defined, and read in two steps."""

    async def go() -> Definitions:
        engine = Memory()
        await engine.open()
        bulletin = Bulletin(engine, Hub(1), timeout_s=5)
        definitions = Definitions(bulletin, SETTINGS)
        await bulletin.read()
        for name, value in defined:
            await write(engine, Write(SYSTEM_USER, DEFINITIONS, name, value))
            await bulletin.read()
        return definitions

    return asyncio.run(go()).policy_of


def test_the_settings_say_what_is_not_defined() -> None:
    policy_of = policies()
    assert [policy_of(name) for name in ("payments", "anything", INBOX)] == ["cas", "merge", "lww"]


def test_a_definition_comes_before_the_settings_until_it_is_taken_away() -> None:
    assert policies(("payments", b'{"conflict":"siblings"}'))("payments") == "siblings"
    assert policies(("payments", b'{"conflict":"siblings"}'), ("payments", None))("payments") == "cas"


def test_definitions_of_a_newer_release_are_understood_as_far_as_possible() -> None:
    policy_of = policies(
        ("carts", b'{"conflict":"cas","retention":"P1Y"}'),
        ("notes", b'{"conflict":"siblings"}'),
        ("notes", b'{"conflict":"consensus"}'),
    )
    assert (policy_of("carts"), policy_of("notes")) == ("cas", "merge")
