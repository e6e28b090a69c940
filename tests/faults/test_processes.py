"""Whatever process of a node is killed: the others do the right thing, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import psutil

from roost.node import directory
from tests.support.server import Server, until

DOCUMENT = "/v1/users/ada/docs/preferences/ui"


def ended(process: psutil.Process) -> bool:
    """Whether a process is no more, but for its exit status."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_worker_that_is_killed_again_and_again_is_replaced(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        with server.client() as client:
            client.put(DOCUMENT, json=1)
        for _ in range(4):
            (worker,) = server.listening()
            psutil.Process(worker).kill()
            until(lambda: server.listening() not in ([], [worker]), what="another one listens")  # noqa: B023  # called at once
            with server.client() as client:
                assert client.get(DOCUMENT).json() == 1
        assert server.stop() == 0, server.log.read_text()


def test_a_worker_that_is_killed_leaves_the_others_at_work(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=2) as server:
        killed, other = server.listening()
        psutil.Process(killed).kill()
        until(lambda: killed not in server.listening() and len(server.listening()) == 2, what="two listen again")
        assert other in server.listening()
        files, allowed = psutil.Process(other).rlimit(psutil.RLIMIT_NOFILE)
        assert files >= min(allowed, 20_000)
        shared = Path(psutil.Process(other).environ()["PROMETHEUS_MULTIPROC_DIR"])
        assert shared.is_dir()
        assert server.stop() == 0
        assert not shared.exists()


def test_a_killed_server_leaves_nothing_and_starts_again_in_its_place(tmp_path: Path) -> None:
    with Server(tmp_path / "data", workers=2) as server:
        for value in range(2):
            with server.client() as client:
                assert client.put(DOCUMENT, json=value).status_code in {200, 201}
            started = psutil.Process(server.pid).children(recursive=True)
            metrics = directory.running(server.data).metrics
            assert metrics is not None
            assert Path(metrics).is_dir()
            address = server.url
            server.kill()
            until(lambda: all(ended(process) for process in started), what="nothing is left")  # noqa: B023  # called at once
            server.start()
            assert server.url == address
            assert not Path(metrics).exists()
            with server.client() as client:
                assert client.get(DOCUMENT).json() == value
        server.kill()
        server.start()  # at once, while the others still are about to end
        with server.client() as client:
            assert client.get(DOCUMENT).json() == 1
        server.verify()
