"""The node's metrics: what each request came to, and what is read when somebody scrapes. A scrape
asks no child anything, and counts as no use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rolemesh.core.devices import Device
from rolemesh.core.lifecycle import State
from rolemesh.node.gpu import Gpus
from rolemesh.node.supervisor import Supervisor
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.metrics import CONTENT_TYPE, PROCESS, Metrics, Samples, Scraped

_GPU = ("gpu",)
_DEVICE = {
    "gpu_memory_used_bytes": "memory_used_bytes",
    "gpu_memory_total_bytes": "memory_total_bytes",
    "gpu_utilization_ratio": "utilization_ratio",
    "gpu_temperature_celsius": "temperature_celsius",
    "gpu_power_watts": "power_watts",
}
SCRAPED = (
    *PROCESS,
    Scraped("gpu_memory_used_bytes", "Memory in use, by index.", _GPU),
    Scraped("gpu_memory_total_bytes", "Memory of the GPU.", _GPU),
    Scraped("gpu_utilization_ratio", "0 to 1.", _GPU),
    Scraped("gpu_temperature_celsius", "Temperature.", _GPU),
    Scraped("gpu_power_watts", "Power drawn.", _GPU),
    Scraped("child_state", "1 for the state that it is in.", ("device", "model", "state")),
    Scraped("child_restarts_total", "Starts that followed a failure.", ("device",)),
    Scraped("model_load_seconds", "What the last load took.", ("model",)),
    Scraped("gateway_registered", "1: the last word with it was good.", ("gateway",)),
)


class Figures:
    """`devices` gives those that the node uses now; `gateways` the url of each, and whether the
    node is registered there."""

    def __init__(
        self,
        metrics: Metrics,
        supervisor: Supervisor,
        gpus: Gpus,
        devices: Callable[[], Sequence[Device]],
        gateways: Callable[[], Samples],
    ) -> None:
        self._metrics = metrics
        self._supervisor = supervisor
        self._gpus = gpus
        self._devices = devices
        for name, key in _DEVICE.items():
            metrics.read_at_scrape(name, self._gpu_reader(key))
        metrics.read_at_scrape("child_state", self._read_states)
        metrics.read_at_scrape("child_restarts_total", self._read_restarts)
        metrics.read_at_scrape("model_load_seconds", self._read_loads)
        metrics.read_at_scrape("gateway_registered", gateways)

    async def handle(self, inbound: Inbound) -> Answer:
        """GET /metrics."""
        return Answer(body=await self._metrics.render(), content_type=CONTENT_TYPE.encode())

    def _gpu_reader(self, key: str) -> Callable[[], Samples]:
        def read() -> Iterator[tuple[tuple[str], float]]:
            for device in self._devices():
                figures = self._gpus.figures(device.id)
                value = None if figures is None else getattr(figures, key)
                if value is not None:
                    yield (self._label(device.id),), value

        return read

    def _read_states(self) -> Iterator[tuple[tuple[str, str, str], float]]:
        """Every state, so that one that was left is 0 and not gone. A model that may be anywhere
        is nowhere while it is not loaded."""
        for charge in self._supervisor.charges.values():
            devices = charge.devices or charge.model.devices or ()
            device = ",".join(map(self._label, devices))
            for state in State:
                labels = (device, charge.model_id, state.value)
                yield labels, float(charge.child.state is state)

    def _read_restarts(self) -> Samples:
        restarts = self._supervisor.restarts
        known = {device.id: 0 for device in self._devices()}
        return [((self._label(ident),), count) for ident, count in {**known, **restarts}.items()]

    def _read_loads(self) -> Iterator[tuple[tuple[str], float]]:
        for charge in self._supervisor.charges.values():
            if charge.loaded_s is not None:
                yield (charge.model_id,), charge.loaded_s

    def _label(self, ident: str) -> str:
        """A GPU's index; the ids of many machines meet at the gateway only."""
        for device in self._devices():
            if device.id == ident:
                return ident if device.index is None else str(device.index)
        return ident
