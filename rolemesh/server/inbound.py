"""A request as handlers see it, whichever protocol received it, and the plain answers they give.

`Inbound` is made by `http` for each request and carries what the access log will say of it. Only
this module and `connection` know that aiohttp parsed it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError
from attrs import frozen

from rolemesh.errors import RequestError, RequestTooLarge, RoleMeshError
from rolemesh.server.connection import ClientConnection
from rolemesh.server.downstream import ConnectionDownstream
from rolemesh.server.logformat import AccessLine
from rolemesh.wire.http1 import CONTINUE
from rolemesh.wire.sse import EventSplitter

JSON = b"application/json"


@frozen
class Answer:
    """A whole answer of our own."""

    status: int = 200
    body: bytes = b""
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Answer:
        return cls(status, json.dumps(value, separators=(",", ":")).encode())


class Inbound:
    """One request. `params`: what the route's pattern matched. `phase`: what it is doing, should
    the client leave. `splitter`: set while an event stream is relayed, so that an error can be told
    in it. `interrupted`: why the server itself ended it."""

    __slots__ = (
        "_connection", "_request", "began_at", "downstream", "interrupted", "line", "params",
        "phase", "request_id", "splitter",
    )  # fmt: skip

    def __init__(
        self,
        request: web.BaseRequest,
        connection: ClientConnection,
        downstream: ConnectionDownstream,
        request_id: str,
        began_at: float,
    ) -> None:
        self._request = request
        self._connection = connection
        self.downstream = downstream
        self.request_id = request_id
        self.began_at = began_at
        self.phase = "upload"
        self.params: Mapping[str, str] = {}
        self.splitter: EventSplitter | None = None
        self.interrupted: RoleMeshError | None = None
        self.line = AccessLine(
            request_id=request_id,
            method=request.method,
            path=self.path,
            status=0,
            outcome="ok",
            duration_s=0.0,
        )

    @property
    def method(self) -> str:
        return self._request.method

    @property
    def raw_path(self) -> str:
        """As sent, percent-encoded, without the query."""
        return self._request.rel_url.raw_path

    @property
    def path(self) -> str:
        path = self.raw_path
        return unquote(path, errors="replace") if "%" in path else path

    @property
    def target(self) -> str:
        """Path and query, for an upstream."""
        return self._request.rel_url.raw_path_qs

    @property
    def version(self) -> tuple[int, int]:
        version = self._request.version
        return version.major, version.minor

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return self._request._message.raw_headers

    def header(self, name: str) -> str | None:
        return self._request.headers.get(name)

    def headers(self, name: str) -> list[str]:
        """Every value of a header."""
        return self._request.headers.getall(name, [])

    @property
    def peer(self) -> str | None:
        """The address of the other end of the connection; None for a socket without one."""
        peer = self._connection.peername
        return str(peer[0]) if isinstance(peer, tuple) else None

    @property
    def has_unread_body(self) -> bool:
        return not self._request.content.is_eof()

    async def body(self, max_bytes: int) -> bytes:
        """The whole body. Raises RequestTooLarge (before reading, where the length is told),
        RequestTimeout, RequestError."""
        told = self.header("Content-Length")
        if told is not None and int(told) > max_bytes:
            raise too_large(max_bytes)
        content = self._request.content
        if content.is_eof():
            return content.read_nowait()
        self._ask_for_body()
        self._connection.body = content
        try:
            return await _read(content, max_bytes)
        except (RequestPayloadError, HttpProcessingError):
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
