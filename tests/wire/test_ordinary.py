"""The ordinary shape: taken only where the full parser would read the same."""

from __future__ import annotations

import httptools
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rolemesh.wire.ordinary import (
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_KEPT,
    MAX_KEPT_BYTES,
    Ordinary,
    Recogniser,
    Verdict,
)

PATH = "/v1/chat/completions"
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
FIELDS = b"Host: x\r\nContent-Length: 2\r\n"
RECOGNISER = Recogniser((PATH, "/v1/completions"))


def looked_at(*fields: bytes, line: bytes = LINE) -> Ordinary | Verdict:
    head = b"".join(field + b"\r\n" for field in (b"Host: x", b"Content-Length: 2", *fields))
    return RECOGNISER.look(line + head + b"\r\n{}")


def test_an_ordinary_request_is_taken() -> None:
    ordinary = looked_at(b"Authorization:Bearer  k \t", b"Connection: Keep-Alive", b"X-Empty:")
    assert isinstance(ordinary, tuple)
    head, _, length = ordinary
    assert (head.path, length) == (PATH, 2)
    assert list(head.raw_headers) == [
        (b"Host", b"x"),
        (b"Authorization", b"Bearer  k"),
        (b"Connection", b"Keep-Alive"),
        (b"X-Empty", b""),
    ]
    assert head.fields[b"authorization"] == b"Bearer  k"


def test_the_body_begins_behind_the_blank_line() -> None:
    data = LINE + FIELDS + b"\r\n" + b"\r\n\r\n"
    ordinary = RECOGNISER.look(data)
    assert isinstance(ordinary, tuple)
    assert data[ordinary[1] :] == b"\r\n\r\n"


def test_a_request_that_is_not_whole_may_still_become_one() -> None:
    data = LINE + FIELDS + b"\r\n"
    for size in range(len(data)):
        assert RECOGNISER.look(data[:size]) is Verdict.MORE
    assert isinstance(RECOGNISER.look(data), tuple)


def test_a_head_of_too_many_fields_is_odd_before_its_end() -> None:
    assert RECOGNISER.look(LINE + b"A: b\r\n" * (MAX_FIELDS + 1)) is Verdict.ODD


@pytest.mark.parametrize(
    "begun",
    [
        b"Bad Name",
        b"Bad Name: x\r\n",
        b": x",
        b"\xfc",
        b"A: b\r\n folded",
        b"A: \x00",
        b"no colon\r\n",
    ],
)
def test_a_head_that_cannot_become_ordinary_is_odd_before_its_end(begun: bytes) -> None:
    """The full parser refuses it at once, and does not wait for the rest."""
    assert RECOGNISER.look(LINE + FIELDS + begun) is Verdict.ODD


@pytest.mark.parametrize(
    "data",
    [
        b"G",
        b"post",
        b"\r\nPOST",
        b"POST  ",
        b"POST /v1/models HTTP/1.1\r\n",
        b"POST /v1/chat/completions?a=b HTTP/1.1\r\n",
        b"POST /v1/chat/completions/ HTTP/1.1\r\n",
        b"POST /v1/chat%2Fcompletions HTTP/1.1\r\n",
        b"POST http://x/v1/chat/completions HTTP/1.1\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\n",
        b"POST /v1/chat/completions HTTP/1.1 \r\n",
        b"POST /v1/chat/completions HTTP/1.1\n\r\n",
        b"PUT /v1/chat/completions HTTP/1.1\r\n",
        LINE + b"\r\n",
        LINE + b"A: " + b"b" * MAX_HEAD_BYTES,
        LINE + b"A: " + b"b" * MAX_HEAD_BYTES + b"\r\n" + FIELDS + b"\r\n",
    ],
)
def test_another_line_is_odd_as_soon_as_it_can_be_told(data: bytes) -> None:
    assert RECOGNISER.look(data) is Verdict.ODD


@pytest.mark.parametrize(
    "field",
    [
        b"Host: y",
        b"content-length: 2",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: identity",
        b"Expect: 100-continue",
        b"Upgrade: h2c",
        b"Content-Encoding: gzip",
        b"Connection: close",
        b"Connection: keep-alive, X-Hop",
        b"X: 1\r\nx: 2",
        b"X : 1",
        b" X: 1",
        b"\tfolded",
        b"X\x00: 1",
        b"X: \x00",
        b"X: \x7f",
        b"X: a\rb",
        b"X: a\nY: b",
        b"X: a\n",
        "X: ü".encode(),
        b"X: \xff",
        b"no colon",
        b": no name",
        b"X@Y: 1",
        b"\r\n",
    ],
)
def test_a_field_that_could_be_read_in_two_ways_is_odd(field: bytes) -> None:
    ordinary = looked_at(field)
    # A blank line ends the head, and the rest is its body.
    assert ordinary is Verdict.ODD or field == b"\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 2\r\n",
        b"Host: x\r\n",
        b"Host: x\r\nContent-Length:\r\n",
        b"Host: x\r\nContent-Length: +2\r\n",
        b"Host: x\r\nContent-Length: -2\r\n",
        b"Host: x\r\nContent-Length: 2, 2\r\n",
        b"Host: x\r\nContent-Length: 0x2\r\n",
        b"Host: x\r\nContent-Length: 2_0\r\n",
        b"Host: x\r\nContent-Length: 00000000002\r\n",
        b"Host: x\r\nContent-Length: 2\r\n"
        + b"".join(b"A%d: b\r\n" % n for n in range(MAX_FIELDS)),
    ],
)
def test_a_head_without_one_host_and_one_plain_length_is_odd(fields: bytes) -> None:
    assert RECOGNISER.look(LINE + fields + b"\r\n{}") is Verdict.ODD


class Read:
    """What httptools understands of a request."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


PIECE = st.one_of(
    st.sampled_from(
        [
            b"\r\n", b"\r", b"\n", b":", b" ", b"\t", b",", b"Host: x\r\n",
            b"Content-Length: 2\r\n", b"Content-Length: 0\r\n", b"A: b\r\n",
            b"Connection: keep-alive\r\n", b"Transfer-Encoding: chunked\r\n",
            b"Connection: close\r\n", b"X", b"\r\n{}",
        ]
    ),
    st.binary(max_size=3),
)  # fmt: skip


@given(st.lists(PIECE, max_size=12).map(b"".join))
@example(FIELDS + b"\r\n{}")
@example(b"Host: x\r\nContent-Length: 2\r\nA: b\tc \t\r\n\r\n{}")
def test_what_is_taken_is_read_by_another_parser_in_the_same_way(rest: bytes) -> None:
    ordinary = RECOGNISER.look(LINE + rest)
    if isinstance(ordinary, Verdict):
        return
    head, body_at, length = ordinary
    read = Read()
    parser = httptools.HttpRequestParser(read)
    data = (LINE + rest)[:body_at] + b"x" * length
    parser.feed_data(data)
    assert read.complete
    assert read.body == b"x" * length
    assert parser.should_keep_alive()
    assert head.raw_headers == tuple(
        (name, value.strip(b" \t"))
        for name, value in read.headers
        if name.lower() != b"content-length"
    )


def test_a_head_that_comes_again_is_known_whatever_its_length() -> None:
    recogniser = Recogniser((PATH,))

    def look(length: bytes, field: bytes = b"A: b") -> Ordinary | Verdict:
        fields = (b"Host: x", b"Content-Length: " + length, field)
        return recogniser.look(LINE + b"\r\n".join(fields) + b"\r\n\r\n{}")

    once = look(b"1")
    first, again, other = look(b"2"), look(b"345"), look(b"2", b"A: c")
    assert not isinstance(once, Verdict)
    assert not isinstance(first, Verdict)
    assert not isinstance(again, Verdict)
    assert not isinstance(other, Verdict)
    assert once[0] is not first[0]  # it might have been the only one of its kind
    assert again[0] is first[0]
    assert again[2] == 345
    assert other[0] is not first[0]
    for odd in (b"", b"+2", b"2, 2", b"00000000002"):
        assert look(odd) is Verdict.ODD


def test_only_so_many_heads_are_kept_and_no_big_ones() -> None:
    recogniser = Recogniser((PATH,))

    def kept(field: bytes) -> bool:
        data = LINE + FIELDS + field + b"\r\n\r\n"
        _, first, again = (recogniser.look(data) for _ in range(3))
        assert not isinstance(first, Verdict)
        assert not isinstance(again, Verdict)
        return again[0] is first[0]

    assert not kept(b"A: " + b"b" * MAX_KEPT_BYTES)
    for number in range(2 * MAX_KEPT):
        assert kept(b"A: %d" % number)
    assert len(recogniser._seen) <= MAX_KEPT
