"""Answers of a real llama.cpp come through the gateway as it gave them, on every path it serves."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.blackbox import expect
from tests.gateway_process import GatewayProcess
from tests.llama import LlamaServer, hello
from tests.rawhttp import Reply, request_bytes
from tests.real.conftest import CHAT, as_json, bearer, streaming

# Greedy, so that the same request has the same answer.
SAME = {"temperature": 0, "cache_prompt": False}
REQUESTS: dict[str, dict[str, Any]] = {
    CHAT: {"messages": hello(), "max_tokens": 12},
    "/v1/completions": {"prompt": "hello", "max_tokens": 12},
    "/v1/responses": {"input": "hello", "max_output_tokens": 12},
    "/v1/messages": {"messages": hello(), "max_tokens": 12},
    "/v1/messages/count_tokens": {"messages": hello()},
}
STREAMED = [path for path in REQUESTS if not path.endswith("count_tokens")]
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}


def ask(front: GatewayProcess, path: str, **fields: Any) -> Reply:
    return front.post(path, {"model": "tiny", **fields}, bearer())


def lasting(value: Any) -> Any:
    """Without what differs from one answer to the next: ids, instants, durations."""
    if isinstance(value, dict):
        passing = ("id", "item_id", "created", "created_at", "completed_at", "timings")
        return {key: lasting(item) for key, item in value.items() if key not in passing}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def events(body: bytes) -> list[tuple[list[bytes], Any]]:
    """Of each event: its lines but the data, and the data."""
    told = []
    for event in expect.events(body):
        lines = event.splitlines()
        data = [line.removeprefix(b"data: ") for line in lines if line.startswith(b"data: ")]
        others = [line for line in lines if not line.startswith(b"data: ")]
        text = b"".join(data)
        told.append((others, text if text == b"[DONE]" else lasting(json.loads(text))))
    return told


@pytest.mark.parametrize("path", REQUESTS)
def test_an_answer_is_the_backends_own(
    front: GatewayProcess, llama: LlamaServer, path: str
) -> None:
    request = {**REQUESTS[path], **SAME}
    status, direct = llama.post(path, request)
    reply = ask(front, path, **request)
    expect.upstreams_own(reply)
    assert (reply.status, lasting(reply.json())) == (status, lasting(direct))
    assert status == 200


@pytest.mark.parametrize("path", STREAMED)
def test_a_stream_is_the_backends_own(front: GatewayProcess, llama: LlamaServer, path: str) -> None:
    request = {**REQUESTS[path], **SAME, "stream": True}
    status, direct = llama.post(path, request)
    reply = ask(front, path, **request)
    expect.upstreams_own(reply)
    assert (reply.status, events(reply.body)) == (status, events(direct.encode()))
    assert status == 200
    assert len(events(reply.body)) > 12


def test_an_answer_says_who_gave_it(front: GatewayProcess) -> None:
    id_header = [("X-Request-ID", "the-clients.own_1")]
    reply = front.chat("tiny", [*bearer(), *id_header], max_tokens=2)
    assert reply.get("X-Request-ID") == "the-clients.own_1"
    assert reply.get("X-RoleMesh-Alias") == "tiny"
    assert reply.get("X-RoleMesh-Backend") == "first"
    assert reply.get("X-RoleMesh-Model") == "tiny"
    line = front.request_line(reply)
    assert (line["caller"], line["alias"], line["outcome"]) == ("whole", "tiny", "ok")


def test_a_stream_is_marked_as_one_and_not_to_be_buffered(front: GatewayProcess) -> None:
    reply = front.chat("tiny", bearer(), stream=True, max_tokens=2)
    assert (reply.get("Content-Type") or "").startswith("text/event-stream")
    assert reply.get("Cache-Control") == "no-cache"
    assert reply.get("X-Accel-Buffering") == "no"
    expect.whole_stream(reply.body)


def test_a_request_without_a_model_goes_to_the_default(front: GatewayProcess) -> None:
    reply = front.chat(None, bearer(), max_tokens=2)
    assert (reply.status, reply.get("X-RoleMesh-Alias")) == (200, "tiny")


def test_a_schema_for_the_answer_passes_untouched(front: GatewayProcess) -> None:
    """Random weights keep to a schema only where llama.cpp was given it."""
    schema = {"name": "colour", "strict": True, "schema": COLOUR}
    form = {"type": "json_schema", "json_schema": schema}
    reply = front.chat("tiny", bearer(), response_format=form, max_tokens=500)
    answer = json.loads(reply.json()["choices"][0]["message"]["content"])
    assert answer["colour"] in ("red", "blue")


@pytest.mark.parametrize(
    ("path", "fields", "status", "kind"),
    [
        (CHAT, {"messages": "no list"}, 400, "invalid_request_error"),
        (CHAT, {"messages": [{"role": "user", "content": "x " * 3000}]}, 400, "exceed_context"),
        ("/v1/embeddings", {"input": "x"}, 501, "not_supported_error"),
        ("/v1/rerank", {"query": "x", "documents": ["a"]}, 501, "not_supported_error"),
    ],
)
def test_an_error_of_the_backend_passes_unchanged(
    front: GatewayProcess, llama: LlamaServer, path: str, fields: Any, status: int, kind: str
) -> None:
    reply = ask(front, path, **fields)
    expect.upstreams_own(reply)
    assert (reply.status, reply.json()) == llama.post(path, fields)
    assert reply.status == status
    assert kind in reply.json()["error"]["type"]


def test_embeddings_come_through_however_many(front: GatewayProcess, embedder: LlamaServer) -> None:
    request = {"input": [f"text number {n}" for n in range(400)]}
    reply = front.post("/v1/embeddings", {"model": "embed", **request}, bearer())
    assert reply.status == 200
    assert len(reply.body) > 300_000
    direct = embedder.post("/v1/embeddings", request)[1]
    assert reply.json()["usage"] == direct["usage"]
    assert [item["index"] for item in reply.json()["data"]] == list(range(400))


def test_a_connection_serves_more_requests_than_the_backends_own(front: GatewayProcess) -> None:
    """llama.cpp closes each connection after 100 requests; nobody may notice."""
    body = as_json({"model": "tiny", "messages": hello(), "max_tokens": 1})
    with front.connect() as wire:
        for _ in range(230):
            wire.send(request_bytes("POST", CHAT, bearer(), body))
            assert wire.reply().status == 200


def test_more_requests_than_slots_are_all_answered(front: GatewayProcess) -> None:
    def one(number: int) -> Reply:
        return front.chat("tiny", bearer(), max_tokens=20, stream=bool(number % 2))

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(one, range(48)))
    assert {reply.status for reply in replies} == {200}
    for reply in replies[1::2]:
        expect.whole_stream(reply.body)


def test_events_come_as_they_are_made(front: GatewayProcess) -> None:
    """60 tokens a second: the first must be here long before the last."""
    with streaming(front, "slow", max_tokens=30) as stream:
        first = json.loads(stream.first.removeprefix(b"data: ").splitlines()[0])
        assert first["choices"][0]["finish_reason"] is None
        assert sum(1 for _ in stream.pieces) > 20
