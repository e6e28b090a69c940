"""JSON at the door: what is refused, where it says the fault is, and that what is taken stays what it was."""

from __future__ import annotations

import gc
import json
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost.core import jsonvalue
from roost.core.errors import Code, RoostError
from roost.core.limits import NUMBER_MAX, Limits

LIMITS = Limits()
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-NUMBER_MAX, NUMBER_MAX)
    | st.floats(-NUMBER_MAX, NUMBER_MAX)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


def refusal(body: bytes) -> RoostError:
    with pytest.raises(RoostError) as caught:
        jsonvalue.decode(body, LIMITS)
    assert caught.value.code is Code.INVALID_JSON
    return caught.value


def same(one: Any, other: Any) -> bool:
    """Equality that tells true from 1, 1 from 1.0 and 0.0 from -0.0."""
    return repr(one) == repr(other)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"{",
        b'{"a"',
        b'{"a":1',
        b'"abc',
        b"[1,",
        b"tru",
        b"1 2",
        b'{"a":1}x',
        b"[1]\x00",
        b"[1,]",
        b"{'a':1}",
        b"{1:2}",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b'"\t"',
        b'"\x00"',
        b'"\\x41"',
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"// c\n1",
    ],
)
def test_malformed_json_is_refused(body: bytes) -> None:
    refusal(body)


@pytest.mark.parametrize(
    "body",
    [
        b'"\xff"',
        b'{"\xff":1}',
        b'"\xc0\x80"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'["ok", "\xe2\x82"]',
    ],
)
def test_what_is_not_utf8_is_refused(body: bytes) -> None:
    assert "UTF-8" in refusal(body).detail


def test_a_byte_order_mark_is_refused_and_named() -> None:
    assert "byte order mark" in refusal(b'\xef\xbb\xbf{"a":1}').detail


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (rb'{"a":1,"a":2}', ""),
        (rb'{"a":1,"a":1}', ""),
        (rb'{"a":1,"\u0061":2}', ""),
        (rb'{"a":":","b":{"c":1,"c":":"}}', "/b"),
        (rb'{"x":[{},{"c":1,"c":"\u003a"}]}', "/x/1"),
        (rb'{"x":[{},{"c":1,"c":"\u003A"}]}', "/x/1"),
        (rb'{"a~/b":{"":1,"":2}}', "/a~0~1b"),
        (rb'["\ud800"]', "/0"),
        (rb'{"k":"\udc00x"}', "/k"),
        (rb'{"\ud83dx":1}', ""),  # the key itself could not be shown
        (rb'{"a":[{"\ud83dx":1}]}', "/a/0"),
        (rb'["\udc00\ud800"]', "/0"),
        (rb'{"a":["x","\u0000"]}', "/a/1"),
        (rb'{"a\u0000":1}', ""),
        (b'{"n":9007199254740993}', "/n"),
        (b"[0,-9007199254740993]", "/1"),
        (b"[18446744073709551617]", "/0"),
        (b"[%s]" % (b"9" * 5000), "/0"),
        (b"9007199254740993", ""),
        (b"[1e400]", "/0"),
        (b"[-1E+400]", "/0"),
        (b"[9007199254740993.0]", "/0"),
        (b"[9007199254740992.00001]", "/0"),
        (b"[90071992547409930e-1]", "/0"),
        (b"[1e16]", "/0"),
        (b"-1e16", ""),
    ],
)
def test_what_readers_would_understand_differently_is_refused_at_its_place(body: bytes, pointer: str) -> None:
    assert refusal(body).pointer == pointer


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"9007199254740992", NUMBER_MAX),
        (b"-9007199254740992", -NUMBER_MAX),
        (b"9007199254740992.0", float(NUMBER_MAX)),
        (b"[9007199254740991,1e15,1E5,1e-400]", [NUMBER_MAX - 1, 1e15, 1e5, 0.0]),
        (b'" 9007199254740993 :1e99"', " 9007199254740993 :1e99"),
        (rb'{"\u00e9":"\ud83d\ude00 \\u0000 \\ud800"}', {"é": "😀 \\u0000 \\ud800"}),
        (b'{"a":{"a":[{"a":1},{"a":1}]}}', {"a": {"a": [{"a": 1}, {"a": 1}]}}),
        (b' \r\n\t{ "a" : [ ] } ', {"a": []}),
        (b"null", None),
        ('"\u2028\x7f\u0080\uffff"'.encode(), "\u2028\x7f\u0080\uffff"),
    ],
)
def test_what_only_looks_suspicious_is_taken(body: bytes, value: Any) -> None:
    assert same(jsonvalue.decode(body, LIMITS), value)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [65, 500, 2_000, 100_000])
def test_too_deep_nesting_is_refused_however_deep(opening: bytes, depth: int) -> None:
    closing = b"]" if opening == b"[" else b"}"
    assert "deep" in refusal(opening * depth + b"1" + closing * depth).detail
    refusal(opening * depth)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_the_deepest_nesting_allowed_is_taken_many_times_over(opening: bytes) -> None:
    nest = opening * 63 + b"1" + (b"]" if opening == b"[" else b"}") * 63
    assert len(jsonvalue.decode(b"[" + b",".join([nest] * 50) + b"]", LIMITS)) == 50


def test_no_refusal_shows_what_a_value_holds() -> None:
    for body in (b'{"k":"secret","k":"secret"}', b'"secret', rb'["secret\ud800"]', b'{"a":"secret"}}', b'"secret\xff"'):
        assert "secret" not in str(refusal(body)) + str(refusal(body).pointer)


@given(VALUES)
def test_what_is_encoded_decodes_to_the_same_value_and_bytes(value: Any) -> None:
    encoded = jsonvalue.encode(value)
    decoded = jsonvalue.decode(encoded, LIMITS)
    assert same(decoded, value)
    assert jsonvalue.encode(decoded) == encoded
    jsonvalue.check(value, LIMITS)


@given(VALUES, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_how_a_client_writes_json_makes_no_difference(value: Any, ascii_only: bool, indent: Any) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert same(jsonvalue.decode(body, LIMITS), value)


@given(st.binary(max_size=60) | st.text(alphabet='[]{}:,"\\u0d8ce1+-. \0', max_size=60).map(str.encode))
def test_any_bytes_are_decoded_as_python_would_or_refused(body: bytes) -> None:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError
        return dict(pairs)

    try:
        value = jsonvalue.decode(body, LIMITS)
    except RoostError:
        refusal(body)
    else:
        assert same(json.loads(body.decode(), object_pairs_hook=members), value)
        jsonvalue.check(value, LIMITS)


@given(
    st.recursive(
        st.sampled_from(["1", "[]", '"a:b"', r'"\u003a"', "1e1"]),
        lambda inner: st.lists(st.tuples(st.sampled_from(["a", r"\u0061", "b:", "c"]), inner), max_size=3).map(
            lambda pairs: "{" + ",".join(f'"{key}":{value}' for key, value in pairs) + "}"
        ),
    )
)
def test_a_key_that_occurs_twice_is_always_found(text: str) -> None:
    twice = False

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal twice
        twice = twice or len(dict(pairs)) < len(pairs)
        return dict(pairs)

    json.loads(text, object_pairs_hook=members)
    if twice:
        assert "twice" in refusal(text.encode()).detail
    else:
        jsonvalue.decode(text.encode(), LIMITS)


@pytest.mark.parametrize(
    ("value", "pointer"),
    [
        ("\ud800", ""),
        ({"a": ["\0"]}, "/a/0"),
        ({"a\0": 1}, ""),
        ([NUMBER_MAX + 1], "/0"),
        ([-float(NUMBER_MAX) * 2], "/0"),
        ({"x": math.nan}, "/x"),
        ({"x": math.inf}, "/x"),
    ],
)
def test_decoded_data_is_held_to_the_same_rules(value: Any, pointer: str) -> None:
    with pytest.raises(RoostError) as caught:
        jsonvalue.check(value, LIMITS, "/ops/3/value")
    assert caught.value.code is Code.INVALID_JSON
    assert caught.value.pointer == "/ops/3/value" + pointer


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [65, 5_000])
def test_a_value_put_together_too_deep_is_refused(depth: int) -> None:
    for hold in (jsonvalue.check, jsonvalue.encode_value):
        with pytest.raises(RoostError) as caught:
            hold(nested(depth), LIMITS)
        assert caught.value.code is Code.INVALID_JSON
    assert jsonvalue.encode_value(nested(64), LIMITS) == b"[" * 64 + b"1" + b"]" * 64


def test_a_value_has_a_largest_size() -> None:
    limits = Limits(value_bytes_max=10)
    assert jsonvalue.encode_value("é" * 4, limits) == '"éééé"'.encode()
    with pytest.raises(RoostError) as caught:
        jsonvalue.encode_value("é" * 4 + "e", limits)
    assert caught.value.code is Code.TOO_LARGE


@pytest.mark.parametrize(
    "piece",
    [b"1,", b'"\\u0041:",', b"[],", b'{"a":1},', b'"1e5",', b"1e5,", b"1234567890123456,"],
)
def test_time_grows_with_the_size_of_the_body_and_no_faster(piece: bytes) -> None:
    def seconds(size: int) -> float:
        body = b"[" + piece * (size // len(piece)) + b"0]"
        times = []
        gc.disable()  # it would look through all that the tests before this one have left, again and again
        try:
            for _ in range(3):
                start = time.process_time()
                jsonvalue.decode(body, LIMITS)
                times.append(time.process_time() - start)
        finally:
            gc.enable()
        return min(times)

    small, large = 1 << 16, 1 << 20
    # Sixteen times the size: quadratic would be 256 times the time.
    assert seconds(large) < 100 * seconds(small)
