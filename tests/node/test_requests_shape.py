"""What goes into a node and what comes out, seen from outside, by the fast lane and without it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway_process import chat_body
from tests.node.scripted import REFUSAL, Obedient, obedient_node
from tests.node_process import NodeProcess
from tests.rawhttp import RawClient, Reply, request_bytes

CHAT = "/v1/chat/completions"
PATHS = (
    CHAT, "/v1/completions", "/v1/embeddings", "/v1/rerank", "/v1/responses", "/v1/messages",
    "/v1/messages/count_tokens",
)  # fmt: skip
JSON = ("Content-Type", "application/json")
ODD = 'vendor/Some model+1:Q4 "\u00e9"'
MAX_BODY = 100_000

# As obedient.py writes them.
HEL = {"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}


@pytest.fixture(scope="module", params=[True, False], ids=["lane", "aiohttp"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[NodeProcess, Obedient]]:
    section = {"node_id": "box", "fast_lane": request.param, "max_body_bytes": MAX_BODY}
    folder = tmp_path_factory.mktemp("node")
    with obedient_node(folder, "a", ODD, node=section) as made:
        yield made


@pytest.fixture
def node(pair: tuple[NodeProcess, Obedient]) -> NodeProcess:
    return pair[0]


@pytest.fixture
def llama(pair: tuple[NodeProcess, Obedient]) -> Obedient:
    return pair[1]


def error(reply: Reply, status: int, code: str, param: str | None = None) -> dict[str, Any]:
    """The node's own, in the contract's shape."""
    assert reply.status == status, reply
    assert reply.get("X-RoleMesh-Error") == "node"
    assert reply.get("Content-Type") == "application/json"
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", reply.get("X-Request-ID") or "")
    inner: dict[str, Any] = reply.json()["error"]
    assert set(inner) - {"details"} == {"message", "type", "param", "code"}
    assert (inner["code"], inner["param"]) == (code, param)
    return inner


# Answers


def test_a_chat_is_one_answer_though_the_child_was_asked_for_a_stream(
    node: NodeProcess, llama: Obedient
) -> None:
    reply = node.chat("a", [("X-Request-ID", "of-mine")], max_tokens=3)
    assert reply.status == 200
    assert reply.get("Content-Type") == "application/json; charset=utf-8"
    assert reply.get("Content-Length") == str(len(reply.body))
    assert reply.get("X-Request-ID") == "of-mine"
    assert reply.get("X-RoleMesh-Node") == "box"
    assert reply.get("X-RoleMesh-Model") == "a"
    assert reply.get("X-RoleMesh-Error") is None
    told = reply.json()
    assert told["object"] == "chat.completion"
    assert told["choices"][0]["message"] == {"role": "assistant", "content": "Hello."}
    assert told["usage"]["completion_tokens"] == 3
    asked = llama.last_request("a")
    assert asked["body"]["stream"] is True
    assert ["X-Request-ID", "of-mine"] in asked["headers"]


def test_a_stream_is_the_childs_own(node: NodeProcess, llama: Obedient) -> None:
    reply = node.chat("a", stream=True)
    assert reply.get("Content-Type") == "text/event-stream"
    assert reply.get("Cache-Control") == "no-cache"
    assert reply.get("X-Accel-Buffering") == "no"
    assert reply.get("X-RoleMesh-Node") == "box"
    events = reply.body.split(b"\n\n")
    assert json.loads(events[0].removeprefix(b"data: "))["choices"] == [HEL]
    assert events[-2:] == [b"data: [DONE]", b""]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
def test_a_childs_refusal_passes_unchanged(
    node: NodeProcess, path: str, fields: dict[str, Any]
) -> None:
    do = {"status": 400, "json": REFUSAL}
    reply = node.post(path, {"model": "a", "prompt": "x", "do": do, **fields})
    assert reply.status == 400
    assert reply.body == json.dumps(REFUSAL).encode()
    assert reply.get("Content-Type") == "application/json; charset=utf-8"
    assert reply.get("X-RoleMesh-Error") is None
    assert reply.get("X-RoleMesh-Model") == "a"


@pytest.mark.parametrize("status", [404, 429, 500, 501, 503])
def test_other_failures_of_the_child_pass_too(node: NodeProcess, status: int) -> None:
    reply = node.chat("a", do={"status": status, "json": {"error": {"code": status}}})
    assert (reply.status, reply.json()) == (status, {"error": {"code": status}})


def test_what_is_not_assembled_reaches_the_child_byte_for_byte(
    node: NodeProcess, llama: Obedient
) -> None:
    body = b'{"model": "a", "n": 2, "x": 1.50, "deep": {"a":  [1, {}]}, "text": "\\u00e9"}'
    assert node.post(CHAT, body).status == 200
    asked = llama.last_request("a")
    assert asked["bytes"] == len(body)
    assert asked["body"] == json.loads(body)


def test_credentials_of_the_caller_do_not_reach_the_child(
    node: NodeProcess, llama: Obedient
) -> None:
    headers = [("Authorization", "Bearer any"), ("Cookie", "a=b"), ("X-Conversation-Id", "7")]
    assert node.chat("a", headers).status == 200
    names = {name.lower() for name, _ in llama.last_request("a")["headers"]}
    assert not names & {"cookie", "x-conversation-id"}
    values = str(llama.last_request("a")["headers"])
    assert "any" not in values


def test_a_connection_is_kept(node: NodeProcess) -> None:
    with node.connect() as wire:
        for stream in (False, True, False):
            wire.request("POST", CHAT, [JSON], chat_body("a", stream=stream))
            assert wire.reply().status == 200


def test_a_model_with_an_odd_id_is_served_and_operated(node: NodeProcess, llama: Obedient) -> None:
    reply = node.chat(ODD)
    assert reply.json()["model"] == ODD
    assert reply.get("X-RoleMesh-Model") == "vendor/Some model%2B1:Q4 %22%C3%A9%22"
    quoted = "vendor%2FSome%20model+1:Q4%20%22%C3%A9%22"
    assert node.get(f"/v1/models/{quoted}").json()["id"] == ODD
    half = quoted.replace("%2F", "/")
    for name in (quoted, half):
        path = f"/v1/node/models/{name}"
        told = node.post(f"{path}/load", {}).json()
        assert told == {"status": "ok", "model": ODD, "state": "READY"}
        assert f"loading {ODD}" in node.get(f"{path}/log").body.decode()
        assert node.post(f"{path}/unload", {}).json()["state"] == "STOPPED"


# Refusals of the node's own


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'"a"', "invalid_json", None),
        (b'{"model": "a", "model": "a"}', "invalid_json", None),
        (b'{"model": "a", "x": "\xff"}', "invalid_json", None),
        (b'{"model": "a", "x": ' + b"[" * 50_000, "invalid_json", None),
        (b"{}", "invalid_value", "model"),
        (b'{"model": null}', "invalid_value", "model"),
        (b'{"model": 7}', "invalid_value", "model"),
        (b'{"model": ["a"]}', "invalid_value", "model"),
        (b'{"model": "a", "stream": "yes"}', "invalid_value", "stream"),
        (b'{"model": "a", "stream": 1}', "invalid_value", "stream"),
    ],
)
def test_odd_bodies(node: NodeProcess, body: bytes, code: str, param: str | None) -> None:
    for path in (CHAT, "/v1/messages"):
        error(node.post(path, body), 400, code, param)


def test_an_unknown_model(node: NodeProcess) -> None:
    for path in PATHS:
        reply = node.post(path, {"model": "sk-not-repeated"})
        error(reply, 404, "model_not_found", "model")
        assert b"sk-not" not in reply.body
        assert (reply.json().get("type") == "error") == path.startswith("/v1/messages")
    error(node.get("/v1/models/nobody"), 404, "model_not_found", "model")
    for word in ("load", "unload"):
        error(node.post(f"/v1/node/models/x/y/{word}", {}), 404, "model_not_found", "model")
    error(node.get("/v1/node/models/nobody/log"), 404, "model_not_found", "model")


def test_a_body_beyond_the_limit(node: NodeProcess) -> None:
    body = chat_body("a", padding="x" * MAX_BODY)
    error(node.post(CHAT, body), 413, "request_too_large")
    with node.connect() as wire:  # also where it comes in pieces, and does not say its length
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.send(head.encode(), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        error(wire.reply(), 413, "request_too_large")


def test_chunks_are_a_body_as_well(node: NodeProcess) -> None:
    body = chat_body("a")
    with node.connect() as wire:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.send(head.encode(), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert wire.reply().status == 200


def test_compression_is_refused(node: NodeProcess) -> None:
    reply = node.post(CHAT, chat_body("a"), [("Content-Encoding", "gzip")])
    error(reply, 415, "unsupported_media_type")


def test_methods_and_paths(node: NodeProcess) -> None:
    reply = node.get(CHAT)
    error(reply, 405, "method_not_allowed")
    assert reply.get("Allow") == "POST"
    reply = node.get("/v1/node/models/a/load")
    error(reply, 405, "method_not_allowed")
    error(node.post("/v1/nodes/register", {}), 404, "not_found")
    error(node.get("/v1/node/models//log"), 404, "not_found")
    error(node.get("/v1/node/models/a"), 404, "not_found")


@pytest.mark.parametrize("target", ["/health", "/ready", "/metrics", "/v1/models", "/v1/node"])
def test_head_is_get_without_a_body(node: NodeProcess, target: str) -> None:
    reply = node.call("HEAD", target)
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.get("Content-Length") or 0) > 0


def test_what_is_no_http_is_told_so(node: NodeProcess) -> None:
    with node.connect() as wire:
        wire.send(b"GET / HTTP/3.0\r\nHost: secret-name\r\n\r\n")
        reply = wire.reply()
        assert reply.status == 400
        assert reply.get("X-RoleMesh-Error") == "node"
        assert b"secret-name" not in reply.body


# Health, lists, logs of children


def test_health_and_readiness(node: NodeProcess) -> None:
    assert node.get("/health").json() == {"status": "ok"}
    told = node.get("/ready").json()
    assert told["status"] == "ready"
    assert told["last_reload"]["result"] == "success"


def test_the_list_of_models(node: NodeProcess) -> None:
    node.load("a")
    told = node.get("/v1/models").json()
    assert told["object"] == "list"
    assert [each["id"] for each in told["data"]] == ["a", ODD]
    first = told["data"][0]
    assert first == node.get("/v1/models/a").json()
    assert first["rolemesh"] == {"state": "READY", "roles": []}


@pytest.mark.parametrize(("query", "lines"), [("", 1), ("?tail=1", 1), ("?tail=0", 0),
                                              ("?tail=999999", 1), ("?x=1&tail=5", 1)])  # fmt: skip
def test_the_end_of_a_childs_log(node: NodeProcess, query: str, lines: int) -> None:
    node.load("a")
    reply = node.get(f"/v1/node/models/a/log{query}")
    assert reply.status == 200
    assert reply.get("Content-Type") == "text/plain; charset=utf-8"
    told = reply.body.decode().splitlines()
    assert len(told) == lines if "tail=1" in query else len(told) >= lines
    assert (lines == 0) == (not told)


@pytest.mark.parametrize("tail", ["", "x", "-1", "1.5", "%31", "10000000"])
def test_an_odd_tail(node: NodeProcess, tail: str) -> None:
    error(node.get(f"/v1/node/models/a/log?tail={tail}"), 400, "invalid_value", "tail")


def test_a_pipelined_request_is_answered_in_turn(node: NodeProcess) -> None:
    with RawClient(node.address) as wire:
        one = request_bytes("POST", CHAT, [JSON, ("X-Request-ID", "one")], chat_body("a"))
        two = request_bytes("GET", "/health", [("X-Request-ID", "two")])
        wire.send(one + two)
        assert wire.reply().get("X-Request-ID") == "one"
        assert wire.reply().get("X-Request-ID") == "two"
