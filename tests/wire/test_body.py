"""The JSON body editor: what is refused, and that no byte but the wished ones changes."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.errors import InvalidJson, InvalidValue
from rolemesh.wire.body import MAX_KEYS, MAX_NAME, SMALL_BYTES, parse, rewrite, top_level

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
SPACE = st.text(alphabet=" \t\n\r", max_size=2)
KEYS = st.text(max_size=6) | st.sampled_from(["model", "stream", "messages", "a\\", '"'])


@st.composite
def written(draw: st.DrawFn) -> tuple[list[tuple[str, str]], str]:
    """An object's fields, each with its JSON text, and the object as someone might write it."""
    ascii_only = st.booleans()
    fields = [
        (
            key,
            json.dumps(
                value, ensure_ascii=draw(ascii_only), indent=draw(st.sampled_from([None, 1]))
            ),
        )
        for key, value in draw(st.dictionaries(KEYS, JSON, max_size=5)).items()
        if key not in {"model", "stream"}
    ]
    if draw(st.booleans()):
        fields.insert(draw(st.integers(0, len(fields))), ("model", json.dumps(draw(st.text()))))
    if draw(st.booleans()):
        fields.append(("stream", draw(st.sampled_from(["true", "false", "null"]))))
    gap = lambda: draw(SPACE)  # noqa: E731
    compact = draw(st.booleans())
    inner = ("," if compact else f"{gap()},{gap()}").join(
        json.dumps(key, ensure_ascii=draw(ascii_only)) + ("" if compact else gap()) + ":" + text
        for key, text in fields
    )
    return fields, "{" + inner + "}" if compact else f"{gap()}{{{gap()}{inner}{gap()}}}{gap()}"


@given(written())
def test_a_body_is_read_as_it_was_written(case: tuple[list[tuple[str, str]], str]) -> None:
    fields, text = case
    body = parse(text.encode())
    assert {key: bytes(raw).decode() for key, raw in body.fields.items()} == dict(fields)
    expected = json.loads(text)
    assert body.model == expected.get("model")
    assert body.stream == bool(expected.get("stream"))
    assert text.encode()[body.close_at :].strip() == b"}"


@given(written())
def test_a_big_body_is_read_as_a_small_one(case: tuple[list[tuple[str, str]], str]) -> None:
    fields, text = case
    body = parse(b" " * SMALL_BYTES + text.encode())
    assert {key: bytes(raw).decode() for key, raw in body.fields.items()} == dict(fields)
    assert {type(key) for key in body.fields} <= {str}
    before = json.loads(text)
    assert json.loads(rewrite(body, "m", {"a": b"0"})) == {"a": 0, **before, "model": "m"}


@given(written(), st.text(), st.dictionaries(st.text(max_size=3), JSON, max_size=3))
def test_rewriting_changes_the_model_and_absent_defaults_only(
    case: tuple[list[tuple[str, str]], str], model: str, defaults: dict[str, Any]
) -> None:
    fields, text = case
    body = parse(text.encode())
    result = rewrite(
        body, model, {key: json.dumps(value).encode() for key, value in defaults.items()}
    )
    before = json.loads(text)
    assert json.loads(result) == {**defaults, **before, "model": model}
    again = parse(result)
    for key, value in fields:
        if key != "model":
            assert bytes(again.fields[key]) == value.encode()
    # Every byte before and behind the model is where it was.
    if body.model_at < 0:
        assert result.startswith(text.encode()[: body.close_at])
    else:
        assert result.startswith(text.encode()[: body.model_at])
    assert result.endswith(text.encode()[body.close_at :])


@given(written())
def test_a_body_that_needs_no_change_is_the_very_same_object(
    case: tuple[list[tuple[str, str]], str],
) -> None:
    body = parse(case[1].encode())
    defaults = {key: b"0" for key, _ in case[0]}
    if body.model is not None:
        assert rewrite(body, body.model, defaults) is body.raw


@given(written(), st.data())
def test_a_repeated_top_level_key_is_refused(
    case: tuple[list[tuple[str, str]], str], data: st.DataObject
) -> None:
    fields, text = case
    if not fields:
        return
    key, value = data.draw(st.sampled_from(fields))
    other = data.draw(st.sampled_from([value, "1", '{"a":1,"b":2}', '"' + "x" * len(value) + '"']))
    escaped = '"' + "".join(f"\\u{ord(char):04x}" for char in key) + '"' if key.isascii() else None
    name = escaped if escaped and data.draw(st.booleans()) else json.dumps(key)
    with pytest.raises(InvalidJson, match="repeats a top-level key"):
        parse(text.replace("{", "{" + f"{name}:{other},", 1).encode())


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,\\u01dmodel \n').map(str.encode))
def test_any_bytes_are_a_body_or_a_clear_refusal(data: bytes) -> None:
    try:
        body = parse(data)
    except (InvalidJson, InvalidValue):
        return
    assert isinstance(json.loads(data), dict)
    assert json.loads(rewrite(body, "m", {}))["model"] == "m"


BAD = {
    "empty": b"",
    "no JSON": b"model=x",
    "an array": b"[1]",
    "a string": b'"secret"',
    "null": b"null",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"model":"m"}'.encode("utf-16"),
    "trailing garbage": b'{"model":"m"} secret',
    "two documents": b"{}{}",
    "NaN": b'{"a":NaN}',
    "a trailing comma": b'{"a":1,}',
    "a control character": b'{"a":"\x01"}',
    "an odd escape": b'{"a":"\\x00"}',
    "bad UTF-8 in a value": b'{"a":"\xff"}',
    "bad UTF-8 in a key": b'{"\xff":1}',
    "an encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "deep arrays": b'{"a":' + b"[" * 200_000,
    "deep and whole": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep beside a surrogate": b'{"s":"\\ud800","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "truncated": b'{"model":"secr',
    "a repeated key": b'{"a":1,"a":2}',
    "a repeated key, escaped": b'{"model":"a","mo\\u0064el":"b"}',
    "a repeated key of another length": b'{"a":{"x":1,"b":2},"b":3,"a":123456}',
    "a repeated key beside a surrogate": b'{"a":1,"s":"\\ud800","a":2}',
    "a surrogate outside a string": b'{"a":\\ud800}',
    "too many keys": b"{" + b",".join(b'"k%d":1' % i for i in range(MAX_KEYS + 1)) + b"}",
    "a long key": b'{"' + b"a" * (MAX_NAME + 1) + b'":1}',
    "a long key, spaced": b'{ "' + b"\\n" * (MAX_NAME + 1) + b'": 1 }',
    "a long key beside a surrogate": b'{"s":"\\ud800","' + b"a" * (MAX_NAME + 1) + b'":1}',
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("before", [b"", b" " * SMALL_BYTES], ids=["small", "big"])
def test_bad_json_is_refused_without_an_echo(data: bytes, before: bytes) -> None:
    with pytest.raises(InvalidJson) as caught:
        parse(before + data)
    assert caught.value.status == 400
    assert "secr" not in caught.value.message


def test_the_place_of_an_error_is_told() -> None:
    with pytest.raises(InvalidJson, match=r"not valid JSON \(at byte 6\)"):
        parse(b'{"a":nope}')


@pytest.mark.parametrize("data", [b"{}", b' {\n"model"\t: null } ', b'{"stream": null}'])
def test_a_missing_or_null_model_is_none(data: bytes) -> None:
    body = parse(data)
    assert body.model is None
    assert not body.stream
    assert json.loads(rewrite(body, "m", {})) == {**json.loads(data), "model": "m"}


@pytest.mark.parametrize("value", [b"1", b"true", b"[]", b"{}", b'["m"]', b'"\\ud83d"'])
def test_a_model_that_is_no_string_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse(b'{"model":' + value + b"}")
    assert caught.value.param == "model"


@pytest.mark.parametrize("value", [b"1", b"0", b'"true"', b"[]", b"{}"])
def test_a_stream_that_is_no_boolean_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse(b'{"stream":' + value + b"}")
    assert caught.value.param == "stream"


@pytest.mark.parametrize(
    "value", [rb"\ud83d", rb"\\\ud83d", rb"\udc00 cut", rb"\ud83d\u0041", rb"\uD83D\uDE00\ud83d"]
)
def test_half_of_an_emoji_in_a_prompt_passes_byte_for_byte(value: bytes) -> None:
    data = b'{ "prompt": "' + value + b'", "model":"a" }'
    body = parse(data)
    assert bytes(body.fields["prompt"]) == b'"' + value + b'"'
    assert rewrite(body, "b", {}) == data.replace(b'"a"', b'"b"')


def test_a_prompt_with_half_an_emoji_may_stand_beside_escaped_keys() -> None:
    data = rb'{"\ud83d\ude00":1,"\ud06dodel":"x","\uD83D\uDE01":2,"model":"a","s":"\ud83d"}'
    body = parse(data)
    assert body.model == "a"
    assert rewrite(body, "b", {}) == data.replace(b'"a"', b'"b"')


def test_as_many_and_as_long_keys_as_allowed_are_let_pass() -> None:
    names = [f"{number:04}".ljust(MAX_NAME, "k") for number in range(MAX_KEYS)]
    for names_of in (names, [name[:5] for name in names]):
        body = parse(json.dumps(dict.fromkeys(names_of, 1)).encode())
        assert list(body.fields) == names_of


BULK = 8 * 2**20
HOSTILE = {
    "a long key of escapes": b'{"model":"w","' + b"a\\n" * (BULK // 3) + b'":1}',
    "short keys": b"{" + b",".join(b'"%x":1' % number for number in range(BULK // 11)) + b"}",
    "short keys, cut": b"{" + b",".join(b'"%x":1' % number for number in range(BULK // 11)),
    "one key again and again": b"{" + b'"a":1,' * (BULK // 6) + b'"b":1}',
    "halves of emoji": b'{"model":"w","x":"' + b"\\ud800" * (BULK // 6) + b'"}',
    "emoji and a half": b'{"x":"' + b"\\ud83d\\ude00" * (BULK // 12) + b'\\ud800"}',
    "spaces before a repeated key": b'{"a":1' + b" " * BULK + b',"a":1}',
    "long keys": b"{"
    + b",".join(b'"%04d' % i + b"\\n" * 1000 + b'":1' for i in range(1024))
    + b"}",
    "small numbers": b'{"x":[' + b"1," * (BULK // 2) + b"1]}",
    "small objects": b'{"x":[' + b'{"a":1},' * (BULK // 8) + b"1]}",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_body_holds_the_event_loop_for_long(data: bytes) -> None:
    before = time.process_time()
    with contextlib.suppress(InvalidJson):
        parse(data)
    assert time.process_time() - before < 0.3


def test_escaped_names_of_keys_are_the_same_keys() -> None:
    body = parse(rb'{"mo\u0064el": "a", "temper\u0061ture": 1}')
    assert body.model == "a"
    assert rewrite(body, "b", {"temperature": b"0"}) == (
        rb'{"mo\u0064el": "b", "temper\u0061ture": 1}'
    )


def test_defaults_are_added_at_the_end_and_never_over_the_request() -> None:
    body = parse(b'{"model": "a", "top_p": null, "x": 1.50 }\n')
    defaults = {"temperature": b"0.6", "top_p": b"1", "model": b'"other"', "stop": b'["\xc3\xa9"]'}
    assert rewrite(body, "a", defaults) == (
        b'{"model": "a", "top_p": null, "x": 1.50 ,"temperature":0.6,"stop":["\xc3\xa9"]}\n'
    )


def test_numbers_keep_their_writing() -> None:
    data = b'{"model":"a","seed":123456789012345678901234567890,"t":1.0e-0,"z":1e999}'
    assert rewrite(parse(data), "b", {}) == data.replace(b'"a"', b'"b"')


def test_the_top_level_can_be_had_alone() -> None:
    assert bytes(top_level(b'{"a": [1, 2]}')["a"]) == b"[1, 2]"
