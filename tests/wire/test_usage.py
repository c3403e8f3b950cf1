"""Tokens read out of the ends of an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.wire.usage import Usage, read_usage

CHAT = {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}
DETAILED = {**CHAT, "prompt_tokens_details": {"cached_tokens": 4}}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("usage", [CHAT, DETAILED])
def test_a_json_answer(usage: dict[str, object], indent: int | None) -> None:
    answer = json.dumps({"choices": [], "usage": usage, "id": "x"}, indent=indent).encode()
    assert read_usage(answer, answer) == Usage(5, 8)


def test_the_usage_event_of_a_chat_stream() -> None:
    chunk = event({"choices": [{"delta": {"content": "x"}}], "usage": None})
    stream = chunk * 3 + event({"choices": [], "usage": CHAT}) + b"data: [DONE]\n\n"
    assert read_usage(chunk, stream) == Usage(5, 8)


def test_the_last_of_running_figures_counts() -> None:
    early = event({"usage": {"prompt_tokens": 5, "completion_tokens": 1}})
    assert read_usage(early, early + event({"usage": CHAT})) == Usage(5, 8)


def test_embeddings_have_no_completion() -> None:
    answer = b'{"data":[],"usage":{"prompt_tokens":5,"total_tokens":5}}'
    assert read_usage(answer, answer) == Usage(5, None)


def test_a_stream_of_messages_tells_the_prompt_at_its_head() -> None:
    head = event(
        {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}}
    )
    tail = event({"type": "message_delta", "usage": {"output_tokens": 15}})
    assert read_usage(head, tail) == Usage(25, 15)
    assert read_usage(head + tail, head + tail) == Usage(25, 15)


def test_what_anthropics_cache_took_part_in_is_prompt_too() -> None:
    usage = {
        "input_tokens": 3,
        "cache_read_input_tokens": 20,
        "cache_creation_input_tokens": 2,
        "output_tokens": 7,
    }
    answer = json.dumps({"content": [], "usage": usage}).encode()
    assert read_usage(answer, answer) == Usage(25, 7)


def test_the_last_event_of_a_stream_of_responses() -> None:
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 3}, "output_tokens": 4}
    tail = event({"type": "response.completed", "response": {"output": [], "usage": usage}})
    assert read_usage(b"", tail) == Usage(9, 4)


def test_llama_servers_timings_serve_where_no_usage_is_told() -> None:
    tail = event({"choices": [], "timings": {"cache_n": 2, "prompt_n": 3, "predicted_n": 8}})
    assert read_usage(b"", tail + b"data: [DONE]\n\n") == Usage(5, 8)


@given(
    st.text() | st.sampled_from(['"usage": {"prompt_tokens": 1}', '\\"usage":{"prompt_tokens":1}'])
)
def test_no_text_can_pass_for_usage(text: str) -> None:
    for ascii_only in (True, False):
        answer = json.dumps({"content": text, "key": "usage"}, ensure_ascii=ascii_only).encode()
        assert read_usage(answer, answer) == Usage()
        answer = json.dumps({"usage": CHAT, "content": text}, ensure_ascii=ascii_only).encode()
        assert read_usage(answer, answer) == Usage(5, 8)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_read(head: bytes, tail: bytes) -> None:
    read_usage(head + b'"usage":{' + tail, tail + b'"usage": {"prompt_tokens":' + head)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "5"},
        {"prompt_tokens": -1},
        {"prompt_tokens": 1.5},
        {"prompt_tokens": True},
        {"prompt_tokens": 2**80},
        {"prompt_tokens": None},
        {},
    ],
)
def test_what_is_no_number_of_tokens_is_not_told(usage: object) -> None:
    answer = json.dumps({"usage": usage}).encode()
    assert read_usage(answer, answer) == Usage()


def test_a_usage_cut_in_halves_is_passed_over() -> None:
    assert read_usage(b"", event({"usage": CHAT}) + b'data: {"usage":{"prompt_tok') == Usage(5, 8)


def test_deep_nesting_is_passed_over() -> None:
    assert read_usage(b"", b'"usage":{"a":' + b"[" * 15_000) == Usage()


def test_only_the_ends_are_looked_at() -> None:
    answer = json.dumps({"a": "x" * 20_000, "usage": CHAT, "b": "x" * 20_000}).encode()
    assert read_usage(answer, answer) == Usage()
