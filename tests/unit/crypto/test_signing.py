"""The signing keys: made once, kept close, refused where others could read them, and rotated without harm."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from roost.crypto import signing
from roost.crypto.signing import FILE_NAME, BadSignature, SigningKeyError, SigningKeys


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    data = tmp_path / "new" / "data"
    first = SigningKeys.load_or_create(data)
    again = SigningKeys.load_or_create(data)
    assert again.kid == first.kid
    assert again.open(first.sign({"a": 1})) == b'{"a":1}'
    assert [path.name for path in data.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_its_owner_can_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        SigningKeys.load_or_create(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    SigningKeys.load_or_create(tmp_path)
    path = tmp_path / FILE_NAME
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match=rf"mode 0{mode:o}.*chmod 600") as refused:
        SigningKeys.load_or_create(tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"keys":[]}',
        '{"keys":{}}',
        '{"keys":[1]}',
        '{"keys":[{"kty":"oct","k":"AA"}]}',
        '{"kty":"oct","k":"AA"}',
        '{"kty":"OKP","crv":"Ed25519","x":"AA","d":"AA"}',
        '{"kty":1}',
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SigningKeyError, match="is not a") as refused:
        SigningKeys.load_or_create(tmp_path)
    assert "\n" not in str(refused.value)
    assert path.read_text() == text


def test_a_public_key_alone_is_refused(tmp_path: Path) -> None:
    SigningKeys.load_or_create(tmp_path)
    path = tmp_path / FILE_NAME
    held = json.loads(path.read_text())
    del held["keys"][0]["d"]
    path.write_text(json.dumps(held))
    with pytest.raises(SigningKeyError, match="not a private Ed25519 key"):
        SigningKeys.load_or_create(tmp_path)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SigningKeyError, match=r"file/signing_key\.json cannot be used"):
        SigningKeys.load_or_create(tmp_path / "file")


def test_whoever_comes_second_takes_the_key_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = signing._create
    first: list[str] = []

    def create_second(path: Path) -> None:
        # Another worker has seen no key either, and is done before this one begins.
        monkeypatch.setattr(signing, "_create", create)
        first.append(SigningKeys.load_or_create(path.parent).kid)
        create(path)

    monkeypatch.setattr(signing, "_create", create_second)
    assert SigningKeys.load_or_create(tmp_path).kid == first[0]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SigningKeyError, match="No space left"):
        SigningKeys.load_or_create(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_keys_signature_is_bad(tmp_path: Path) -> None:
    one, other = SigningKeys.load_or_create(tmp_path / "a"), SigningKeys.load_or_create(tmp_path / "b")
    with pytest.raises(BadSignature):
        one.open(other.sign({}))


OLD = (
    '{"crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",'
    '"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","kty":"OKP"}'
)


def test_what_one_key_was_kept_as_is_read_and_rotated(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(OLD)
    path.chmod(0o600)
    keys = SigningKeys.load_or_create(tmp_path)
    assert keys.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"  # RFC 8037, A.3
    token = keys.sign({"a": 1})
    assert keys.rotate(1_000, 10) == 1
    assert keys.open(token) == b'{"a":1}'


def test_a_new_key_signs_and_the_old_one_is_known_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = SigningKeys.load_or_create(tmp_path), SigningKeys.load_or_create(tmp_path)
    before, generation = here.sign({"a": 1}), there.generation
    here.rotate(1_000, 10)
    after = here.sign({"a": 2})
    assert here.kid != before.split(".")[0]
    # Whoever shares the file and meets the new key looks at once, though it has looked just now.
    assert there.open(after) == b'{"a":2}'
    assert there.open(before) == b'{"a":1}'
    assert there.generation != generation
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    # And signs with it, once it looks by itself.
    monkeypatch.setattr(signing, "LOOK_S", 0.0)
    assert there.kid == here.kid


def test_keys_are_dropped_once_they_have_not_signed_for_long(tmp_path: Path) -> None:
    keys = SigningKeys.load_or_create(tmp_path)
    tokens = []
    for now in (1_000, 1_100, 1_200):
        tokens.append(keys.sign({"now": now}))
        keys.rotate(now, 150)
    with pytest.raises(BadSignature):
        keys.open(tokens[0])  # signed until 1000
    assert keys.open(tokens[1]) == b'{"now":1100}'
    assert keys.open(tokens[2]) == b'{"now":1200}'
    keys.rotate(1_200, 0)  # a stolen key: none is to be good any more
    for token in tokens:
        with pytest.raises(BadSignature):
            keys.open(token)


def test_others_refuse_a_dropped_key_too(tmp_path: Path) -> None:
    here, there = SigningKeys.load_or_create(tmp_path), SigningKeys.load_or_create(tmp_path)
    token = there.sign({})
    here.rotate(1_000, 0)
    there._looked = 0.0  # its moment has passed
    with pytest.raises(BadSignature):
        there.open(token)


def test_rotations_at_once_lose_no_key(tmp_path: Path) -> None:
    keys = [SigningKeys.load_or_create(tmp_path) for _ in range(8)]
    tokens = [each.sign({}) for each in keys]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: each.rotate(1_000, 10), keys))
    fresh = SigningKeys.load_or_create(tmp_path)
    assert len(fresh.public()["keys"]) == 9
    for token in tokens + [each.sign({}) for each in keys]:
        fresh.open(token)


def test_a_rotation_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = SigningKeys.load_or_create(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SigningKeyError, match="No space left"):
        keys.rotate(1_000, 10)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_that_was_spoilt_meanwhile_changes_nothing(tmp_path: Path) -> None:
    keys = SigningKeys.load_or_create(tmp_path)
    token = keys.sign({})
    (tmp_path / FILE_NAME).write_text("{")
    keys._looked = 0.0
    assert keys.open(token) == b"{}"


def test_what_is_published_verifies_and_signs_nothing(tmp_path: Path) -> None:
    keys = SigningKeys.load_or_create(tmp_path)
    keys.rotate(1_000, 10)
    (newest, oldest) = keys.public()["keys"]
    assert newest["kid"] == keys.kid != oldest["kid"]
    for key in (newest, oldest):
        assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "\u00e9.a.b", "e30.e30.", "eyJraWQiOjF9.e30.AA", "eyJraWQiOltdfQ.e30.AA"]
)
def test_what_is_no_token_is_bad(tmp_path: Path, token: str) -> None:
    with pytest.raises(BadSignature):
        SigningKeys.load_or_create(tmp_path).open(token)
