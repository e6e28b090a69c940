"""The HTTP door: from an ASGI request to a handler, and from whatever comes of it to an answer.

Starlette finds the route; its Request and Response classes are left out, because they cost more than the rest
of a point read together. What is true of every request happens here once: it gets an id, its token is checked,
its query decoded, a refusal becomes a problem document, an error that nobody foresaw becomes one that tells
nothing and a log line that tells all, and it is counted.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from secrets import token_hex
from time import perf_counter

import structlog
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from roost.core.errors import Code, RoostError
from roost.core.ids import COLLECTION_PATTERN, PLAIN_KEY_PATTERN, USER_PATTERN
from roost.core.ports import DocumentRef
from roost.wire import decoding, openapi, problems
from roost.wire.answer import Answer, Header
from roost.wire.browsers import page_headers
from roost.wire.contract import OPERATIONS
from roost.wire.documents import DOCUMENT
from roost.wire.metrics import UNKNOWN_ROUTE, RouteMetrics
from roost.wire.operations import Operation
from roost.wire.request import ClientGone, Context, Request

_CLIENT_GONE = 499
# A request's id: 64 random bits for the process, then its number there.
_PROCESS = token_hex(8)
_numbers = count()
_plain_document = re.compile(
    DOCUMENT.format(
        user=f"(?P<user>{USER_PATTERN})",
        collection=f"(?P<collection>{COLLECTION_PATTERN})",
        key=f"(?P<key>{PLAIN_KEY_PATTERN})",
    )
).fullmatch
_WITHOUT_BODY = frozenset({101, 204, 304})
_UNLIMITED = ("/healthz", "/readyz")

log = structlog.get_logger(__name__)


def build(context: Context, pages: Sequence[tuple[str, bytes, bytes]] = ()) -> ASGIApp:
    """The ASGI application of the whole contract.

    `pages` (path, media type, content) are served as they are, to anybody.
    """
    document = openapi.generate(OPERATIONS, context.limits)
    fixed = [("/openapi.json", b"application/json", document), *pages]
    operations: dict[str, list[Operation]] = {}
    for operation in (*OPERATIONS, *(_fixed(path, media_type, body) for path, media_type, body in fixed)):
        operations.setdefault(operation.path, []).append(operation)
    endpoints = {path: Endpoint(context, path, offered) for path, offered in operations.items()}
    document_endpoint = endpoints[DOCUMENT]
    routes = [Route(path, endpoint) for path, endpoint in endpoints.items()]
    router = Router(routes, redirect_slashes=False, default=Endpoint(context, UNKNOWN_ROUTE, []))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await send(
                {"type": "websocket.close", "code": 1000, "reason": "The HTTP server is to leave WebSockets to Roost."}
            )
            return
        # Routing works on the path as it was sent, so that `%2F` does not split a segment.
        path = scope["path"] = scope["raw_path"].decode("latin-1")
        # Nearly every request is for a document, and this tells it faster than a row of patterns.
        document = _plain_document(path)
        if document is None:
            await router.app(scope, receive, send)
        else:
            scope["path_params"] = document.groupdict()
            scope["document"] = DocumentRef(*document.groups())
            await document_endpoint(scope, receive, send)

    return app


class Endpoint:
    """One path with all of its methods, or, without operations, everything that is not served."""

    def __init__(self, context: Context, path: str, operations: Sequence[Operation]) -> None:
        self._context = context
        self._path = path
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._metrics = {method: RouteMetrics(method, path) for method in (*self._operations, "OPTIONS")}
        self._other_metrics = RouteMetrics("other", path)
        self._allow = (b"allow", ", ".join((*self._operations, "OPTIONS")).encode())
        self._limited = path not in _UNLIMITED
        self._debug = context.settings.log_level == "debug"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        started = perf_counter()
        method = scope["method"]
        request = Request(scope, receive, self._context, _PROCESS + format(next(_numbers), "010x"))
        limiter = self._context.limiter
        try:
            try:
                if self._limited:
                    request.held = limiter.enter(request.address, started)
                answer = await self._answer(request, method, started)
            except RoostError as error:
                answer = problems.answer(error, request.id)
            if answer.chunks is None:
                await _send(answer, request, send, with_body=method != "HEAD")
            else:
                await self._stream(answer, request, send, with_body=method != "HEAD")
        finally:
            limiter.release(request.held)
        seconds = perf_counter() - started
        self._metrics.get(method, self._other_metrics).record(answer.status, seconds)
        if self._debug:
            log.debug(
                "request", request_id=request.id, method=method, route=self._path, status=answer.status, seconds=seconds
            )

    async def _answer(self, request: Request, method: str, now: float) -> Answer:
        operation = self._operations.get(method)
        if operation is None:
            return self._unserved(request, method)
        try:
            request.operation = operation
            if not operation.public:
                context = self._context
                principal = await context.recognise(request.token, request.certificate, request.whence)
                request.principal = principal
                context.limiter.principal(principal, now)
            request.query = decoding.query(request.scope["query_string"], operation.query, self._context.limits)
            answer = await operation.handler(request)
        except RoostError as error:
            return self._refuse(error, request)
        except ClientGone:
            # Nobody reads this; the status, which is nginx's for it, is for the metrics.
            return Answer(_CLIENT_GONE, [])
        except Exception:
            log.exception("request failed", request_id=request.id, method=method, route=self._path)
            detail = f"The server failed to answer. Its log has more under the request id {request.id}."
            return problems.answer(RoostError(Code.INTERNAL, detail), request.id)
        return answer

    async def _stream(self, answer: Answer, request: Request, send: Send, *, with_body: bool) -> None:
        """Send chunks as they are made, until there are no more or nobody reads them."""
        chunks = answer.chunks
        if chunks is None:
            return
        await send({"type": "http.response.start", "status": answer.status, "headers": _complete(answer, request)})

        async def pump() -> None:
            async for chunk in chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})

        try:
            if with_body:
                await request.unless_gone(pump())
        except (ClientGone, RoostError):
            # The status is sent; a stream that just ends is taken up again from its cursor.
            pass
        except Exception:
            log.exception("stream failed", request_id=request.id, route=self._path)
        finally:
            await chunks.aclose()
        await send({"type": "http.response.body", "body": b""})

    def _unserved(self, request: Request, method: str) -> Answer:
        if not self._operations:
            return problems.answer(RoostError(Code.NOT_FOUND, "Nothing is served at this path."), request.id)
        if method == "OPTIONS":
            asked = request.header(b"access-control-request-method")
            return self._context.browsers.preflight(request.page, asked, self._allow)
        answer = problems.answer(RoostError(Code.METHOD_NOT_ALLOWED, "The path has other methods."), request.id)
        answer.headers.append(self._allow)
        return answer

    def _refuse(self, error: RoostError, request: Request) -> Answer:
        answer = problems.answer(error, request.id)
        body = request.operation.body
        if error.code is Code.UNSUPPORTED_MEDIA_TYPE and body is not None:
            name = b"accept-patch" if request.operation.method == "PATCH" else b"accept"
            answer.headers.append((name, ", ".join(body.content).encode()))
        return answer


async def _send(answer: Answer, request: Request, send: Send, *, with_body: bool) -> None:
    status, headers, body = answer.status, _complete(answer, request), answer.body
    if status not in _WITHOUT_BODY:
        headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if with_body else b""})


def _complete(answer: Answer, request: Request) -> list[Header]:
    headers, browsers = answer.headers, request.context.browsers
    headers.append((b"roost-request-id", request.id.encode()))
    browsers.complete(headers, request.page if browsers.origins else None)
    return headers


def _fixed(path: str, media_type: bytes, body: bytes) -> Operation:
    """A public operation that answers with what was known at start-up."""
    headers = page_headers(media_type, body)

    async def get_fixed(_: Request) -> Answer:
        return Answer(200, list(headers), body)

    handler: Callable[[Request], Awaitable[Answer]] = get_fixed
    return Operation("GET", path, handler, "", (), tag="", public=True)
