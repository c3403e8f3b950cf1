"""A request on its way through the house, and the plain answers that handlers give.

`Inbound` is made by `http` for each request and carries what the access log will say of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from attrs import frozen

from rolemesh.errors import RoleMeshError
from rolemesh.server.downstream import ConnectionDownstream
from rolemesh.server.logformat import AccessLine
from rolemesh.server.request import Request
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
    """One request. `id_line`: its id, as a header line towards either side. `path` is decoded.
    `params`: what the route's pattern matched. `phase`: what it is doing, should the client leave.
    `splitter`: set while an event stream is relayed, so that an error can be told in it.
    `interrupted`: why the server itself ended it. `began_at`: loop time.
    """

    __slots__ = (
        "began_at", "downstream", "id_line", "interrupted", "line", "params", "path", "phase",
        "request", "request_id", "splitter",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        downstream: ConnectionDownstream,
        id_start: bytes,
        request_id: str,
        began_at: float,
    ) -> None:
        path = request.raw_path
        self.request = request
        self.downstream = downstream
        self.request_id = request_id
        self.id_line = b"%b%b\r\n" % (id_start, request_id.encode())
        self.began_at = began_at
        self.path = unquote(path, errors="replace") if "%" in path else path
        self.phase = "upload"
        self.params: Mapping[str, str] = {}
        self.splitter: EventSplitter | None = None
        self.interrupted: RoleMeshError | None = None
        self.line = AccessLine(
            level="info",
            logger="access",
            message="request",
            request_id=request_id,
            method=request.method,
            path=self.path,
            outcome="ok",
        )
