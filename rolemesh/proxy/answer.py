"""A backend's answer, parsed strictly: bytes in, head and pieces of the body out. No I/O.

Fed by an exchange. httptools does the parsing; what it lets pass and RFC 9112 does not (other
transfer codings, other versions and protocols, a second answer behind the first, endless interim
answers, a head without end) is refused here. `flaw` says so in words; the bytes themselves are
never repeated.

A backend sends the same head again and again, but for the length of the body. So what was read of a
head that comes again is remembered by its very bytes, and shared by all answers that have it. Where
it is that of a body with a length, and a whole answer was found in order behind it, the body is
counted, and there is nothing to parse.
"""

from __future__ import annotations

import enum
import re

import httptools

from rolemesh.wire.http1 import Sightings, apart_from_length

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 256
MAX_INTERIM = 32  # 1xx heads before the answer (RFC 9110 section 15.2)
MAX_STATUS = 599  # RFC 9110 section 15: there are five classes
MAX_KNOWN = 256
MAX_KNOWN_BYTES = 2_048
_NO_BODY = (204, 304)

_TIMEOUT = re.compile(rb"timeout=(\d{1,6})", re.IGNORECASE)


class Framing(enum.Enum):
    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "until the connection closes"


class Head:
    """What an answer's head says, all but Content-Length. `content_type`: lower case, without
    parameters; empty for an encoded body. `keep_alive_s`: how long the backend says that it keeps
    an idle connection. `kept` is for what readers work out of it, and holds for all answers that
    share it."""

    __slots__ = (
        "content_type", "framing", "headers", "keep_alive", "keep_alive_s", "kept", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.framing = Framing.CLOSE
        self.content_type = b""
        self.keep_alive = False
        self.keep_alive_s: int | None = None
        self.kept: dict[object, bytes] = {}


# Of this process: heads of whole answers with a length, by their bytes without it, and heads of
# chunked ones.
_known: dict[bytes, Head] = {}
_known_chunked: dict[bytes, Head] = {}
_sightings = Sightings()


class Answer:
    """What has come so far. `head` and `length` (None: not told) hold once `has_head`. `parts` are
    pieces of the body that nobody has taken yet. `between_chunks`: what was fed ended with a whole
    chunk, so a whole one may pass by unfed: the parser would be left as it is."""

    __slots__ = (
        "_bare_bytes", "_begun", "_heads", "_interim", "_is_plain", "_key", "_left", "_parser",
        "_skipping", "between_chunks", "complete", "flaw", "has_head", "head", "length", "parts",
    )  # fmt: skip

    def __init__(self) -> None:
        self._begun = False
        self._key = b""  # to remember the head by
        self._is_plain = False  # its length is written in the ordinary way
        self._left = -1  # bytes of the body that have not come, behind a known head
        self._parser: httptools.HttpResponseParser | None = None
        self.has_head = self.complete = self.between_chunks = False
        self.flaw: str | None = None
        self.parts: list[bytes] = []
        self.length: int | None = None

    def feed(self, data: memoryview) -> None:
        """Afterwards look at `flaw` first."""
        if not self._begun:
            self._begin(data)
        elif self._parser is None:
            self._count(data)
        else:
            self._parse(self._parser, data)

    def _begin(self, data: memoryview) -> None:
        self._begun = True
        start = bytes(data[:MAX_KNOWN_BYTES])
        head_end = start.find(b"\r\n\r\n")
        if head_end > 0:
            key, length = apart_from_length(start, head_end)
            if length >= 0:
                head = _known.get(key)
                if head is not None:
                    self.head = head
                    self.has_head = True
                    self.length = self._left = length
                    self._count(data[head_end + 4 :])
                    return
            self._key = key
            self._is_plain = length >= 0
        self.head = Head()
        self._bare_bytes = 0  # heads and trailers, since the last piece of a body
        self._heads: list[bytes] = []  # what has come of heads, until the answer's own is whole
        self._interim = 0
        self._skipping = False
        self._parser = httptools.HttpResponseParser(self)
        self._parse(self._parser, data)

    def _count(self, data: memoryview) -> None:
        size = len(data)
        if size > self._left:
            if bytes(data[self._left :]).strip(b"\r\n"):  # as lenient as the parser
                self._refuse("more bytes came behind its end")
            data = data[: self._left]
            size = self._left
        if size:
            self.parts.append(bytes(data))
            self._left -= size
        if not self._left:
            self.complete = True

    def _parse(self, parser: httptools.HttpResponseParser, data: memoryview) -> None:
        self._bare_bytes += len(data)
        in_head = not self.has_head
        if in_head:
            self._heads.append(bytes(data))
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse("its framing is not proper HTTP")
        if in_head and self.has_head:
            self._check_protocol()
            if self.head.framing is Framing.CHUNKED:
                self._share_head()
        if self._bare_bytes > MAX_HEAD_BYTES:
            self._refuse(f"its {'trailer' if self.has_head else 'head'} is too large")
        if self.between_chunks and (self.complete or bytes(data[-2:]) != b"\r\n"):
            self.between_chunks = False  # half of the next one's size may have come
        if self.complete and self._is_plain:
            self._remember()

    def let_go(self) -> None:
        """Part with the parser: the two hold each other, and that is work for the collector of
        cycles. Not to be called inside `feed`; nothing can be fed afterwards."""
        self._parser = None

    def end(self) -> bool:
        """The connection has ended in order. Whether the answer is whole by that."""
        if self.has_head and self.head.framing is Framing.CLOSE:
            self.complete = True
        return self.complete

    def take(self) -> bytes:
        """The pieces of the body, as one."""
        parts = self.parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another answer behind this one."""
        whole = self.complete and self.flaw is None
        return whole and self.head.keep_alive and self.head.framing is not Framing.CLOSE

    # What the parser calls, inside feed

    def on_message_begin(self) -> None:
        if self.complete:
            self._refuse("more bytes came behind its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer field
        headers = self.head.headers
        headers.append((name, value))
        if len(headers) > MAX_HEADERS:
            self._refuse("its head has too many fields")

    def on_headers_complete(self) -> None:
        parser = self._parser
        if self.complete or parser is None:
            return
        status = parser.get_status_code()
        if parser.get_http_version() not in ("1.1", "1.0"):
            self._refuse("it speaks another version of HTTP")
        elif status < 200:
            self._interim += 1
            if status == 101 or status < 100 or self._interim > MAX_INTERIM:
                self._refuse("it sent a 1xx that was not asked for")
            self._skipping = True
            self.head.headers.clear()
        elif status > MAX_STATUS:
            self._refuse("its status is none of HTTP's")
        else:
            self.head.status = status
            self._read_head(self.head, parser.get_http_version() == "1.0")
            self.has_head = True

    def on_chunk_header(self) -> None:
        self.between_chunks = False

    def on_chunk_complete(self) -> None:
        self.between_chunks = True

    def on_body(self, body: bytes) -> None:
        if not self.complete:  # else it belongs to a second answer
            self.parts.append(body)
            self._bare_bytes = 0

    def on_message_complete(self) -> None:
        if self._skipping:
            self._skipping = False
        elif self._parser is not None:
            self.complete = True
            self.head.keep_alive = self._parser.should_keep_alive()  # only known in here

    # Inside

    def _refuse(self, flaw: str) -> None:
        self.flaw = self.flaw or flaw

    def _check_protocol(self) -> None:
        """httptools takes RTSP and ICE for HTTP, and does not tell."""
        heads = b"".join(self._heads).split(b"\r\n\r\n", self._interim + 1)
        self._heads.clear()
        if not all(head.lstrip(b"\r\n").startswith(b"HTTP/1.") for head in heads[:-1]):
            self._refuse("it speaks another protocol than HTTP")

    def _remember(self) -> None:
        head = self.head
        known = self.flaw is None and not self._interim and head.status not in _NO_BODY
        if known and head.framing is Framing.LENGTH and _sightings.again(self._key):
            _make_room(_known)
            _known[self._key] = head

    def _share_head(self) -> None:
        """Two thousand streams need not keep two thousand times the same."""
        if self.flaw is None and not self._interim and self._key and _sightings.again(self._key):
            _make_room(_known_chunked)
            self.head = _known_chunked.setdefault(self._key, self.head)
        self._key = b""

    def _read_head(self, head: Head, old: bool) -> None:
        """RFC 9112 section 6.3, less what no model server needs. httptools has already refused a
        length beside a transfer coding."""
        codings = lengths = 0
        encoded = False
        for name, value in head.headers:
            match name.lower():
                case b"transfer-encoding":
                    codings += 1
                    head.framing = Framing.CHUNKED
                    if value.strip().lower() != b"chunked":
                        self._refuse("its transfer coding is not plain chunked")
                case b"content-length":
                    lengths += 1
                    head.framing = Framing.LENGTH
                    if value.isdigit():
                        self.length = int(value)
                    else:
                        self._refuse("its length is not a number")
                case b"content-type":
                    head.content_type = value.split(b";", 1)[0].strip().lower()
                case b"content-encoding":
                    encoded = encoded or value.strip().lower() not in (b"", b"identity")
                case b"keep-alive":
                    found = _TIMEOUT.search(value)
                    head.keep_alive_s = int(found[1]) if found else None
        # RFC 9112 section 6.1: who sends a coding in HTTP/1.0 may not have understood it.
        if codings + lengths > 1 or (codings and old):
            self._refuse("its framing is ambiguous")
        if encoded:
            head.content_type = b""  # an encoded body cannot be taken for events
        if head.status in _NO_BODY:
            head.framing, self.length = Framing.LENGTH, 0
        head.headers = [pair for pair in head.headers if pair[0].lower() != b"content-length"]


def _make_room(known: dict[bytes, Head]) -> None:
    if len(known) >= MAX_KNOWN:
        known.clear()
