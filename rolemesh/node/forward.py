"""The path of a model request through a node: wait for the model, ask its child, relay, settle.

`Forward.serve` is the handler of every POST /v1 path. Whoever leaves is waited for no more, and its
exchange is closed, which frees its slot. llama-server works a plain answer to its end all the same;
so a child is asked for a stream wherever the answer can be put together from one (wire/streamable).

A stream that waits for its model hears a comment now and then, so that nobody takes the wait for a
hang. Until the first of them nothing has been sent: a load that fails is a 503, and a gateway can
go to another node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from attrs import define

from rolemesh.core.failover import Attempt, Failure, final_error
from rolemesh.core.health import Reason
from rolemesh.core.types import Downstream
from rolemesh.errors import (
    InvalidValue,
    NoAvailableBackend,
    RoleMeshError,
    ShuttingDown,
    UpstreamError,
)
from rolemesh.node import doors
from rolemesh.node.ask import HEALTHY_5XX
from rolemesh.node.begun import BegunStream, error_event_of
from rolemesh.node.charge import Charge
from rolemesh.node.collect import CONTENT_TYPE, collect
from rolemesh.node.live import Live
from rolemesh.node.supervisor import Supervisor
from rolemesh.node.whole import whole_body
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.pool import Pools
from rolemesh.server import heads
from rolemesh.server.inbound import Inbound
from rolemesh.server.metrics import Metrics
from rolemesh.server.request import once, refuse_encoded
from rolemesh.wire import openai
from rolemesh.wire.body import Body, parse, rewrite
from rolemesh.wire.http1 import lines
from rolemesh.wire.sse import EventSplitter
from rolemesh.wire.streamable import as_stream, streamable

EVENT_STREAM = b"text/event-stream"
COMMENT = b":\n\n"
COMMENT_S = 10.0
MAX_ERROR_BYTES = 65_536
# Of requests that wait for their models, all together: so many of the largest, or this much.
WAITING_BODIES = 8
MIN_WAITING_BYTES = 256 * 2**20
_VIA = (b"Via", b"1.1 rolemesh-node")
_STREAM_TYPE = lines([(b"Content-Type", EVENT_STREAM)])


@define(eq=False)
class Call:
    """One request on its way. `assembles`: the child is asked for a stream, the client is not."""

    inbound: Inbound
    live: Live
    charge: Charge
    data: bytes
    streams: bool
    assembles: bool


class Forward:
    """`draining` is asked whether the node takes new requests."""

    def __init__(
        self,
        live: Callable[[], Live],
        supervisor: Supervisor,
        pools: Pools,
        metrics: Metrics,
        draining: Callable[[], bool],
        comment_s: float = COMMENT_S,
    ) -> None:
        self._live = live
        self._supervisor = supervisor
        self._pools = pools
        self._metrics = metrics
        self._draining = draining
        self._comment_s = comment_s
        self._waiting_bytes = 0

    async def serve(self, inbound: Inbound) -> None:
        """Handler of the model paths. Raises RoleMeshError when there is no answer to relay."""
        live = self._live()
        doors.caller(live, inbound)
        once(inbound.request, refuse_encoded)
        call = self._call(inbound, live, await inbound.request.body(live.max_body_bytes))
        if self._draining():
            raise ShuttingDown("The node is draining: ask another one.", retry_after_s=5)
        if not self._supervisor.take(call.charge):
            await self._wait(call)
        worked: bool | None = None
        try:
            worked = await self._ask(call)
        except Broken as broken:
            worked = None if broken.reason is Reason.NO_DESCRIPTORS else False
            raise _failed(call.charge.model_id, broken) from None
        except UpstreamError:
            worked = False
            raise
        finally:
            self._supervisor.release(call.charge, worked=worked)

    def _call(self, inbound: Inbound, live: Live, raw: bytes) -> Call:
        body = parse(raw)
        inbound.line.bytes_in = len(raw)
        charge = self._charge(body)
        inbound.line.alias = inbound.line.model = charge.model_id
        self._metrics.began(charge.model_id)
        assembles = streamable(inbound.path, body)
        # The child does not mind what `model` says, and answers with its alias, the model_id.
        data = as_stream(body) if assembles else rewrite(body, charge.model_id, {})
        return Call(inbound, live, charge, data, body.stream, assembles)

    def _charge(self, body: Body) -> Charge:
        """The model that is asked for; where there is one only, it need not be named."""
        if body.model is not None:
            return self._supervisor.find(body.model)
        if len(self._supervisor.charges) == 1:
            return next(iter(self._supervisor.charges.values()))
        raise InvalidValue("Name the model in the field model.", param="model")

    async def _wait(self, call: Call) -> None:
        """Until the model is ready, and this request's to use. Raises NoAvailableBackend."""
        inbound = call.inbound
        inbound.phase = "load"
        queue_s = call.live.config.timeouts.queue_s
        size = len(call.data)
        self._check_room(call.live, size)
        self._waiting_bytes += size
        waiting = asyncio.create_task(self._supervisor.acquire(call.charge, queue_s))
        try:
            while not (await asyncio.wait({waiting}, timeout=self._comment_s))[0]:
                if call.streams:
                    self._comment(call)
            await waiting
        except BaseException:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._supervisor.release(call.charge, worked=None)
            waiting.cancel()
            raise
        finally:
            self._waiting_bytes -= size
            del waiting  # it holds what it raised, and that this frame

    def _check_room(self, live: Live, size: int) -> None:
        """A load takes minutes, and prompts may be large. Raises NoAvailableBackend."""
        limit = max(WAITING_BODIES * live.max_body_bytes, MIN_WAITING_BYTES)
        if self._waiting_bytes + size > limit:
            raise NoAvailableBackend(
                "The model is not ready, and too much is waiting already for it or others.",
                retry_after_s=5,
            )

    def _comment(self, call: Call) -> None:
        inbound, downstream = call.inbound, call.inbound.downstream
        if not downstream.started:
            inbound.splitter = EventSplitter()  # from now on an error is told in the stream
            fixed = self._named(call, streams=True)
            downstream.start(200, _STREAM_TYPE + inbound.id_line + fixed.lines, None)
        downstream.write(COMMENT)

    async def _ask(self, call: Call) -> bool:
        """Whether the child did its part. Raises Broken."""
        inbound, run = call.inbound, call.charge.run
        backend = None if run is None else run.backend
        if backend is None:
            raise Broken(Failure.CONNECT, Reason.CONNECTION_LOST, "its child has just ended")
        inbound.phase = "wait"
        inbound.line.backend, inbound.line.attempts = backend.label, 1
        exchange: Exchange | None = None
        result = "cancelled"
        try:
            id_header = call.live.id_header
            head = heads.towards_backend(inbound, backend, _VIA, id_header, len(call.data))
            exchange = await self._pools.open(backend, [head, call.data], call.live.timeouts)
            call.data = b""  # a long stream need not hold a long prompt
            inbound.phase = "relay"
            status = await self._answer(call, exchange)
            worked = status < 500 or status in HEALTHY_5XX
            result = "ok" if worked else Failure.STATUS.value
            return worked
        except Broken as broken:
            result = broken.failure.value
            raise
        except UpstreamError:
            result = Failure.BAD_ANSWER.value
            raise
        finally:
            if exchange is not None:
                self._settle(inbound, exchange)
            self._metrics.attempted(backend.label, result)

    async def _answer(self, call: Call, exchange: Exchange) -> int:
        """Hand the child's answer on, in the form that the client asked for. Returns its status."""
        inbound, head = call.inbound, exchange.answer.head
        streams = head.status == 200 and head.content_type == EVENT_STREAM
        if streams and call.assembles:
            answer = await collect(exchange, inbound.path)
            fields = lines([(b"Content-Type", CONTENT_TYPE)]) + inbound.id_line
            fixed = self._named(call, streams=False)
            inbound.downstream.answer(answer.status, fields + fixed.lines, answer.body)
            return answer.status
        if not inbound.downstream.started:
            await self._relay(call, exchange, inbound.downstream, streams=streams)
        elif streams:
            await self._relay(call, exchange, BegunStream(inbound.downstream), streams=True)
        else:
            body = await whole_body(exchange, MAX_ERROR_BYTES)
            inbound.downstream.write(error_event_of(head.status, body, inbound.path))
            inbound.downstream.end()
            inbound.line.outcome = "truncated"
        return head.status

    async def _relay(
        self, call: Call, exchange: Exchange, downstream: Downstream, *, streams: bool
    ) -> None:
        inbound, head = call.inbound, exchange.answer.head
        if streams and inbound.splitter is None:
            inbound.splitter = EventSplitter()
        fields = heads.towards_client(inbound, head, self._named(call, streams=streams))
        if inbound.request.has_unread_body:
            inbound.downstream.keep_alive = False
        needs_done = streams and openai.needs_done(inbound.path)
        splitter = inbound.splitter if streams else None
        ended = exchange.relay(downstream, fields, splitter, needs_done)
        try:
            if ended is not None:
                await ended
        finally:
            del ended

    def _named(self, call: Call, *, streams: bool) -> heads.Fixed:
        live = call.live
        named = (("X-RoleMesh-Node", live.node_id), ("X-RoleMesh-Model", call.charge.model_id))
        return heads.naming(named, live.id_header, streams=streams)

    def _settle(self, inbound: Inbound, exchange: Exchange) -> None:
        line = inbound.line
        if exchange.first_byte_at is not None and inbound.downstream.started:
            line.first_byte_s = exchange.first_byte_at - inbound.began_at
            usage = exchange.usage()
            line.prompt_tokens, line.completion_tokens = usage.prompt, usage.completion
        self._pools.release(exchange)


def _failed(model_id: str, broken: Broken) -> RoleMeshError:
    attempt = Attempt(model_id, broken.failure, broken.reason, broken.detail)
    return final_error(model_id, [attempt])
