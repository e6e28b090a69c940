"""What an operator asks: does it live, can it serve, what does it count."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.support.api import Account, problem
from tests.support.server import Server, until

LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? (-?[0-9.eE+-]+|NaN|\+Inf)")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two workers."""
    with Server(tmp_path_factory.mktemp("pair") / "data", workers=2) as server:
        yield server


def samples(text: str) -> dict[str, float]:
    """Every sample of an exposition, by its name and labels."""
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = LINE.fullmatch(line)
            assert match, line
            found[match[1] + (match[2] or "")] = float(match[3])
    return found


def count(account: Account, method: str, route: str, status: int) -> float:
    answer = account.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    return samples(answer.text).get(
        f'roost_http_requests_total{{method="{method}",route="{route}",status="{status}"}}', 0
    )


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_it_lives_and_can_serve(server: Server, path: str) -> None:
    for method in ("GET", "HEAD"):
        answer = httpx.request(method, server.url + path, verify=False)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.text == ('{"status":"ok"}' if method == "GET" else "")
        assert answer.headers["roost-request-id"]


def test_a_token_that_is_none_does_not_matter_where_none_is_needed(server: Server) -> None:
    answer = httpx.get(f"{server.url}/healthz", headers={"authorization": "Bearer x"}, verify=False)
    assert answer.status_code == 200


def test_metrics_are_for_admins_and_services(server: Server, ada: Account) -> None:
    problem(ada.http.get("/metrics"), 403, "forbidden")
    problem(httpx.get(f"{server.url}/metrics", verify=False), 401, "unauthenticated")
    for token in (server.admin(), server.service("prometheus")):
        answer = httpx.get(f"{server.url}/metrics", headers={"authorization": f"Bearer {token}"}, verify=False)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert samples(answer.text)


def test_metrics_count_requests_by_route_and_status(admin: Account, ada: Account) -> None:
    route = "/v1/users/{user}/docs/{collection}/{key}"
    before = [count(admin, "PUT", route, status) for status in (201, 400)]
    unknown = count(admin, "other", "unknown", 404)
    for number in range(3):
        ada.put("notes", f"k{number}", 1)
    ada.put("Notes", "k", 1)
    ada.http.get("/nowhere")
    assert [count(admin, "PUT", route, status) for status in (201, 400)] == [before[0] + 3, before[1] + 1]
    assert count(admin, "other", "unknown", 404) == unknown + 1


def test_metrics_name_nobody(admin: Account, ada: Account) -> None:
    ada.put("notes", "a-key-like-no-other", "a value")
    text = admin.http.get("/metrics").text
    for word in (ada.user, "a-key-like-no-other", "notes", "a value", "/v1/users/user"):
        assert word not in text


def test_one_worker_answers_for_all(pair: Server) -> None:
    """Connections are spread over the workers, and what each counts is told together by whichever is asked."""
    for _ in range(60):
        assert httpx.get(f"{pair.url}/healthz", verify=False).status_code == 200

    def counted() -> set[float]:
        found = set()
        for _ in range(10):
            operator = Account(pair, "nobody", pair.admin())
            found.add(count(operator, "GET", "/healthz", 200))
            operator.close()
        return found

    until(lambda: counted() == {60})
