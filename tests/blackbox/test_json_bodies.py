"""What a request's JSON may be, and what of it reaches the backend."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config, Solo
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body

PATH = "/v1/chat/completions"

BAD_JSON = {
    "nothing": b"",
    "space": b"  \r\n",
    "half an object": b'{"model": "MARKER"',
    "trailing garbage": b'{"model": "MARKER"} x',
    "two objects": b'{"model": "MARKER"}{}',
    "a trailing comma": b'{"model": "MARKER",}',
    "single quotes": b"{'model': 'MARKER'}",
    "a comment": b'{"model": "MARKER" /* really */}',
    "NaN": b'{"model": "MARKER", "temperature": NaN}',
    "a bare word": b"MARKER",
    "a control character in a string": b'{"model": "MARKER\n"}',
    "bytes that are no UTF-8": b'{"model": "MARKER", "user": "\xff\xfe"}',
    "a key that is no UTF-8": b'{"model": "MARKER", "\xe4": 1}',
    "an overlong encoding": b'{"model": "MARKER", "user": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"model": "MARKER", "user": "\xed\xa0\x80"}',
    "UTF-16": '{"model": "MARKER"}'.encode("utf-16"),
    "deep lists": b'{"model": "MARKER", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"model": "M", "a": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "a number that is none": b'{"model": "MARKER", "n": 01}',
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON)
def test_what_is_no_json_is_refused(gateway: GatewayProcess, body: bytes) -> None:
    expect.error(gateway.post(PATH, body), 400, "invalid_json", echo="MARKER")


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true", b'[{"model": "a"}]'])
def test_json_that_is_no_object_is_refused(gateway: GatewayProcess, body: bytes) -> None:
    reply = gateway.post(PATH, body)
    assert reply.json()["error"]["code"] in ("invalid_json", "invalid_value")
    assert reply.status == 400


@pytest.mark.parametrize("second", ['"model": "b"', '"stream": true', '"mod\\u0065l": "b"'])
def test_a_top_level_key_may_come_once(gateway: GatewayProcess, solo: Solo, second: str) -> None:
    """Two readers of a duplicate would not agree on which one counts."""
    body = '{"model": "%s", "stream": false, %s}' % (solo.alias, second)  # noqa: UP031
    reply = gateway.post(PATH, body.encode())
    assert reply.status == 400
    assert reply.json()["error"]["code"] in ("invalid_json", "invalid_value")
    assert solo.backend.none_came(0.05)


@pytest.mark.parametrize("model", ["1", "[]", "{}", "true", "0.5", '["a"]'])
def test_a_model_that_is_no_string(gateway: GatewayProcess, model: str) -> None:
    reply = gateway.post(PATH, f'{{"model": {model}}}'.encode())
    expect.error(reply, 400, "invalid_value", param="model")


def test_no_model_and_no_default(gateway: GatewayProcess) -> None:
    expect.error(gateway.chat(None), 400, "invalid_value", param="model")


@pytest.mark.parametrize("stream", ['"true"', "1", "0", "[]", "{}", '""'])
def test_a_stream_that_is_no_boolean(gateway: GatewayProcess, solo: Solo, stream: str) -> None:
    reply = gateway.post(PATH, f'{{"model": "{solo.alias}", "stream": {stream}}}'.encode())
    expect.error(reply, 400, "invalid_value", param="stream")
    assert solo.backend.none_came(0.05)


@pytest.mark.parametrize("stream", ["null", "false", "true"])
def test_a_stream_that_is_one(gateway: GatewayProcess, solo: Solo, stream: str) -> None:
    body = f'{{"model": "{solo.alias}", "stream": {stream}}}'.encode()
    assert gateway.post(PATH, body).status == 200
    assert solo.backend.next().body == body


UNTOUCHED = {
    "spacing": '{ "model" :\t"%s" ,\r\n "n":1 }',
    "numbers": '{"model":"%s","a":1e400,"b":123456789012345678901234567890,"c":1.10,"d":-0}',
    "escapes": r'{"model":"%s","a":"\u00e4\/\ud83d\ude00\n"}',
    "lone surrogates": r'{"model":"%s","a":"\ud800"}',
    "text": '{"model":"%s","a":"äöü😀\u2028"}',
    "nested duplicates": '{"model":"%s","a":{"x":1,"x":2}}',
    "a nested model": '{"model":"%s","a":{"model":"b"},"b":[{"model":1}]}',
    "an order": '{"z":1,"model":"%s","a":2}',
    "an escaped key": r'{"\u006dodel":"%s"}',
    "depth": '{"model":"%s","a":' + "[" * 50 + "]" * 50 + "}",
}


@pytest.mark.parametrize("text", UNTOUCHED.values(), ids=UNTOUCHED)
def test_what_need_not_change_reaches_the_backend_byte_for_byte(
    gateway: GatewayProcess, solo: Solo, text: str
) -> None:
    body = text.replace("%s", solo.alias).encode()
    assert gateway.post(PATH, body).status == 200
    assert solo.backend.next().body == body


def test_a_body_of_several_megabytes_arrives_whole(gateway: GatewayProcess, solo: Solo) -> None:
    body = chat_body(solo.alias, image="data:image/png;base64," + "QUJD" * 2_000_000)
    assert gateway.post(PATH, body).status == 200
    assert solo.backend.next().body == body


# `model` and defaults, as configured


@pytest.fixture(scope="module")
def config(stand_in: FakeBackend) -> Config:
    def proxy(**fields: object) -> dict[str, object]:
        return {"type": "proxy", "proxy_url": stand_in.url, **fields}

    return {
        "models": {
            "plain": proxy(),
            "named": proxy(openai_model_name="vendor/named"),
            "by-id": proxy(model_id="qwen3-8b", defaults={"model": "ignored"}),
            "ollama": proxy(defaults={"model": "dolphin3:latest", "temperature": 0.6}),
            "tuned": proxy(defaults={"temperature": 0.6, "stop": ["a", {"b": None}], "top_k": 5}),
        }
    }


@pytest.fixture(scope="module")
def stand_in() -> Iterator[FakeBackend]:
    with FakeBackend() as started:
        yield started


@pytest.mark.parametrize(
    ("asked", "forwarded"),
    [
        ("plain", "plain"),
        ("named", "named"),
        ("vendor/named", "vendor/named"),
        ("by-id", "qwen3-8b"),
        ("ollama", "dolphin3:latest"),
    ],
)
def test_the_backend_is_asked_for_the_model_it_knows(
    gateway: GatewayProcess, stand_in: FakeBackend, asked: str, forwarded: str
) -> None:
    reply = gateway.chat(asked)
    assert stand_in.next().json()["model"] == forwarded
    assert reply.get("X-RoleMesh-Model") == forwarded


def test_defaults_fill_what_the_request_does_not_set(
    gateway: GatewayProcess, stand_in: FakeBackend
) -> None:
    gateway.post(PATH, b'{"model":"tuned","temperature":null,"top_k":1.50}')
    received = stand_in.next()
    assert received.json() == {
        "model": "tuned",
        "temperature": None,
        "top_k": 1.5,
        "stop": ["a", {"b": None}],
    }
    assert b"1.50" in received.body


def test_the_rest_stays_as_it_was_where_the_model_changes(
    gateway: GatewayProcess, stand_in: FakeBackend
) -> None:
    gateway.post(PATH, rb'{"a":1.10, "model" : "by-id","b":"\u00e4", "c":{"x":1,"x":2}}')
    received = stand_in.next()
    for kept in (b"1.10", rb'"\u00e4"', b'{"x":1,"x":2}'):
        assert kept in received.body
    assert json.loads(received.body)["model"] == "qwen3-8b"


def test_an_empty_object_has_no_model(gateway: GatewayProcess) -> None:
    expect.error(gateway.post(PATH, b"{}"), 400, "invalid_value", param="model")


@pytest.mark.parametrize("model", ["", " plain", "Plain", "plain\\u0000", "no/such/model"])
def test_a_name_that_is_no_alias(gateway: GatewayProcess, model: str) -> None:
    expect.error(gateway.post(PATH, f'{{"model":"{model}"}}'.encode()), 404, "model_not_found")


def test_the_default_model_serves_requests_without_one(
    backend: FakeBackend, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = {
        "default_model": "planner",
        "models": {
            "planner": {
                "type": "proxy",
                "proxy_url": backend.url,
                "openai_model_name": "vendor/planner",
            }
        },
    }
    with GatewayProcess(config, tmp_path_factory.mktemp("default")) as gateway:
        assert gateway.chat(None).get("X-RoleMesh-Alias") == "planner"
        assert backend.next().json()["model"] == "vendor/planner"
