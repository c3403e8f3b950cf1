"""Answers fed as bytes: what passes, what is refused, and that cutting them changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.proxy import answer as answer_module
from rolemesh.proxy.answer import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_INTERIM,
    MAX_KNOWN,
    MAX_KNOWN_BYTES,
    Answer,
    Framing,
)

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n"
CLOSE = OK + b"Connection: close\r\n\r\nhello"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n"
VALID = [LENGTH, CHUNKED, CLOSE, INTERIM + LENGTH, INTERIM + CHUNKED, b"\r\n" + LENGTH, EMPTY]


def fed(*pieces: bytes) -> Answer:
    answer = Answer()
    for piece in pieces:
        answer.feed(memoryview(piece))
    return answer


def seen(answer: Answer) -> tuple[object, ...]:
    """All that an answer says of itself, its body taken whole."""
    return (
        answer.flaw,
        answer.has_head,
        answer.complete,
        answer.head.status,
        answer.head.headers,
        answer.head.framing,
        answer.length,
        answer.head.content_type,
        answer.reusable,
        b"".join(answer.parts),
    )


@pytest.mark.parametrize("stream", VALID)
def test_a_cut_at_any_place_changes_nothing(stream: bytes) -> None:
    whole = seen(fed(stream))
    for place in range(len(stream) + 1):
        assert seen(fed(stream[:place], stream[place:])) == whole
    assert seen(fed(*(bytes([byte]) for byte in stream))) == whole


@given(st.binary(max_size=300), st.integers(1, 60), st.lists(st.integers(1, 50), max_size=20))
def test_a_chunked_body_comes_out_as_it_went_in(
    body: bytes, chunk_size: int, cuts: list[int]
) -> None:
    chunks = [body[at : at + chunk_size] for at in range(0, len(body), chunk_size)]
    stream = OK + b"Transfer-Encoding: chunked\r\n\r\n"
    stream += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    answer = Answer()
    for size in cuts:
        answer.feed(memoryview(stream[:size]))
        stream = stream[size:]
    answer.feed(memoryview(stream))
    assert answer.flaw is None
    assert answer.complete
    assert answer.take() == body


@pytest.mark.parametrize(
    ("stream", "framing", "length", "complete"),
    [
        (LENGTH, Framing.LENGTH, 5, True),
        (OK + b"Content-Length: 0\r\n\r\n", Framing.LENGTH, 0, True),
        (LENGTH[:-1], Framing.LENGTH, 5, False),
        (CHUNKED, Framing.CHUNKED, None, True),
        (CHUNKED[:-2], Framing.CHUNKED, None, False),
        (OK + b"transfer-encoding:  CHUNKED \r\n\r\n0\r\n\r\n", Framing.CHUNKED, None, True),
        (CLOSE, Framing.CLOSE, None, False),
        (EMPTY, Framing.LENGTH, 0, True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Framing.LENGTH, 0, True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", Framing.LENGTH, 0, True),
    ],
)
def test_the_framing_is_read_from_the_head(
    stream: bytes, framing: Framing, length: int | None, complete: bool
) -> None:
    answer = fed(stream)
    assert answer.flaw is None
    assert (answer.head.framing, answer.length, answer.complete) == (framing, length, complete)


@pytest.mark.parametrize(
    "stream",
    [
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 5, 5\r\n\r\nhello",
        OK + b"Content-Length: +5\r\n\r\nhello",
        OK + b"Content-Length: -5\r\n\r\nhello",
        OK + b"Content-Length: 0x5\r\n\r\nhello",
        OK + b"Content-Length:\r\n\r\n",
        OK + b"Content-Length: 99999999999999999999999999\r\n\r\n",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked, gzip\r\n\r\nx",
        OK + b"Transfer-Encoding: identity\r\n\r\nx",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        OK + b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
        OK + b"A : b\r\nContent-Length: 0\r\n\r\n",
        OK + b"A: b\x00\r\nContent-Length: 0\r\n\r\n",
        OK + b"A: b\rc\r\nContent-Length: 0\r\n\r\n",
        OK + b": b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 OK\r\nContent-Length: 0\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"ICE/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"RTSP/1.0 100 Go\r\n\r\n" + LENGTH,
        INTERIM + b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01 this is TLS",
        b"hello",
    ],
)
def test_what_is_no_proper_answer_is_refused_and_not_repeated(stream: bytes) -> None:
    for answer in (fed(stream), fed(*(bytes([byte]) for byte in stream))):
        assert answer.flaw is not None
        assert answer.flaw.startswith(("its ", "it "))


def test_a_body_may_speak_of_other_protocols() -> None:
    body = b"\r\n\r\nRTSP/1.0 200 OK\r\n\r\n"
    head = OK + b"Content-Length: %d\r\n\r\n" % len(body)
    for answer in (fed(head + body), fed(INTERIM + head + body), fed(INTERIM, head + body)):
        assert answer.flaw is None
        assert answer.take() == body


@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, EMPTY])
@pytest.mark.parametrize(
    "extra", [b"x", LENGTH, CHUNKED, b"HTTP/1.1 200 OK\r\n\r\nmore", b"HTTP/1.1 100 Go\r\n\r\n"]
)
def test_bytes_behind_the_end_are_refused_and_never_taken_for_body(
    answer: bytes, extra: bytes
) -> None:
    body = b"".join(fed(answer).parts)
    for pieces in ((answer + extra,), (answer, extra), (answer[:-1], answer[-1:] + extra)):
        refused = fed(*pieces)
        assert refused.flaw is not None
        assert refused.complete
        assert not refused.reusable
        assert refused.take() == body


def test_a_line_end_behind_the_end_is_forgiven() -> None:
    """RFC 9112 section 2.2 knows such senders."""
    assert fed(LENGTH, b"\r\n").reusable


def test_interim_answers_are_skipped_headers_and_all() -> None:
    answer = fed(INTERIM)
    assert not answer.has_head
    assert not answer.head.headers
    answer.feed(memoryview(LENGTH))
    assert not answer.head.headers
    assert answer.take() == b"hello"


def test_only_a_few_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    assert fed(interim * MAX_INTERIM + LENGTH).flaw is None
    assert fed(interim * (MAX_INTERIM + 1)).flaw == "it sent a 1xx that was not asked for"


@pytest.mark.parametrize("fields", [b"", b"Connection: upgrade\r\nUpgrade: h2c\r\n"])
def test_an_unasked_101_is_refused(fields: bytes) -> None:
    answer = fed(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\nwhatever")
    assert answer.flaw == "it sent a 1xx that was not asked for"
    assert not answer.has_head
    assert answer.take() == b""


def test_an_interim_answer_has_no_body() -> None:
    answer = fed(b"HTTP/1.1 100 Continue\r\nContent-Length: 4\r\n\r\nevil" + LENGTH)
    assert answer.flaw is not None
    assert answer.take() == b""


def test_an_upgrade_that_is_only_offered_changes_nothing() -> None:
    offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello"
    assert fed(OK + offer).take() == b"hello"


def test_a_head_is_bounded_in_bytes_and_in_fields() -> None:
    assert fed(OK + b"A: b\r\n" * (MAX_HEADERS - 1) + LENGTH[len(OK) :]).flaw is None
    assert fed(OK + b"A: b\r\n" * (MAX_HEADERS + 2)).flaw == "its head has too many fields"
    long = OK + b"A: " + b"b" * MAX_HEAD_BYTES
    assert fed(long).flaw == fed(long[:9000], long[9000:]).flaw == "its head is too large"
    interim = b"HTTP/1.1 103 Early Hints\r\nA: " + b"b" * 5000 + b"\r\n\r\n"
    assert fed(*[interim] * 14).flaw == "its head is too large"


def test_a_trailer_is_dropped_and_bounded() -> None:
    assert fed(CHUNKED).head.headers == [(b"Transfer-Encoding", b"chunked")]
    trailer = CHUNKED[: CHUNKED.index(b"A: b")] + b"A: "
    assert fed(trailer, *[b"b" * 16_384] * 3, b"\r\n\r\n").flaw is None
    assert fed(trailer, *[b"b" * 16_384] * 5).flaw == "its trailer is too large"


def test_a_long_body_is_no_long_head() -> None:
    answer = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(3 * MAX_HEAD_BYTES // 6):
        answer.feed(memoryview(b"1\r\nx\r\n"))
    assert answer.flaw is None


@pytest.mark.parametrize(
    ("fields", "content_type"),
    [
        (b"Content-Type: text/event-stream\r\n", b"text/event-stream"),
        (b"content-type:  Text/Event-Stream ; charset=utf-8\r\n", b"text/event-stream"),
        (b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n", b""),
        (b"Content-Encoding: gzip\r\nContent-Type: text/event-stream\r\n", b""),
        (b"Content-Encoding: Identity\r\nContent-Type: text/plain\r\n", b"text/plain"),
        (b"", b""),
    ],
)
def test_the_content_type_is_that_of_a_body_as_it_stands(
    fields: bytes, content_type: bytes
) -> None:
    assert fed(OK + fields + b"Content-Length: 0\r\n\r\n").head.content_type == content_type


@pytest.mark.parametrize(
    ("stream", "reusable"),
    [
        (LENGTH, True),
        (CHUNKED, True),
        (EMPTY, True),
        (LENGTH[:-1], False),
        (OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", False),
        (OK + b"Connection: x, Close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
    ],
)
def test_a_connection_is_used_again_only_when_both_sides_mean_it(
    stream: bytes, reusable: bool
) -> None:
    assert fed(stream).reusable is reusable


def test_the_end_of_the_connection_completes_only_what_is_framed_by_it() -> None:
    answer = fed(CLOSE)
    assert answer.end()
    assert answer.complete
    assert not answer.reusable
    assert not fed(OK).end()
    assert not fed(LENGTH[:-1]).end()
    assert not fed(CHUNKED[:-2]).end()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"timeout=5, max=100", 5),
        (b"max=3, Timeout=0", 0),
        (b"max=100", None),
        (b"timeout=x", None),
    ],
)
def test_the_backend_may_say_how_long_it_keeps_a_connection(
    value: bytes, seconds: int | None
) -> None:
    stream = OK + b"Keep-Alive: " + value + b"\r\nContent-Length: 0\r\n\r\n"
    assert fed(stream).head.keep_alive_s == seconds


def test_what_was_taken_is_gone() -> None:
    answer = fed(OK + b"Content-Length: 10\r\n\r\nhello", b"wor")
    assert answer.take() == b"hellowor"
    assert answer.take() == b""


@given(
    st.binary(max_size=40),
    st.lists(st.integers(1, 30), max_size=8),
    st.sampled_from([b"", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"x"]),
    st.sampled_from([b"", b"Connection: close\r\n", b"Keep-Alive: timeout=3\r\n"]),
)
def test_a_known_head_is_read_as_it_was_at_first(
    body: bytes, cuts: list[int], behind: bytes, field: bytes
) -> None:
    head = OK + field + b"Content-Type: text/plain; a=b\r\nContent-Length: %d\r\n\r\n"
    stream = head % len(body) + body + behind
    pieces = []
    for size in cuts:
        pieces.append(stream[:size])
        stream = stream[size:]
    pieces.append(stream)
    answer_module._known.clear()
    flaw, *parsed = seen(fed(*pieces))
    for _ in range(2):
        fed(head % 3 + b"abc")
    assert len(answer_module._known) == 1
    again, *known = seen(fed(*pieces))
    assert (bool(again), known) == (bool(flaw), parsed)


@pytest.mark.parametrize(
    "stream",
    [
        INTERIM + LENGTH,
        b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        LENGTH + b"more",
        LENGTH[:-1],
        OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        OK + b"A: " + b"b" * MAX_KNOWN_BYTES + b"\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_only_the_head_of_a_whole_plain_answer_is_remembered(stream: bytes) -> None:
    answer_module._known.clear()
    for _ in range(3):
        fed(stream)
    assert not answer_module._known


def test_a_head_that_comes_once_is_not_remembered() -> None:
    answer_module._known.clear()
    for number in range(9):
        fed(OK + b"X-Request-ID: once-%d\r\nContent-Length: 0\r\n\r\n" % number)
    assert not answer_module._known


def test_only_so_many_heads_are_remembered() -> None:
    for number in range(2 * MAX_KNOWN):
        for _ in range(2):
            fed(OK + b"A: %d\r\nContent-Length: 0\r\n\r\n" % number)
        assert 0 < len(answer_module._known) <= MAX_KNOWN


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=6), st.data())
def test_a_whole_chunk_between_chunks_may_pass_by_unfed(
    bodies: list[bytes], data: st.DataObject
) -> None:
    rest = b"".join(b"%x\r\n%b\r\n" % (len(body), body) for body in bodies) + b"0\r\n\r\n"
    answer = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while rest:
        if answer.between_chunks and data.draw(st.booleans()):
            answer.feed(memoryview(b"3\r\nabc\r\n"))
            assert answer.between_chunks
        size = data.draw(st.integers(1, len(rest)))
        answer.feed(memoryview(rest[:size]))
        rest = rest[size:]
        if answer.between_chunks:
            at_a_chunk = fed(OK + b"Transfer-Encoding: chunked\r\n\r\n" + rest)
            assert at_a_chunk.complete
            assert at_a_chunk.flaw is None
    assert answer.complete
    assert answer.flaw is None
    assert not answer.between_chunks


def test_streams_with_the_same_head_share_it() -> None:
    head = OK + b"X-Stream: yes\r\nTransfer-Encoding: chunked\r\n\r\n"
    fed(head)
    first, other = fed(head + b"3\r\nabc\r\n"), fed(head, b"2\r\nde\r\n")
    assert first.head is other.head
    assert first.head.headers == [(b"X-Stream", b"yes"), (b"Transfer-Encoding", b"chunked")]
    assert fed(head[:10], head[10:]).head is not first.head
    assert fed(INTERIM + head).head is not first.head
    other.feed(memoryview(b"0\r\n\r\n"))
    assert other.reusable
