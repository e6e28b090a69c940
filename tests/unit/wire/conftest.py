"""The HTTP door with a gate that does as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.wire.support import Server


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture
def server(keys: Path) -> Server:
    return Server(keys)
