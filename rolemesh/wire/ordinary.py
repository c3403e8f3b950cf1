"""The one ordinary shape of a request that the fast lane serves: recognised, or handed over.

Pure: bytes in, a head or a verdict out. A shape is ordinary when there is one way only to read it:
a known POST path, HTTP/1.1, one Content-Length, no header twice, plain printable ASCII, and none of
the headers that change how a request is read. Anything else is for the full parser, which is strict
and answers in its own time; so a mistake here can only be to take too much, never to refuse.

A client sends the same head again and again, but for the length of the body. So what was understood
of a head is kept when it comes again, found by its very bytes, and shared by all requests that have
it.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rolemesh.wire.http1 import MAX_LENGTH_DIGITS, Sightings, apart_from_length

MAX_HEAD_BYTES = 8_190
MAX_FIELDS = 64
MAX_KEPT = 256
MAX_KEPT_BYTES = 2_048  # a bigger head is looked at each time

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
# Control characters, a CR or LF that does not end a line, and all that is not ASCII.
_ODD_BYTES = re.compile(rb"[^\t\r\n\x20-\x7e]|\r(?!\n)|(?<!\r)\n")
# Those that change how a request is read, or that aiohttp's parser takes for such.
_ODD_FIELDS = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"proxy-connection"}
    | {b"sec-websocket-key1"}
)


class Verdict(enum.Enum):
    MORE = "more bytes are needed to tell"
    ODD = "not for the fast lane"


class OrdinaryHead:
    """What a head says, all but Content-Length: `fields` by lower-case name, `raw_headers` in their
    order and spelling. `kept` is for what readers work out of it, and holds for all who share it.
    """

    __slots__ = ("fields", "kept", "path", "raw_headers")

    def __init__(
        self, path: str, raw_headers: tuple[tuple[bytes, bytes], ...], fields: Mapping[bytes, bytes]
    ) -> None:
        self.path = path
        self.raw_headers = raw_headers
        self.fields = fields
        self.kept: dict[object, Any] = {}


# The head, where the body begins, and its length.
Ordinary = tuple[OrdinaryHead, int, int]


class Recogniser:
    """Knows the paths that the lane serves, and the heads that it has seen."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = {f"POST {path} HTTP/1.1".encode(): path for path in paths}
        self._starts = tuple(line + b"\r" for line in self._paths)
        self._seen: dict[bytes, OrdinaryHead] = {}
        self._sightings = Sightings()

    def look(self, data: bytes) -> Ordinary | Verdict:
        """`data` is what has come of a request, its body perhaps included."""
        head_end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        if head_end < 0:
            return self._look_at_start(data)
        key, length = apart_from_length(data, head_end)
        head = self._seen.get(key)
        if head is not None and length >= 0:
            return head, head_end + 4, length
        line_end = data.find(b"\r\n")
        path = self._paths.get(data[:line_end])
        if path is None:
            return Verdict.ODD
        parsed = _parse(path, data[line_end + 2 : head_end])
        if parsed is None:
            return Verdict.ODD
        if length >= 0 and len(key) <= MAX_KEPT_BYTES and self._sightings.again(key):
            if len(self._seen) >= MAX_KEPT:
                self._seen.clear()
            self._seen[key] = parsed[0]
        return parsed[0], head_end + 4, parsed[1]

    def _look_at_start(self, data: bytes) -> Verdict:
        """Whether what has no end yet may become ordinary."""
        line_end = data.find(b"\r\n")
        if line_end < 0:
            could_be = any(start.startswith(data) for start in self._starts)
        else:
            known = data[:line_end] in self._paths and len(data) < MAX_HEAD_BYTES
            could_be = known and _may_go_on(data[line_end + 2 :])
        return Verdict.MORE if could_be else Verdict.ODD


def _parse(path: str, lines: bytes) -> tuple[OrdinaryHead, int] | None:
    raw_headers = _raw_headers(lines)
    fields = {name.lower(): value for name, value in raw_headers or ()}
    if raw_headers is None or len(fields) < len(raw_headers) or not _is_plain(fields):
        return None
    length = int(fields.pop(b"content-length"))
    others = tuple(pair for pair in raw_headers if pair[0].lower() != b"content-length")
    return OrdinaryHead(path, others, fields), length


def _raw_headers(lines: bytes) -> list[tuple[bytes, bytes]] | None:
    if _ODD_BYTES.search(lines):
        return None
    raw_headers = []
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or not _is_token(name):
            return None
        raw_headers.append((name, value.strip(b" \t")))
    return raw_headers


def _may_go_on(lines: bytes) -> bool:
    """Whether they may be ordinary when the last one is whole."""
    if lines.count(b"\r\n") > MAX_FIELDS:
        return False
    whole, _, last = lines.removesuffix(b"\r").rpartition(b"\r\n")
    if _ODD_BYTES.search(last) or (whole and _raw_headers(whole) is None):
        return False
    name, colon, _ = last.partition(b":")
    return _is_token(name) or not (name or colon)


def _is_token(name: bytes) -> bool:
    return bool(name) and not name.lower().translate(None, _TOKEN)


def _is_plain(fields: Mapping[bytes, bytes]) -> bool:
    length = fields.get(b"content-length", b"")
    return (
        length.isdigit()
        and len(length) <= MAX_LENGTH_DIGITS
        and b"host" in fields
        and len(fields) <= MAX_FIELDS
        and fields.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        and _ODD_FIELDS.isdisjoint(fields)
    )
