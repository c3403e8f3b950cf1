from __future__ import annotations

import http

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.wire.http1 import (
    CONTINUE,
    LAST_CHUNK,
    answer_head,
    apart_from_length,
    chunk,
    length_told,
    lines,
    request_head,
    status_line,
)

HEADERS = [(b"Content-Type", b"application/json"), (b"X-Odd", "ü".encode())]


class Read:
    """What httptools understands."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def test_a_request_is_read_as_it_was_meant() -> None:
    read = Read()
    parser = httptools.HttpRequestParser(read)
    parser.feed_data(request_head("POST", "/v1/x?a=b%20c", "[::1]:8012", HEADERS, 2) + b"{}")
    assert parser.get_method() == b"POST"
    assert parser.get_http_version() == "1.1"
    assert read.url == b"/v1/x?a=b%20c"
    assert read.headers == [(b"Host", b"[::1]:8012"), *HEADERS, (b"Content-Length", b"2")]
    assert read.complete
    assert read.body == b"{}"


def test_a_target_that_is_not_ascii_never_becomes_a_request() -> None:
    with pytest.raises(UnicodeEncodeError):
        request_head("GET", "/ü", "localhost", [], 0)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (508, b"HTTP/1.1 508 Loop Detected\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ],
)
def test_a_status_line_has_a_phrase_of_ours_or_none(status: int, line: bytes) -> None:
    assert status_line(status) == line


def test_every_known_status_has_its_phrase() -> None:
    for status in http.HTTPStatus:
        assert status_line(status) == f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=6))
def test_an_answer_in_chunks_is_read_as_it_was_meant(pieces: list[bytes]) -> None:
    read = Read()
    parser = httptools.HttpResponseParser(read)
    head = answer_head(418, lines(HEADERS), b"Transfer-Encoding: chunked\r\n")
    parser.feed_data(CONTINUE + head + b"".join(map(chunk, pieces)) + LAST_CHUNK)
    assert parser.get_status_code() == 418
    assert read.headers == [*HEADERS, (b"Transfer-Encoding", b"chunked")]
    assert read.complete
    assert read.body == b"".join(pieces)


def test_an_answer_without_headers_is_a_line_and_a_blank_one() -> None:
    assert answer_head(204, b"", b"") == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length"])
def test_heads_that_differ_in_their_length_alone_are_known_again(name: bytes) -> None:
    def head(length: bytes, rest: bytes = b"\r\nA: b") -> tuple[bytes, int]:
        data = b"HTTP/1.1 200 OK\r\n" + name + b": " + length + rest
        return apart_from_length(data + b"\r\n\r\n12", len(data))

    assert head(b"2")[0] == head(b"345")[0]
    assert (head(b"2")[1], head(b"345")[1]) == (2, 345)
    assert head(b"2")[0] != head(b"2", b"\r\nA: c")[0]
    for odd in (b"", b"+2", b"2 ", b"2, 2", b"0x2", b"12345678901"):
        assert head(odd)[1] == -1


def test_a_head_without_a_length_is_known_by_all_of_it() -> None:
    data = b"HTTP/1.1 200 OK\r\nX-Content-Length: 2\r\nCONTENT-LENGTH: 3\r\n\r\n"
    assert apart_from_length(data, len(data) - 4) == (data[:-4], -1)


def test_a_length_may_have_zeros_before_it() -> None:
    assert [length_told(told) for told in ("0", "12", " 012\t", "0" * 9_000 + "7", "000")] == [
        0, 12, 12, 7, 0,
    ]  # fmt: skip
