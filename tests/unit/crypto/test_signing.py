"""The signing key: made once, kept close, and refused where others could read it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from roost.crypto import signing
from roost.crypto.signing import FILE_NAME, BadSignature, SigningKey, SigningKeyError


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    first = SigningKey.load_or_create(data)
    again = SigningKey.load_or_create(data)
    assert again.kid == first.kid
    assert again.open(first.sign({"a": 1})) == b'{"a":1}'
    assert [path.name for path in data.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_its_owner_can_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        SigningKey.load_or_create(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    SigningKey.load_or_create(tmp_path)
    path = tmp_path / FILE_NAME
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match=rf"mode 0{mode:o}.*chmod 600") as refused:
        SigningKey.load_or_create(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"kty":"oct","k":"AA"}', '{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}', '{"kty":1}'],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SigningKeyError, match="is not a") as refused:
        SigningKey.load_or_create(tmp_path)
    assert "\n" not in str(refused.value)
    assert path.read_text() == text


def test_a_public_key_alone_is_refused(tmp_path: Path) -> None:
    SigningKey.load_or_create(tmp_path)
    path = tmp_path / FILE_NAME
    jwk = json.loads(path.read_text())
    del jwk["d"]
    path.write_text(json.dumps(jwk))
    with pytest.raises(SigningKeyError, match="not a private Ed25519 key"):
        SigningKey.load_or_create(tmp_path)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SigningKeyError, match=r"file/signing_key\.json cannot be used"):
        SigningKey.load_or_create(tmp_path / "file")


def test_whoever_comes_second_takes_the_key_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = signing._create
    first: list[str] = []

    def create_second(path: Path) -> None:
        # Another worker has seen no key either, and is done before this one begins.
        monkeypatch.setattr(signing, "_create", create)
        first.append(SigningKey.load_or_create(path.parent).kid)
        create(path)

    monkeypatch.setattr(signing, "_create", create_second)
    assert SigningKey.load_or_create(tmp_path).kid == first[0]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SigningKeyError, match="No space left"):
        SigningKey.load_or_create(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_keys_signature_is_bad(tmp_path: Path) -> None:
    one, other = SigningKey.load_or_create(tmp_path / "a"), SigningKey.load_or_create(tmp_path / "b")
    with pytest.raises(BadSignature):
        one.open(other.sign({}))
