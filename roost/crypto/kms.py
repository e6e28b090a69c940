"""A keyring whose keys AWS KMS has sealed: the file alone opens nothing, and neither does the service without it.

KMS seals each key-encryption key once and opens it once a process, so no request waits for it. Credentials, region and
endpoint come from where the AWS SDK finds them everywhere (`AWS_…` variables, profiles, the machine's role).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roost.crypto.keyring import FileKeyring, KeyringError

TIMEOUT_S = 5
ATTEMPTS = 3


class AwsKeyring(FileKeyring):
    """A keyring in the file `path`, sealed by the key of KMS that has the id, ARN or alias `key`."""

    def __init__(self, key: str, path: Path) -> None:
        super().__init__(path)
        self._key = key
        self.sealed_by = f"awskms:{key}"
        try:
            import boto3  # noqa: PLC0415 (an extra, which takes half a second to load)
            from botocore.config import Config  # noqa: PLC0415
            from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        except ImportError as error:
            raise KeyringError("A keyring in AWS KMS needs the AWS SDK: install boto3.") from error
        self._errors = BotoCoreError, ClientError
        retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
        config = Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries=retries)
        try:
            self._client = boto3.client("kms", config=config)
        except self._errors as error:
            raise self._failed(error) from error

    @property
    def place(self) -> str:
        """The file, and what opens it."""
        return f"{self.path} ({self.sealed_by})"

    def _seal(self, kek: str, secret: bytes) -> bytes:
        answer = self._ask("encrypt", KeyId=self._key, Plaintext=secret, EncryptionContext=_context(kek))
        return bytes(answer["CiphertextBlob"])

    def _open(self, kek: str, sealed: bytes) -> bytes:
        answer = self._ask("decrypt", KeyId=self._key, CiphertextBlob=sealed, EncryptionContext=_context(kek))
        return bytes(answer["Plaintext"])

    def _ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except self._errors as error:
            raise self._failed(error) from error
        return answer

    def _failed(self, error: Exception) -> KeyringError:
        return KeyringError(f"AWS KMS does not serve the key {self._key} ({error}): see to its policy and the network.")


def _context(kek: str) -> dict[str, str]:
    """What is bound to the key: sealed as one, it opens as no other."""
    return {"roost": "keyring", "kek": kek}
