"""What a child is asked besides its requests: is it ready, what did it become, does it work?

Short exchanges over the same pool as the requests. None of them counts as use, and none waits
longer than a few seconds.
"""

from __future__ import annotations

import asyncio
import enum
import re
from typing import Any

import msgspec
from attrs import frozen

from rolemesh.config.schema_node import ModelSection
from rolemesh.core.types import Backend, Timeouts
from rolemesh.node.whole import whole_body
from rolemesh.proxy.exchange import Broken
from rolemesh.proxy.pool import Pools
from rolemesh.wire.http1 import request_head

ASK_S = 5.0
MAX_ANSWER_BYTES = 2**20
_TIMEOUTS = Timeouts(connect_s=ASK_S, first_byte_s=ASK_S, idle_s=ASK_S)
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
        return tuple(_WORK.findall(answer[1]))

    async def _get(
        self, backend: Backend, path: str, *, with_key: bool = True
    ) -> tuple[int, bytes] | None:
        """Status and body; None: no whole answer in time."""
        headers = list(_HEADERS)
        if with_key and backend.auth is not None:
            headers.append((backend.auth[0].encode(), backend.auth[1].encode()))
        head = request_head("GET", path, backend.url.authority, headers, 0)
        try:
            async with asyncio.timeout(ASK_S):
                exchange = await self._pools.open(backend, [head], _TIMEOUTS)
                try:
                    body = await whole_body(exchange, MAX_ANSWER_BYTES)
                    return exchange.answer.head.status, body
                finally:
                    self._pools.release(exchange)
        except (Broken, TimeoutError):
            return None


def _mapping(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
