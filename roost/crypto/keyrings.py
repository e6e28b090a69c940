"""Which keyring a setting means."""

from __future__ import annotations

from pathlib import Path

from roost.crypto.keyring import FILE_NAME, FileKeyring, KeyringError
from roost.crypto.kms import AwsKeyring

NONE = "none"
"""The setting that says that nothing is to be sealed."""


def path_of(setting: str, data: Path) -> Path:
    """The file of the keyring that a setting means, in the data directory unless it says where; as if for NONE."""
    _, _, path = setting.rpartition("file:")
    return Path(path) if "file:" in setting else data / FILE_NAME


def keyring_of(setting: str, data: Path) -> FileKeyring | None:
    """The keyring that a setting means; None for NONE. Raises `KeyringError`.

    `file:PATH`; `awskms:KEY` or `awskms:KEY,file:PATH`, with the id, ARN or alias of a key of AWS KMS.
    """
    path = path_of(setting, data)
    if setting == NONE:
        return None
    if setting in ("", "file") or setting.startswith("file:"):
        return FileKeyring(path)
    if setting.startswith("awskms:"):
        return AwsKeyring(setting.removeprefix("awskms:").partition(",file:")[0], path)
    raise KeyringError(f"{setting!r} is no keyring: set ROOST_KEYRING to file:PATH, awskms:KEY or none.")
