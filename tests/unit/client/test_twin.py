"""The two surfaces are one."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from roost import client
from roost.client import errors
from roost.core.errors import Code
from tests.unit.client.twin import CLIENT, translate

PAIRS = [
    (client.Client, client.SyncClient),
    (client.User, client.SyncUser),
    (client.Docs, client.SyncDocs),
    (client.Batch, client.SyncBatch),
]


def test_sync_is_aio_without_the_waiting() -> None:
    made = translate((CLIENT / "aio.py").read_text())
    assert (CLIENT / "sync.py").read_text() == made, "run: python tests/unit/client/twin.py"


@pytest.mark.parametrize(("aio", "sync"), PAIRS)
def test_both_have_the_same_signatures(aio: type, sync: type) -> None:
    assert surface(aio) == surface(sync)


def surface(kind: type) -> dict[str, Any]:
    found = {}
    for name, member in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") or name == "__init__":
            parameters = inspect.signature(member).parameters.values()
            found[name] = [
                # `http` is the one thing that has to differ in type.
                (p.name, p.kind, p.default, p.name != "http" and str(p.annotation).replace("Sync", "Async"))
                for p in parameters
                if p.name != "carry"
            ]
    return found


def test_every_error_of_the_tree_is_drawn_and_reachable() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.RoostError)
    }
    drawn = (errors.__doc__ or "").partition("`Unavailable` is")[0]
    for name, kind in classes.items():
        (row,) = [row for row in drawn.splitlines() if row.strip("│├└─ ").split(" ")[0] == name]
        depth = len(kind.__mro__) - len(errors.RoostError.__mro__)
        assert row.index(name) == 4 * (depth + 1), f"{name} is drawn at another depth than it has"
        assert getattr(client, name) is kind


def test_every_code_of_the_contract_has_its_class() -> None:
    # These two are answers to requests that this client never sends; `internal` is the root of the tree.
    without = {Code.METHOD_NOT_ALLOWED, Code.UNSUPPORTED_MEDIA_TYPE, Code.INTERNAL}
    assert {str(code) for code in Code} - without == set(errors._BY_CODE)
