"""A backend's answer, parsed strictly: bytes in, head and pieces of the body out. No I/O.

Fed by an exchange. httptools does the parsing; what it lets pass and RFC 9112 does not (other
transfer codings, other versions and protocols, a second answer behind the first, endless interim
answers, a head without end) is refused here. `flaw` says so in words; the bytes themselves are
never repeated.
"""

from __future__ import annotations

import enum
import re

import httptools

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 256
MAX_INTERIM = 32  # 1xx heads before the answer (RFC 9110 section 15.2)
MAX_STATUS = 599  # RFC 9110 section 15: there are five classes

_TIMEOUT = re.compile(rb"timeout=(\d{1,6})", re.IGNORECASE)


class Framing(enum.Enum):
    LENGTH = "content-length"
    CHUNKED = "chunked"
    CLOSE = "until the connection closes"


class Answer:
    """What has come so far. `status`, `headers`, `length` (None: not told) and `content_type`
    (lower case, without parameters; empty for an encoded body) hold once `has_head`.

    `parts` are pieces of the body that nobody has taken yet. `keep_alive_s`: how long the backend
    says that it keeps an idle connection.
    """

    __slots__ = (
        "_bare_bytes", "_heads", "_interim", "_parser", "_skipping", "complete", "content_type",
        "flaw", "framing", "has_head", "headers", "keep_alive", "keep_alive_s", "length", "parts",
        "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._bare_bytes = 0  # heads and trailers, since the last piece of a body
        self._heads: list[bytes] = []  # what has come of heads, until the answer's own is whole
        self._interim = 0
        self._skipping = False
        self.has_head = self.complete = self.keep_alive = False
        self.flaw: str | None = None
        self.parts: list[bytes] = []
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.framing = Framing.CLOSE
        self.length: int | None = None
        self.content_type = b""
        self.keep_alive_s: int | None = None

    def feed(self, data: memoryview) -> None:
        """Afterwards look at `flaw` first."""
        self._bare_bytes += len(data)
        in_head = not self.has_head
        if in_head:
            self._heads.append(bytes(data))
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._refuse("its framing is not proper HTTP")
        if in_head and self.has_head:
            self._check_protocol()
        if self._bare_bytes > MAX_HEAD_BYTES:
            self._refuse(f"its {'trailer' if self.has_head else 'head'} is too large")

    def let_go(self) -> None:
        """Part with the parser: the two hold each other, and that is work for the collector of
        cycles. Not to be called inside `feed`; nothing can be fed afterwards."""
        del self._parser

    def end(self) -> bool:
        """The connection has ended in order. Whether the answer is whole by that."""
        if self.has_head and self.framing is Framing.CLOSE:
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
        return whole and self.keep_alive and self.framing is not Framing.CLOSE

    # What the parser calls, inside feed

    def on_message_begin(self) -> None:
        if self.complete:
            self._refuse("more bytes came behind its end")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer field
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            self._refuse("its head has too many fields")

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if self._parser.get_http_version() not in ("1.1", "1.0"):
            self._refuse("it speaks another version of HTTP")
        elif status < 200:
            self._interim += 1
            if status == 101 or status < 100 or self._interim > MAX_INTERIM:
                self._refuse("it sent a 1xx that was not asked for")
            self._skipping = True
            self.headers.clear()
        elif status > MAX_STATUS:
            self._refuse("its status is none of HTTP's")
        else:
            self.status = status
            self._read_head()
            self.has_head = True

    def on_body(self, body: bytes) -> None:
        if not self.complete:  # else it belongs to a second answer
            self.parts.append(body)
            self._bare_bytes = 0

    def on_message_complete(self) -> None:
        if self._skipping:
            self._skipping = False
        else:
            self.complete = True
            self.keep_alive = self._parser.should_keep_alive()  # only known in here

    # Inside

    def _refuse(self, flaw: str) -> None:
        self.flaw = self.flaw or flaw

    def _check_protocol(self) -> None:
        """httptools takes RTSP and ICE for HTTP, and does not tell."""
        heads = b"".join(self._heads).split(b"\r\n\r\n", self._interim + 1)
        self._heads.clear()
        if not all(head.lstrip(b"\r\n").startswith(b"HTTP/1.") for head in heads[:-1]):
            self._refuse("it speaks another protocol than HTTP")

    def _read_head(self) -> None:
        """RFC 9112 section 6.3, less what no model server needs. httptools has already refused a
        length beside a transfer coding."""
        codings = lengths = 0
        encoded = False
        for name, value in self.headers:
            match name.lower():
                case b"transfer-encoding":
                    codings += 1
                    self.framing = Framing.CHUNKED
                    if value.strip().lower() != b"chunked":
                        self._refuse("its transfer coding is not plain chunked")
                case b"content-length":
                    lengths += 1
                    self.framing = Framing.LENGTH
                    if value.isdigit():
                        self.length = int(value)
                    else:
                        self._refuse("its length is not a number")
                case b"content-type":
                    self.content_type = value.split(b";", 1)[0].strip().lower()
                case b"content-encoding":
                    encoded = encoded or value.strip().lower() not in (b"", b"identity")
                case b"keep-alive":
                    found = _TIMEOUT.search(value)
                    self.keep_alive_s = int(found[1]) if found else None
        # RFC 9112 section 6.1: who sends a coding in HTTP/1.0 may not have understood it.
        if codings + lengths > 1 or (codings and self._parser.get_http_version() == "1.0"):
            self._refuse("its framing is ambiguous")
        if encoded:
            self.content_type = b""  # an encoded body cannot be taken for events
        if self.status in (204, 304):
            self.framing, self.length = Framing.LENGTH, 0
