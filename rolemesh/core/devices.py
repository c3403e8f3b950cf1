"""A node's devices: what they are, what was read of them, and which of them the node uses.

Fed by `node/gpu.py` and `node/host.py`, and by the configuration. Nothing here looks at a machine.
A device is known by its `id`, which stays the same whatever is plugged in beside it; an index is
the operators' short name for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from attrs import frozen

GpuName = int | str  # an index, or "GPU-<uuid>"


@frozen
class Device:
    """`id`: "GPU-<uuid>", or "cpu". `index`: a GPU's place in PCI order, as CUDA counts with
    CUDA_DEVICE_ORDER=PCI_BUS_ID and nvidia-smi shows; it is kept while the process lives, and as
    text it is the label `gpu` of the node's own metrics. Gateways are told the `id`: there, indices
    of many machines would meet. `split`: in MIG mode, where no process gets the GPU as a whole."""

    id: str
    index: int | None
    name: str
    memory_total_bytes: int | None = None
    split: bool = False

    def __str__(self) -> str:
        return self.id if self.index is None else f"GPU {self.index} ({self.id})"


CPU = Device("cpu", None, "CPU")


@frozen
class DeviceFigures:
    """One reading of a device. None: the device does not tell it."""

    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    utilization_ratio: float | None = None  # 0 to 1
    temperature_celsius: float | None = None
    power_watts: float | None = None


@frozen
class HostFigures:
    """One reading of the machine. None: it could not be read."""

    load1: float | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None


def named(name: GpuName, found: Iterable[Device]) -> Device | None:
    """The GPU of this index or uuid."""
    return next((each for each in found if name in (each.index, each.id)), None)


def select(
    gpus: Literal["all", "none"] | Sequence[GpuName],
    cpu: Literal["auto"] | bool,
    found: Sequence[Device],
) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """The devices that a node uses, GPUs in PCI order and the CPU last; and a sentence for each GPU
    that it should use and cannot. `gpus` and `cpu` as configured, `found` the machine's GPUs.

    With `auto` the CPU steps in where the node is to use no GPU, never for one that is missing:
    models would go on at a hundredth of their speed, and nobody would know why.
    """
    wanted, problems = _wanted(gpus, found)
    problems += [
        f"{each} is in MIG mode, which is not supported: switch MIG off, or leave the GPU out."
        for each in found
        if each in wanted and each.split
    ]
    chosen = [each for each in found if each in wanted and not each.split]
    if cpu is True or (cpu == "auto" and not chosen and not problems):
        chosen.append(CPU)
    return tuple(chosen), tuple(problems)


def _wanted(
    gpus: Literal["all", "none"] | Sequence[GpuName], found: Sequence[Device]
) -> tuple[set[Device], list[str]]:
    if gpus == "all":
        return set(found), []
    if gpus == "none":
        return set(), []
    by_name = {name: named(name, found) for name in gpus}
    problems = [
        f"{f'GPU {name}' if isinstance(name, int) else name} does not exist."
        for name, device in by_name.items()
        if device is None
    ]
    return {device for device in by_name.values() if device is not None}, problems
