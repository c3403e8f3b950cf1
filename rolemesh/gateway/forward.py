"""The path of a model request: plan, attempt, relay, settle. The one conductor.

`Forward.serve` is the handler of every POST /v1 path: caller, body, alias; then it tries the plan's
candidates in order: another one only while no byte has reached the client, and never because the
client left (its leaving cancels this task, and `finally` closes the upstream connection). What a
request came to is written on its `line`; the server settles it from there.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable

from attrs import define, field

from rolemesh.core.failover import (
    Attempt,
    Failure,
    final_error,
    is_failure,
    may_try_another,
    passes_through,
    reason_for,
)
from rolemesh.core.health import Health, Reason
from rolemesh.core.registry import Registry
from rolemesh.core.routing import Plan, exclusions, model_to_send, plan
from rolemesh.core.types import Alias, Backend, Caller, Candidate
from rolemesh.errors import LoopDetected
from rolemesh.gateway import doors
from rolemesh.gateway.live import Live
from rolemesh.gateway.slots import Slots
from rolemesh.proxy.exchange import Broken, Exchange
from rolemesh.proxy.pool import Pools
from rolemesh.server import heads
from rolemesh.server.inbound import Inbound
from rolemesh.server.metrics import Metrics
from rolemesh.server.request import Request, once, refuse_encoded
from rolemesh.wire import openai
from rolemesh.wire.body import Body, parse, rewrite
from rolemesh.wire.sse import EventSplitter

EVENT_STREAM = b"text/event-stream"
_SPENT = parse(b"{}")
_LOST = frozenset({Failure.CONNECT, Failure.LOST_BEFORE_HEAD, Failure.LOST_BEFORE_BODY})


@define(eq=False)
class Call:
    """One request on its way: what it is, what it began with, and how far it came.

    `body` is let go once an answer is being relayed: a long stream need not hold a long prompt.
    """

    inbound: Inbound
    id_header: str
    alias: Alias
    body: Body
    give_up_at: float
    planned: Plan
    tried: tuple[str, ...] = ()
    attempts: list[Attempt] = field(factory=list)

    @property
    def untried(self) -> list[Candidate]:
        return [each for each in self.planned.candidates if each.key not in self.tried]


class Forward:
    """`live` gives the configuration of the moment."""

    def __init__(
        self,
        live: Callable[[], Live],
        registry: Registry,
        health: Health,
        pools: Pools,
        slots: Slots,
        metrics: Metrics,
    ) -> None:
        self._live = live
        self._registry = registry
        self._health = health
        self._pools = pools
        self._slots = slots
        self._metrics = metrics
        self._turns: Counter[str] = Counter()
        self._now = asyncio.get_running_loop().time
        # Random for each process: it tells this gateway and nothing of it.
        self._pseudonym = f"rolemesh-{secrets.token_hex(6)}"
        self.via = (b"Via", f"1.1 {self._pseudonym}".encode())

    async def serve(self, inbound: Inbound) -> None:
        """Handler of the model paths. Raises RoleMeshError when there is no answer to relay."""
        live = self._live()
        caller = doors.client(live, inbound)
        once(inbound.request, self._check_head)
        body = await inbound.request.body(live.max_body_bytes)
        call = self._call(inbound, live, caller, body)
        del body  # a long stream need not hold a long prompt
        take, attempts = self._slots.take, call.attempts
        while candidate := take(call.planned.candidates, call.tried) or await self._wait(call):
            call.tried += (candidate.key,)
            inbound.line.attempts = len(call.tried)
            try:
                failed = await self._attempt(call, candidate)
            finally:
                self._slots.release(candidate)
            if failed is None:
                return
            attempts.append(failed)
            inbound.line.failed = [f"{one.backend} {one.reason.value}" for one in attempts]
            credential = candidate.backend.auth is not None
            another = may_try_another(failed.failure, failed.status, credential)
            if inbound.downstream.started or not another:
                raise final_error(call.alias.name, attempts)
        reasons = call.planned.reasons or exclusions(call.alias, self._registry, self._now())
        raise final_error(call.alias.name, attempts, reasons)

    def refuse_loop(self, request: Request) -> None:
        """Raises LoopDetected when the request came through this gateway before."""
        if any(self._pseudonym in via for via in request.headers("Via")):
            raise LoopDetected("The request came back to this gateway: a backend leads to it.")

    def _check_head(self, request: Request) -> None:
        self.refuse_loop(request)
        refuse_encoded(request)

    def _call(self, inbound: Inbound, live: Live, caller: Caller, data: bytes) -> Call:
        body = parse(data)
        inbound.line.bytes_in = len(data)
        alias = live.table.find_for(caller, body.model)
        inbound.line.alias = alias.name
        self._metrics.began(alias.name)
        self._turns[alias.name] += 1
        now = self._now()
        id_header = live.config.gateway.request_id_header
        return Call(inbound, id_header, alias, body, now + alias.queue_s, self._plan(alias, now))

    def _plan(self, alias: Alias, now: float) -> Plan:
        turn = self._turns[alias.name]
        chance = random.randrange  # where a request goes is no secret
        return plan(alias, self._registry, self._health, now, turn, chance)

    async def _wait(self, call: Call) -> Candidate | None:
        """For a candidate with room, that the caller releases. None: there is no untried one, or
        none had room in time."""
        while untried := call.untried:
            call.inbound.phase = "queue"
            try:
                candidate = await self._slots.wait(untried, call.give_up_at - self._now())
            except TimeoutError:
                call.attempts += map(_full, untried)
                return None
            if candidate is not None:
                return candidate
            call.planned = self._plan(
                call.alias, self._now()
            )  # the candidates themselves have changed
            candidate = self._slots.take(call.planned.candidates, call.tried)
            if candidate is not None:
                return candidate
        return None

    async def _attempt(self, call: Call, candidate: Candidate) -> Attempt | None:
        """One try. None: the answer has been relayed."""
        inbound, backend = call.inbound, candidate.backend
        line = inbound.line
        model = model_to_send(call.alias, candidate, call.body.model)
        line.backend, line.model = backend.label, model
        inbound.phase = "wait"
        exchange: Exchange | None = None
        result = "cancelled"
        try:
            body = rewrite(call.body, model, call.alias.defaults)
            head = heads.towards_backend(inbound, backend, self.via, call.id_header, len(body))
            exchange = await self._pools.open(backend, [head, body], call.alias.timeouts)
            del head, body  # a long stream need not hold a long prompt
            self._health.attempt_worked(backend.label)
            status = exchange.answer.head.status
            failed = None
            if status >= 300:
                failed = _refused(status, backend, last=not call.untried)
            if failed is not None:
                result = failed.failure.value
            else:
                ended = self._relay(call, exchange, candidate, model)
                if ended is not None:
                    await ended
                result = "ok"
                if status >= 500 or is_failure(status, credential=False):
                    result, line.outcome = Failure.STATUS.value, "upstream_error"
        except Broken as broken:
            if broken.failure in _LOST and broken.reason is not Reason.NO_DESCRIPTORS:
                self._health.attempt_failed(backend.label, self._now())
            failed = Attempt(backend.label, broken.failure, broken.reason, broken.detail)
            result = failed.failure.value
        finally:
            if exchange is not None:
                self._settle(call, exchange)
            ended = None  # it holds what it raised, and that this frame
            self._metrics.attempted(backend.label, result)
        return failed

    def _relay(
        self, call: Call, exchange: Exchange, candidate: Candidate, model: str
    ) -> asyncio.Future[None] | None:
        """Done when the answer has come to its end; None: it has already."""
        inbound = call.inbound
        inbound.phase = "relay"
        head = exchange.answer.head
        streams = head.content_type == EVENT_STREAM
        inbound.splitter = EventSplitter() if streams else None
        fixed = heads.answered(
            call.alias.name, candidate.backend, model, call.id_header, streams=streams
        )
        fields = heads.towards_client(inbound, head, fixed)
        if inbound.request.has_unread_body:
            inbound.downstream.keep_alive = False
        needs_done = streams and head.status == 200 and openai.needs_done(inbound.path)
        ended = exchange.relay(inbound.downstream, fields, inbound.splitter, needs_done)
        call.body = _SPENT
        return ended

    def _settle(self, call: Call, exchange: Exchange) -> None:
        """However the attempt ended: what is known of it goes on the line, and nothing is left."""
        line = call.inbound.line
        if exchange.first_byte_at is not None and call.inbound.downstream.started:
            line.first_byte_s = exchange.first_byte_at - call.inbound.began_at
            usage = exchange.usage()
            line.prompt_tokens, line.completion_tokens = usage.prompt, usage.completion
        self._pools.release(exchange)


def _refused(status: int, backend: Backend, last: bool) -> Attempt | None:
    """Whether an answer's status makes the attempt a failed one."""
    if 300 <= status < 400:
        detail = "it answered with a redirect, and none is followed"
        return Attempt(backend.label, Failure.BAD_ANSWER, Reason.BAD_ANSWER, detail)
    credential = backend.auth is not None
    if not is_failure(status, credential) or (last and passes_through(status, credential)):
        return None
    return Attempt(backend.label, Failure.STATUS, reason_for(status), f"HTTP {status}", status)


def _full(candidate: Candidate) -> Attempt:
    label = candidate.backend.label
    return Attempt(label, Failure.CAPACITY, Reason.AT_CAPACITY, f"{candidate.limit} in flight")
