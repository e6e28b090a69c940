"""Erasing and taking along over HTTP: the receipt, what everybody is told, and that nobody comes back."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from roost.client import SyncClient, UserErased
from roost.client.replica import Replica
from roost.crypto.signing import BadSignature, SigningKeys
from roost.wire import cursors
from tests.support.api import Account
from tests.support.sse import stream
from tests.support.websocket import opened, put, socket

SECRET = "the most secret of all"
PATIENCE_S = 30


def lived(account: Account) -> Account:
    """A user with some past."""
    for number in range(3):
        assert account.put("notes", "a", {"text": SECRET, "n": number}).is_success
    assert account.put("notes", "b", SECRET).is_success
    assert account.delete("notes", "b").is_success
    body = {"device": "phone", "mutations": [put(1, "carts", "main", {"apples": 1})]}
    assert account.http.post(account.at("push"), json=body).is_success
    return account


def erase(account: Account) -> dict[str, Any]:
    answer = account.http.delete(account.at())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def lines_of(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_the_receipt_says_what_there_was_and_stays_the_same(ada: Account, admin: Account) -> None:
    head = lived(ada).head()
    receipt = erase(ada)
    assert receipt == receipt | {
        "user": ada.user,
        "seq": head["seq"] + 1,
        "events": head["seq"],
        "documents": 2,
        "shredded_at": None,
    }
    assert erase(ada) == receipt
    assert admin.http.delete(ada.at()).json() == receipt
    assert admin.http.get(ada.at("erasure")).json() == receipt
    assert ada.http.get(ada.at("erasure")).json() == receipt


def test_the_proof_is_signed_and_is_no_token(ada: Account) -> None:
    lived(ada)
    receipt = erase(ada)
    keys = SigningKeys.load_or_create(ada.server.data)
    claims = json.loads(keys.open(receipt["proof"]))
    assert claims == {"iss": "roost", "sub": ada.user, "event": "user_erased"} | {
        name: receipt[name] for name in ("erased_at", "seq", "events", "documents")
    }
    with pytest.raises(BadSignature):
        keys.open(receipt["proof"][:-4] + "AAAA")
    answer = httpx.get(f"{ada.server.url}{ada.at()}", headers={"authorization": f"Bearer {receipt['proof']}"})
    assert answer.status_code == 401


def test_every_operation_on_the_user_is_gone(ada: Account, admin: Account) -> None:
    lived(ada)
    erase(ada)
    document = admin.http.get("/openapi.json").json()
    tried = 0
    for path, item in document["paths"].items():
        for method in item.keys() & {"get", "put", "post", "patch", "delete"}:
            operation = item[method]
            own = path in ("/v1/users/{user}/erasure", "/v1/users/{user}/sync") or (
                path == "/v1/users/{user}" and method == "delete"
            )
            if not path.startswith("/v1/users/{user}") or own:
                continue
            tried += 1
            target = path.replace("{user}", ada.user).replace("{collection}", "notes").replace("{key}", "a")
            target = target.replace("{conflict}", "x").replace("{session}", "0" * 32)
            content = operation.get("requestBody", {}).get("content", {})
            body = BODIES.get(f"{method} {path}", b"{}") if content else None
            headers = {"content-type": next(iter(content))} if content else {}
            answer = admin.http.request(method, target, content=body, headers=headers)
            assert code_of(answer) == (410, "user_erased"), f"{method} {path}: {answer.text}"
            assert "410" in operation["responses"], f"{method} {path} does not tell of it"
    assert tried >= 21


BODIES = {
    "patch /v1/users/{user}/sessions/{session}": b'{"name":"phone"}',
    "post /v1/users/{user}/batch": b'{"ops":[{"op":"delete","collection":"notes","key":"a"}]}',
    "post /v1/users/{user}/docs/{collection}/{key}/restore": b'{"version":1}',
    "post /v1/users/{user}/push": json.dumps({"device": "phone", "mutations": [put(2, "notes", "a", 1)]}).encode(),
    "post /v1/users/{user}/events": b'{"events":[{"seq":1,"kind":"put","collection":"notes","key":"a","value":1,'
    b'"at":"2026-01-31T12:00:00Z","actor":"user:ada"}]}',
}


def test_others_may_not_and_nobody_who_never_was(ada: Account, account: Callable[[], Account], admin: Account) -> None:
    lived(ada)
    other = account()
    assert code_of(other.http.delete(ada.at())) == (403, "forbidden")
    assert code_of(other.http.get(ada.at("erasure"))) == (403, "forbidden")
    assert code_of(other.http.get(ada.at("export"))) == (403, "forbidden")
    assert code_of(admin.http.delete("/v1/users/never-was")) == (404, "not_found")
    assert code_of(admin.http.get("/v1/users/never-was/erasure")) == (404, "not_found")
    assert code_of(admin.http.get(ada.at("erasure"))) == (404, "not_found")
    assert code_of(admin.http.delete("/v1/users/%24roost")) == (400, "invalid_name")
    assert ada.value("notes", "a")["n"] == 2


def test_who_was_erased_is_not_listed(ada: Account, admin: Account) -> None:
    lived(ada)
    erase(ada)
    after, names = None, []
    while True:
        page = admin.http.get("/v1/users", params={"limit": 1} | ({"after": after} if after else {})).json()
        names += [item["user"] for item in page["items"]]
        if (after := page["next"]) is None:
            break
    assert ada.user not in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("narrowed", ["", "&collections=carts"])
def test_a_stream_tells_of_it_and_ends(ada: Account, narrowed: str) -> None:
    seq = lived(ada).head()["seq"]
    with stream(ada, f"?after={seq}{narrowed}") as messages:
        told = iter(messages)
        assert next(told).name == "live"
        receipt = erase(ada)
        event = next(told)
        assert event.data == event.data | {"kind": "erase", "seq": receipt["seq"], "collection": "", "value": None}
        end = next(told)
        assert (end.name, end.data) == ("end", {"code": "user_erased"})
        assert next(told, None) is None


def test_a_long_poll_is_answered(ada: Account) -> None:
    seq = lived(ada).head()["seq"]
    answers: list[httpx.Response] = []
    poll = threading.Thread(target=lambda: answers.append(ada.events(after=seq, wait=20)))
    poll.start()
    erase(ada)
    poll.join(PATIENCE_S)
    assert code_of(answers[0]) == (410, "user_erased")


@pytest.mark.parametrize("hello", [{"after": 0}, {"after": 0, "collections": ["carts"]}, {"device": "laptop"}])
def test_a_socket_is_told_and_closed(ada: Account, hello: dict[str, Any]) -> None:
    lived(ada)

    async def act() -> None:
        async with socket(ada.server.port, ada.user, ada.token, **hello) as device:
            if "after" in hello:
                await device.until_live()
            receipt = await asyncio.to_thread(erase, ada)
            if "after" in hello:
                told = await device.events(receipt["seq"])
                assert told[-1]["kind"] == "erase"
            assert (await device.closed())[0] == 4410

    asyncio.run(act())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("offline", [False, True])
def test_a_replica_forgets_everything_and_says_so(ada: Account, tmp_path: Path, *, offline: bool) -> None:
    lived(ada)
    path = tmp_path / "ada.roost"

    async def over(replica: Replica) -> None:
        async with asyncio.timeout(PATIENCE_S):
            told = [change.status async for change in replica.changes()]
            assert told[-1:] in ([], ["erased"])  # whoever asks later is told nothing more
            with pytest.raises(UserErased):
                await replica.synced()
        assert replica.status == "erased"
        assert isinstance(replica.problem, UserErased)
        assert replica.list("notes") == []
        assert replica.pending == 0
        with pytest.raises(UserErased):
            replica.put("notes", "again", SECRET)
        with pytest.raises(UserErased), replica.transaction():
            pass

    async def act() -> None:
        async with Replica(path, ada.server.url, ada.user, ada.token) as replica:
            await asyncio.wait_for(replica.synced(), PATIENCE_S)
            assert replica.get("notes", "a") is not None
            assert any(SECRET.encode() in content for content in files_of(tmp_path).values())
            if not offline:
                await asyncio.to_thread(erase, ada)
                await over(replica)
        if offline:
            replica = Replica(path, ada.server.url, ada.user, ada.token)
            replica.put("notes", "never pushed", SECRET)
            await asyncio.to_thread(erase, ada)
            async with replica:
                await over(replica)
        assert files_of(tmp_path) == {}

    asyncio.run(act())


def test_no_device_brings_anybody_back(ada: Account, admin: Account) -> None:
    lived(ada)
    receipt = erase(ada)
    body = {"device": "old-phone", "mutations": [put(1, "notes", "a", SECRET)]}
    assert code_of(ada.http.post(ada.at("push"), json=body)) == (410, "user_erased")
    assert code_of(admin.http.put(ada.at())) == (410, "user_erased")

    async def act() -> None:
        async with opened(ada.server.port, ada.user, ada.token) as device:
            await device.say("hello", after=0, device="old-phone")
            assert (await device.closed())[0] == 4410

    asyncio.run(act())
    assert erase(ada) == receipt


def test_an_export_has_everything_and_can_be_taken_up_anywhere(ada: Account) -> None:
    lived(ada)
    whole = lines_of(ada.http.get(ada.at("export")))
    assert whole[0] == whole[0] | {"type": "user", "user": ada.user, "collections": {"carts": 1, "notes": 1}}
    assert whole[-1] == {"type": "end", "seq": ada.head()["seq"]}
    told = [line for line in whole if line["type"] != "cursor"]
    documents = {(line["collection"], line["key"]): line["value"] for line in told if line["type"] == "document"}
    assert documents == {("carts", "main"): {"apples": 1}, ("notes", "a"): {"text": SECRET, "n": 2}}
    assert [line["device"] for line in told if line["type"] == "device"] == ["phone"]
    events = [line for line in told if line["type"] == "event"]
    assert [line | {"type": "event"} for line in ada.events().json()["events"]] == events
    for place, line in enumerate(whole):
        if line["type"] == "cursor":
            rest = lines_of(ada.http.get(ada.at("export"), params={"after": line["after"]}))
            assert rest == whole[place + 1 :]
    parts: list[dict[str, Any]] = []
    params: dict[str, Any] = {"limit": 1}
    while not parts or parts[-1]["type"] != "end":
        part = lines_of(ada.http.get(ada.at("export"), params=params))
        assert part[-1]["type"] in ("cursor", "end")
        params["after"] = part[-1].get("after")
        parts += part
    assert parts == whole


def test_a_cursor_of_another_export_is_refused(ada: Account, account: Callable[[], Account]) -> None:
    cursor = next(line for line in lines_of(lived(ada).http.get(ada.at("export"))) if line["type"] == "cursor")
    other = lived(account())
    impossible = cursors.make(("export", other.user), '["documents","notes","\\u0000",0]')
    for wrong in (cursor["after"], "AQ", "x" * 500, impossible):
        answer = other.http.get(other.at("export"), params={"after": wrong})
        assert code_of(answer) == (400, "invalid_request")


def test_the_command_line_takes_along_and_erases(ada: Account, tmp_path: Path) -> None:
    lived(ada)
    for page in range(3):
        ops = ({"op": "put", "collection": "many", "key": f"{page}-{n}", "value": n} for n in range(400))
        assert ada.batch(*ops).is_success
    server, file = ada.server, tmp_path / "ada.jsonl"
    where = ("--url", server.url, "--token", server.admin())
    content = ada.http.get(ada.at("export")).content
    file.write_bytes(content[: len(content) // 2])  # in the middle of a line
    went_on = server.run("takeout", ada.user, str(file), *where)
    assert went_on.returncode == 0, went_on.stderr
    assert file.read_bytes() == content
    erased = server.run("erase", ada.user, "--yes", *where)
    assert erased.returncode == 0, erased.stderr
    assert json.loads(erased.stdout)["user"] == ada.user
    with SyncClient(server.url, server.admin()) as client:
        assert client.user(ada.user).erasure().proof == json.loads(erased.stdout)["proof"]
        with pytest.raises(UserErased):
            client.user(ada.user).get()
