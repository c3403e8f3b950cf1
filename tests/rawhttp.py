"""An HTTP/1.1 client for tests that says exactly what it is told to say.

Bytes out as given, split where the test wants them split; the answer is read piece by piece, so
that a test can tell when each arrived. It repairs nothing: what is not well framed raises
`Malformed`, an end before the end of a body `Truncated`. Blocking, with a deadline on every read.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

from attrs import field, frozen

TIMEOUT_S = 10.0


class Malformed(Exception):
    """The peer's bytes are no HTTP/1.1 answer."""


class Truncated(Exception):
    """The connection ended inside a head or a body."""


@frozen
class Head:
    version: str
    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str | None:
        """The value of a header that may be there once at most."""
        values = self.all(name)
        if len(values) > 1:
            raise Malformed(f"{name} is there {len(values)} times: {values}")
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


@frozen
class Reply:
    """One whole answer."""

    head: Head
    body: bytes = field(repr=lambda body: repr(body[:300]))

    @property
    def status(self) -> int:
        return self.head.status

    def get(self, name: str) -> str | None:
        return self.head.get(name)

    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    *,
    host: str = "localhost",
) -> bytes:
    """A plain request: Host, the given headers, and a length where there is a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def _parse_head(block: bytes) -> Head:
    lines = block.decode("latin-1").split("\r\n")
    version, _, rest = lines[0].partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (len(status) == 3 and status.isdigit()):
        raise Malformed(f"no status line: {lines[0]!r}")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or name != name.strip():
            raise Malformed(f"no header: {line!r}")
        headers.append((name, value.strip()))
    return Head(version, int(status), reason, tuple(headers))


class RawClient:
    """One connection. `with RawClient(address) as wire: wire.send(...); wire.reply()`."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str = "localhost",
        timeout_s: float = TIMEOUT_S,
        receive_buffer: int | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout_s)
        try:
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is not None:
                self.socket = tls.wrap_socket(self.socket, server_hostname=server_name)
        except OSError:
            self.socket.close()
            raise
        self.timeout_s = timeout_s
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Sending

    def send(self, *pieces: bytes, gap_s: float = 0.0) -> None:
        """Each piece in a segment of its own, `gap_s` apart."""
        for number, piece in enumerate(pieces):
            if number and gap_s:
                time.sleep(gap_s)
            self.socket.sendall(piece)

    def request(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> None:
        self.send(request_bytes(method, target, headers, body))

    # Leaving

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Leave with RST, as a killed process with unread data does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # Reading

    def _more(self) -> bool:
        """Read once. False at the end of the connection; a reset counts as an end."""
        try:
            data = self.socket.recv(65536)
        except (ConnectionResetError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            data = b""
        self._buffer += data
        return bool(data)

    def head(self, *, interim: bool = False) -> Head:
        """The next head; 1xx heads are skipped unless `interim`."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                if not self._more():
                    raise Truncated(f"ended in the head: {self._buffer[:200]!r}")
            block, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            head = _parse_head(block)
            if interim or head.status >= 200:
                return head

    def pieces(self, head: Head, method: str = "GET") -> Iterator[bytes]:
        """The body as it arrives, without its framing. Ends where the body ends."""
        length = head.get("Content-Length")
        coding = head.get("Transfer-Encoding")
        if length is not None and coding is not None:
            raise Malformed("Content-Length beside Transfer-Encoding")
        if method == "HEAD" or head.status in (204, 304) or head.status < 200:
            return iter(())
        if coding is not None:
            if coding.lower() != "chunked":
                raise Malformed(f"Transfer-Encoding: {coding}")
            return self._chunks()
        if length is not None:
            return self._exactly(int(length))
        return self._until_end()

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left:
            if not self._buffer and not self._more():
                raise Truncated(f"ended with {left} bytes of the body to come")
            piece, self._buffer = self._buffer[:left], self._buffer[left:]
            left -= len(piece)
            if piece:
                yield piece

    def _until_end(self) -> Iterator[bytes]:
        while self._buffer or self._more():
            piece, self._buffer = self._buffer, b""
            yield piece

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._more():
                raise Truncated("ended between two chunks")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line().partition(b";")[0], 16):
            yield from self._exactly(size)
            if self._line():
                raise Malformed("a chunk is longer than it says")
        while self._line():
            pass

    def body(self, head: Head) -> bytes:
        return b"".join(self.pieces(head))

    def reply(self) -> Reply:
        head = self.head()
        return Reply(head, self.body(head))

    def until(self, pieces: Iterator[bytes], ending: bytes) -> bytes:
        """Body bytes up to one that ends in `ending`."""
        got = b""
        while not got.endswith(ending):
            piece = next(pieces, None)
            if piece is None:
                raise Truncated(f"the body ended after {got[-200:]!r}")
            got += piece
        return got

    # Silence

    def silent_for(self, seconds: float) -> bool:
        """Nothing arrives within `seconds`, and the connection stays open."""
        if self._buffer not in (b"", b"\r\n"):  # the end of a chunk whose data was taken
            return False
        self.socket.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(self.timeout_s)
        return False

    def rest(self, timeout_s: float | None = None) -> bytes:
        """Everything until the peer closes. TimeoutError when it does not within `timeout_s`."""
        until = time.monotonic() + (timeout_s or self.timeout_s)
        while True:
            self.socket.settimeout(max(0.001, until - time.monotonic()))
            if not self._more():
                data, self._buffer = self._buffer, b""
                return data
