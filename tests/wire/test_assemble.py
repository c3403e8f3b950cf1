"""Events in, one answer out. (tests/node holds such answers to a real llama-server's.)"""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.errors import UpstreamError
from rolemesh.wire.assemble import MAX_KEPT_BYTES, Assembled, Assembler
from rolemesh.wire.streamable import CHAT, COMPLETIONS

DONE = b"data: [DONE]\n\n"
USAGE = {"completion_tokens": 2, "prompt_tokens": 5, "total_tokens": 7}
TIMINGS = {"prompt_n": 5, "predicted_n": 2}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def chat_event(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
    """Of a chat; without a delta the last one, which tells the usage."""
    choice = {"finish_reason": finish, "index": 0, "delta": delta}
    return event(
        {
            "choices": [] if delta is None else [choice],
            "created": 17,
            "id": "chatcmpl-x",
            "model": "tiny",
            "system_fingerprint": "b1",
            "object": "chat.completion.chunk",
            **more,
        }
    )


def chat(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    events = [chat_event({"role": "assistant", "content": None}), *map(chat_event, deltas)]
    events += [chat_event({}, finish), chat_event(None, usage=USAGE, timings=TIMINGS)]
    return b"".join(events) + DONE


def completion_event(text: str, logprobs: Any = None, finish: str | None = None) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": finish}
    last = {} if finish is None else {"usage": USAGE}
    return event({"choices": [choice], "model": "tiny", "object": "text_completion", **last})


def assembled(stream: bytes, path: str = CHAT) -> Assembled:
    assembler = Assembler(path)
    assembler.feed(stream)
    return assembler.whole()


def told(stream: bytes, path: str = CHAT) -> Any:
    answer = assembled(stream, path)
    assert answer.status == 200
    return json.loads(answer.body)


def message(stream: bytes) -> Any:
    return told(stream)["choices"][0]["message"]


def test_a_chat_is_told_in_llama_servers_order() -> None:
    assert assembled(chat({"content": "hel"}, {"content": "lo é"})).body.decode() == (
        '{"choices":[{"finish_reason":"stop","index":0,'
        '"message":{"role":"assistant","content":"hello é"}}],'
        '"created":17,"model":"tiny","system_fingerprint":"b1","object":"chat.completion",'
        '"usage":{"completion_tokens": 2, "prompt_tokens": 5, "total_tokens": 7},'
        '"id":"chatcmpl-x","timings":{"prompt_n": 5, "predicted_n": 2}}'
    )


def test_reasoning_stands_beside_the_content() -> None:
    stream = chat({"reasoning_content": "so "}, {"reasoning_content": "be it"}, {"content": "yes"})
    assert message(stream) == {
        "role": "assistant",
        "content": "yes",
        "reasoning_content": "so be it",
    }


def test_an_answer_without_any_text_is_an_empty_one() -> None:
    assert message(chat(finish="length")) == {"role": "assistant", "content": ""}


def call(index: int, **function: str) -> dict[str, Any]:
    first = {"id": f"call-{index}", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": index, **first, "function": function}]}


def test_tool_calls_are_joined_each_by_its_index() -> None:
    deltas = [
        call(0, name="get", arguments="{"),
        call(0, arguments='"a":1}'),
        call(1, name="put"),
        call(1, arguments="{}"),
    ]
    stream = chat(*deltas, finish="tool_calls")
    assert told(stream)["choices"][0]["finish_reason"] == "tool_calls"
    assert message(stream) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "get", "arguments": '{"a":1}'},
                "id": "call-0",
            },
            {"type": "function", "function": {"name": "put", "arguments": "{}"}, "id": "call-1"},
        ],
    }
    assert message(chat({"content": "so"}, *deltas))["content"] == "so"


@pytest.mark.parametrize("index", [1, -1, 2**40])
def test_a_tool_call_out_of_order_is_no_answer(index: int) -> None:
    with pytest.raises(UpstreamError):
        assembled(chat(call(index, name="get", arguments="{}")))


def test_texts_of_a_later_build_are_kept_and_what_else_it_tells_is_not() -> None:
    stream = chat({"content": "a", "refusal": "no"}, {"refusal": "!", "annotations": [1]})
    assert message(stream) == {"role": "assistant", "content": "a", "refusal": "no!"}


def test_a_completion_strings_its_log_probabilities_together_as_they_are_written() -> None:
    number = "-0.009016268886625767"
    entry = b'{"id":76,"token":"L","logprob":%s,"top_logprobs":[]}' % number.encode()
    stream = completion_event("L", {"content": [0]}) + completion_event("", None, "length") + DONE
    stream = stream.replace(b"[0]", b"[" + entry + b"," + entry + b"]")
    answer = assembled(stream, COMPLETIONS).body
    assert answer.count(entry) == 2
    assert json.loads(answer)["choices"] == [
        {
            "text": "L",
            "index": 0,
            "logprobs": {"content": [json.loads(entry)] * 2},
            "finish_reason": "length",
        }
    ]


def test_a_completion_tells_what_its_last_event_tells() -> None:
    stream = completion_event("a") + completion_event("b", None, "stop") + DONE
    assert told(stream, COMPLETIONS) == {
        "choices": [{"text": "ab", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "model": "tiny",
        "object": "text_completion",
        "usage": USAGE,
    }


@given(st.lists(st.integers(0, 2000), max_size=12))
def test_any_cutting_gives_the_same_answer(places: list[int]) -> None:
    stream = b":\n\n" + chat({"content": "é中😀"}, call(0, name="get", arguments="{}"))
    stream = stream.replace(b"\n\n", b"\r\n\r\n", 2)
    edges = [0, *sorted(place % len(stream) for place in places), len(stream)]
    assembler = Assembler(CHAT)
    for start, end in itertools.pairwise(edges):
        assembler.feed(stream[start:end])
    assert assembler.whole() == assembled(stream)


def test_what_follows_the_end_does_not_count() -> None:
    stream = chat({"content": "a"})
    assert assembled(stream + b":\n\n" + chat_event({"content": "b"})) == assembled(stream)


# What is no answer


@pytest.mark.parametrize("line", [b'data: {"error":%s}\n\n', b"error: %s\n\n"])
def test_an_error_in_mid_stream_is_the_childs_own_answer(line: bytes) -> None:
    error = b'{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":2048}'
    stream = chat_event({"content": "a"}) + line % error
    assert assembled(stream) == Assembled(400, b'{"error":' + error + b"}")


@pytest.mark.parametrize("code", [b"200", b"0", b'"busy"', b"null", b"600", b"[]"])
def test_an_error_without_a_status_is_a_500(code: bytes) -> None:
    assert assembled(b'data: {"error":{"code":' + code + b"}}\n\n").status == 500


@pytest.mark.parametrize("error", [b'"broken"', b"[1]", b"null"])
def test_an_error_of_another_form_is_one_all_the_same(error: bytes) -> None:
    stream = b'data: {"error":' + error + b"}\n\n"
    assert assembled(stream) == Assembled(500, b'{"error":' + error + b"}")


@pytest.mark.parametrize(
    "stream",
    [b"", DONE, b":\n\n", chat({"content": "a"})[: -len(DONE)], chat_event({"content": "a"})],
)
def test_a_stream_that_ends_too_early_is_no_answer(stream: bytes) -> None:
    with pytest.raises(UpstreamError, match="ended too early"):
        assembled(stream)


@pytest.mark.parametrize(
    "data",
    [b"{", b"5", b'{"choices":5}', b'{"choices":[{"delta":5}]}', b"[" * 5000, b'{"a":"\xff"}]'],
)
def test_what_cannot_be_read_is_told_at_the_end(data: bytes) -> None:
    assembler = Assembler(CHAT)
    assembler.feed(b"data: " + data + b"\n\n")
    assembler.feed(chat({"content": "a"}))
    with pytest.raises(UpstreamError, match="cannot be read"):
        assembler.whole()


@pytest.mark.parametrize("ended", [True, False], ids=["of many events", "in a line without end"])
def test_what_is_kept_is_bounded(ended: bool) -> None:
    piece = completion_event("x" * 2**20) if ended else b"x" * 2**20
    assembler = Assembler(COMPLETIONS)
    for _ in range(MAX_KEPT_BYTES // 2**20 + 1):
        assembler.feed(piece)
    with pytest.raises(UpstreamError, match="larger than"):
        assembler.whole()


SMALL = 2000
SMALL_PIECES = {
    "log probabilities": completion_event("", {"content": [1] * SMALL}),
    "texts": chat_event({"content": ""}) * SMALL,
    "names": chat_event({f"name{index}": "" for index in range(SMALL)}),
    "pieces of a call": chat_event({"tool_calls": [{"index": 0}] * SMALL}),
    "calls": chat_event({"tool_calls": [{"index": index} for index in range(SMALL)]}),
}


@pytest.mark.parametrize("name", SMALL_PIECES)
def test_small_pieces_count_for_the_room_that_they_take(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("rolemesh.wire.assemble.MAX_KEPT_BYTES", SMALL * 60)
    with pytest.raises(UpstreamError, match="larger than"):
        assembled(SMALL_PIECES[name] + DONE)


@pytest.mark.parametrize("more", [DONE, b"data: {\n\n", event({"error": {"code": 400}})])
def test_it_is_decided_as_soon_as_nothing_can_change_it(more: bytes) -> None:
    assembler = Assembler(CHAT)
    assembler.feed(chat_event({"content": "a"}))
    assert not assembler.is_decided
    assembler.feed(more)
    assert assembler.is_decided
