"""What tests of tokens start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from roost.core.issuers import Issuer
from roost.crypto.signing import SigningKeys
from tests.unit.authz.issuer import World


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    """Roost's own key."""
    return SigningKeys.load_or_create(tmp_path_factory.mktemp("data"))


@pytest.fixture
def world(own: SigningKeys) -> Callable[..., World]:
    """Makes an identity with one other issuer, set as given."""

    def build(*given: Issuer, **more: Any) -> World:
        return World(own, *given, **more)

    return build
