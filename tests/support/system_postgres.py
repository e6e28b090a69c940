"""The PostgreSQL of the machine's own packages, which, unlike the embedded one, speaks TLS."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from roost.node.port import reserve

PLACES = Path("/usr/lib/postgresql")
"""Where Debian puts each major version."""
ACCOUNT = "postgres"
PASSWORD = "open-sesame"  # of a database that is gone after the test
READY_S = 30


def programs() -> Path:
    """The newest that is installed; skips the test where none is."""
    found = [path.parent for path in PLACES.glob("*/bin/initdb")]
    if not found:
        pytest.skip("no PostgreSQL with TLS here (on Debian: apt install postgresql)")
    return max(found, key=lambda path: int(path.parent.name))


@contextmanager
def running(certificate: tuple[Path, Path], authority: Path, *, asks_for_certificates: bool = False) -> Iterator[str]:
    """Run it with that certificate; gives the URL of its database, without a query.

    It refuses all that is not TLS, and `asks_for_certificates` of `authority` that name the user.
    """
    there = programs()
    # What pytest makes is root's alone, and as root PostgreSQL never runs.
    with tempfile.TemporaryDirectory(prefix="roost-tls-") as made, reserve("127.0.0.1", 0).reservation as reserved:
        folder, port = Path(made), reserved.getsockname()[1]
        folder.chmod(0o755)
        data, log, password = folder / "data", folder / "log", folder / "password"
        data.mkdir()
        log.touch()
        password.write_text(PASSWORD)
        files = {"cert": certificate[0], "key": certificate[1], "ca": authority}
        for name, file in files.items():
            files[name] = Path(shutil.copyfile(file, folder / name))
        for path in (data, log, password, *files.values()):
            own(path)
        run(there / "initdb", "--pgdata", data, "--username=roost", f"--pwfile={password}", "--no-sync")
        asked = "clientcert=verify-full" if asks_for_certificates else ""
        (data / "pg_hba.conf").write_text(f"hostssl all roost 127.0.0.1/32 scram-sha-256 {asked}\n")
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "ssl": "on", "fsync": "off"}
        settings |= {f"ssl_{name}_file": str(file) for name, file in files.items()}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        reserved.close()
        start = (there / "pg_ctl", "start", "--wait", f"--timeout={READY_S}", "--pgdata", data, "--log", log)
        try:
            run(*start, "--options", f"-p {port} {options}")
        except subprocess.CalledProcessError:
            raise AssertionError(log.read_text()) from None
        try:
            yield f"postgresql://roost:{PASSWORD}@localhost:{port}/postgres"
        finally:
            run(there / "pg_ctl", "stop", "--mode=fast", "--pgdata", data)


def own(path: Path) -> None:
    """Give something to the account that PostgreSQL runs as."""
    path.chmod(0o700 if path.is_dir() else 0o600)
    if os.geteuid() == 0:
        shutil.chown(path, ACCOUNT)


def run(*command: str | Path) -> None:
    """Run one of PostgreSQL's programs as that account."""
    account = ACCOUNT if os.geteuid() == 0 else None
    subprocess.run(command, check=True, timeout=2 * READY_S, stdout=subprocess.DEVNULL, cwd="/", user=account)
