"""A request as it was received: the interface, and the one that aiohttp parsed.

Read through `Inbound` by the server's `http` and by handlers. Which protocol received a request
shows nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from rolemesh.errors import RequestError, RequestTimeout, RequestTooLarge, UnsupportedMediaType
from rolemesh.server.connection import ClientConnection
from rolemesh.wire.http1 import CONTINUE, length_told

T = TypeVar("T")


class Request(Protocol):
    """`raw_path` is as sent, percent-encoded, without the query; `target` with it. `peer` is the
    address of the connection's other end (None for a socket without one). `kept`: see `once`."""

    @property
    def method(self) -> str: ...

    @property
    def raw_path(self) -> str: ...

    @property
    def target(self) -> str: ...

    @property
    def version(self) -> tuple[int, int]: ...

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]: ...

    @property
    def kept(self) -> dict[object, Any]: ...

    @property
    def peer(self) -> str | None: ...

    @property
    def has_unread_body(self) -> bool: ...

    def header(self, name: str) -> str | None:
        """The first value of a header, whatever the case of its name."""

    def headers(self, name: str) -> Sequence[str]:
        """Every value of a header."""

    async def body(self, max_bytes: int) -> bytes:
        """The whole body. Raises RequestTooLarge (before reading, where the length is told),
        RequestTimeout, RequestError."""


def once(request: Request, work_out: Callable[[Request], T]) -> T:
    """What `work_out` makes of the request's head alone. It is kept for all requests with the very
    same head, where the server knows them again; not when it raises."""
    kept: dict[object, T] = request.kept
    try:
        return kept[work_out]
    except KeyError:
        value = kept[work_out] = work_out(request)
        return value


def refuse_encoded(request: Request) -> None:
    """Raises UnsupportedMediaType: bodies are not inflated here."""
    codings = request.headers("Content-Encoding")
    if any(coding.strip().lower() not in ("", "identity") for coding in codings):
        raise UnsupportedMediaType("Send the request's body without compression.")


class AiohttpRequest:
    """One that aiohttp parsed."""

    __slots__ = ("_connection", "_request", "kept")

    def __init__(self, request: web.BaseRequest, connection: ClientConnection) -> None:
        self.kept: dict[object, Any] = {}
        self._request = request
        self._connection = connection

    @property
    def method(self) -> str:
        return self._request.method

    @property
    def raw_path(self) -> str:
        return self._request.rel_url.raw_path

    @property
    def target(self) -> str:
        return self._request.rel_url.raw_path_qs

    @property
    def version(self) -> tuple[int, int]:
        version = self._request.version
        return version.major, version.minor

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._request._message.raw_headers

    @property
    def names_its_host(self) -> bool:
        """False: the target is a whole URL, of another host than the Host header names."""
        url = self._request.rel_url
        return not url.absolute or url.raw_authority == (self.header("Host") or "").lower()

    @property
    def peer(self) -> str | None:
        peer = self._connection.peername
        return str(peer[0]) if isinstance(peer, tuple) else None

    @property
    def has_unread_body(self) -> bool:
        return not self._request.content.is_eof()

    def header(self, name: str) -> str | None:
        return self._request.headers.get(name)

    def headers(self, name: str) -> Sequence[str]:
        return self._request.headers.getall(name, ())

    async def body(self, max_bytes: int) -> bytes:
        told = self.header("Content-Length")
        if told is not None and length_told(told) > max_bytes:
            raise too_large(max_bytes)
        content = self._request.content
        if content.is_eof():
            data = content.read_nowait()
            if len(data) > max_bytes:  # chunks, that do not tell their length
                raise too_large(max_bytes)
            return data
        self._ask_for_body()
        self._connection.body = content
        try:
            return await _read(content, max_bytes)
        except TimeoutError as error:
            error.__traceback__ = None  # `content` keeps what it raised, and these frames keep it
            raise RequestTimeout("The request's body stopped coming.") from None
        except (RequestPayloadError, HttpProcessingError) as error:
            error.__traceback__ = None
            raise RequestError("The framing of the request's body is broken.") from None
        finally:
            self._connection.body = None

    def _ask_for_body(self) -> None:
        """Only now that the request is welcome (RFC 9110 section 10.1.1)."""
        expected = (self.header("Expect") or "").lower() == "100-continue"
        if expected and self._connection.transport is not None:
            self._connection.transport.write(CONTINUE)


async def _read(content: StreamReader, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while not content.at_eof():
        part = await content.readany()
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The request's body is larger than {max_bytes} bytes.")
