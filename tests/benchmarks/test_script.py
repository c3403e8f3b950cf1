"""What is asked of the upstream, and what it answers, without a socket."""

from __future__ import annotations

import json

import pytest

from benchmarks.script import DONE, Script, expected, pieces, request_body, script_in
from benchmarks.upstream import writes

STREAM = Script(answer_bytes=230, events=12, gap_ms=20)
WHOLE = Script(answer_bytes=920)


@pytest.mark.parametrize("script", [STREAM, WHOLE])
@pytest.mark.parametrize("size", [300, 1024, 65_536])
def test_a_request_has_its_size_and_carries_its_script(script: Script, size: int) -> None:
    body = request_body(script, size)
    assert len(body) == size
    assert json.loads(body).get("stream", False) == script.streams
    assert script_in(body) == script


def test_a_request_too_small_for_its_script_is_refused() -> None:
    with pytest.raises(ValueError, match="at least"):
        request_body(WHOLE, 10)


def test_a_body_without_a_script_has_none() -> None:
    assert script_in(b'{"model":"bench"}') is None


def test_a_whole_answer_is_json_of_its_size() -> None:
    body = expected(WHOLE)
    assert len(body) == 920
    assert json.loads(body)["object"] == "chat.completion"


@pytest.mark.parametrize("size", [20, 230, 4096])
def test_events_are_numbered_and_have_their_size(size: int) -> None:
    *events, done = pieces(Script(answer_bytes=size, events=12))
    assert done == DONE
    assert {len(event) for event in events} == {size}
    assert len(set(events)) == 12
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)


def test_a_stream_is_written_in_one_chunk_per_event() -> None:
    written = writes(STREAM)
    assert len(written) == 13
    assert written[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert written[5].startswith(b"e6\r\ndata: ")
    assert written[-1].endswith(b"\r\n0\r\n\r\n")
