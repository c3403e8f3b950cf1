"""The `metrics` of a heartbeat: a node's devices and host, as a gateway shows them on.

Written by a node, read by a gateway. What is unknown is left out, for names end up as metrics and
labels; null means not told (a card without a power sensor).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from rolemesh.core.devices import Device, DeviceFigures, HostFigures
from rolemesh.wire.fields import entries, mapping, number, printable, required, wrong

MAX_DEVICES = 64
MAX_NAME_LENGTH = 128

DEVICE_FIGURES = (
    "memory_used_bytes",
    "memory_total_bytes",
    "utilization_ratio",
    "temperature_celsius",
    "power_watts",
)
HOST_FIGURES = ("load1", "memory_used_bytes", "memory_total_bytes")
_MAY_BE_NEGATIVE = frozenset({"temperature_celsius"})


def read_metrics(value: object) -> Mapping[str, Any] | None:
    """`{"devices": [...], "host": {...}}`, both always there. Raises InvalidValue."""
    if value is None:
        return None
    fields = mapping(value, "metrics")
    devices: dict[str, dict[str, Any]] = {}
    listed = fields.get("devices")
    for place, entry in entries([] if listed is None else listed, "metrics.devices", MAX_DEVICES):
        device = _device(mapping(entry, place), place)
        if device["id"] in devices:
            raise wrong(f"{place}.id", "names the same device as an entry before it")
        devices[device["id"]] = device
    host = fields.get("host")
    return {
        "devices": list(devices.values()),
        "host": _figures(
            mapping({} if host is None else host, "metrics.host"), HOST_FIGURES, "metrics.host"
        ),
    }


def _device(fields: Mapping[str, Any], place: str) -> dict[str, Any]:
    ident = required(fields, "id", place)
    if type(ident) is int:  # a card's index
        ident = str(ident)
    device: dict[str, Any] = {"id": printable(ident, f"{place}.id", MAX_NAME_LENGTH)}
    name = fields.get("name")
    if name is not None:
        device["name"] = printable(name, f"{place}.name", MAX_NAME_LENGTH)
    return device | _figures(fields, DEVICE_FIGURES, place)


def _figures(fields: Mapping[str, Any], names: tuple[str, ...], place: str) -> dict[str, float]:
    told = {
        name: number(fields.get(name), f"{place}.{name}", negative=name in _MAY_BE_NEGATIVE)
        for name in names
    }
    return {name: value for name, value in told.items() if value is not None}


def write_metrics(
    devices: Iterable[tuple[Device, DeviceFigures | None]], host: HostFigures
) -> dict[str, Any]:
    """What `read_metrics` takes, whatever a driver calls its cards; MAX_DEVICES at most. A device
    without figures is told of by its id and name."""
    return {
        "devices": [
            {"id": device.id, "name": _shown(device.name)} | _told(figures, DEVICE_FIGURES)
            for device, figures in islice(devices, MAX_DEVICES)
        ],
        "host": _told(host, HOST_FIGURES),
    }


def _shown(name: str) -> str:
    shown = "".join(each if each.isprintable() else "?" for each in name[:MAX_NAME_LENGTH])
    return shown if shown.strip() else "?"


def _told(figures: DeviceFigures | HostFigures | None, names: tuple[str, ...]) -> dict[str, float]:
    values = {name: getattr(figures, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}
