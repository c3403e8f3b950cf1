"""Answers put together out of a real llama.cpp's streams are those it gives by itself.

Each request is sent as it is, and asked for as a stream and assembled; all but ids, instants and
timings has to be the same, the order of keys too. The tiny model is sampled with a fixed seed; the
reciting one says what the tiny one never does: reasoning, tool calls, halves of characters.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from rolemesh.wire.assemble import Assembler
from rolemesh.wire.body import parse
from rolemesh.wire.streamable import CHAT, COMPLETIONS, as_stream, streamable
from tests.llama import WAIT_S, LlamaServer, Starter, hello
from tests.node import reciting_model

TEXT = """\
<think>
I should look <b>. Café 中文 😀!
</think>

Let me see < that. </think >
<tool_call>
{"name": "get", "arguments": {"a": "xx"}}
</tool_call>
<tool_call>
{"name": "put", "arguments": {"text": "über \\"q\\" 中"}}
</tool_call>"""
ALL = len(reciting_model.pieces(TEXT)) + 1  # tokens; the last one ends the answer


def tool(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TOOLS = [tool("get", a={"enum": ["xx", "yy"]}), tool("put", text={"type": "string"})]
SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
SAYS_HI = 'root ::= "hi"'
SAYS_EMOJI = 'root ::= "a é 中 😀z"'
ASKED: dict[str, dict[str, Any]] = {CHAT: {"messages": hello()}, COMPLETIONS: {"prompt": "hello"}}


@pytest.fixture(scope="module")
def reciting(llama_folder: Any) -> Iterator[LlamaServer]:
    path = llama_folder / "reciting.gguf"
    reciting_model.write(path, TEXT)
    starter = Starter(llama_folder)
    yield starter(alias="reciting", args=("--model", str(path)))
    starter.stop_all()


def request(path: str, **fields: Any) -> dict[str, Any]:
    """With a fixed seed, and without what the cache may change of `usage`."""
    return {**ASKED[path], "max_tokens": 16, "seed": 7, "cache_prompt": False, **fields}


def streamed(server: LlamaServer, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
    """As the node asks for it."""
    body = parse(json.dumps(asked).encode())
    assert streamable(path, body)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_S)
    try:
        connection.request("POST", path, as_stream(body))
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if response.headers.get_content_type() != "text/event-stream":
        return response.status, json.loads(data)
    assembler = Assembler(path)
    assembler.feed(data)
    answer = assembler.whole()
    return answer.status, json.loads(answer.body)


def comparable(answer: tuple[int, Any]) -> str:
    status, body = answer
    told = dict(body)
    for key in ("id", "created", "timings"):
        assert (key in told) == (status == 200)
        told.pop(key, None)
    for choice in told.get("choices", []):
        for call in choice.get("message", {}).get("tool_calls", []):
            assert call["id"]
            call["id"] = "an id"
    return json.dumps([status, list(body), told], indent=1, ensure_ascii=False)


def same(server: LlamaServer, path: str, **fields: Any) -> Any:
    """The answer itself, which is the same in both ways."""
    asked = request(path, **fields)
    answer = server.post(path, asked)
    assert comparable(streamed(server, path, asked)) == comparable(answer)
    return answer[1]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0},
        {"temperature": 1.5, "top_k": 10, "max_tokens": 100},
        {"max_tokens": 0},
        {"max_tokens": 1},
        {"max_tokens": 1, "n_predict": 5},
        {"max_completion_tokens": 3},
        {"n": 1, "stream": False, "stream_options": {"include_usage": False}},
        {"timings_per_token": True, "return_progress": True, "return_tokens": True},
        {"response_fields": ["content"], "ignore_eos": True},
        {"grammar": SAYS_HI},
        {"grammar": SAYS_EMOJI, "max_tokens": 50},
        {"grammar": 'root ::= "hello END world"', "stop": ["END", "never"]},
        {"grammar": 'root ::= "hello END world"', "stop": "END"},
        {"json_schema": SCHEMA, "max_tokens": 60},
        {"max_tokens": 400},
    ],
    ids=str,
)
def test_a_sampled_answer(llama: LlamaServer, path: str, fields: dict[str, Any]) -> None:
    assert same(llama, path, **fields)["usage"]["completion_tokens"] >= 1


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_a_chat_that_answers_in_json(llama: LlamaServer, kind: str) -> None:
    form = {"type": kind, "json_schema": {"schema": SCHEMA}}
    same(llama, CHAT, response_format=form, max_tokens=60)


@pytest.mark.parametrize("fields", [{"echo": True}, {"best_of": 1}, {"suffix": "x"}], ids=str)
def test_what_llama_server_passes_over_changes_nothing(
    llama: LlamaServer, fields: dict[str, Any]
) -> None:
    same(llama, COMPLETIONS, **fields)


@pytest.mark.parametrize("prompt", ["", [], ["hello"], [104, 105], [[104, 105]]], ids=str)
def test_a_completion_of_any_one_prompt(llama: LlamaServer, prompt: object) -> None:
    same(llama, COMPLETIONS, prompt=prompt)


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": 2},
        {"logprobs": True},
        {"n_probs": 3, "post_sampling_probs": True},
        {"logprobs": 1, "grammar": SAYS_HI},
        {"logprobs": 1, "grammar": SAYS_EMOJI},
    ],
    ids=str,
)
def test_a_completion_with_log_probabilities(llama: LlamaServer, fields: dict[str, Any]) -> None:
    assert same(llama, COMPLETIONS, **fields)["choices"][0]["logprobs"]["content"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x " * 3000}]}),
        (CHAT, {"temperature": "warm"}),
        (CHAT, {"grammar": "root ::= unknown"}),
        (COMPLETIONS, {"prompt": "x " * 3000}),
        (COMPLETIONS, {"prompt": [1, 999_999]}),
        (COMPLETIONS, {"seed": "seven"}),
    ],
)
def test_a_refusal_comes_before_the_stream(
    llama: LlamaServer, path: str, fields: dict[str, Any]
) -> None:
    assert "error" in same(llama, path, **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True},
        {"tools": TOOLS, "tool_choice": "none"},
        {"reasoning_format": "none"},
        {"reasoning_format": "deepseek", "tools": TOOLS, "temperature": 0},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"stop": ["arguments"]},
        {"stop": ["look"]},
    ],
    ids=str,
)
def test_a_chat_that_reasons_and_calls_tools(reciting: LlamaServer, fields: dict[str, Any]) -> None:
    same(reciting, CHAT, max_tokens=ALL, **fields)


def test_the_whole_of_what_is_recited_is_told(reciting: LlamaServer) -> None:
    choice = same(reciting, CHAT, max_tokens=ALL, tools=TOOLS)["choices"][0]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["reasoning_content"] == "I should look <b>. Café 中文 😀!\n"
    assert message["content"] == "Let me see < that. </think >\n"
    calls = [call["function"] for call in message["tool_calls"]]
    assert [call["name"] for call in calls] == ["get", "put"]
    assert json.loads(calls[1]["arguments"]) == {"text": 'über "q" 中'}


# Where `max_tokens` ends the answer, but for the places where a stream holds text back.
HELD_BACK = {
    count
    for count in range(1, ALL)
    if b"".join(reciting_model.pieces(TEXT)[:count]).decode(errors="ignore").encode()
    != b"".join(reciting_model.pieces(TEXT)[:count])
}


@pytest.mark.parametrize("count", sorted(set(range(1, ALL)) - HELD_BACK))
def test_an_answer_cut_by_its_limit(reciting: LlamaServer, count: int) -> None:
    same(reciting, COMPLETIONS, max_tokens=count, logprobs=1)
    if count > 1:  # the first piece is the beginning of a tag
        same(reciting, CHAT, max_tokens=count, tools=TOOLS)


def test_a_piece_that_a_stream_holds_back_at_its_limit_is_missing(reciting: LlamaServer) -> None:
    """llama-server never sends it. Should that change, this difference is one no more."""
    assert HELD_BACK
    for path, fields in (
        (COMPLETIONS, {"max_tokens": min(HELD_BACK)}),
        (COMPLETIONS, {"max_tokens": 2, "stop": ["k>\nI should"]}),
        (CHAT, {"max_tokens": 1}),
    ):
        asked = request(path, **fields)
        short, whole = (
            json.dumps(answer, ensure_ascii=False)
            for answer in (
                streamed(reciting, path, asked)[1]["choices"],
                reciting.post(path, asked)[1]["choices"],
            )
        )
        assert len(short) < len(whole)
