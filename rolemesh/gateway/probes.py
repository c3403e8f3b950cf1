"""Looks at backends: GET {base_url}/v1/models with their credentials, all at once, never inference.

Asked by whatever has to tell the truth now (/v1/models, /ready, /metrics, /v1/nodes); what was seen
is noted in core/health, and reused for 2 s. Backends that differ in nothing but their names are
looked at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rolemesh.core.failover import Failure
from rolemesh.core.health import Health, Probe, Reason, verdict
from rolemesh.core.types import Backend, Timeouts
from rolemesh.proxy.exchange import Broken
from rolemesh.proxy.pool import Pools
from rolemesh.wire.http1 import request_head

PROBE_S = 2.0
REUSED_S = 2.0
_TIMEOUTS = Timeouts(connect_s=PROBE_S, first_byte_s=PROBE_S, idle_s=PROBE_S)


class Prober:
    """`via` is the header by which this gateway knows itself."""

    def __init__(self, pools: Pools, health: Health, via: tuple[bytes, bytes]) -> None:
        self._pools = pools
        self._health = health
        self._via = via
        self._now = asyncio.get_running_loop().time
        self._under_way: dict[object, asyncio.Task[Probe]] = {}

    async def look(self, backends: Iterable[Backend]) -> None:
        """Health knows of each of these what was so within the last 2 s."""
        due = [backend for backend in backends if self._is_due(backend.label)]
        tasks = [self._task(backend) for backend in due]
        # Shielded: one who wanted to know may leave without ending it for the others.
        probes = await asyncio.gather(*map(asyncio.shield, tasks))
        for backend, probe in zip(due, probes, strict=True):
            self._health.note(backend.label, probe)

    def _is_due(self, label: str) -> bool:
        standing = self._health.state(label)
        return standing is None or self._now() - standing.at > REUSED_S

    def _task(self, backend: Backend) -> asyncio.Task[Probe]:
        """Shared by all who want to know at the same time."""
        same = (backend.url, backend.auth, backend.ca_file, backend.networks)
        task = self._under_way.get(same)
        if task is None:
            task = self._under_way[same] = asyncio.create_task(self._probe(backend))
            task.add_done_callback(lambda _: self._under_way.pop(same, None))
        return task

    async def _probe(self, backend: Backend) -> Probe:
        try:
            async with asyncio.timeout(PROBE_S):
                status = await self._ask(backend)
        except TimeoutError:
            return Probe(Reason.PROBE_TIMEOUT, f"no answer within {PROBE_S:g} s", self._now())
        except Broken as broken:
            silent = broken.failure in (Failure.FIRST_BYTE_TIMEOUT, Failure.IDLE_TIMEOUT)
            reason = Reason.PROBE_TIMEOUT if silent else broken.reason
            return Probe(reason, broken.detail, self._now())
        return Probe(verdict(status), f"HTTP {status}", self._now())

    async def _ask(self, backend: Backend) -> int:
        url = backend.url
        headers = [(b"Accept", b"application/json"), (b"Accept-Encoding", b"identity"), self._via]
        if backend.auth is not None:
            headers.append((backend.auth[0].encode(), backend.auth[1].encode()))
        head = request_head("GET", f"{url.prefix}/v1/models", url.authority, headers, 0)
        exchange = await self._pools.open(backend, [head], _TIMEOUTS)
        try:
            return exchange.answer.status
        finally:
            self._pools.release(exchange)
