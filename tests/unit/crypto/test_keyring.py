"""The keyring: one file, whole at all times, for its owner alone; or sealed by a key management service."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from roost.crypto.keyring import FileKeyring, Keyring, KeyringError, MemoryKeyring
from roost.crypto.keyrings import keyring_of, path_of
from roost.crypto.kms import AwsKeyring


@pytest.fixture(params=["file", "memory"])
def keyring(request: pytest.FixtureRequest, tmp_path: Path) -> Keyring:
    return FileKeyring(tmp_path / "new" / "keyring.json") if request.param == "file" else MemoryKeyring()


def test_keys_are_made_found_and_destroyed(keyring: Keyring) -> None:
    assert (keyring.ids, keyring.current, keyring.get("none")) == ([], None, None)
    keks = [keyring.add() for _ in range(3)]
    assert keyring.ids == keks
    assert keyring.current == keks[-1]
    found = [keyring.get(kek) for kek in keks]
    assert len(set(found)) == 3
    assert {len(secret or b"") for secret in found} == {32}
    keyring.destroy(keks[1])
    keyring.destroy(keks[1])
    assert [keyring.get(kek) for kek in keks] == [found[0], None, found[2]]


def test_another_process_finds_them_at_once(tmp_path: Path) -> None:
    one, other = FileKeyring(tmp_path / "k.json"), FileKeyring(tmp_path / "k.json")
    kek = one.add()
    assert other.get(kek) == one.get(kek)
    other.destroy(kek)
    assert one.get(kek) is None


def test_a_destroyed_key_is_nowhere_in_the_folder(tmp_path: Path) -> None:
    keyring = FileKeyring(tmp_path / "k.json")
    kek = keyring.add()
    text = json.loads(keyring.path.read_text())["keys"][0]["secret"]
    keyring.add()
    keyring.destroy(kek)
    assert not [path for path in tmp_path.iterdir() if text in path.read_text()]


def test_a_destroyed_key_is_not_in_what_a_killed_process_left(tmp_path: Path) -> None:
    keyring = FileKeyring(tmp_path / "k.json")
    kek = keyring.add()
    text = json.loads(keyring.path.read_text())["keys"][0]["secret"]
    killed = (
        "import os, sys; from pathlib import Path; from roost.crypto.keyring import FileKeyring;"
        "os.fsync = lambda _: os.kill(os.getpid(), 9); FileKeyring(Path(sys.argv[1])).add()"
    )
    assert subprocess.run([sys.executable, "-c", killed, keyring.path], check=False).returncode == -9
    assert keyring.ids == [kek]
    assert len([path for path in tmp_path.iterdir() if text in path.read_text()]) == 2
    keyring.add()
    keyring.destroy(kek)
    assert not [path for path in tmp_path.iterdir() if text in path.read_text()]


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_only_its_owner_can_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        FileKeyring(tmp_path / "k.json").add()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "k.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o601])
def test_one_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    keyring = FileKeyring(tmp_path / "k.json")
    kek = keyring.add()
    keyring.path.chmod(mode)
    for use in (lambda: keyring.get(kek), keyring.add, lambda: keyring.destroy(kek)):
        with pytest.raises(KeyringError, match=rf"mode 0{mode:o}.*chmod 600") as refused:
            use()
        assert "\n" not in refused.value.detail


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format":1}', '{"format":2,"keys":[]}', '{"format":1,"keys":[{"id":"a"}]}']
)
def test_what_is_no_keyring_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "k.json"
    path.write_text(text)
    path.chmod(0o600)
    for use in (lambda: FileKeyring(path).get("a"), FileKeyring(path).add):
        with pytest.raises(KeyringError, match=r"k\.json"):
            use()
    assert path.read_text() == text


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    keyring = FileKeyring(tmp_path / "k.json")
    kek = keyring.add()
    text = keyring.path.read_text()
    keyring.path.write_text(text.replace(json.loads(text)["keys"][0]["secret"], "not base64!"))
    with pytest.raises(KeyringError, match="damaged"):
        keyring.get(kek)


def _add(path: Path) -> str:
    return FileKeyring(path).add()


def test_processes_that_add_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    with ProcessPoolExecutor(4, mp_context=get_context("forkserver")) as pool:
        added = list(pool.map(_add, [path] * 24))
    assert sorted(FileKeyring(path).ids) == sorted(added)
    assert len(set(added)) == 24


def test_a_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = FileKeyring(tmp_path / "k.json")
    kek = keyring.add()
    before = keyring.path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for change in (keyring.add, lambda: keyring.destroy(kek)):
        with pytest.raises(KeyringError, match="No space left"):
            change()
    assert keyring.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".k.json.lock", "k.json"]


def test_settings_name_a_keyring(tmp_path: Path) -> None:
    default = keyring_of("file", tmp_path)
    assert default is not None
    assert default.path == tmp_path / "keyring.json"
    named = keyring_of("file:/elsewhere/k.json", tmp_path)
    assert named is not None
    assert named.path == Path("/elsewhere/k.json")
    assert keyring_of("none", tmp_path) is None
    assert path_of("none", tmp_path) == tmp_path / "keyring.json"
    assert path_of("awskms:alias/roost,file:/elsewhere/k.json", tmp_path) == Path("/elsewhere/k.json")
    assert path_of("awskms:alias/roost", tmp_path) == tmp_path / "keyring.json"
    with pytest.raises(KeyringError, match="ROOST_KEYRING"):
        keyring_of("vault:x", tmp_path)


@pytest.fixture(scope="module")
def kms() -> Iterator[str]:
    """A key in a stand-in of AWS KMS, found as any KMS is: by the environment."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL_KMS", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
        environment.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        yield boto3.client("kms").create_key()["KeyMetadata"]["KeyId"]
    server.stop()


def test_aws_kms_seals_what_is_in_the_file(kms: str, tmp_path: Path) -> None:
    keyring = keyring_of(f"awskms:{kms}", tmp_path)
    assert isinstance(keyring, AwsKeyring)
    keks = [keyring.add(), keyring.add()]
    secret = keyring.get(keks[0])
    assert secret is not None
    assert len(secret) == 32
    again = AwsKeyring(kms, keyring.path)
    assert again.get(keks[0]) == secret
    # The file alone opens nothing.
    with pytest.raises(KeyringError, match=rf"sealed by awskms:{kms}.*ROOST_KEYRING"):
        FileKeyring(keyring.path).get(keks[0])


def test_a_keyring_moves_to_aws_kms_key_by_key(kms: str, tmp_path: Path) -> None:
    before = FileKeyring(tmp_path / "k.json")
    old, secret = before.add(), before.get(before.ids[0])
    after = AwsKeyring(kms, before.path)
    assert after.get(old) == secret
    new = after.add()
    after.destroy(old)
    assert (after.ids, len(after.get(new) or b"")) == ([new], 32)
    with pytest.raises(KeyringError, match="sealed by"):
        before.get(new)


def test_what_aws_kms_sealed_as_one_key_opens_as_no_other(kms: str, tmp_path: Path) -> None:
    keyring = AwsKeyring(kms, tmp_path / "k.json")
    keks = [keyring.add(), keyring.add()]
    content = json.loads(keyring.path.read_text())
    one, other = content["keys"]
    one["secret"], other["secret"] = other["secret"], one["secret"]
    keyring.path.write_text(json.dumps(content))
    for kek in keks:
        with pytest.raises(KeyringError, match="AWS KMS"):
            keyring.get(kek)


def test_aws_kms_that_does_not_know_the_key_is_told(kms: str, tmp_path: Path) -> None:
    with pytest.raises(KeyringError, match="alias/missing"):
        AwsKeyring("alias/missing", tmp_path / "k.json").add()
    assert not (tmp_path / "k.json").exists()


def test_aws_kms_without_its_sdk_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(KeyringError, match="install boto3"):
        keyring_of("awskms:alias/roost", tmp_path)
