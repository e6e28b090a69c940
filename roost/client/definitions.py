"""What the client asks about what is defined of collections, as calls without I/O: see `roost.client.exchange`."""

from __future__ import annotations

from typing import Any

import msgspec

from roost.client.asking import JSON_BODY, Condition, checked, decoded, encode, idempotency, query_of, version_of
from roost.client.errors import NotFound, VersionConflict, refused_here
from roost.client.exchange import Answer, Ask, Call, Session, exchange
from roost.client.models import Collection, Members, Page
from roost.core import ids
from roost.core.definitions import Definition


class Collections:
    """Calls on what is defined of collections."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def page(self, after: str | None, limit: int | None) -> Call[Page[Collection]]:
        """One page of all that are defined, by name."""
        answer = yield from exchange(self._session, Ask("GET", "/v1/collections" + query_of(after=after, limit=limit)))
        return decoded(answer, Page[Collection])

    def get(self, name: str) -> Call[Collection | None]:
        """A collection, None where it is not defined."""
        answer = yield from self._found(name)
        return _collection(name, answer) if answer else None

    def define(self, name: str, told: Members, condition: Condition, idempotency_key: str | None) -> Call[Collection]:
        """Define a collection, or change what is told of its definition; again if somebody else does so meanwhile."""
        attempts = self._session.limits.conflicts
        while True:
            found = None if condition.absent or condition.version == 0 else (yield from self._found(name))
            # As the server has them: it may be newer, and know members that this client does not.
            known = decoded(found, dict[str, Any]) if found else {}
            members = {**known, **told}
            if "conflict" not in members:
                raise refused_here("invalid_request", f"{name} is not defined yet: say what its conflict policy is.")
            if condition == Condition():
                if found and _alike(members, known):
                    return _collection(name, found)
                expected = Condition(version=version_of(found) if found else 0)
            else:
                expected = condition
            headers = {**JSON_BODY, **expected.headers(), **idempotency(idempotency_key)}
            try:
                answer = yield from exchange(self._session, Ask("PUT", _path(name), headers, encode(members)))
            except VersionConflict:
                attempts -= 1
                if expected is condition or attempts <= 0:
                    raise
            else:
                return _collection(name, answer)

    def undefine(self, name: str, condition: Condition, idempotency_key: str | None) -> Call[None]:
        """Take a definition away."""
        headers = {**condition.headers(), **idempotency(idempotency_key)}
        yield from exchange(self._session, Ask("DELETE", _path(name), headers))

    def _found(self, name: str) -> Call[Answer | None]:
        try:
            return (yield from exchange(self._session, Ask("GET", _path(name))))
        except NotFound:
            return None


def _path(name: str) -> str:
    return f"/v1/collections/{checked(ids.check_collection, name)}"


def _collection(name: str, answer: Answer) -> Collection:
    definition = decoded(answer, Definition)
    return Collection(name, version_of(answer), **msgspec.structs.asdict(definition))


def _alike(some: dict[str, Any], others: dict[str, Any]) -> bool:
    """Whether two definitions say the same, one of them perhaps less explicitly."""
    try:
        return msgspec.convert(some, Definition) == msgspec.convert(others, Definition)
    except msgspec.ValidationError:
        return False  # for the server to judge
