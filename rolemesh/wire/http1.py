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
MAX_LENGTH_DIGITS = 10
MAX_SIGHTINGS = 4_096


def request_head(method: str, target: str, authority: str, headers: Pairs, length: int) -> bytes:
    """`target` is ASCII without spaces or control characters."""
    start = f"{method} {target} HTTP/1.1\r\nHost: {authority}\r\n".encode("ascii")
    return b"%b%bContent-Length: %d\r\n\r\n" % (start, lines(headers), length)


def length_told(value: str) -> int:
    """Of a Content-Length that a parser has passed. Leading zeros are no harm, but more than 4,300
    digits are too much for `int`."""
    return int(value.strip().lstrip("0") or 0)


def status_line(status: int) -> bytes:
    """The reason phrase is ours: an upstream's own may hold anything."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


def answer_head(status: int, fields: bytes, framing: bytes) -> bytes:
    """`fields` and `framing` (length or transfer coding, and the connection) are `lines`."""
    return b"%b%b%b\r\n" % (status_line(status), fields, framing)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def lines(headers: Pairs) -> bytes:
    """Header lines, each with its end."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


class Sightings:
    """Which heads have come before. One that has an id of its own (X-Request-ID, traceparent) comes
    once: to keep what was understood of it would only drive out those that come again."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def again(self, head: bytes) -> bool:
        """Notes it, too."""
        found = hash(head)
        if found in self._hashes:
            return True
        if len(self._hashes) >= MAX_SIGHTINGS:
            self._hashes.clear()
        self._hashes.add(found)
        return False


def apart_from_length(data: bytes, head_end: int) -> tuple[bytes, int]:
    """A head without the value of its Content-Length, to know it again by, and that value; -1 where
    it is not written in the ordinary way.

    The same bytes without it are the same head: it stands behind the end of a line, so nothing else
    in a head can look like it.
    """
    at = data.find(b"\r\nContent-Length: ", 0, head_end)
    if at < 0:
        at = data.find(b"\r\ncontent-length: ", 0, head_end)
    if at >= 0:
        at += 18
        end = data.find(b"\r\n", at, head_end + 2)
        digits = data[at:end]
        if end - at <= MAX_LENGTH_DIGITS and digits.isdigit():
            return data[:at] + data[end:head_end], int(digits)
    return data[:head_end], -1
