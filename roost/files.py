"""Files that are replaced as a whole: private to their owner, and safe on disk before anybody relies on them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def draft(path: Path, content: bytes, *, locked: bool = False) -> Path:
    """A new file of mode 0600 beside `path`, safe on disk. Raises `OSError`.

    Whoever holds a lock against everybody else who writes `path` says so: then the draft's name is always the same,
    and what somebody who was killed has left, perhaps with secrets that had to go, is gone with the next one.
    """
    if locked:
        new = path.with_name(f".{path.name}.draft")
        new.unlink(missing_ok=True)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    else:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return new


def replace(path: Path, content: bytes, *, locked: bool = False) -> None:
    """Put a new file in the place of `path`; whoever reads meanwhile sees one or the other. As `draft`."""
    new = draft(path, content, locked=locked)
    try:
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make what was created, renamed or deleted in a folder last. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
