"""JSON as Roost takes it: what a client sent is what every client will read back, or it is refused.

RFC 8259 leaves room for values that readers understand differently: a key that occurs twice, half of a
surrogate pair, a number that JavaScript would round. Such a value is refused here, once, so that nothing behind
this module has to think of it. The fast decoder does not see all of them, so a body that could hold one is read
a second time by a slower parser that does; what could hold one is told by cheap counts over bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from roost.core.errors import Code, RoostError
from roost.core.limits import NUMBER_MAX, Limits

_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode
_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
# In compact JSON, a number member or element that has 16 digits before the point, or an exponent. Strings that look
# like one match too, which costs them the slower parser and nothing else.
_long_number = re.compile(rb"[:\[,]-?(?:[0-9]{16}|[0-9.]+e)").search
_surrogate = re.compile("[\ud800-\udfff]").search

_DUPLICATE = "The same key occurs twice in an object."
_NUMBER = "A number is beyond ±2^53 or not finite, and would not be read back exactly."
_DEPTH = "The value is nested too deeply."
_STRING = "A string holds U+0000 or half of a surrogate pair."
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def decode(body: bytes, limits: Limits) -> Any:
    """Return the value that `body` encodes, or raise `INVALID_JSON`, with a pointer wherever there is a place."""
    try:
        value = _decode(body)
        compact = _encode(value)
    except UnicodeDecodeError:
        raise RoostError(Code.INVALID_JSON, "The body is not UTF-8.") from None
    except RecursionError:
        _refuse_depth()
    except msgspec.DecodeError as error:
        _explain(body, limits, error)
    # A member takes one colon, and compact JSON escapes none: fewer colons than in the body are members lost to a
    # key that occurs twice, or colons that stood escaped, which `\u` tells.
    if (
        body.count(b":") != compact.count(b":")
        or b"\\u" in body
        or _long_number(compact)
        or type(value) in (int, float)
    ):
        _check_slowly(body, limits)
    elif _may_be_deep(body, limits):
        check(value, limits)
    return value


def encode(value: Any) -> bytes:
    """`value` as compact UTF-8, members in their order. The same value always gives the same bytes."""
    return _encode(value)


def encode_value(value: Any, limits: Limits) -> bytes:
    """Encode what is to become a document's value.

    Its strings and numbers were checked when they came in; putting values together makes them larger and deeper.
    Raises `TOO_LARGE`, and `INVALID_JSON` for what is nested too deeply.
    """
    try:
        encoded = _encode(value)
    except RecursionError:
        _refuse_depth()
    if len(encoded) > limits.value_bytes_max:
        raise RoostError(Code.TOO_LARGE, f"A value is at most {limits.value_bytes_max} bytes of compact JSON.")
    if _may_be_deep(encoded, limits):
        check(value, limits)
    return encoded


def check(value: Any, limits: Limits, pointer: str = "") -> None:
    """Hold data that is decoded already (part of a larger body, the result of a patch) to the rules of `decode`.

    `pointer` is where `value` stands in the request body. Raises `INVALID_JSON`.
    """
    try:
        _walk(value, limits.depth_max)
    except _Refusal as refusal:
        raise RoostError(
            Code.INVALID_JSON, refusal.detail, pointer=pointer + pointer_of(reversed(refusal.path))
        ) from None


def pointer_of(tokens: Iterable[str | int]) -> str:
    """The JSON Pointer (RFC 6901) of reference tokens: keys and indexes from the root."""
    return "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def _may_be_deep(encoded: bytes, limits: Limits) -> bool:
    return encoded.count(b"[") + encoded.count(b"{") > limits.depth_max


class _Refused:
    """Stands in a decoded value where the body has something that is refused."""

    def __init__(self, detail: str) -> None:
        self.detail = detail


class _Refusal(Exception):
    """Something that is refused; on its way out it gathers its path, innermost first."""

    def __init__(self, detail: str) -> None:
        self.detail = detail
        self.path: list[str | int] = []


def _walk(value: Any, depth: int) -> None:
    """Raise `_Refusal` where `value` breaks a rule or nests deeper than `depth`."""
    kind = type(value)
    if kind is str:
        _check_string(value)
    elif kind is dict or kind is list:
        if depth == 0:
            raise _Refusal(_DEPTH)
        token: Any
        for token, item in value.items() if kind is dict else enumerate(value):
            if kind is dict:
                # A key that is refused is told by its object: the key itself could not be encoded.
                _check_string(token)
            try:
                _walk(item, depth - 1)
            except _Refusal as refusal:
                refusal.path.append(token)
                raise
    elif kind is int or kind is float:
        if not -NUMBER_MAX <= value <= NUMBER_MAX:
            raise _Refusal(_NUMBER)
    elif kind is _Refused:
        raise _Refusal(value.detail)


def _check_string(text: str) -> None:
    if "\0" in text or (not text.isascii() and _surrogate(text)):
        raise _Refusal(_STRING)


def _check_slowly(body: bytes, limits: Limits) -> None:
    """Check what comes out of a parser that shows every member and the text of every number."""
    try:
        value = _slow_decode(body.decode())
    except RecursionError:
        _refuse_depth()
    check(value, limits)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Refused:
    members = dict(pairs)
    return members if len(members) == len(pairs) else _Refused(_DUPLICATE)


def _integer(text: str) -> int | _Refused:
    # Longer ones are beyond the limit whatever their digits, and reading them would cost more than linear time.
    return int(text) if len(text) <= len(str(-NUMBER_MAX)) else _Refused(_NUMBER)


def _fraction(text: str) -> float | _Refused:
    number = float(text)
    # Just beyond the limit the float has already been rounded onto it.
    return _Refused(_NUMBER) if abs(number) == NUMBER_MAX and abs(Decimal(text)) > NUMBER_MAX else number


_slow_decode = json.JSONDecoder(
    object_pairs_hook=_members,
    parse_int=_integer,
    parse_float=_fraction,
    parse_constant=lambda _: _Refused(_NUMBER),
).decode


def _explain(body: bytes, limits: Limits, error: msgspec.DecodeError) -> NoReturn:
    """Raise `INVALID_JSON` with the reason why `body` could not be decoded."""
    if not body.strip(b" \t\r\n"):
        raise RoostError(Code.INVALID_JSON, "The body is empty; it should be a JSON value.") from None
    if body.startswith(_BYTE_ORDER_MARK):
        raise RoostError(Code.INVALID_JSON, "The body starts with a byte order mark; leave it out.") from None
    # The slower parser lets halves of surrogate pairs and huge numbers through, so they can be shown their place.
    with suppress(ValueError):
        _check_slowly(body, limits)
    raise RoostError(Code.INVALID_JSON, f"{error}.") from None


def _refuse_depth() -> NoReturn:
    raise RoostError(Code.INVALID_JSON, _DEPTH) from None
