"""What every folder of tests may use: a real server, shared by the tests of one process.

A test that shares the server uses users of its own, and leaves the server as it was. One that stops it, kills it,
or needs other settings, starts a `Server` for itself.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support.server import Server

# How long an example takes says more of the machine than of Roost.
settings.register_profile("roost", deadline=None)
settings.load_profile("roost")

# A shell that runs the suite in the background has it ignore Ctrl-C, and commands under test would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server") / "data", policies='{"payments":"cas"}') as server:
        yield server
