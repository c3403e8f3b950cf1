"""Requests through a node to a real llama.cpp: clients that users have, the answers that it gives
by itself, and slots that come free when somebody leaves."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.llama import WAIT_S, hello, until
from tests.node_process import NodeProcess, model
from tests.rawhttp import Reply

openai = pytest.importorskip("openai", reason="pip install 'rolemesh[test]'")

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES: Any = hello()
SOON_S = 1.0  # the answers asked for would take 16 s


@pytest.fixture(scope="module")
def node(tiny: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    models = [model("tiny", tiny, parallel=2, ctx_size=4096), model("slow", slow, parallel=2)]
    with NodeProcess({"models": models}, tmp_path_factory.mktemp("node")) as process:
        yield process


@pytest.fixture
def client(node: NodeProcess) -> Iterator[Any]:
    url = f"http://127.0.0.1:{node.address[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="whatever", max_retries=0) as made:
        yield made


class Child:
    """The llama.cpp of a model, asked directly: by who may read its environment."""

    def __init__(self, node: NodeProcess, model_id: str) -> None:
        told = node.load(model_id)
        self.port = told["port"]
        entries = Path(f"/proc/{told['pid']}/environ").read_bytes().split(b"\0")
        env = dict(entry.partition(b"=")[::2] for entry in entries)
        self.key = env[b"LLAMA_API_KEY"].decode()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, str, bytes]:
        """Status, content type, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Authorization": f"Bearer {self.key}"})
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def busy_slots(self) -> int:
        slots = json.loads(self.ask("GET", "/slots")[2])
        return sum(slot["is_processing"] for slot in slots)


# The openai client


def test_a_chat(client: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=9)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 9
    assert answer.model == "tiny"
    assert answer._request_id


def test_a_streamed_chat(client: Any) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            max_tokens=9,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage.completion_tokens == 9


def test_a_completion(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="hello", max_tokens=5)
    assert answer.choices[0].text
    assert answer.usage.completion_tokens == 5
    pieces = list(client.completions.create(model="tiny", prompt="a", max_tokens=5, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces)


def test_a_response(client: Any) -> None:
    answer = client.responses.create(model="tiny", input="hello", max_output_tokens=5)
    assert answer.output_text
    events = client.responses.create(model="tiny", input="hello", max_output_tokens=5, stream=True)
    assert [event.type for event in events][-1] == "response.completed"


def test_the_models(client: Any) -> None:
    assert [each.id for each in client.models.list()] == ["tiny", "slow"]
    assert client.models.retrieve("slow").id == "slow"


def test_errors_have_their_classes(client: Any) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="nobody", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            create(
                model="tiny", messages=[{"role": "user", "content": "a b " * 3000}], stream=stream
            )
        assert refused.value.body["type"] == "exceed_context_size_error"
        assert refused.value.body["n_ctx"] == 2048
    with pytest.raises(openai.InternalServerError):  # 501: it was started without
        client.embeddings.create(model="tiny", input="hello")


def test_the_messages_api(node: NodeProcess) -> None:
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 5}
    whole = node.post("/v1/messages", asked).json()
    assert whole["type"] == "message"
    assert whole["content"][0]["text"]
    assert whole["usage"]["output_tokens"] == 5
    streamed = node.post("/v1/messages", {**asked, "stream": True}).body
    names = [line for line in streamed.split(b"\n") if line.startswith(b"event: ")]
    assert (names[0], names[-1]) == (b"event: message_start", b"event: message_stop")
    counted = node.post("/v1/messages/count_tokens", {"model": "tiny", "messages": MESSAGES})
    assert counted.json()["input_tokens"] > 0


# As llama.cpp itself answers


def comparable(status: int, content_type: str | None, body: bytes) -> Any:
    told = json.loads(body)
    for key in ("id", "created", "timings"):
        told.pop(key, None)
    return status, content_type, list(told), told


def of(reply: Reply) -> Any:
    return comparable(reply.status, reply.get("Content-Type"), reply.body)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {}),
        (CHAT, {"n": 2}),
        (CHAT, {"logprobs": True, "top_logprobs": 2}),
        (CHAT, {"messages": [*MESSAGES, {"role": "assistant", "content": "Well"}]}),
        (CHAT, {"messages": "none"}),
        (CHAT, {"messages": [{"role": "user", "content": "a b " * 3000}]}),
        (CHAT, {"max_tokens": "many"}),
        (CHAT, {"tools": [{"type": "nothing"}]}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": 1}}}}),
        (CHAT, {"grammar": "root ::= ("}),
        (COMPLETIONS, {"prompt": "hello"}),
        (COMPLETIONS, {"prompt": ["hello", "you"]}),
        (COMPLETIONS, {"prompt": "hello", "logprobs": 2}),
        (COMPLETIONS, {}),
        ("/v1/embeddings", {"input": "hello"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ],
)
def test_answers_and_refusals_are_its_own(
    node: NodeProcess, path: str, fields: dict[str, Any]
) -> None:
    asked = {"model": "tiny", "max_tokens": 8, "seed": 7, "cache_prompt": False, **fields}
    if path == CHAT:
        asked = {"messages": MESSAGES, **asked}
    reply = node.post(path, asked)
    assert of(reply) == comparable(*Child(node, "tiny").ask("POST", path, asked))
    assert reply.get("X-RoleMesh-Error") is None
    assert reply.get("X-RoleMesh-Model") == "tiny"


# Whoever leaves frees a slot


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {}),
        (CHAT, {"stream": True}),
        (COMPLETIONS, {"prompt": "hello"}),
        (COMPLETIONS, {"prompt": "hello", "stream": True}),
        ("/v1/messages", {"stream": True}),
        ("/v1/responses", {"stream": True, "input": "hello"}),
    ],
)
@pytest.mark.parametrize("how", ["closes", "resets"])
def test_who_leaves_frees_the_slot_at_once(
    node: NodeProcess, path: str, fields: dict[str, Any], how: str
) -> None:
    child = Child(node, "slow")
    asked = {"model": "slow", "max_tokens": 1000, "max_output_tokens": 1000, **fields}
    if path in (CHAT, "/v1/messages"):
        asked["messages"] = MESSAGES
    with node.connect() as wire:
        headers = [("Content-Type", "application/json")]
        wire.request("POST", path, headers, json.dumps(asked).encode())
        until(lambda: child.busy_slots() == 1, "the slot is busy")
        assert node.child("slow")["in_flight"] == 1
        if how == "resets":
            wire.reset()
    until(lambda: child.busy_slots() == 0, "the slot is free", SOON_S)
    until(lambda: node.child("slow")["in_flight"] == 0, "it is not in flight", SOON_S)


def test_who_leaves_takes_no_other_along(node: NodeProcess) -> None:
    child = Child(node, "slow")
    with node.open_stream("slow", max_tokens=40) as stays:
        stays.begun()
        with node.connect() as wire:
            body = {"model": "slow", "messages": MESSAGES, "max_tokens": 1000}
            wire.request("POST", CHAT, body=json.dumps(body).encode())
            until(lambda: child.busy_slots() == 2, "both slots are busy")
        until(lambda: child.busy_slots() == 1, "one slot is free", SOON_S)
        assert stays.rest().endswith(b"data: [DONE]\n\n")
