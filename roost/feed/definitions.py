"""What this node knows of the collections: their definitions, as the bulletin (`roost.feed.bulletin`) has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import structlog

from roost.core import definitions
from roost.core.definitions import RESERVED_POLICY, Definition
from roost.core.ids import DEFINITIONS, RESERVED_PREFIX
from roost.feed.bulletin import Bulletin
from roost.settings import Settings

log = structlog.get_logger(__name__)


class Definitions:
    """The definitions that this node decides by; until the bulletin was read, nothing may be decided.

    `check` and `until` are the bulletin's.
    """

    def __init__(self, bulletin: Bulletin, settings: Settings) -> None:
        self._settings = settings
        self._by_name: dict[str, Definition] = {}
        self.check = bulletin.check
        self.until = bulletin.until
        bulletin.subscribe(DEFINITIONS, self._learn)

    def policy_of(self, collection: str) -> str:
        """The conflict policy of a collection: as it is defined, else as the settings say."""
        if collection.startswith(RESERVED_PREFIX):
            return RESERVED_POLICY
        defined = self.of(collection)
        return defined.conflict if defined else self._settings.policy_of(collection)

    def queryable_of(self, collection: str) -> Sequence[str]:
        """The members of a collection's documents that are kept in clear."""
        defined = self.of(collection)
        return defined.queryable if defined else ()

    def of(self, collection: str) -> Definition | None:
        """What is defined of a collection; None where nothing is, and for Roost's own."""
        return self._by_name.get(collection)

    @property
    def defined(self) -> Mapping[str, Definition]:
        """All definitions, by the collection's name."""
        return self._by_name

    def _learn(self, changed: Mapping[str, bytes | None], *, anew: bool) -> None:
        if anew:
            self._by_name.clear()
        for name, value in changed.items():
            self._by_name.pop(name, None)
            if value is not None:
                try:
                    self._by_name[name] = definitions.decode(value)
                except msgspec.DecodeError:
                    # A newer node knows more policies than this one: the settings are the best guess that is left.
                    log.warning("a definition that this release does not understand", collection=name)
