"""The official openai client, blocking and not, talks to a real llama.cpp through the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.llama import LlamaServer, hello, until
from tests.real.conftest import KEYS, StartGateway, proxy
from tests.script import Answer, Stream, completion

openai = pytest.importorskip("openai", reason="pip install 'rolemesh[test]'")

MESSAGES: Any = hello()
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Says "sunny" or — elsewhere — "rain" \u2614 \\ \n',
        "parameters": {
            "type": "object",
            "properties": {"days": {"type": "number", "maximum": 1e2, "default": 1.0}},
            "required": ["days"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(front: GatewayProcess) -> Iterator[Any]:
    with openai.OpenAI(base_url=base_url(front), api_key=KEYS["whole"], max_retries=0) as made:
        yield made


@pytest.fixture
async def aclient(front: GatewayProcess) -> AsyncIterator[Any]:
    url = base_url(front)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEYS["whole"], max_retries=0) as made:
        yield made


def base_url(gateway: GatewayProcess) -> str:
    return f"http://127.0.0.1:{gateway.address[1]}/v1"


# Asking


def test_a_chat(client: Any) -> None:
    answer = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=9)
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 9
    assert answer._request_id


async def test_a_chat_asynchronously(aclient: Any) -> None:
    answer = await aclient.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=9)
    assert answer.usage.completion_tokens == 9


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
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"


async def test_a_streamed_chat_asynchronously(aclient: Any) -> None:
    stream = await aclient.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=9, stream=True
    )
    reasons = [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]
    assert len(reasons) >= 9
    assert reasons[-1] == "length"


def test_the_clients_own_accumulation_of_a_stream(client: Any) -> None:
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, max_tokens=9) as stream:
        kinds = {event.type for event in stream}
        with pytest.raises(openai.LengthFinishReasonError):
            stream.get_final_completion()
    assert "content.delta" in kinds


def test_completions_of_the_old_kind(client: Any) -> None:
    answer = client.completions.create(model="tiny", prompt="hello", max_tokens=5)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 5)
    stream = client.completions.create(model="tiny", prompt="hello", max_tokens=5, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


def test_responses(client: Any) -> None:
    answer = client.responses.create(model="tiny", input="hello", max_output_tokens=5)
    assert answer.output_text
    assert answer.usage.output_tokens == 5
    stream = client.responses.create(model="tiny", input="hello", max_output_tokens=5, stream=True)
    kinds = [event.type for event in stream]
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


def test_embeddings(client: Any) -> None:
    """The client asks for base64 of its own accord, and decodes it."""
    answer = client.embeddings.create(model="embed", input=["one", "two"])
    assert [len(item.embedding) for item in answer.data] == [64, 64]
    assert all(isinstance(value, float) for value in answer.data[0].embedding)


def test_models(client: Any, front: GatewayProcess) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == {"tiny", "slow", "embed"}
    assert (models["tiny"].object, models["tiny"].owned_by) == ("model", "rolemesh")
    assert client.models.retrieve("tiny") == models["tiny"]
    with client.with_options(api_key=KEYS["limited"]) as limited:
        assert [model.id for model in limited.models.list()] == ["tiny"]


def test_a_models_name_may_have_slashes(start_gateway: StartGateway, llama: LlamaServer) -> None:
    name = "some-team/model:8b"
    gateway = start_gateway({"team/tiny": proxy(llama, openai_model_name=name)})
    with openai.OpenAI(base_url=base_url(gateway), api_key="any", max_retries=0) as client:
        assert client.models.retrieve(name).id == name
        assert client.models.retrieve("team/tiny").id == name
        for model in (name, "team/tiny"):
            client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=1)


def test_a_structured_answer(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema}}
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=500, response_format=form
    )
    assert json.loads(answer.choices[0].message.content)["colour"] in ("red", "blue")


def test_a_client_that_leaves_its_stream_frees_the_slot(
    client: Any, slow_llama: LlamaServer
) -> None:
    with client.chat.completions.create(
        model="slow", messages=MESSAGES, max_tokens=1000, stream=True
    ) as stream:
        next(stream)
        until(lambda: slow_llama.busy_slots() == 1, "the slot is busy")
    until(lambda: slow_llama.busy_slots() == 0, "the slot is free", 1.0)


def test_the_name_of_the_answering_backend_is_in_the_headers(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=MESSAGES, max_tokens=1
    )
    assert raw.headers["X-RoleMesh-Backend"] == "first"
    assert raw.parse()._request_id == raw.headers["X-Request-ID"]


# Tools


@pytest.fixture
def recorded(start_gateway: StartGateway) -> Iterator[tuple[Any, FakeBackend]]:
    """A client, and a server behind the gateway that shows what reached it."""
    with FakeBackend() as backend:
        aliases = {"tutor": proxy(backend.url, defaults={"temperature": 0.5, "top_k": 3})}
        gateway = start_gateway(aliases)
        with openai.OpenAI(base_url=base_url(gateway), api_key="any", max_retries=0) as client:
            yield client, backend


def test_a_tool_passes_to_a_real_server(client: Any) -> None:
    """Random weights do not call it; that the server takes the request is what can be seen."""
    answer = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, tools=[TOOL], tool_choice="auto"
    )
    assert answer.choices[0].finish_reason in ("length", "tool_calls")


def test_tools_reach_the_server_as_they_were_sent(recorded: tuple[Any, FakeBackend]) -> None:
    client, backend = recorded
    call = {"name": "weather", "arguments": '{"days": 1.0}'}
    history: Any = [
        *MESSAGES,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny \u2600"},
    ]
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    client.chat.completions.create(
        model="tutor",
        messages=history,
        tools=[TOOL],
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0.0,
    )
    sent = backend.next().json()
    assert sent == {
        "model": "tutor",
        "messages": history,
        "tools": [TOOL],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "temperature": 0.0,  # the request's own
        "top_k": 3,  # the alias's default
    }


def test_a_tool_call_comes_back_as_it_was_made(recorded: tuple[Any, FakeBackend]) -> None:
    client, backend = recorded
    arguments = '{"days": 1.50, "note": "\\u2614 \\"x\\""}'
    function = {"name": "weather", "arguments": arguments}
    told: Any = completion()
    told["choices"][0] = {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
    }
    backend.script(Answer.json(told))
    answer = client.chat.completions.create(model="tutor", messages=MESSAGES, tools=[TOOL])
    (call,) = answer.choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == (
        "call_1",
        "weather",
        arguments,
    )


def test_a_streamed_tool_call_is_put_together_by_the_client(
    recorded: tuple[Any, FakeBackend],
) -> None:
    client, backend = recorded

    def piece(call: dict[str, Any] | None, reason: str | None = None) -> bytes:
        delta = {} if call is None else {"tool_calls": [{"index": 0, **call}]}
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"

    named = {"name": "weather", "arguments": ""}
    parts = ['{"da', 'ys"', ": 2}"]
    pieces = [piece({"id": "call_1", "type": "function", "function": named})]
    pieces += [piece({"function": {"arguments": part}}) for part in parts]
    backend.script(Stream((*pieces, piece(None, "tool_calls"))))
    with client.chat.completions.stream(model="tutor", messages=MESSAGES, tools=[TOOL]) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"days": 2})
