"""Bad HTTP, byte by byte: bodies that never end, headers that contradict each other, requests that are none.

Some of it is answered by the HTTP server below, before Roost sees it: then there is a status and no problem
document. Whoever answers, it is a refusal, the connection is not left in a state that two sides see differently,
and the next client is served.
"""

from __future__ import annotations

import socket

import pytest

from tests.support.api import JSON, Account, Raw, problem, put_op, raw, receive
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("unharmed")

CLOSE = b"Connection: close\r\n"


def head(account: Account, *headers: bytes, method: bytes = b"PUT", key: bytes = b"k") -> bytes:
    """The head of a write of a document, with these headers added."""
    line = method + b" /v1/users/" + account.user.encode() + b"/docs/notes/" + key + b" HTTP/1.1"
    authorization = b"Authorization: Bearer " + account.token.encode()
    content = b"Content-Type: " + JSON.encode()
    return b"\r\n".join([line, b"Host: roost", authorization, content, *headers, b"", b""])


def nothing_was_written(account: Account) -> None:
    problem(account.http.get(account.at()), 404, "not_found")


def test_a_good_request_is_taken(server: Server, ada: Account) -> None:
    """Without this, the refusals below would show nothing."""
    assert raw(server, head(ada, b"Content-Length: 1") + b"1").status == 201
    assert raw(server, head(ada, b"Transfer-Encoding: chunked") + b"1\r\n2\r\n0\r\n\r\n").status == 200
    assert ada.value("notes", "k") == 2


TRUNCATED = {
    "by its length": (b"Content-Length: 10", b'{"a":1}'),
    "by its length, empty": (b"Content-Length: 10", b""),
    "by its length, valid so far": (b"Content-Length: 2", b"1"),
    "in a chunk": (b"Transfer-Encoding: chunked", b'a\r\n{"a":1}'),
    "between chunks": (b"Transfer-Encoding: chunked", b"1\r\n1\r\n"),
    "in a chunk's size": (b"Transfer-Encoding: chunked", b"1\r\n1\r\n1"),
    "before the end of chunks": (b"Transfer-Encoding: chunked", b"1\r\n1\r\n0\r\n"),
    "before any chunk": (b"Transfer-Encoding: chunked", b""),
}


@pytest.mark.parametrize("case", TRUNCATED)
def test_a_body_that_ends_early_is_not_stored(server: Server, ada: Account, case: str) -> None:
    header, body = TRUNCATED[case]
    answer = raw(server, head(ada, header) + body, half_close=True)
    if answer.status:  # there may be nobody left to tell
        assert (answer.status, answer.code) == (400, "invalid_request")
    nothing_was_written(ada)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head(ada, header) + body)
    nothing_was_written(ada)


BAD_CHUNKS = {
    "a size that is no number": b"zz\r\n1\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n1\r\n0\r\n\r\n",
    "a size with a prefix": b"0x1\r\n1\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"fffffffffffffffff\r\n1\r\n0\r\n\r\n",
    "a size of 64 bits": b"ffffffffffffffff\r\n1\r\n0\r\n\r\n",
    "no size": b"\r\n1\r\n0\r\n\r\n",
    "a size that is too small": b"1\r\n11\r\n0\r\n\r\n",
    "bare line feeds": b"1\n1\n0\n\n",
    "an extension without end": b"1;" + b"x" * 100_000 + b"\r\n1\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", BAD_CHUNKS)
def test_bad_chunks_are_refused(server: Server, ada: Account, case: str) -> None:
    request = head(ada, b"Transfer-Encoding: chunked") + BAD_CHUNKS[case]
    answer = raw(server, request, half_close=True)
    assert answer.status in {400} | ({0} if len(request) > 50_000 else set())  # it may be lost, as below
    assert answer.code in {None, "invalid_request"}
    nothing_was_written(ada)


def test_trailers_are_no_headers(server: Server, ada: Account, admin: Account) -> None:
    smuggled = b"1\r\n1\r\n0\r\nAuthorization: Bearer " + admin.token.encode() + b"\r\nIf-Match: *\r\n\r\n"
    assert raw(server, head(ada, b"Transfer-Encoding: chunked") + smuggled).status == 201


REFUSED_HEADERS = {
    "two lengths": [b"Content-Length: 1", b"Content-Length: 2"],
    "a list of lengths": [b"Content-Length: 1, 1"],
    "a length with a sign": [b"Content-Length: +1"],
    "a negative length": [b"Content-Length: -1"],
    "a length in hexadecimal": [b"Content-Length: 0x1"],
    "a length with a fraction": [b"Content-Length: 1.0"],
    "an empty length": [b"Content-Length: "],
    "a length beyond 64 bits": [b"Content-Length: 99999999999999999999"],
    "an unknown coding": [b"Transfer-Encoding: gzip"],
    "a coding that is like chunked": [b"Transfer-Encoding: xchunked"],
    "chunked, but not last": [b"Transfer-Encoding: chunked, gzip"],
    "another coding too": [b"Transfer-Encoding: gzip, chunked"],
    "chunked twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "identity": [b"Transfer-Encoding: identity"],
    "a space before the colon": [b"Transfer-Encoding : chunked"],
    "a vertical tab": [b"Transfer-Encoding: \x0bchunked"],
    "a folded header": [b"X: a\r\n Transfer-Encoding: chunked", b"Content-Length: 1"],
    "a bare carriage return": [b"X: a\rContent-Length: 1"],
    "NUL in a value": [b"X: a\0b", b"Content-Length: 1"],
    "NUL in a name": [b"X\0: a", b"Content-Length: 1"],
    "a space in a name": [b"X Y: a", b"Content-Length: 1"],
    "no name": [b": a", b"Content-Length: 1"],
    "no colon": [b"X", b"Content-Length: 1"],
    "two hosts": [b"Host: other", b"Content-Length: 1"],
    "two tokens": [b"Authorization: Bearer x", b"Content-Length: 1"],
    "two media types": [b"Content-Type: text/plain", b"Content-Length: 1"],
    "an encoding": [b"Content-Encoding: gzip", b"Content-Length: 1"],
}


@pytest.mark.parametrize("case", REFUSED_HEADERS)
def test_headers_that_could_be_read_in_two_ways_are_refused(server: Server, ada: Account, case: str) -> None:
    body = b"1\r\n1\r\n0\r\n\r\n" if case.startswith("chunked") or "coding" in case else b"1"
    answer = raw(server, head(ada, *REFUSED_HEADERS[case], b"Connection: close") + body)
    assert answer.status in {400, 415}, answer
    assert answer.code in {None, "invalid_request", "unsupported_media_type"}
    nothing_was_written(ada)


SMUGGLING = {
    "length, then chunked": [b"Content-Length: %d", b"Transfer-Encoding: chunked"],
    "chunked, then length": [b"Transfer-Encoding: chunked", b"Content-Length: %d"],
    "two lengths": [b"Content-Length: 0", b"Content-Length: %d"],
    "a coding that is like chunked": [b"Content-Length: %d", b"Transfer-Encoding: xchunked"],
    "chunked by a tab": [b"Content-Length: %d", b"Transfer-Encoding:\tchunked"],
    "chunked behind a space": [b"Content-Length: %d", b"Transfer-Encoding : chunked"],
    "a folded length": [b"Content-Length: 0", b"X: a\r\n Content-Length: %d"],
}


@pytest.mark.parametrize("case", SMUGGLING)
def test_no_second_request_is_smuggled_in(server: Server, ada: Account, case: str) -> None:
    """A proxy that believes the one header forwards as a body what the other makes a second request."""
    inner = head(ada, b"Content-Length: 9", key=b"smuggled") + b'"a write"'
    body = b"1\r\n1\r\n0\r\n\r\n" + inner
    headers = [header.replace(b"%d", b"%d" % len(body)) for header in SMUGGLING[case]]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head(ada, *headers) + body)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while part := connection.recv(65_536):
            got += part
    assert got.count(b"HTTP/1.1 ") == 1
    ada.put("notes", "k", 1)
    problem(ada.get("notes", "smuggled"), 404, "not_found")


def test_requests_in_a_row_each_get_their_answer(server: Server, ada: Account) -> None:
    """What follows a good body is a request of its own, also behind a refusal that read its body."""
    ada.put("notes", "k", 0)
    requests = [
        head(ada, b"Content-Length: 1") + b"1",
        head(ada, b"Content-Length: 1") + b"{",
        head(ada, b"Transfer-Encoding: chunked") + b"1\r\n2\r\n0\r\n\r\n",
        head(ada, method=b"GET"),
    ]
    statuses = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for request in requests:
            connection.sendall(request)
            statuses.append(receive(connection).status)
    assert statuses == [200, 400, 200, 200]
    assert ada.value("notes", "k") == 2


NO_REQUESTS = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",
    "words": b"hello there\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/3.0\r\nHost: roost\r\n\r\n",
    "a version that is none": b"GET /healthz HTPP/1.1\r\nHost: roost\r\n\r\n",
    "a bad method": b"G=T /healthz HTTP/1.1\r\nHost: roost\r\n\r\n",
    "a space in the path": b"GET /v1/users/a b HTTP/1.1\r\nHost: roost\r\n\r\n",
    "NUL in the path": b"GET /v1/users/a\0b HTTP/1.1\r\nHost: roost\r\n\r\n",
    "octets in the path": b"GET /v1/users/\xff\xfe HTTP/1.1\r\nHost: roost\r\n\r\n",
    "octets in the query": b"GET /v1/users?after=\xff HTTP/1.1\r\nHost: roost\r\n\r\n",
    "octets in the method": b"\xff\xfe /healthz HTTP/1.1\r\nHost: roost\r\n\r\n",
    "NUL": b"\0" * 1000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", NO_REQUESTS)
def test_what_is_no_request_is_refused(server: Server, case: str) -> None:
    assert raw(server, NO_REQUESTS[case]).status == 400


HUGE = {
    "a header": (b"X: " + b"x" * 2_000_000, {431}),
    "a header's name": (b"x" * 2_000_000 + b": x", {400, 431}),
    "many headers": (b"\r\n".join(b"X-%d: 1" % number for number in range(5_000)), {431}),
    "a token": (b"Authorization: Bearer " + b"x" * 2_000_000, {431}),
    "one header many times": (b"\r\n".join(b"X: 1" for _ in range(5_000)), {431}),
}


@pytest.mark.parametrize("case", HUGE)
def test_a_head_without_end_is_refused(server: Server, case: str) -> None:
    header, statuses = HUGE[case]
    answer = raw(server, b"GET /healthz HTTP/1.1\r\nHost: roost\r\n" + header + b"\r\n\r\n")
    assert answer.status in statuses | {0}  # the answer may be lost where much was still to be heard


@pytest.mark.parametrize("length", [10_000, 70_000, 2_000_000])
def test_a_long_path_is_refused(server: Server, ada: Account, length: int) -> None:
    for target in (b"/v1/users/" + b"a" * length, b"/" * length, b"/v1/users?after=" + b"A" * length):
        request = b"GET " + target + b" HTTP/1.1\r\nHost: roost\r\nAuthorization: Bearer " + ada.token.encode()
        answer = raw(server, request + b"\r\n\r\n")
        assert answer.status in {400, 403, 404, 414, 431, 0}
        assert answer.code in {None, "invalid_name", "not_found", "forbidden", "invalid_request"}


@pytest.mark.parametrize(
    ("name", "code"),
    [(b"If-Match", "version_conflict"), (b"Idempotency-Key", "invalid_request"), (b"Authorization", None)],
)
def test_octets_in_a_header_are_no_trouble(server: Server, ada: Account, name: bytes, code: str | None) -> None:
    answer = raw(server, head(ada, name + b": \xff\xfe\x80", b"Content-Length: 1") + b"1")
    assert 400 <= answer.status < 500
    assert answer.code == (code or "invalid_request")
    for other in (b"Prefer", b"X-Whatever", b"Accept"):
        assert raw(server, head(ada, other + b": \xff\xfe", b"Content-Length: 1") + b"1").status in {200, 201}


def test_octets_in_a_token_are_no_token(server: Server, ada: Account) -> None:
    request = b"GET /v1/users HTTP/1.1\r\nHost: roost\r\nAuthorization: Bearer \xff\xfe.\x80.\xc3\r\n\r\n"
    assert raw(server, request).code == "unauthenticated"


def test_a_client_may_ask_before_it_sends(server: Server, ada: Account) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head(ada, b"Expect: 100-continue", b"Content-Length: 1"))
        assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"7")
        assert receive(connection).status == 201
    assert ada.value("notes", "k") == 7


@pytest.mark.parametrize(
    "header", [b"Authorization: Bearer x", b"Content-Type: text/plain", b"Content-Length: 2000000"]
)
def test_a_client_that_asked_is_refused_without_its_body(server: Server, ada: Account, header: bytes) -> None:
    request = head(ada, b"Expect: 100-continue", b"Content-Length: 1")
    name = header.partition(b":")[0]
    lines = [line for line in request.split(b"\r\n") if not line.startswith(name)]
    answer = raw(server, b"\r\n".join([lines[0], header, *lines[1:]]))
    assert answer.status in {401, 413, 415}
    nothing_was_written(ada)


def test_an_upgrade_that_is_not_offered_is_ignored_or_refused(server: Server, ada: Account) -> None:
    upgrades = [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        ),
    ]
    for upgrade in upgrades:
        answer = raw(server, b"GET /healthz HTTP/1.1\r\nHost: roost\r\n" + upgrade + b"\r\n")
        assert answer.status in {200, 400, 403, 404}
    assert ada.batch(put_op("notes", "k", 1)).status_code == 200


@pytest.mark.parametrize("target", [b"*", b"roost:80", b"healthz", b"http://evil.example/nowhere", b"/healthz#x/.."])
def test_odd_targets_are_answered(server: Server, target: bytes) -> None:
    for method in (b"GET", b"OPTIONS", b"CONNECT"):
        answer = raw(server, method + b" " + target + b" HTTP/1.1\r\nHost: roost\r\n" + CLOSE + b"\r\n")
        assert 200 <= answer.status < 500


def test_old_http_is_spoken_too(server: Server) -> None:
    answer = raw(server, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def test_connections_that_say_nothing_take_nobody_s_place(server: Server, ada: Account) -> None:
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(200)]
    try:
        for number, connection in enumerate(silent):
            connection.sendall(head(ada)[: number % 50])
        assert ada.put("notes", "k", 1).status_code == 201
    finally:
        for connection in silent:
            connection.close()
    assert isinstance(raw(server, b"GET /healthz HTTP/1.1\r\nHost: roost\r\n\r\n"), Raw)
