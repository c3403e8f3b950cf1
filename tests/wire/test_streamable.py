"""Which requests are asked of a child as a stream, and what the child is then sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rolemesh.wire.body import parse
from rolemesh.wire.streamable import CHAT, COMPLETIONS, as_stream, streamable

HELLO = {"role": "user", "content": "hello"}
ASKED: dict[str, dict[str, Any]] = {CHAT: {"messages": [HELLO]}, COMPLETIONS: {"prompt": "hello"}}
TOOL = {"type": "function", "function": {"name": "get"}}


def taken(path: str, **fields: Any) -> bool:
    return streamable(path, parse(json.dumps({**ASKED[path], **fields}).encode()))


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "tiny", "stream": False, "n": 1, "n_cmpl": None},
        {"stream": None, "stream_options": {"include_usage": False}},
        {"max_tokens": 3, "seed": 7, "temperature": 0, "top_p": 0.5, "stop": ["END"]},
        {"logprobs": None, "n_probs": 0, "reasoning_format": "auto", "verbose": False},
        {"response_format": {"type": "json_object"}, "tools": [TOOL], "tool_choice": "required"},
        {"timings_per_token": True, "return_progress": True, "return_tokens": True},
    ],
)
def test_one_choice_is_taken(path: str, fields: dict[str, Any]) -> None:
    assert taken(path, **fields)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(
    "fields",
    [
        {"stream": True},
        {"n": 2},
        {"n": "1"},
        {"n_cmpl": 2},
        {"verbose": True},
        {"reasoning_format": "deepseek-legacy"},
        {"reasoning_format": "of tomorrow"},
    ],
)
def test_what_a_stream_tells_otherwise_is_not(path: str, fields: dict[str, Any]) -> None:
    assert not taken(path, **fields)


@pytest.mark.parametrize("fields", [{"logprobs": True}, {"logprobs": 1}, {"n_probs": 2}])
def test_log_probabilities_are_taken_where_the_stream_tells_them_all(
    fields: dict[str, Any],
) -> None:
    assert taken(COMPLETIONS, **fields)
    assert taken(COMPLETIONS, **fields, stop=[])
    assert not taken(COMPLETIONS, **fields, stop="END")
    assert not taken(CHAT, **fields)


@pytest.mark.parametrize("prompt", ["", "a\ud83d", ["hello"], [104, 105], [[104, 105]], []])
def test_one_prompt_is_taken(prompt: object) -> None:
    assert taken(COMPLETIONS, prompt=prompt)


@pytest.mark.parametrize(
    "prompt",
    [["a", "b"], [[1], [2]], [1, "a"], ["a", 1], [["a"]], {"prompt_string": "a"}, 5, None, [1.5]],
)
def test_several_prompts_and_odd_ones_are_not(prompt: object) -> None:
    assert not taken(COMPLETIONS, prompt=prompt)
    assert not streamable(COMPLETIONS, parse(b"{}"))


def test_a_chat_that_goes_on_with_an_answer_is_not_taken() -> None:
    begun = {"role": "assistant", "content": "once"}
    assert not taken(CHAT, messages=[HELLO, begun])
    assert not taken(CHAT, continue_final_message=True)
    assert not taken(CHAT, echo=True)
    assert taken(CHAT, messages=[HELLO, begun, HELLO])


@pytest.mark.parametrize("messages", [None, "hello", [None], ["hello"], [{"role": 5}], {}])
def test_messages_that_cannot_be_read_are_left_to_the_child(messages: object) -> None:
    assert not taken(CHAT, messages=messages)


@pytest.mark.parametrize(
    "path",
    ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/embeddings", "/v1/rerank"],
)
def test_other_paths_are_not_taken(path: str) -> None:
    body = parse(b'{"input": "hello", "messages": [], "prompt": "hello"}')
    assert not streamable(path, body)


def test_the_child_is_sent_every_other_value_as_it_came() -> None:
    sent = (
        b' {"prompt" : "a\\u00e9\\ud83d", "stream": false, "seed": 1.50,\n'
        b'"stream_options": {"x": 1}, "logit_bias": { "1":  2 } } '
    )
    assert as_stream(parse(sent)) == (
        b'{"prompt":"a\\u00e9\\ud83d","stream":true,"seed":1.50,'
        b'"stream_options":{"include_usage":true},"logit_bias":{ "1":  2 }}'
    )
    assert as_stream(parse(b"{}")) == b'{"stream":true,"stream_options":{"include_usage":true}}'
