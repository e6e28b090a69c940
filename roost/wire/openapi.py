"""The OpenAPI 3.1 document, generated from the operations and from the shapes that handlers use.

Nothing here knows a path or a field: what is wrong in the document is wrong in the table or the shapes. Limits
come from the settings of the server that serves it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from roost.core.errors import Code
from roost.core.limits import Limits
from roost.wire import problems, shapes
from roost.wire.operations import PURPOSE, Body, HeaderField, Operation, Reply

Json = dict[str, Any]

_ABOUT = """\
Every user is one ordered log; a document's version is the `seq` of the event that last wrote it.

Every answer carries `Roost-Request-Id`. `HEAD` works wherever `GET` does. A refusal is a problem document
(RFC 9457) with a stable `code`. A query parameter that is unknown or given twice is refused, and so is an unknown
member of a request body.
"""
_PATH_PARAMETERS: dict[str, tuple[Any, str]] = {
    "user": (shapes.UserName, "Whose state."),
    "collection": (shapes.CollectionName, "Which kind of state."),
    "key": (shapes.Key, "Which document."),
    "session": (shapes.SessionId, "Which session."),
    "client": (shapes.ClientName, "Which application."),
    "conflict": (shapes.Key, "Which conflict: its `id`."),
    "policy": (shapes.PolicyName, "Which text of policies."),
}


def generate(operations: Sequence[Operation], limits: Limits) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(_Document(operations, limits).content)


class _Document:
    def __init__(self, operations: Sequence[Operation], limits: Limits) -> None:
        self._limits = limits
        self._components: Json = {}
        self._problem = self._schema(problems.Problem)
        paths: dict[str, Json] = {}
        for operation in operations:
            paths.setdefault(operation.path, {})[operation.method.lower()] = self._operation(operation)
        self.content = {
            "openapi": "3.1.0",
            "info": {"title": "Roost", "version": version("roost"), "description": _ABOUT},
            "security": [{"token": []}],
            "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
            "paths": paths,
            "components": {
                "schemas": self._components,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            },
            "x-problems": {
                code.value: {"status": status, "title": title} for code, (status, title) in problems.PROBLEMS.items()
            },
        }

    def _operation(self, operation: Operation) -> Json:
        told: Json = {
            "operationId": operation.handler.__name__,
            "tags": [operation.tag],
            "summary": operation.summary,
            "description": operation.description,
            "parameters": list(self._parameters(operation)),
        }
        if operation.public:
            told["security"] = []
        if operation.body is not None:
            told["requestBody"] = self._body(operation.body)
        told["responses"] = {str(reply.status): self._reply(reply) for reply in operation.replies}
        for status, codes in _by_status(operation.every_error).items():
            refusal = self._refusal(status, codes)
            if (own := told["responses"].get(str(status))) is not None:
                # What OAuth refuses, it refuses in a shape of its own.
                refusal["description"] += f" {own['description']}"
                refusal["content"] |= own["content"]
            told["responses"][str(status)] = refusal
        if operation.frames:
            told["x-websocket"] = {side: self._schema(shape) for side, shape in operation.frames.items()}
        return told

    def _parameters(self, operation: Operation) -> Iterable[Json]:
        for name in re.findall(r"{(\w+)}", operation.path):
            shape, description = _PATH_PARAMETERS[name]
            schema = self._schema(shape)
            yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema}
        for name, schema in self._resolved(operation.query)["properties"].items():
            yield {"name": name, "in": "query", "description": schema.pop("description", ""), "schema": schema}
        for header in (*operation.headers, *(() if operation.public else (PURPOSE,))):
            yield {"name": header.name, "in": "header", "description": header.description, "schema": header.schema}

    def _body(self, body: Body) -> Json:
        content = {media_type: {"schema": self._schema(shape)} for media_type, shape in body.content.items()}
        return {"required": body.required, "content": content}

    def _reply(self, reply: Reply) -> Json:
        told: Json = {"description": reply.description, "headers": _headers(reply.headers)}
        if reply.body is not None:
            told["content"] = {reply.media_type: {"schema": self._schema(reply.body)}}
            told["content"] |= {media_type: {"schema": {"type": "string"}} for media_type in reply.also}
        return told

    def _refusal(self, status: int, codes: Sequence[Code]) -> Json:
        told: Json = {
            "description": " ".join(f"`{code.value}`: {problems.PROBLEMS[code][1]}." for code in codes),
            "content": {problems.MEDIA_TYPE: {"schema": self._problem}},
        }
        if status in problems.WITH_RETRY_AFTER:
            schema = {"type": "integer", "minimum": 1}
            told["headers"] = {"Retry-After": {"description": "Seconds.", "required": True, "schema": schema}}
        return told

    def _schema(self, shape: Any) -> Json:
        """The schema of a shape; structs become components."""
        (schema,), components = msgspec.json.schema_components((shape,), ref_template="#/components/schemas/{name}")
        for name, component in components.items():
            told = self._bounded(component)
            if self._components.setdefault(name, told) != told:
                raise TypeError(f"two shapes have the name {name}")
        bounded: Json = self._bounded(schema)
        return bounded

    def _resolved(self, shape: Any) -> Json:
        """The schema of a struct itself, not a reference to it."""
        _, components = msgspec.json.schema_components((shape,), ref_template="{name}")
        bounded: Json = self._bounded(components[shape.__name__])
        return bounded

    def _bounded(self, schema: Any) -> Any:
        """`schema` with the bounds that the settings give."""
        if isinstance(schema, list):
            return [self._bounded(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        bounded = {name: self._bounded(item) for name, item in schema.items() if name != shapes.AT_MOST}
        if shapes.AT_MOST in schema:
            bound = "maxItems" if schema.get("type") == "array" else "maximum"
            bounded[bound] = getattr(self._limits, schema[shapes.AT_MOST])
        return bounded


def _by_status(codes: Iterable[Code]) -> dict[int, list[Code]]:
    statuses: dict[int, list[Code]] = {}
    for code in dict.fromkeys(codes):
        statuses.setdefault(problems.PROBLEMS[code][0], []).append(code)
    return dict(sorted(statuses.items()))


def _headers(headers: Sequence[HeaderField]) -> Json:
    return {
        header.name: {"description": header.description, "required": not header.optional, "schema": header.schema}
        for header in headers
    }
