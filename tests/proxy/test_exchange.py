"""One exchange, fed with bytes: what reaches the client, when, and what becomes of both sides."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.proxy.exchange import MAX_HELD_BYTES, Broken
from rolemesh.wire.sse import EventSplitter
from rolemesh.wire.usage import Usage
from tests.proxy.recording import TIMEOUTS, Play
from tests.proxy.test_answer import CHUNKED, CLOSE, EMPTY, INTERIM, LENGTH, OK

HEAD = OK + b"Content-Length: 5\r\n\r\n"
STREAM_HEAD = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def lost(play: Play, *, orderly: bool = True) -> Play:
    play.exchange.lost(orderly=orderly)
    return play


def failure_of(play: Play) -> Broken:
    """Of the relay where there is one, else of the opening."""
    future = play.exchange.opened if play.relayed is None else play.relayed
    assert future.done()
    broken = future.exception()
    assert isinstance(broken, Broken)
    return broken


# From the backend to the client


@pytest.mark.parametrize("stream", [LENGTH, CHUNKED, CLOSE, INTERIM + LENGTH, EMPTY])
@pytest.mark.parametrize("at_once", [True, False], ids=["relayed at once", "relayed at the end"])
def test_a_cut_at_any_place_relays_the_same_answer(stream: bytes, at_once: bool) -> None:
    status, body = (204, b"") if stream is EMPTY else (200, b"hello")
    for place in range(len(stream) + 1):
        play = Play()
        for piece in (stream[:place], stream[place:]):
            play.feed(piece)
            if at_once and play.relayed is None and play.opened:
                play.relay()
        if stream is CLOSE:
            lost(play)
        if play.relayed is None:
            play.relay()
        assert play.ended
        assert play.downstream.ended
        assert (play.downstream.status, play.downstream.written) == (status, body)
        assert play.downstream.fields == b"A: b\r\n"
        assert play.connection.kept is (stream is not CLOSE)
        assert not play.connection.aborted


@given(
    st.lists(st.binary(max_size=40), max_size=8),
    st.lists(st.integers(0, 500), max_size=10),
    st.integers(0, 12),
)
def test_any_cutting_relays_the_same_bytes(
    body: list[bytes], places: list[int], relayed_from: int
) -> None:
    chunks = [chunk(piece) for piece in body if piece]
    stream = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks) + LAST
    play = Play()
    for number, piece in enumerate(cut(stream, places)):
        play.feed(piece)
        if number >= relayed_from and play.relayed is None and play.opened:
            play.relay()
    if play.relayed is None:
        play.relay()
    assert play.ended
    assert play.downstream.written == b"".join(body)
    assert play.connection.kept


@given(
    st.lists(st.sampled_from([b"data: 1\n\n", b": x\r\n\r\n", b"data: 2\n"]), max_size=6),
    st.lists(st.integers(0, 300), max_size=10),
)
def test_any_cutting_of_a_stream_shows_the_client_whole_events_only(
    events: list[bytes], places: list[int]
) -> None:
    body = b"".join([*events, b"\n", DONE])
    stream = STREAM_HEAD + b"".join(map(chunk, [*events, b"\n", DONE])) + LAST
    play, splitter = Play(), EventSplitter()
    for piece in cut(stream, places):
        play.feed(piece)
        if play.relayed is None and play.opened:
            play.relay(splitter, needs_done=True)
        written = play.downstream.written
        assert body.startswith(written)
        assert written == b"" or written.endswith((b"\n\n", b"\n\r\n", b"\n", b"\r"))
        assert not splitter.mid_event
    assert play.ended
    assert play.downstream.written == body


def test_a_chunk_of_whole_events_goes_on_as_it_came() -> None:
    events = [b"data: %d\n\n" % number for number in range(5)]
    play = Play().feed(STREAM_HEAD, chunk(events[0])).relay(EventSplitter(), needs_done=True)
    for event in events[1:]:
        play.feed(chunk(event))
    assert len(play.downstream.straight) == 4
    play.feed(chunk(b"data: half"), chunk(b"\n\n"), chunk(events[0]), chunk(DONE), LAST)
    assert play.ended
    assert play.downstream.written == b"".join([*events, b"data: half\n\n", events[0], DONE])
    assert len(play.downstream.straight) == 5


def test_an_event_is_passed_on_the_moment_it_is_whole() -> None:
    play = Play().feed(STREAM_HEAD, chunk(b"data: 1\n")).relay(EventSplitter())
    assert play.downstream.started
    assert play.downstream.pieces == []
    play.feed(chunk(b"\nda"))
    assert play.downstream.pieces == [b"data: 1\n\n"]


def test_a_stream_is_framed_by_its_end_and_others_by_their_length() -> None:
    assert Play().feed(LENGTH).relay().downstream.length == 5
    assert Play().feed(CHUNKED).relay().downstream.length is None
    assert Play().feed(EMPTY).relay().downstream.length == 0
    head = OK + b"Content-Type: text/event-stream\r\nContent-Length: 9\r\n\r\n"
    assert Play().feed(head + b"data: 1\n\n").relay(EventSplitter()).downstream.length is None


def test_it_opens_with_the_first_byte_of_the_body_and_not_with_the_head() -> None:
    play = Play()
    play.clock.now = 3.0
    assert not play.feed(HEAD).opened
    assert play.exchange.first_byte_at is None
    play.clock.now = 4.0
    assert play.feed(b"h").opened
    play.clock.now = 5.0
    play.feed(b"e")
    assert play.exchange.first_byte_at == 4.0
    assert Play().feed(OK + b"Content-Length: 0\r\n\r\n").opened
    assert lost(Play().feed(OK + b"Connection: close\r\n\r\n")).opened


def test_a_whole_answer_gives_its_connection_back_before_it_is_relayed() -> None:
    play = Play().feed(LENGTH)
    assert play.connection.kept
    assert play.relay().ended
    assert play.downstream.written == b"hello"


# Answers that are none


def test_a_bad_answer_is_known_before_anything_reaches_the_client() -> None:
    broken = failure_of(Play().feed(b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n"))
    assert (broken.failure, broken.reason) == (Failure.BAD_ANSWER, Reason.BAD_ANSWER)
    assert broken.detail == "its framing is not proper HTTP"


def test_bytes_behind_an_answer_that_nobody_has_seen_make_it_a_bad_one() -> None:
    play = Play().feed(LENGTH + LENGTH)
    assert failure_of(play).failure is Failure.BAD_ANSWER
    assert play.connection.aborted
    with pytest.raises(Broken):
        play.relay()
    assert not play.downstream.started


@pytest.mark.parametrize("extra", [b"x", LENGTH, b"HTTP/1.1 200 OK\r\n\r\nevil"])
def test_bytes_behind_an_answer_that_the_client_has_half_of_only_cost_the_connection(
    extra: bytes,
) -> None:
    play = Play().feed(LENGTH[:-2]).relay().feed(b"lo" + extra)
    assert play.ended
    assert play.downstream.written == b"hello"
    assert play.connection.answer is not None
    assert not play.connection.kept


def test_broken_chunks_in_mid_answer_break_it_off_and_close_the_connection() -> None:
    play = Play().feed(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n").relay()
    play.feed(b"zz\r\n")
    assert failure_of(play).failure is Failure.BAD_ANSWER
    assert play.connection.aborted
    assert not play.downstream.ended
    assert play.downstream.flow is None


# Lost connections


@pytest.mark.parametrize(
    ("stream", "failure"),
    [
        (b"", Failure.LOST_BEFORE_HEAD),
        (INTERIM, Failure.LOST_BEFORE_HEAD),
        (HEAD[:-2], Failure.LOST_BEFORE_HEAD),
        (HEAD, Failure.LOST_BEFORE_BODY),
        (STREAM_HEAD + b"5\r\n", Failure.LOST_BEFORE_BODY),
    ],
)
@pytest.mark.parametrize("orderly", [True, False])
def test_a_connection_lost_before_the_first_byte_says_how_far_it_came(
    stream: bytes, failure: Failure, orderly: bool
) -> None:
    broken = failure_of(lost(Play().feed(stream), orderly=orderly))
    assert (broken.failure, broken.reason) == (failure, Reason.CONNECTION_LOST)
    assert broken.received == len(stream)


def test_an_answer_lost_before_it_is_relayed_writes_nothing() -> None:
    play = lost(Play().feed(HEAD + b"he"))
    assert play.opened
    with pytest.raises(Broken) as raised:
        play.relay()
    assert raised.value.failure is Failure.LOST_BEFORE_BODY
    assert not play.downstream.started


def test_an_answer_lost_in_its_middle_is_cut() -> None:
    play = lost(Play().feed(HEAD + b"he").relay())
    assert failure_of(play).failure is Failure.CUT
    assert play.downstream.written == b"he"
    assert not play.downstream.ended


def test_only_an_orderly_end_completes_an_answer_without_framing() -> None:
    assert lost(Play().feed(CLOSE).relay()).ended
    reset = lost(Play().feed(CLOSE).relay(), orderly=False)
    assert failure_of(reset).failure is Failure.CUT
    assert not reset.downstream.ended


# Streams that end


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (DONE, DONE),
        (b"data: 1\n\n" + DONE, b"data: 1\n\n" + DONE),
        (b"data: 1\n\ndata: [DONE]", b"data: 1\n\ndata: [DONE]"),
        (DONE + b": bye\n\n", DONE + b": bye\n\n"),
    ],
)
def test_a_stream_that_told_its_end_is_whole(body: bytes, written: bytes) -> None:
    play = Play().feed(STREAM_HEAD + chunk(body)).relay(EventSplitter(), needs_done=True).feed(LAST)
    assert play.ended
    assert play.downstream.ended
    assert play.downstream.written == written


@pytest.mark.parametrize("body", [b"data: 1\n\n", b"data: 1\n\ndata: 2", b"data: 1\n\ndata: 2\n"])
@pytest.mark.parametrize("at_once", [True, False], ids=["in one read", "in two"])
def test_a_stream_that_ends_without_done_is_cut_behind_its_last_whole_event(
    body: bytes, at_once: bool
) -> None:
    play = Play().feed(STREAM_HEAD + chunk(body) + (LAST if at_once else b""))
    play.relay(EventSplitter(), needs_done=True)
    if not at_once:
        play.feed(LAST)
    assert failure_of(play).failure is Failure.CUT
    assert play.downstream.written == b"data: 1\n\n"
    assert not play.downstream.ended
    assert play.connection.kept  # the backend did nothing wrong as to HTTP


@pytest.mark.parametrize("by_length", [True, False], ids=["framed", "until the connection ends"])
@pytest.mark.parametrize("needs_done", [True, False])
def test_a_stream_that_ends_in_half_an_event_is_cut_behind_its_last_whole_one(
    by_length: bool, needs_done: bool
) -> None:
    splitter, body = EventSplitter(), b"data: 1\n\ndata: 2"
    if by_length:
        play = Play().feed(STREAM_HEAD + chunk(body)).relay(splitter, needs_done=needs_done)
        play.feed(LAST)
    else:
        head = OK + b"Content-Type: text/event-stream\r\n\r\n"
        play = Play().feed(head + body).relay(splitter, needs_done=needs_done)
        lost(play)
    assert failure_of(play).failure is Failure.CUT
    assert play.downstream.written == b"data: 1\n\n"
    assert not play.downstream.ended
    assert not splitter.mid_event  # the error that follows needs no blank line before it


def test_where_no_done_is_needed_a_stream_of_whole_events_is_whole() -> None:
    play = Play().feed(STREAM_HEAD + chunk(b"data: 1\n\n")).relay(EventSplitter()).feed(LAST)
    assert play.ended
    assert play.downstream.written == b"data: 1\n\n"


@pytest.mark.parametrize("needs_done", [True, False])
@pytest.mark.parametrize(
    "finish",
    [
        lost,
        lambda play: lost(play, orderly=False),
        lambda play: play.feed(b"no chunk\r\n"),
        lambda play: lost(play.feed(chunk(b"data: hal"))),
        lambda play: play.exchange.check(100.0),
    ],
    ids=["closed", "reset", "broken chunks", "half an event", "silence"],
)
def test_however_a_backend_goes_behind_its_done_the_answer_was_whole(
    needs_done: bool, finish: Callable[[Play], object]
) -> None:
    play = Play().feed(STREAM_HEAD + chunk(b"data: 1\n\n" + DONE))
    play.relay(EventSplitter(), needs_done=needs_done)
    finish(play)
    assert play.ended
    assert play.downstream.ended
    assert play.downstream.written == b"data: 1\n\n" + DONE
    assert play.downstream.flow is None
    assert not play.connection.kept
    play.exchange.close()
    play.exchange.check(200.0)


def test_a_stream_that_dies_keeps_its_half_event_back() -> None:
    splitter = EventSplitter()
    play = Play().feed(STREAM_HEAD + chunk(b"data: 1\n\ndata: 2")).relay(splitter, needs_done=True)
    assert failure_of(lost(play)).failure is Failure.CUT
    assert play.downstream.written == b"data: 1\n\n"
    assert splitter.held == b"data: 2"


# Time


def test_the_first_byte_is_waited_for_from_the_request_on() -> None:
    play = Play()
    play.clock.now = 9.0
    play.feed(INTERIM, HEAD[:-3])  # no answer yet, and no reason for more patience
    play.exchange.check(10.0)
    assert not play.exchange.opened.done()
    play.exchange.check(10.1)
    broken = failure_of(play)
    assert (broken.failure, broken.reason) == (
        Failure.FIRST_BYTE_TIMEOUT,
        Reason.FIRST_BYTE_TIMEOUT,
    )
    assert broken.detail == f"no first byte within {TIMEOUTS.first_byte_s:g} s"
    assert play.connection.aborted


def test_behind_the_head_every_byte_starts_the_silence_anew() -> None:
    play = Play().feed(HEAD)
    for now in (4.0, 8.0, 12.0):
        play.clock.now = now
        play.feed(b"h")
        play.exchange.check(now + 4.9)
        assert play.opened
    play.relay()
    play.exchange.check(17.1)
    broken = failure_of(play)
    assert (broken.failure, broken.reason) == (Failure.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT)
    assert play.connection.aborted


def test_a_silence_begins_with_the_sweep_behind_the_last_byte() -> None:
    play = Play().feed(HEAD).relay()
    play.exchange.feed(memoryview(b"h"))
    play.exchange.check(0.25)
    play.exchange.check(5.25)
    assert not play.ended
    play.exchange.check(5.3)
    assert failure_of(play).failure is Failure.IDLE_TIMEOUT


def test_silence_between_head_and_body_counts_as_silence() -> None:
    play = Play().feed(HEAD)
    play.exchange.check(5.1)
    assert failure_of(play).failure is Failure.IDLE_TIMEOUT


def test_a_silence_that_the_client_caused_is_not_the_backends() -> None:
    play = Play().feed(HEAD + b"h").relay()
    play.exchange.pause()
    play.exchange.check(1000.0)
    play.clock.now = 1000.0
    play.exchange.resume()
    play.exchange.check(1004.0)
    assert not play.ended
    play.exchange.check(1005.1)
    assert failure_of(play).failure is Failure.IDLE_TIMEOUT


def test_a_whole_answer_cannot_time_out() -> None:
    play = Play().feed(LENGTH)
    play.exchange.check(1e9)
    assert play.relay().ended


def test_an_exchange_that_failed_can_be_swept_again() -> None:
    play = Play()
    play.exchange.check(11.0)
    play.exchange.check(12.0)
    assert failure_of(play).failure is Failure.FIRST_BYTE_TIMEOUT


# Back-pressure


def test_what_comes_before_the_relay_is_held_up_to_a_bound() -> None:
    play = Play().feed(OK + b"Content-Length: 999999\r\n\r\n", b"x" * MAX_HELD_BYTES)
    assert not play.connection.paused
    play.feed(b"x")
    assert play.connection.paused
    play.relay()
    assert not play.connection.paused
    assert len(play.downstream.written) == MAX_HELD_BYTES + 1


def test_a_client_that_is_full_from_the_beginning_pauses_the_backend() -> None:
    """It has not taken the answer before this one: requests can come one behind the other."""
    play = Play(full=True).feed(HEAD + b"he").relay()
    assert play.connection.paused
    held = Play(full=True).feed(
        OK + b"Content-Length: 999999\r\n\r\n", b"x" * MAX_HELD_BYTES + b"x"
    )
    assert held.relay().connection.paused


def test_the_clients_flow_reaches_the_backend() -> None:
    play = Play().feed(HEAD + b"he").relay()
    assert play.downstream.flow is play.exchange
    play.exchange.pause()
    assert play.connection.paused
    play.exchange.resume()
    assert not play.connection.paused


def test_the_client_is_left_alone_once_the_answer_has_ended() -> None:
    for play in (
        Play().feed(LENGTH).relay(),
        lost(Play().feed(HEAD + b"he").relay()),
        Play().feed(STREAM_HEAD + chunk(b"x")).relay(EventSplitter(), needs_done=True).feed(LAST),
    ):
        assert play.downstream.flow is None
        play.exchange.pause()
        play.exchange.resume()


# Letting go


def test_closing_ends_the_connection_of_an_answer_that_is_not_whole() -> None:
    for play in (Play(), Play().feed(HEAD), Play().feed(HEAD + b"he").relay()):
        play.exchange.close()
        play.exchange.close()
        assert play.connection.aborted
        assert play.downstream.flow is None
        lost(play)  # as the event loop tells a little later
        assert not play.downstream.ended


def test_closing_after_a_whole_answer_leaves_its_connection_to_the_pool() -> None:
    play = Play().feed(LENGTH).relay()
    play.exchange.close()
    assert play.connection.kept
    assert not play.connection.aborted


def test_an_end_that_comes_after_the_waiting_was_cancelled_disturbs_nobody() -> None:
    for finish in (lambda play: play.feed(b"llo"), lost, lambda play: play.exchange.check(99.0)):
        play = Play().feed(HEAD + b"he").relay()
        assert play.relayed is not None
        play.relayed.cancel()
        finish(play)
        assert not play.downstream.ended


# Tokens


def test_usage_is_read_from_the_end_of_what_was_relayed() -> None:
    usage = b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4}}'
    assert Play().feed(
        OK + b"Content-Length: %d\r\n\r\n" % len(usage) + usage
    ).relay().exchange.usage() == Usage(3, 4)
    play = Play().feed(STREAM_HEAD, chunk(b"data: {}\n\n")).relay(EventSplitter())
    play.feed(*[chunk(b"data: {}\n\n")] * 50, chunk(b"data: " + usage + b"\n\n"), chunk(DONE), LAST)
    assert play.exchange.usage() == Usage(3, 4)
    assert Play().exchange.usage() == Usage()


def test_a_long_answer_leaves_little_behind() -> None:
    """What is kept of it for its usage must not hold as much as a slow client may."""
    piece = b"x" * 65_536
    play = Play().feed(OK + b"Content-Length: %d\r\n\r\n" % (20 * len(piece))).feed(piece).relay()
    tracemalloc.start()
    try:
        for _ in range(10):
            play.feed(piece)
            play.downstream.pieces.clear()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * len(piece)
