"""What a child is asked besides its requests: is it ready, what did it become, does it work?

Short exchanges over the same pool as the requests. None of them counts as use, and none waits
longer than some seconds.
"""

from __future__ import annotations

import asyncio
import enum
import re
from typing import Any

import msgspec
from attrs import frozen

from rolemesh.config.schema_node import ModelSection
from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import Backend, Timeouts
from rolemesh.node.whole import whole_body
from rolemesh.proxy.exchange import Broken
from rolemesh.proxy.pool import Pools
from rolemesh.wire.http1 import request_head

ASK_S = 5.0
WORKS_S = 10.0
MAX_ANSWER_BYTES = 2**20
MAX_COUNT = 2**31 - 1  # what is more is no count of slots or tokens
# Not the child's failures: what it cannot do, and too many requests at once.
HEALTHY_5XX = frozenset({501, 503})
_TIMEOUTS = Timeouts(connect_s=ASK_S, first_byte_s=ASK_S, idle_s=ASK_S)
_WORKS_TIMEOUTS = Timeouts(connect_s=WORKS_S, first_byte_s=WORKS_S, idle_s=WORKS_S)
_SLOW = frozenset({Failure.FIRST_BYTE_TIMEOUT, Failure.IDLE_TIMEOUT})
_QUESTION = b'{"prompt":"Hi","max_tokens":1,"n_predict":1,"stream":false,"cache_prompt":false}'
_HEADERS = ((b"Accept-Encoding", b"identity"), (b"Connection", b"close"))
# Counters of llama-server that go up with every batch it works through.
_WORK = re.compile(
    rb"^llamacpp:(?:prompt_tokens_total|tokens_predicted_total|n_decode_total) (\S+)", re.MULTILINE
)


class Health(enum.Enum):
    """Three states of a llama-server that runs."""

    REFUSED = "refused"  # its port is not bound, or it does not answer
    LOADING = "loading"
    READY = "ready"


class Verdict(enum.Enum):
    WORKS = "works"
    FAILS = "fails"
    SILENT = "silent"  # no answer in time


@frozen
class Facts:
    """What a server became: it may have shrunk its context to fit the memory. None: not told."""

    slots: int | None = None
    max_context: int | None = None


class Asker:
    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    async def health(self, backend: Backend) -> Health:
        """Without the key: who answers may not be ours."""
        answer = await self._get(backend, "/health", with_key=False)
        if answer is None:
            return Health.REFUSED
        return Health.READY if answer[0] == 200 else Health.LOADING

    async def facts(self, backend: Backend, section: ModelSection) -> Facts:
        answer = await self._get(backend, "/props")
        told = _mapping(answer[1]) if answer is not None and answer[0] == 200 else {}
        settings = told.get("default_generation_settings")
        context = settings.get("n_ctx") if isinstance(settings, dict) else None
        return Facts(
            slots=_count(told.get("total_slots")) or section.parallel,
            max_context=_count(context) or section.ctx_size or None,
        )

    async def work(self, backend: Backend) -> tuple[bytes, ...] | None:
        """How much it has done so far, to be compared with another time's. None: not told."""
        answer = await self._get(backend, "/metrics")
        if answer is None or answer[0] != 200:
            return None
        return tuple(_WORK.findall(answer[1])) or None

    async def works(self, backend: Backend) -> Verdict:
        """Whether it can do what it is there for: a short question, a single token."""
        headers = [*_headers(backend, with_key=True), (b"Content-Type", b"application/json")]
        size = len(_QUESTION)
        head = request_head("POST", "/v1/completions", backend.url.authority, headers, size)
        try:
            async with asyncio.timeout(WORKS_S):
                status, _ = await self._open(backend, [head, _QUESTION], _WORKS_TIMEOUTS)
        except TimeoutError:
            return Verdict.SILENT
        except Broken as broken:
            if broken.reason is Reason.NO_DESCRIPTORS:  # the node's own trouble
                return Verdict.WORKS
            return Verdict.SILENT if broken.failure in _SLOW else Verdict.FAILS
        return Verdict.FAILS if status >= 500 and status not in HEALTHY_5XX else Verdict.WORKS

    async def _get(
        self, backend: Backend, path: str, *, with_key: bool = True
    ) -> tuple[int, bytes] | None:
        """Status and body; None: no whole answer in time."""
        headers = _headers(backend, with_key=with_key)
        head = request_head("GET", path, backend.url.authority, headers, 0)
        try:
            async with asyncio.timeout(ASK_S):
                return await self._open(backend, [head], _TIMEOUTS)
        except (Broken, TimeoutError):
            return None

    async def _open(
        self, backend: Backend, request: list[bytes], timeouts: Timeouts
    ) -> tuple[int, bytes]:
        exchange = await self._pools.open(backend, request, timeouts)
        try:
            body = await whole_body(exchange, MAX_ANSWER_BYTES)
            return exchange.answer.head.status, body
        finally:
            self._pools.release(exchange)


def _headers(backend: Backend, *, with_key: bool) -> list[tuple[bytes, bytes]]:
    headers = list(_HEADERS)
    if with_key and backend.auth is not None:
        headers.append((backend.auth[0].encode(), backend.auth[1].encode()))
    return headers


def _mapping(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value <= MAX_COUNT else None
