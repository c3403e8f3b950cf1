"""What a client has sent, cut so that no piece goes beyond the end of a request.

Pure: bytes in, pieces out. Where a head ends can be seen; how its body is framed, the reader of the
pieces knows when it has read the head, and says. Whether it is a proper request is for that reader
to judge; only what is needed to find its end is judged here. All bytes come out, in order, but for
the fields behind the last chunk, which may be dropped (RFC 9112 section 7.1.2): aiohttp takes them
for fields of the next request.
"""

from __future__ import annotations

import enum
import re

MAX_LINE_BYTES = 8_190  # of a chunk's size, and of all trailer fields together

_BLANK_LINE = b"\r\n\r\n"
_EMPTY_LINES = re.compile(rb"[\r\n]*")
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
_SIZE = re.compile(rb"0*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")


class _Part(enum.Enum):
    HEAD = "a head, or empty lines before it"
    BODY = "a body whose length was told"
    CHUNKS = "chunks, each behind its size"
    TRAILER = "what may follow the last chunk"
    NONE = "nobody can tell"


class Pieces:
    """Those that have not been taken. `broken`: the end of a body in chunks cannot be found, and
    nothing more is given out."""

    __slots__ = ("_at", "_begun", "_data", "_left", "_part")

    def __init__(self) -> None:
        self._part = _Part.HEAD
        self._data = b""
        self._at = 0  # what is before it has been taken
        self._begun = b""  # of a line or a head: what has come of it
        self._left = 0  # bytes of a body, or of a chunk and the end of its line

    def __len__(self) -> int:
        """In bytes."""
        return len(self._data) - self._at

    @property
    def in_body(self) -> bool:
        return self._part is not _Part.HEAD

    @property
    def broken(self) -> bool:
        return self._part is _Part.NONE

    def add(self, data: bytes) -> None:
        self._data = self._data[self._at :] + data if len(self) else data
        self._at = 0

    def clear(self) -> None:
        self._data = b""
        self._at = 0

    def begin_body(self, length: int | None) -> None:
        """A head has been taken. `length` of its body in bytes; None: it comes in chunks."""
        self._begun = b""
        self._left = length or 0
        if length is None:
            self._part = _Part.CHUNKS
        elif length:
            self._part = _Part.BODY

    def take(self) -> bytes:
        """The next one. It may be empty: then what was taken is not given out."""
        piece = self._next()
        if not self:
            self.clear()  # an idle connection, or a long stream, need not hold what was read
        return piece

    def _next(self) -> bytes:
        start = self._at
        match self._part:
            case _Part.HEAD:
                self._at = self._end_of_head()
            case _Part.BODY:
                self._pass_left()
                if not self._left:
                    self._part = _Part.HEAD
            case _Part.CHUNKS:
                self._pass_chunks()
            case _Part.TRAILER:
                return self._take_trailer()
            case _Part.NONE:
                self.clear()
        return self._data[start : self._at]

    def _end_of_head(self) -> int:
        data, at = self._data, self._at
        if not self._begun:
            empty = _EMPTY_LINES.match(data, at)
            if empty and empty.end() > at:
                return empty.end()
        base = at - len(self._begun)  # a blank line may have begun before
        end = (self._begun + data[at : at + 3]).find(_BLANK_LINE)
        if end < 0:
            base, end = 0, data.find(_BLANK_LINE, at)
        if end < 0:
            self._begun = (self._begun + data[at:])[-3:]
            return len(data)
        self._begun = b""
        return base + end + len(_BLANK_LINE)

    def _pass_left(self) -> None:
        size = min(self._left, len(self))
        self._left -= size
        self._at += size

    def _pass_chunks(self) -> None:
        while self._part is _Part.CHUNKS and self:
            if self._left:
                self._pass_left()
                continue
            line = self._whole_line()
            if line is None:
                continue
            size = _SIZE.fullmatch(line)
            if size is None:
                self._part = _Part.NONE
            elif chunk := int(size[1], 16):
                self._left = chunk + 2
            else:
                self._part = _Part.TRAILER
                self._left = MAX_LINE_BYTES

    def _take_trailer(self) -> bytes:
        line = self._whole_line()
        if line is None:
            return b""
        if line == b"\r\n":
            self._part = _Part.HEAD
            self._left = 0
            return line
        self._left -= len(line)
        if self._left < 0 or not _FIELD.fullmatch(line):
            self._part = _Part.NONE
        return b""

    def _whole_line(self) -> bytes | None:
        """None: it has not all come. One without measure breaks the body."""
        end = self._data.find(b"\n", self._at) + 1
        line = self._begun + self._data[self._at : end or None]
        self._at = end or len(self._data)
        self._begun = b"" if end else line
        if len(line) > MAX_LINE_BYTES:
            self._part = _Part.NONE
            return None
        return line if end else None
