"""The machine's NVIDIA GPUs through NVML: what is there, and how they are.

A driver can be absent, come late, lose a card, break, or hang for seconds. NVML that fails is shut
down and initialised again, after pauses that grow to a minute. Blocks, and belongs to one thread
(`gpu`). pynvml is imported here alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import pynvml
from attrs import field, frozen

from rolemesh.core.devices import Device, DeviceFigures

MOST_PAUSE_S = 60.0


@frozen
class Reading:
    """`devices` in the order of their indices; `figures` by id, of those that answered; `problem`
    says why some are missing, or without figures."""

    devices: tuple[Device, ...] = ()
    figures: Mapping[str, DeviceFigures] = field(factory=dict)
    problem: str | None = None


class Nvml:
    """`first_pause_s`: from a failure to the next initialisation; then twice as long, and so on."""

    def __init__(self, first_pause_s: float) -> None:
        self._first_pause_s = self._pause_s = first_pause_s
        self._renew_at = -math.inf
        self._is_up = False
        self._devices: dict[str, Device] = {}  # that are there
        self._indices: dict[str, int] = {}  # of all that ever were
        self._handles: dict[str, Any] = {}
        self._unlisted: list[str] = []  # why not, in words

    def read(self, now: float) -> Reading:
        """`now`: monotonic seconds. Never raises."""
        try:
            if now >= self._renew_at:
                self._renew()
            figures, silent = self._figures()
        except Exception as error:  # noqa: BLE001 - a border: no surprise in a driver ends the thread
            figures, silent = {}, [f"reading them failed: {error!r}"]
        problem = "; ".join(self._unlisted + silent) or None
        self._plan(now, problem)
        devices = sorted(self._devices.values(), key=lambda device: device.index or 0)
        return Reading(tuple(devices), figures, problem)

    def close(self) -> None:
        if self._is_up:
            self._is_up = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _plan(self, now: float, problem: str | None) -> None:
        """When to initialise NVML next: not while it works, else at growing distances."""
        if problem is None:
            self._renew_at, self._pause_s = math.inf, self._first_pause_s
        elif now >= self._renew_at or self._renew_at == math.inf:
            self._renew_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S)

    def _renew(self) -> None:
        self.close()
        self._handles.clear()
        self._unlisted.clear()
        try:
            pynvml.nvmlInit()
            self._is_up = True
            self._list()
        except pynvml.NVMLError as error:
            self._unlisted.append(f"NVML: {error}")

    def _list(self) -> None:
        """A list with gaps takes no device away: those in the gaps cannot say who they are."""
        opened = {}
        for place in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(place)
                opened[place] = handle, _text(pynvml.nvmlDeviceGetUUID(handle))
            except pynvml.NVMLError as error:
                self._unlisted.append(f"GPU {place}: {error}")
        if not self._unlisted:
            self._devices.clear()
        in_pci_order = sorted(opened.values(), key=lambda card: _pci_address(card[0]))
        for place, (handle, ident) in zip(opened, in_pci_order, strict=True):
            self._handles[ident] = handle
            self._devices[ident] = _device(handle, ident, self._index(ident, place))

    def _index(self, ident: str, place: int) -> int:
        """What operators call a GPU stays, also when one before it has gone or come."""
        if ident not in self._indices:
            taken = set(self._indices.values())
            free = (index for index in count(place) if index not in taken)
            self._indices[ident] = next(free)
        return self._indices[ident]

    def _figures(self) -> tuple[dict[str, DeviceFigures], list[str]]:
        """And why some have none."""
        figures, silent = {}, []
        for ident, handle in self._handles.items():
            try:
                figures[ident] = _read(handle)
            except pynvml.NVMLError as error:
                silent.append(f"{self._devices[ident]}: {error}")
        return figures, silent


def _device(handle: Any, ident: str, index: int) -> Device:
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    mig, _after_reset = _told(pynvml.nvmlDeviceGetMigMode, handle) or (0, 0)
    return Device(
        id=ident,
        index=index,
        name=_name(handle),
        memory_total_bytes=memory and memory.total,
        split=mig == pynvml.NVML_DEVICE_MIG_ENABLE,
    )


def _name(handle: Any) -> str:
    try:
        return _text(_told(pynvml.nvmlDeviceGetName, handle) or "GPU")
    except UnicodeDecodeError:  # pynvml's: it decodes most texts itself, by releases
        return "GPU"


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _pci_address(handle: Any) -> tuple[float, int, int]:
    """For the order. Without one (a GPU that is no PCI device, or passed through) it comes last."""
    pci = _told(pynvml.nvmlDeviceGetPciInfo, handle)
    return (pci.domain, pci.bus, pci.device) if pci else (math.inf, 0, 0)


def _read(handle: Any) -> DeviceFigures:
    """A field that fails alone is one that the device does not tell: which error says so is up to
    the card and its driver. Raises NVMLError when all fail."""
    memory = _told(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    temperature = _told(_temperature, handle)
    milliwatts = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
    if all(value is None for value in (memory, rates, temperature, milliwatts)):
        pynvml.nvmlDeviceGetMemoryInfo(handle)  # to hear why
    return DeviceFigures(
        memory_used_bytes=memory and memory.used,
        memory_total_bytes=memory and memory.total,
        utilization_ratio=rates and min(rates.gpu / 100, 1.0),
        temperature_celsius=temperature,
        power_watts=None if milliwatts is None else milliwatts / 1000,
    )


def _temperature(handle: Any) -> int:
    """Older drivers have only the first, and it is announced to go with CUDA 14."""
    try:
        celsius = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    except pynvml.NVMLError_FunctionNotFound:
        celsius = pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU)
    return int(celsius)


def _told(read: Callable[[Any], Any], handle: Any) -> Any:
    """None where it cannot be told."""
    try:
        return read(handle)
    except pynvml.NVMLError:
        return None
