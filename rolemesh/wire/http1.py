"""Heads of HTTP/1.1 messages as bytes: conductors' requests and downstreams' answers."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

Pairs = Iterable[tuple[bytes, bytes]]

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def request_head(method: str, target: str, authority: str, headers: Pairs, length: int) -> bytes:
    """`target` is ASCII without spaces or control characters."""
    start = f"{method} {target} HTTP/1.1\r\nHost: {authority}\r\n".encode("ascii")
    return b"%b%bContent-Length: %d\r\n\r\n" % (start, _lines(headers), length)


def status_line(status: int) -> bytes:
    """The reason phrase is ours: an upstream's own may hold anything."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def answer_head(status: int, headers: Pairs, framing: bytes) -> bytes:
    """`framing`: whole header lines for length or transfer coding, and the connection."""
    return b"%b%b%b\r\n" % (status_line(status), _lines(headers), framing)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _lines(headers: Pairs) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])
