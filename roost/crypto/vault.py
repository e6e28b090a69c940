"""The vault: users' keys, opened and at hand.

A key is loaded when one of its user's values is first met, together with those of everybody else in the same batch,
and stays for a while. What may be in memory is bounded, in number and in time, and what an erasure has destroyed is
evicted at once.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from time import monotonic
from typing import NamedTuple

import structlog

from roost.core.ids import SYSTEM_USER
from roost.core.keys import CLEAR, SHARED, SHARED_USER, Corrupt, Kek, Keys, KeyStore, TransactionKeys, UserKey
from roost.crypto import reseal
from roost.crypto.acts import Recorder, on_record, unrecorded
from roost.crypto.keks import Keks, Progress, no_progress
from roost.crypto.keyring import Keyring
from roost.crypto.seal import KEY_BYTES, NotSealed, Seal

log = structlog.get_logger(__name__)

KeyRef = tuple[str, int]
"""(user, generation)"""
Opened = dict[int, Seal | None]
"""A user's keys by generation; None for `CLEAR`, where the user is vouched for."""


class _Entry(NamedTuple):
    keys: Opened
    until: float


class Status(NamedTuple):
    """The KEKs with how many keys each wraps, and how many users have older keys than their newest."""

    keks: list[tuple[Kek, int]]
    outdated: int


class Vault:
    """The keys of one database, as one process has them. Every method raises what the store and the keyring raise.

    `record` puts changes of keys on record, each before it is made.
    """

    def __init__(
        self,
        store: KeyStore,
        keyring: Keyring,
        clock: Callable[[], datetime],
        *,
        users_max: int = 50_000,
        keep_s: float = 300.0,
        record: Recorder = unrecorded,
    ) -> None:
        self.keks = Keks(store, keyring, clock, keep_s=keep_s, record=record)
        self._store = store
        self._record = record
        self._users_max = users_max
        self._keep_s = keep_s
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._evictions = 0

    async def unlock(self, progress: Progress = no_progress) -> None:
        """See that the keyring opens this database, before anything is served; see `Keks.unlock`."""
        await self.keks.unlock(progress)

    async def derive(self, name: str, purpose: bytes) -> bytes:
        """A key of 32 bytes for something that is not a user's: of a name that has a `$` and no log.

        It is the same on every node, for as long as the database lives. Raises `Corrupt`.
        """
        if not name.startswith("$") or name == SYSTEM_USER:
            msg = f"{name!r} may have a log, whose key changes"
            raise ValueError(msg)
        return (await self._named(name, 1)).derive(purpose)

    async def shared(self) -> Seal:
        """What seals answers that belong to nobody: see `SHARED_USER`."""
        return await self._named(SHARED_USER, SHARED)

    def evict(self, user: str) -> None:
        """Forget a user's keys; also those that are just being loaded."""
        self._evictions += 1
        self._entries.pop(user, None)

    async def rotate_kek(self, progress: Progress = no_progress) -> str:
        """Put a new key-encryption key in the place of the old one, and destroy that; see `Keks.rotate`."""
        return await self.keks.rotate(progress)

    async def rotate_user(self, user: str, progress: Progress = no_progress) -> int:
        """Give a user a new key, by which everything is sealed from now on, and reseal what there is.

        Returns the key's generation. Raises `NOT_FOUND`, and `Corrupt`.
        """

        async def work() -> int:
            generation = await reseal.renew(self, self._store, user)
            await reseal.reseal(self, self._store, user, progress)
            return generation

        return await on_record(self._record, "rotate-user", work, user)

    async def reseal(self, progress: Progress = no_progress) -> int:
        """Seal by their newest keys all users' values that are not; returns of how many users.

        What cannot be opened is left as it is, and said in the log.
        """
        if not await self._store.outdated(None, 1):
            return 0
        return await on_record(self._record, "reseal", lambda: reseal.reseal_all(self, self._store, progress))

    async def status(self) -> Status:
        """How things stand."""
        keks = [(kek, await self._store.count(kek.kek)) for kek in await self._store.keks()]
        after, outdated = None, 0
        while users := await self._store.outdated(after, reseal.PAGE_USERS):
            after, outdated = users[-1], outdated + len(users)
        return Status(keks, outdated)

    async def seals(self, wanted: AbstractSet[KeyRef], rows: Keys) -> dict[KeyRef, Seal | None]:
        """Those of the wanted keys that there are; `rows` is asked for what is not at hand, once for all."""
        found: dict[KeyRef, Seal | None] = {}
        missing = set()
        for ref in wanted:
            try:
                found[ref] = self.at_hand(*ref)
            except KeyError:
                missing.add(ref[0])
        if missing:
            loaded = await self._load(sorted(missing), rows)
            found.update((ref, loaded[ref[0]][ref[1]]) for ref in wanted if ref[1] in loaded.get(ref[0], {}))
        return found

    def at_hand(self, user: str, generation: int) -> Seal | None:
        """A key that is in memory. Raises `KeyError`."""
        entry = self._entries[user]
        seal = entry.keys[generation]
        if entry.until < monotonic():
            raise KeyError
        self._entries.move_to_end(user)
        return seal

    async def newest(self, users: Iterable[str], keys: TransactionKeys) -> tuple[dict[str, Seal], dict[str, Seal]]:
        """What each of these users' values is to be sealed with; and of that, what was made just now.

        The latter is for `remember`, once the transaction is committed. Raises `Corrupt`.
        """
        seals: dict[str, Seal] = {}
        new, missing = [], set()
        for user in users:
            generation = keys.generations[user]
            if generation == CLEAR:
                new.append(user)
                continue
            try:
                seal = self.at_hand(user, generation)
            except KeyError:
                seal = None
            if seal is None:
                missing.add((user, generation))
            else:
                seals[user] = seal
        made = await self.add(sorted(new), 1, keys) if new else {}
        found = await self.seals(missing, keys) if missing else {}
        for user, generation in missing:
            seal = found.get((user, generation))
            if seal is None:
                raise Corrupt(user, f"generation {generation} of the key")
            seals[user] = seal
        return seals | made, made

    async def add(self, users: list[str], generation: int, keys: TransactionKeys) -> dict[str, Seal]:
        """Make and add the users' keys of this generation."""
        made = {user: secrets.token_bytes(KEY_BYTES) for user in users}
        while True:
            wrap = await self.keks.current()
            rows = [
                UserKey(user, generation, wrap.kek, wrap.wrap(secret, user, generation))
                for user, secret in made.items()
            ]
            if await keys.add(rows):
                return {user: Seal(user, generation, secret) for user, secret in made.items()}
            self.keks.outdated()

    def remember(self, made: dict[str, Seal], generation: int = 1) -> None:
        """Keep at hand the keys that users have been given, now that this is committed."""
        for user, seal in made.items():
            self._keep(user, {generation: seal})

    async def _named(self, name: str, generation: int) -> Seal:
        """The key of a name that has no log, made where there is none."""
        ref = name, generation
        found = await self.seals({ref}, self._store)
        while not found and not await self._store.load([name]):
            wrap = await self.keks.current()
            secret = secrets.token_bytes(KEY_BYTES)
            if not await self._store.add([UserKey(*ref, wrap.kek, wrap.wrap(secret, *ref))]):
                self.keks.outdated()
        seal = (found or await self.seals({ref}, self._store)).get(ref)
        if seal is None:
            raise Corrupt(name, "its key")
        return seal

    async def _load(self, users: list[str], rows: Keys) -> dict[str, Opened]:
        evictions = self._evictions
        opened, lacking = await self._open(await rows.load(users))
        if lacking:
            # Its KEK may have been changed between the row and the keyring: then the row is another by now.
            again, lacking = await self._open(await rows.load(sorted(lacking)))
            opened |= again
        for user in lacking:
            log.error("the keyring lacks the key that a user's key is wrapped with", user=user)
        if self._evictions == evictions:
            for user, keys in opened.items():
                self._keep(user, keys)
        return opened

    async def _open(self, rows: list[UserKey]) -> tuple[dict[str, Opened], set[str]]:
        """The keys in these rows, and whose KEKs the keyring lacks."""
        opened: dict[str, Opened] = {}
        lacking = set()
        for user, generation, kek, wrapped in rows:
            wrap = await self.keks.wrap(kek)
            if wrap is None:
                lacking.add(user)
                continue
            try:
                secret = wrap.unwrap(wrapped, user, generation)
                seal = None if generation == CLEAR else Seal(user, generation, secret)
            except (NotSealed, ValueError):
                log.exception("a key cannot be opened", user=user, generation=generation)
            else:
                opened.setdefault(user, {})[generation] = seal
        return opened, lacking

    def _keep(self, user: str, keys: Opened) -> None:
        now = monotonic()
        self._entries[user] = _Entry(keys, now + self._keep_s)
        self._entries.move_to_end(user)
        # The first is who was asked for the longest ago.
        while self._entries and (
            len(self._entries) > self._users_max or next(iter(self._entries.values())).until < now
        ):
            self._entries.popitem(last=False)
