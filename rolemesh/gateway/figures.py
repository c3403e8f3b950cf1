"""The gateway's metrics that are read when somebody scrapes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from rolemesh.core.lease import Lease
from rolemesh.gateway.live import Live
from rolemesh.gateway.models import Availability
from rolemesh.gateway.view import node_state
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.metrics import CONTENT_TYPE, Metrics, Samples

_DEVICE = {
    "node_gpu_memory_used_bytes": "memory_used_bytes",
    "node_gpu_memory_total_bytes": "memory_total_bytes",
    "node_gpu_utilization_ratio": "utilization_ratio",
    "node_gpu_temperature_celsius": "temperature_celsius",
    "node_gpu_power_watts": "power_watts",
}
_HOST = {
    "node_load1": "load1",
    "node_memory_used_bytes": "memory_used_bytes",
    "node_memory_total_bytes": "memory_total_bytes",
}


class Figures:
    def __init__(
        self,
        metrics: Metrics,
        live: Callable[[], Live],
        truth: Availability,
    ) -> None:
        self._metrics = metrics
        self._live = live
        self._truth = truth
        self._now = asyncio.get_running_loop().time
        self._available: dict[str, bool] = {}
        metrics.read_at_scrape("model_available", self._read_available)
        metrics.read_at_scrape("upstream_up", self._read_up)
        metrics.read_at_scrape("nodes", self._read_nodes)
        for name, key in _DEVICE.items():
            metrics.read_at_scrape(name, self._device_reader(key))
        for name, key in _HOST.items():
            metrics.read_at_scrape(name, self._host_reader(key))

    async def handle(self, inbound: Inbound) -> Answer:
        """GET /metrics. What is told of backends is looked at now; of those that have gone nothing
        is told any more."""
        known = frozenset(self._live().labels_with(self._leases()))
        self._metrics.keep(known)
        self._truth.health.keep(known)
        plans = await self._truth.look(self._live().table.aliases)
        self._available = {name: bool(plan.candidates) for name, plan in plans.items()}
        return Answer(body=await self._metrics.render(), content_type=CONTENT_TYPE.encode())

    def _read_available(self) -> Samples:
        return [((name,), float(available)) for name, available in self._available.items()]

    def _read_up(self) -> Iterator[tuple[tuple[str], float]]:
        labels = self._live().labels_with(filter(self._is_fresh, self._leases()))
        for label in dict.fromkeys(labels):
            standing = self._truth.health.state(label)
            if standing is not None:
                yield (label,), float(standing.reason is None)

    def _read_nodes(self) -> Samples:
        now, registry = self._now(), self._truth.registry
        counts = Counter(node_state(registry, lease, now) for lease in self._leases())
        return [((state,), counts[state]) for state in ("fresh", "stale", "draining")]

    def _device_reader(self, key: str) -> Callable[[], Samples]:
        def read() -> Iterator[tuple[tuple[str, str], float]]:
            for lease, told in self._told():
                for device in told.get("devices", ()):
                    if device.get(key) is not None:
                        yield (lease.node_id, device["id"]), device[key]

        return read

    def _host_reader(self, key: str) -> Callable[[], Samples]:
        def read() -> Iterator[tuple[tuple[str], float]]:
            for lease, told in self._told():
                value = (told.get("host") or {}).get(key)
                if value is not None:
                    yield (lease.node_id,), value

        return read

    def _told(self) -> Iterator[tuple[Lease, Any]]:
        """Old figures would be wrong figures: only those of fresh nodes."""
        for lease in self._leases():
            if lease.metrics is not None and self._is_fresh(lease):
                yield lease, lease.metrics

    def _is_fresh(self, lease: Lease) -> bool:
        return self._truth.registry.is_fresh(lease, self._now())

    def _leases(self) -> tuple[Lease, ...]:
        return tuple(self._truth.registry.leases(self._now()))
