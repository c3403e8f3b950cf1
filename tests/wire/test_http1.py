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
    chunk,
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
    head = answer_head(418, HEADERS, b"Transfer-Encoding: chunked\r\n")
    parser.feed_data(CONTINUE + head + b"".join(map(chunk, pieces)) + LAST_CHUNK)
    assert parser.get_status_code() == 418
    assert read.headers == [*HEADERS, (b"Transfer-Encoding", b"chunked")]
    assert read.complete
    assert read.body == b"".join(pieces)


def test_an_answer_without_headers_is_a_line_and_a_blank_one() -> None:
    assert answer_head(204, [], b"") == b"HTTP/1.1 204 No Content\r\n\r\n"
