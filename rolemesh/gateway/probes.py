"""Looks at backends: GET {base_url}/v1/models with their credentials, all at once, never inference.

Asked by whatever has to tell the truth now (/v1/models, /ready, /metrics, /v1/nodes); what was seen
is noted in core/health, and reused for 2 s. Backends that differ in nothing but their names are
looked at once. "At once" ends where file descriptors would run short; then those that were silent
the last time come last, and who asks does not wait for the end of the line.
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
LOOK_S = 2.5
_TIMEOUTS = Timeouts(connect_s=PROBE_S, first_byte_s=PROBE_S, idle_s=PROBE_S)
# Kept connections of a thousand nodes would be a thousand descriptors that nobody needs.
_HEADERS = (
    (b"Accept", b"application/json"),
    (b"Accept-Encoding", b"identity"),
    (b"Connection", b"close"),
)
_SILENT = frozenset({Reason.PROBE_TIMEOUT, Reason.CONNECT_TIMEOUT, Reason.NAME_NOT_RESOLVED})


class Prober:
    """`via` is the header by which this gateway knows itself; `at_once` bounds the connections."""

    def __init__(
        self, pools: Pools, health: Health, via: tuple[bytes, bytes], at_once: int = 16
    ) -> None:
        self._pools = pools
        self._health = health
        self._via = via
        self._now = asyncio.get_running_loop().time
        self._room = asyncio.Semaphore(at_once)
        # Whose probes are under way, and the labels to note what comes of them for.
        self._under_way: dict[object, tuple[asyncio.Task[None], set[str]]] = {}

    async def look(self, backends: Iterable[Backend]) -> None:
        """Health knows of each of these what was so within the last 2 s. What there was no time for
        within LOOK_S keeps its older standing, and is seen to behind this call."""
        due = [backend for backend in backends if self._is_due(backend.label)]
        due.sort(key=self._was_silent)
        tasks = {self._task(backend) for backend in due}
        if tasks:
            # One who wanted to know may leave without ending it for the others.
            await asyncio.wait(tasks, timeout=LOOK_S)

    def _is_due(self, label: str) -> bool:
        standing = self._health.state(label)
        if standing is None or self._now() - standing.at > REUSED_S:
            return True
        return self._health.failed_since(label, standing.at)

    def _was_silent(self, backend: Backend) -> bool:
        standing = self._health.state(backend.label)
        return standing is not None and standing.reason in _SILENT

    def _task(self, backend: Backend) -> asyncio.Task[None]:
        """Shared by all who want to know at the same time."""
        same = (backend.url, backend.auth, backend.ca_file, backend.networks)
        if same not in self._under_way:
            task = asyncio.create_task(self._see_to(backend, same))
            self._under_way[same] = task, set()
        task, labels = self._under_way[same]
        labels.add(backend.label)
        return task

    async def _see_to(self, backend: Backend, same: object) -> None:
        try:
            async with self._room:
                probe = await self._probe(backend)
        finally:
            _, labels = self._under_way.pop(same)
        if probe is not None:
            for label in labels:
                self._health.note(label, probe)

    async def _probe(self, backend: Backend) -> Probe | None:
        """None: we could not look, which says nothing of the backend."""
        try:
            async with asyncio.timeout(PROBE_S):
                status = await self._ask(backend)
        except TimeoutError:
            return Probe(Reason.PROBE_TIMEOUT, f"no answer within {PROBE_S:g} s", self._now())
        except Broken as broken:
            if broken.reason is Reason.NO_DESCRIPTORS:
                return None
            silent = broken.failure in (Failure.FIRST_BYTE_TIMEOUT, Failure.IDLE_TIMEOUT)
            reason = Reason.PROBE_TIMEOUT if silent else broken.reason
            return Probe(reason, broken.detail, self._now())
        return Probe(verdict(status), f"HTTP {status}", self._now())

    async def _ask(self, backend: Backend) -> int:
        url = backend.url
        headers = [*_HEADERS, self._via]
        if backend.auth is not None:
            headers.append((backend.auth[0].encode(), backend.auth[1].encode()))
        head = request_head("GET", f"{url.prefix}/v1/models", url.authority, headers, 0)
        exchange = await self._pools.open(backend, [head], _TIMEOUTS)
        try:
            return exchange.answer.head.status
        finally:
            self._pools.release(exchange)
