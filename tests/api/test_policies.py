"""Policies over HTTP and by the command line: checked, in force on every worker within a second, and gone again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import websocket
from tests.support.api import problem
from tests.support.server import Server, until

NO_SUPPORT = '@id("shut") @detail("Support is closed.") forbid(principal is Support, action, resource);'
NO_ANALYSTS = '@detail("Nobody analyses here.") forbid(principal is Analyst, action, resource);'
CEDAR = {"content-type": "text/plain"}
ATTEMPTS = 12


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("policies")
    (folder / "own").mkdir()
    (folder / "own" / "house.cedar").write_text(NO_ANALYSTS)
    # No heartbeat comes in time to find out what is to be told at once.
    with Server(folder / "data", workers=2, policy_dir=str(folder / "own"), heartbeat_s="120") as server:
        yield server


@pytest.fixture
def admin(two: Server) -> Iterator[httpx.Client]:
    with two.client() as client:
        client.put("/v1/users/ada/docs/notes/a", json="mine").raise_for_status()
        # What another test has forbidden is so a moment longer on the worker that was not asked to forget it.
        until(lambda: statuses(two) == {200})
        yield client
        client.delete("/v1/policies/mine")


def support(server: Server) -> dict[str, str]:
    return {"authorization": f"Bearer {server.issue('support', 'ann')}", "roost-purpose": "ticket 7"}


def asked(server: Server, path: str, headers: dict[str, str]) -> httpx.Response:
    """The answer on a connection of its own."""
    return httpx.get(server.url + path, headers=headers, verify=False, timeout=30)


def statuses(server: Server) -> set[int]:
    """What support is answered, over several connections, so that each worker is asked."""
    found = set()
    for _ in range(ATTEMPTS):
        found.add(asked(server, "/v1/users/ada/docs/notes/a", support(server)).status_code)
    return found


def test_a_policy_is_in_force_on_every_worker_within_a_second(two: Server, admin: httpx.Client) -> None:
    assert statuses(two) == {200}
    created = admin.put("/v1/policies/mine", content=NO_SUPPORT, headers=CEDAR)
    assert (created.status_code, created.json()) == (201, {"text": NO_SUPPORT})
    until(lambda: statuses(two) == {403})
    answer = asked(two, "/v1/users/ada", support(two))
    assert problem(answer, 403, "forbidden")["detail"] == "Support is closed."
    deleted = admin.delete("/v1/policies/mine", headers={"if-match": created.headers["etag"]})
    assert deleted.status_code == 204
    until(lambda: statuses(two) == {200})


def test_streams_that_run_are_held_to_it_on_every_worker(two: Server, admin: httpx.Client) -> None:
    async def go() -> None:
        token = two.issue("support", "ann")
        async with asyncio.TaskGroup() as group:
            ready = asyncio.Semaphore(0)

            async def follow() -> None:
                async with websocket.opened(two.port, "ada", token, purpose="ticket 7") as device:
                    await device.say("hello", token=token, after=0)
                    await device.until_live()
                    ready.release()
                    # It is: on a machine at rest within a quarter of a second.
                    assert (await device.closed())[0] == 4403

            for _ in range(ATTEMPTS):
                group.create_task(follow())
            for _ in range(ATTEMPTS):
                await ready.acquire()
            await asyncio.to_thread(admin.put, "/v1/policies/mine", content=NO_SUPPORT, headers=CEDAR)

    asyncio.run(go())


def test_an_event_stream_tells_why_it_ends(two: Server, admin: httpx.Client) -> None:
    headers = support(two) | {"accept": "text/event-stream"}
    with httpx.stream("GET", f"{two.url}/v1/users/ada/events", headers=headers, verify=False, timeout=30) as stream:
        lines = stream.iter_lines()
        for line in lines:
            if line == "event: live":
                break
        admin.put("/v1/policies/mine", content=NO_SUPPORT, headers=CEDAR).raise_for_status()
        rest = list(lines)
    assert rest[-3:-1] == ["event: end", 'data: {"code":"forbidden"}']


def test_mistakes_are_refused_with_line_and_reason(admin: httpx.Client) -> None:
    text = f'{NO_SUPPORT}\n\npermit(principal, action == Action::"fly", resource);'
    told = problem(admin.put("/v1/policies/mine", content=text, headers=CEDAR), 400, "invalid_request", "")
    assert "line 3" in told["detail"]
    assert "fly" in told["detail"]
    problem(admin.put("/v1/policies/mine", json={"text": text}), 400, "invalid_request", "/text")
    problem(admin.put("/v1/policies/roost", content=NO_SUPPORT, headers=CEDAR), 400, "invalid_request", "")
    problem(admin.put("/v1/policies/mine", content=b"\xff", headers=CEDAR), 400, "invalid_request")
    problem(admin.get("/v1/policies/mine"), 404, "not_found")


def test_nobody_shuts_themselves_out(admin: httpx.Client) -> None:
    text = "forbid(principal is Admin, action, resource);"
    told = problem(admin.put("/v1/policies/mine", content=text, headers=CEDAR), 400, "invalid_request")
    assert "could not change" in told["detail"]


def test_texts_are_kept_like_documents(admin: httpx.Client) -> None:
    created = admin.put("/v1/policies/mine", content=NO_SUPPORT, headers=CEDAR | {"if-none-match": "*"})
    again = admin.put("/v1/policies/mine", content=NO_SUPPORT, headers=CEDAR | {"if-none-match": "*"})
    assert (created.status_code, again.status_code) == (201, 412)
    read = admin.get("/v1/policies/mine")
    assert (read.json(), read.headers["etag"]) == ({"text": NO_SUPPORT}, created.headers["etag"])
    known = admin.get("/v1/policies/mine", headers={"if-none-match": read.headers["etag"]})
    assert known.status_code == 304
    (listed,) = admin.get("/v1/policies").json()["items"]
    assert (listed["name"], listed["text"]) == ("mine", NO_SUPPORT)


def test_the_command_line_puts_lists_explains_and_removes(two: Server, admin: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "mine.cedar"
    file.write_text(NO_SUPPORT)
    server = ("--url", two.url, "--token", two.admin())
    assert two.run("policy", "check", str(file)).returncode == 0
    assert two.run("policy", "put", "mine", str(file), *server).returncode == 0
    assert NO_SUPPORT.split("(", maxsplit=1)[0] in two.run("policy", "list", *server).stdout.replace('\\"', '"')
    why = two.run("policy", "why", "support:ann", "read", "ada/notes", "--purpose", "x", "--server", *server)
    assert why.returncode == 1
    assert "mine/shut" in why.stdout
    assert "Support is closed." in why.stdout
    assert two.run("policy", "remove", "mine", *server).returncode == 0
    why = two.run("policy", "why", "support:ann", "read", "ada/notes", "--purpose", "x", "--server", *server)
    assert (why.returncode, "roost/support-with-a-purpose" in why.stdout) == (0, True)
    file.write_text("permit(principal);")
    refused = two.run("policy", "put", "mine", str(file), *server)
    assert (refused.returncode, "line 1" in refused.stderr) == (1, True)


CASES = """
policies = ["mine.cedar"]

[[case]]
principal = "user:ada"
action = "write"
resource = "ada/notes"

[[case]]
principal = "support:ann"
action = "read"
resource = "ada/notes"
purpose = "ticket 7"
expect = "deny"
by = ["mine/shut"]
"""


def test_cases_are_tried_and_a_wrong_one_is_told(two: Server, tmp_path: Path) -> None:
    (tmp_path / "mine.cedar").write_text(NO_SUPPORT)
    cases = tmp_path / "cases.toml"
    cases.write_text(CASES)
    assert two.run("policy", "test", str(cases)).returncode == 0
    cases.write_text(CASES.replace('"ada/notes"\n\n', '"eve/notes"\n\n'))
    wrong = two.run("policy", "test", str(cases))
    assert wrong.returncode == 1
    assert "case 1: expected allow, got deny" in wrong.stderr
    cases.write_text(CASES.replace('"read"', '"fly"'))
    assert "fly" in two.run("policy", "test", str(cases)).stderr


def test_a_server_does_not_start_with_mistakes_in_its_directory(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "mine.cedar").write_text(f"{NO_SUPPORT}\npermit(")
    server = Server(tmp_path / "data", policy_dir=str(policies))
    refused = server.run("serve", "--data", str(server.data), "--port", "0")
    assert refused.returncode == 1
    assert "policies/mine" in refused.stderr
    assert "line 2" in refused.stderr


def test_the_directory_is_in_force_too(two: Server) -> None:
    headers = {"authorization": f"Bearer {two.issue('analyst', 'bo')}"}
    answer = asked(two, "/v1/users/ada", headers)
    assert problem(answer, 403, "forbidden")["detail"] == "Nobody analyses here."
