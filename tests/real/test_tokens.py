"""Tokens in the log and the metrics are those that llama.cpp told, on every path, however told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess
from tests.llama import LlamaServer, hello
from tests.real.conftest import CHAT, bearer

ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": hello(), "max_tokens": 7},
    "/v1/completions": {"prompt": "hello there", "max_tokens": 7},
    "/v1/responses": {"input": "hello", "max_output_tokens": 7},
    "/v1/messages": {"messages": hello(), "max_tokens": 7},
}


def metered(front: GatewayProcess, alias: str) -> tuple[float, float]:
    prompt, completion = (
        front.metric("tokens_total", alias=alias, kind=kind) for kind in ("prompt", "completion")
    )
    return prompt, completion


def prompt_tokens(usage: dict[str, Any]) -> int:
    """As each API tells them; Anthropic's counts those in the cache beside the others."""
    if "prompt_tokens" in usage:
        return int(usage["prompt_tokens"])
    return int(usage["input_tokens"]) + int(usage.get("cache_read_input_tokens", 0))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ASKED)
def test_they_are_what_the_server_told(
    front: GatewayProcess, llama: LlamaServer, path: str, stream: bool, cached: bool
) -> None:
    request = {"cache_prompt": cached, **ASKED[path]}
    if cached:
        llama.post(path, request)
    usage = llama.post(path, request)[1]["usage"]
    before = metered(front, "tiny")
    reply = front.post(path, {"model": "tiny", "stream": stream, **request}, bearer())
    assert reply.status == 200
    line = front.request_line(reply)
    told = (line["prompt_tokens"], line["completion_tokens"])
    assert told == (prompt_tokens(usage), 7)
    after = metered(front, "tiny")
    assert (after[0] - before[0], after[1] - before[1]) == told


def test_a_stream_that_tells_usage_is_counted_once(front: GatewayProcess) -> None:
    options = {"include_usage": True}
    reply = front.chat("tiny", bearer(), stream=True, max_tokens=5, stream_options=options)
    line = front.request_line(reply)
    *_, with_usage, done, _ = reply.body.split(b"\n\n")
    assert done == b"data: [DONE]"
    usage = json.loads(with_usage.removeprefix(b"data: "))["usage"]
    told = (line["prompt_tokens"], line["completion_tokens"])
    assert told == (usage["prompt_tokens"], usage["completion_tokens"])


def test_embeddings_have_prompt_tokens_only(front: GatewayProcess) -> None:
    before = metered(front, "embed")
    request = {"model": "embed", "input": ["one", "two and three"] * 50}
    reply = front.post("/v1/embeddings", request, bearer())
    usage = reply.json()["usage"]
    line = front.request_line(reply)
    assert line["prompt_tokens"] == usage["prompt_tokens"] > 100
    assert metered(front, "embed") == (before[0] + usage["prompt_tokens"], before[1])


def test_an_answer_longer_than_what_is_kept_of_it_is_counted(front: GatewayProcess) -> None:
    """Only both ends are looked at: here lies a hundred KiB between them."""
    reply = front.chat("tiny", bearer(), max_tokens=400, logprobs=True, top_logprobs=5)
    assert len(reply.body) > 100_000
    assert front.request_line(reply)["completion_tokens"] == 400


def test_the_log_tells_no_word_of_prompt_answer_or_key(front: GatewayProcess) -> None:
    messages = [{"role": "user", "content": "a-secret-prompt"}]
    reply = front.chat("tiny", bearer(), max_tokens=30, messages=messages)
    front.request_line(reply)
    said = reply.json()["choices"][0]["message"]["content"]
    for word in ("a-secret-prompt", said, bearer()[0][1].split()[1]):
        assert word not in front.text
