"""The one ordinary shape of a request that the fast lane serves: recognised, or handed over.

Pure: bytes in, a head or a verdict out. A shape is ordinary when there is one way only to read it:
a known POST path, HTTP/1.1, one Content-Length, no header twice, plain printable ASCII, and none of
the headers that change how a request is read. Anything else is for the full parser, which is strict
and answers in its own time; so a mistake here can only be to take too much, never to refuse.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping

MAX_HEAD_BYTES = 8_190
MAX_FIELDS = 64
MAX_LENGTH_DIGITS = 10

_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
# Control characters, a CR or LF that does not end a line, and all that is not ASCII.
_ODD_BYTES = re.compile(rb"[^\t\r\n\x20-\x7e]|\r(?!\n)|(?<!\r)\n")
_ODD_FIELDS = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding"})


class Verdict(enum.Enum):
    MORE = "more bytes are needed to tell"
    ODD = "not for the fast lane"


class OrdinaryHead:
    """`fields` by lower-case name. `body_at`: where the body begins. `length`: of the body."""

    __slots__ = ("body_at", "fields", "length", "path", "raw_headers")

    def __init__(
        self,
        path: str,
        raw_headers: list[tuple[bytes, bytes]],
        fields: Mapping[bytes, bytes],
        body_at: int,
    ) -> None:
        self.path = path
        self.raw_headers = raw_headers
        self.fields = fields
        self.body_at = body_at
        self.length = int(fields[b"content-length"])


class Recogniser:
    """Knows the paths that the lane serves."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = {f"POST {path} HTTP/1.1".encode(): path for path in paths}
        self._starts = tuple(line + b"\r" for line in self._paths)

    def look(self, data: bytes) -> OrdinaryHead | Verdict:
        """`data` is what has come of a request, its body perhaps included."""
        line_end = data.find(b"\r\n")
        if line_end < 0:
            could_be = any(start.startswith(data) for start in self._starts)
            return Verdict.MORE if could_be else Verdict.ODD
        path = self._paths.get(data[:line_end])
        if path is None:
            return Verdict.ODD
        head_end = data.find(b"\r\n\r\n", line_end, MAX_HEAD_BYTES)
        if head_end < 0:
            return Verdict.MORE if len(data) < MAX_HEAD_BYTES else Verdict.ODD
        return self._head(path, data[line_end + 2 : head_end], head_end + 4)

    def _head(self, path: str, lines: bytes, body_at: int) -> OrdinaryHead | Verdict:
        if _ODD_BYTES.search(lines):
            return Verdict.ODD
        raw_headers = []
        fields = {}
        for line in lines.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            value = value.strip(b" \t")
            lower = name.lower()
            if not colon or not name or lower.translate(None, _TOKEN) or lower in fields:
                return Verdict.ODD
            fields[lower] = value
            raw_headers.append((name, value))
        if not _is_plain(fields):
            return Verdict.ODD
        return OrdinaryHead(path, raw_headers, fields, body_at)


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
