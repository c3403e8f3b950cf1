"""Requests that nobody sent: what handlers see of one, made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from rolemesh.errors import RequestTooLarge
from rolemesh.server.downstream import ConnectionDownstream
from rolemesh.server.inbound import Inbound
from tests.proxy.recording import RecordedDownstream


class Received:
    """rolemesh.server.request.Request. `fields`: (name, value), a name as often as wanted."""

    def __init__(
        self,
        *fields: tuple[str, str],
        method: str = "GET",
        path: str = "/",
        peer: str | None = "127.0.0.1",
        body: bytes = b"",
    ) -> None:
        self.fields = fields
        self.kept: dict[object, Any] = {}
        self.method = method
        self.raw_path = self.target = path
        self.version = (1, 1)
        self.peer = peer
        self.has_unread_body = False
        self._body = body

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return [(name.encode(), value.encode()) for name, value in self.fields]

    def header(self, name: str) -> str | None:
        return next(iter(self.headers(name)), None)

    def headers(self, name: str) -> Sequence[str]:
        return [value for each, value in self.fields if each.lower() == name.lower()]

    async def body(self, max_bytes: int) -> bytes:
        if len(self._body) > max_bytes:
            raise RequestTooLarge("too large")
        return self._body


class Taken(RecordedDownstream):
    """What a client got."""

    def __init__(self) -> None:
        super().__init__()
        self.keep_alive = True
        self.whole = False
        self.body_bytes = 0


def inbound(received: Received | None = None, **params: str) -> Inbound:
    downstream = cast(ConnectionDownstream, Taken())
    made = Inbound(received or Received(), downstream, b"X-Request-ID: ", "request-1", 0.0)
    made.params = params
    return made
