"""Event streams cut into chunks in every way: the same bytes, whole events only."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rolemesh.wire.http1 import chunk
from rolemesh.wire.sse import (
    MAX_HELD_BYTES,
    MAX_WHOLE_BYTES,
    EventSplitter,
    ends_in_error,
    whole_chunk,
)

LINE_END = st.sampled_from([b"\n", b"\r", b"\r\n"])
PIECE = st.one_of(
    LINE_END,
    st.sampled_from([b"data: x", b":", b"event: e", b"data: [DONE]", b"id", "data: ü".encode()]),
)
STREAM = st.lists(PIECE, max_size=30).map(b"".join)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def blank_line_ends(stream: bytes) -> set[int]:
    """Where an event may end, by a line-by-line reading of the specification.

    A CR ends its line at once; a LF behind it belongs to it, so both places are ends.
    """
    ends = {0}
    at = 0
    for line in re.finditer(rb"([^\r\n]*)(\r\n|\r|\n)", stream):
        at = line.end()
        if not line[1]:
            ends.add(at)
            if line[2] == b"\r\n":
                ends.add(at - 1)
    return ends


@given(STREAM, st.lists(st.integers(0, 400), max_size=12))
@example(b"data: x\r\n\r\ndata: y\r\n\r\n", [10])
@example(b"data: x\n\r\ndata: y\n", [9])
@example(b"\n\ndata: x", [1])
def test_any_cutting_passes_on_the_same_bytes_and_whole_events_only(
    stream: bytes, places: list[int]
) -> None:
    splitter, passed, seen = EventSplitter(), b"", b""
    ends = blank_line_ends(stream)
    for piece in cut(stream, places):
        seen += piece
        passed += splitter.feed(piece)
        assert passed + splitter.held == seen
        assert len(passed) in ends
        assert len(passed) >= max(end for end in blank_line_ends(seen) if end <= len(seen))
        assert not splitter.mid_event
    assert passed + splitter.flush() + splitter.held == stream


@given(STREAM, st.lists(st.integers(0, 400), max_size=12))
def test_done_is_seen_however_the_stream_is_cut(stream: bytes, places: list[int]) -> None:
    splitter = EventSplitter()
    passed = b"".join(splitter.feed(chunk) for chunk in cut(stream, places))
    assert splitter.done == bool(re.search(rb"(?:\A|[\r\n])data: \[DONE\]", passed))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * MAX_HELD_BYTES), LINE_END), min_size=1, max_size=4),
    st.lists(st.integers(0, 12 * MAX_HELD_BYTES), max_size=8),
)
def test_long_events_pass_on_as_they_come_and_nothing_is_lost(
    events: list[tuple[int, bytes]], places: list[int]
) -> None:
    stream = b"".join(b"data: " + b"x" * size + end + end for size, end in events)
    splitter, passed, seen = EventSplitter(), b"", b""
    for piece in cut(stream, places):
        seen += piece
        passed += splitter.feed(piece)
        assert passed + splitter.held == seen
        assert len(splitter.held) <= MAX_HELD_BYTES
        assert splitter.mid_event == (len(passed) not in blank_line_ends(stream))
    assert passed == stream
    assert not splitter.mid_event


def test_a_chunk_of_whole_events_is_passed_on_without_a_copy() -> None:
    chunk = b"data: {}\n\ndata: {}\n\n"
    assert EventSplitter().feed(chunk) is chunk


def test_half_an_event_waits_for_its_end() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\nda") == b"data: 1\n\n"
    assert splitter.held == b"da"
    assert splitter.feed(b"ta: 2\n") == b""
    assert splitter.feed(b"\n") == b"data: 2\n\n"
    assert splitter.held == b""


def test_a_keep_alive_line_end_is_passed_on_at_once() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.feed(b"\r\n") == b"\r\n"
    assert splitter.feed(b":\n\n") == b":\n\n"


def test_the_line_feed_of_a_cut_line_end_follows_its_event_at_once() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\r\n\r") == b"data: 1\r\n\r"
    assert splitter.feed(b"\n") == b"\n"
    assert splitter.feed(b"data: 2") == b""


@pytest.mark.parametrize(
    "stream", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: 1\n\ndata: [DONE]\n\n:\n\n"]
)
def test_done_is_told(stream: bytes) -> None:
    splitter = EventSplitter()
    splitter.feed(stream)
    assert splitter.done


@pytest.mark.parametrize(
    "stream",
    [b"data: [DONE]", b'data: {"content":"data: [DONE]"}\n\n', b"event: [DONE]\n\n", b"data: \n\n"],
)
def test_done_is_not_told_for_what_only_looks_like_it(stream: bytes) -> None:
    splitter = EventSplitter()
    splitter.feed(stream)
    assert not splitter.done


def test_done_in_the_middle_of_a_long_line_does_not_count() -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: " + b"x" * MAX_HELD_BYTES)
    assert splitter.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert not splitter.done
    splitter.feed(b"data: [DONE]\n\n")
    assert splitter.done


def test_done_without_its_blank_line_counts_at_an_orderly_end() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: 1\n\ndata: [DONE]\n") == b"data: 1\n\n"
    assert splitter.flush() == b"data: [DONE]\n"
    assert splitter.done


def test_half_an_event_at_the_end_is_never_passed_on() -> None:
    splitter = EventSplitter()
    splitter.feed(b'data: {"half')
    assert splitter.flush() == b""
    assert splitter.cut_with(b"data: e\n\n") == b"data: e\n\n"


@pytest.mark.parametrize(
    ("stream", "whole", "whole_without_done"),
    [
        (b"", False, True),
        (b"data: 1\n\n", False, True),
        (b"data: 1\n\ndata: 2", False, False),
        (b"data: 1\n\ndata: 2\n", False, False),
        (b"data: " + b"x" * MAX_HELD_BYTES, False, False),
        (b"data: 1\n\ndata: [DONE]\n\n", True, True),
        (b"data: 1\n\ndata: [DONE]", True, True),
        (b"data: [DONE]\n\ndata: 2", True, True),
    ],
)
def test_a_stream_is_whole_behind_its_done_or_where_none_is_needed_behind_a_whole_event(
    stream: bytes, whole: bool, whole_without_done: bool
) -> None:
    splitter = EventSplitter()
    splitter.feed(stream)
    splitter.flush()
    assert splitter.is_whole(needs_done=True) is whole
    assert splitter.is_whole(needs_done=False) is whole_without_done


def test_an_error_event_takes_the_place_of_half_an_event() -> None:
    splitter = EventSplitter()
    splitter.feed(b"data: 1\n\ndata: 2")
    assert splitter.cut_with(b"data: e\n\n") == b"data: e\n\n"
    assert splitter.held == b""


def test_a_blank_line_comes_before_the_error_behind_half_an_event_that_was_passed_on() -> None:
    splitter = EventSplitter()
    half = b"data: " + b"x" * MAX_HELD_BYTES
    assert splitter.feed(half) == half
    assert splitter.mid_event
    assert splitter.cut_with(b"data: e\n\n") == b"\n\ndata: e\n\n"


ERROR = b'data: {"error":{"message":"out of memory"}}\n\n'


@pytest.mark.parametrize(
    "events",
    [
        ERROR,
        b"data: 1\n\n" + ERROR,
        b'data: 1\r\n\r\ndata:{ "error" : "no"}\r\n\r\n',
        ERROR + b": ping\n\n",
        ERROR[:-1] + b"id: 4\n\n",
        b'data: {"error":\ndata: {"message":"boom"}}\n\n',
        b'data: {"id":"x","error":{"message":"boom"}}\n\n',
        b'data: {"object":"error","message":"boom","code":400}\n\n',
        b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n',
        b"event:error\r\ndata: boom\r\n\r\n",
        b"a\r\ndata: 1\n\n\r\n%x\r\n%b\r\n" % (len(ERROR), ERROR),
    ],
)
def test_an_error_of_the_upstream_at_the_end_is_the_only_one(events: bytes) -> None:
    assert ends_in_error(events)
    splitter = EventSplitter()
    splitter.feed(events + b"data: half")
    splitter.error_told = True
    assert splitter.cut_with(b"data: e\n\n") == b""


@pytest.mark.parametrize(
    "events",
    [
        b"",
        b"data: 1\n\n",
        ERROR + b"data: 1\n\n",
        ERROR[:-3],
        b'data: {"text":"\\ndata: {\\"error\\":1}"}\n\n',
        b'data: {"errors":1}\n\n',
        b'data: {"error":null,"choices":[]}\n\n',
        b"event: error\n\n",
        b"event: error\ndata: 1\n\nevent: ping\ndata: {}\n\n",
        b'data: ["error"]\n\n',
        b"data: [DONE]\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_what_is_no_error_at_the_end_is_none(events: bytes) -> None:
    assert not ends_in_error(events)


def test_nothing_fed_is_nothing_passed_on() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"") == b""
    assert splitter.flush() == b""


EVENTS = st.lists(
    st.sampled_from(
        [b"data: 1\n\n", b"data: 2\r\n\r\n", b": c\r\r", b"data: [DONE]\n\n", b"data: half", b"\n"]
    ),
    max_size=4,
).map(b"".join)


@given(EVENTS, EVENTS)
def test_a_chunk_that_passes_whole_is_one_that_feed_would_return(before: bytes, now: bytes) -> None:
    splitter, other = EventSplitter(), EventSplitter()
    splitter.feed(before)
    other.feed(before)
    at = whole_chunk(chunk(now))
    if at and splitter.between_events:
        assert chunk(now)[at:-2] == now
        assert other.feed(now) == now
        assert (splitter.held, splitter.done, splitter.mid_event) == (
            other.held,
            other.done,
            other.mid_event,
        )
        assert other.feed(b"data: 3\n") == splitter.feed(b"data: 3\n") == b""


@pytest.mark.parametrize(
    "framed",
    [
        b"",
        b"\r\n",
        b"0\r\n\r\n",
        b"A\r\ndata: 12\n\n\r\n",  # upper case
        b"0a\r\ndata: 12\n\n\r\n",
        b"+a\r\ndata: 12\n\n\r\n",
        b"a;x=y\r\ndata: 12\n\n\r\n",
        b"9\r\ndata: 12\n\n\r\n",
        b"b\r\ndata: 12\n\n\r\n",
        b"a\r\ndata: 12\n\n\r\na\r\ndata: 12\n\n\r\n",
        b"a\r\ndata: 12\n\n",
        b"a\ndata: 12\n\n\r\n",
        b"none" + b"x" * 13 + b"\n\n\r\n",  # of a size that no chunk of ours has
        b"none" + b"x" * MAX_WHOLE_BYTES + b"\n\n\r\n",
    ],
)
def test_what_is_not_just_one_plain_chunk_does_not_pass_whole(framed: bytes) -> None:
    assert whole_chunk(framed) == 0


def test_a_chunk_of_any_size_but_a_big_one_passes_whole() -> None:
    for size in range(2, MAX_WHOLE_BYTES + 100):
        framed = chunk(b"\n" * size)
        passes = len(framed) <= MAX_WHOLE_BYTES
        assert whole_chunk(framed) == (len(framed) - size - 2 if passes else 0)
