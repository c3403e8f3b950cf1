"""Serves HTTP: every request passes here once, in and out.

Gives a request its id, finds its handler, writes its answer or its error in the contract's shape,
and its line in the access log. Handlers raise RoleMeshErrors; this is the one place where they
become HTTP. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
from collections.abc import Callable, Sequence

from aiohttp import web

from rolemesh.errors import (
    MethodNotAllowed,
    RequestError,
    RoleMeshError,
    ShuttingDown,
)
from rolemesh.server.connection import (
    ANSWERED,
    ANSWERED_LAST,
    ClientConnection,
)
from rolemesh.server.connections import ClientConnections, close_gently
from rolemesh.server.downstream import ConnectionDownstream
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.lane import Lane
from rolemesh.server.logformat import AccessLine
from rolemesh.server.request import AiohttpRequest, Request
from rolemesh.server.router import Router
from rolemesh.wire import openai
from rolemesh.wire.headers import request_id_ok
from rolemesh.wire.http1 import lines

log = logging.getLogger("rolemesh.http")

SWEEP_S = 1.0
FLUSH_S = 1.0


class HttpServer:
    """`request_id_header` and `fast_lane` may be changed at any time. `draining`: no new work is
    taken. `ended` is told of every request, when its `line` says all; then `tell` writes that line.
    `lane_paths`: the POST paths of the fast lane. `name`: whose the errors that are made here are,
    in their headers."""

    def __init__(
        self,
        router: Router,
        request_id_header: str,
        ended: Callable[[Inbound], None],
        lane_paths: Sequence[str],
        tell: Callable[[AccessLine], None],
        name: str = "gateway",
    ) -> None:
        self._error_header = (b"X-RoleMesh-Error", name.encode())
        self._ended = ended
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._router = router
        self.connections = ClientConnections(self._serve, self._refuse, self._loop)
        self._lane = Lane(self, lane_paths)
        self.fast_lane = True
        self.draining = False
        self._requests: dict[Inbound, asyncio.Task[object] | None] = {}
        self._idle: asyncio.Future[None] | None = None  # what a drain waits for
        prefix = secrets.token_hex(6)
        self._ids = (f"{prefix}-{number:x}" for number in itertools.count(1))
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        self.request_id_header = request_id_header

    @property
    def request_id_header(self) -> str:
        return self._id_header

    @request_id_header.setter
    def request_id_header(self, name: str) -> None:
        self._id_header = name
        self._id_start = f"{name}: ".encode()

    # Life

    def new_connection(self) -> asyncio.Protocol:
        return self._lane() if self.fast_lane else self.connections()

    @property
    def open_connections(self) -> int:
        return len(self.connections) + len(self._lane)

    async def drain(self) -> None:
        """Until no request is in flight. Idle connections are closed, busy ones after it."""
        self.draining = True
        self.connections.close_idle()
        self._lane.close_idle()
        if self._requests:
            self._idle = self._loop.create_future()
            await self._idle

    async def end_requests(self, error: RoleMeshError) -> None:
        """Those that are left end now, with this error."""
        for inbound in self._requests:
            inbound.interrupted = error
        tasks = [task for task in self._requests.values() if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def close(self) -> None:
        """Close every connection. What has been written may still reach its client, briefly."""
        self._sweeper.cancel()
        await close_gently([*self.connections.transports, *self._lane.transports], FLUSH_S)

    @property
    def in_flight(self) -> int:
        return len(self._requests)

    # A request

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._run(request, None)

    async def _refuse(self, request: web.BaseRequest, error: RequestError) -> web.StreamResponse:
        return await self._run(request, error)

    async def _run(
        self, request: web.BaseRequest, refusal: RequestError | None
    ) -> web.StreamResponse:
        """A request that aiohttp received, or could not parse."""
        connection = request.protocol
        if not isinstance(connection, ClientConnection):  # closed between two turns of the loop
            raise ConnectionResetError("the client has left")
        received = AiohttpRequest(request, connection)
        old_client = refusal is None and request.version < (1, 1)
        refusal = refusal or _flaw(received)
        downstream = ConnectionDownstream(
            connection,
            # Behind a bad head, who knows where the next request begins? And behind an Upgrade that
            # is declined, aiohttp does not.
            keep_alive=request.keep_alive and refusal is None and "Upgrade" not in request.headers,
            head_only=request.method == "HEAD",
            old_client=old_client,
        )
        inbound = self.inbound(received, downstream)
        try:
            await self.serve(inbound, refusal)
        finally:
            connection.finish()
        return ANSWERED if downstream.keep_alive and not self.draining else ANSWERED_LAST

    def inbound(self, request: Request, downstream: ConnectionDownstream) -> Inbound:
        if self.draining:
            downstream.keep_alive = False
        given = request.header(self._id_header)
        request_id = given if given and request_id_ok(given) else next(self._ids)
        return Inbound(request, downstream, self._id_start, request_id, self._loop.time())

    async def serve(self, inbound: Inbound, refusal: RequestError | None = None) -> None:
        """Answer a request, whoever received it. Runs in a task of its own, which is cancelled when
        the client leaves."""
        self._requests[inbound] = asyncio.current_task(self._loop)
        try:
            if refusal is not None:
                raise refusal
            handler, inbound.params = self._router.resolve(inbound.request.method, inbound.path)
            if self.draining and inbound.request.method == "POST":
                raise ShuttingDown("The server is shutting down: try again later.", retry_after_s=5)
            answer = await handler(inbound)
            if answer is not None:
                self._write(inbound, answer)
        except RoleMeshError as error:
            self._write_error(inbound, error)
        except asyncio.CancelledError:
            if inbound.interrupted is None or inbound.downstream.gone:
                inbound.line.outcome = "client_abort"
                raise
            self._write_error(inbound, inbound.interrupted)
        except ConnectionError:
            raise
        except Exception:  # the border of a request: whatever it was, the client gets an answer
            log.exception("request %s failed", inbound.request_id)
            self._write_error(inbound, RoleMeshError("The server failed; its log has more."))
        finally:
            refusal = None  # raised, it holds this frame
            del self._requests[inbound]
            if self._idle is not None and not self._requests and not self._idle.done():
                self._idle.set_result(None)
            self._settle(inbound)

    # Answers and errors

    def _write(self, inbound: Inbound, answer: Answer) -> None:
        downstream = inbound.downstream
        if inbound.request.has_unread_body:
            downstream.keep_alive = False
        fields = lines([(b"Content-Type", answer.content_type), *answer.headers])
        downstream.answer(answer.status, inbound.id_line + fields, answer.body)

    def _write_error(self, inbound: Inbound, error: RoleMeshError) -> None:
        line, downstream = inbound.line, inbound.downstream
        line.code = error.code
        if downstream.started:
            line.outcome = "truncated"
            self._break_off(inbound, error)
            return
        line.outcome = _outcome(error)
        headers = [self._error_header]
        if error.retry_after_s is not None:
            headers.append((b"Retry-After", b"%d" % math.ceil(error.retry_after_s)))
        if isinstance(error, MethodNotAllowed) and error.allow:
            headers.append((b"Allow", ", ".join(error.allow).encode()))
        if error.status == 401:
            headers.append((b"WWW-Authenticate", b"Bearer"))
        body = openai.error_body(error, anthropic=openai.is_anthropic(inbound.path))
        self._write(inbound, Answer(error.status, body, headers=tuple(headers)))

    def _break_off(self, inbound: Inbound, error: RoleMeshError) -> None:
        """An answer that had begun: an event stream ends with an error event and without [DONE],
        anything else is cut."""
        downstream, splitter = inbound.downstream, inbound.splitter
        if splitter is None or downstream.whole:
            downstream.cut()
            return
        downstream.write(splitter.cut_with(openai.error_event(error, inbound.path)))
        downstream.end()

    def _settle(self, inbound: Inbound) -> None:
        line, downstream = inbound.line, inbound.downstream
        line.status = downstream.status or 499  # the client left before there was an answer
        line.bytes_out = downstream.body_bytes
        line.duration_s = self._loop.time() - inbound.began_at
        if line.peer is None:
            line.peer = inbound.request.peer
        self._ended(inbound)
        self._tell(line)

    def _sweep(self) -> None:
        now = self._loop.time()
        self.connections.sweep(now)
        self._lane.sweep(now)
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)


def _flaw(request: AiohttpRequest) -> RequestError | None:
    """What aiohttp lets pass: RFC 9112 sections 2.3, 3.2 and 6.1."""
    if request.version not in ((1, 1), (1, 0)):
        return RequestError("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    codings = request.headers("Transfer-Encoding")
    if codings and request.version < (1, 1):
        return RequestError("HTTP/1.0 knows no transfer codings.")
    if codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
        return RequestError("The only transfer coding that is spoken here is chunked.")
    if not request.names_its_host:
        return RequestError("The request's target and its Host header name different hosts.")
    hosts = request.headers("Host")
    if len(hosts) > 1 or (not hosts and request.version == (1, 1)):
        return RequestError("The request must have exactly one Host header.")
    return None


def _outcome(error: RoleMeshError) -> str:
    return "upstream_error" if error.status in (502, 503, 504) else "rejected"
