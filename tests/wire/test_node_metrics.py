"""What a node writes of its devices, a gateway reads; the reading is tested with heartbeats."""

from __future__ import annotations

from rolemesh.core.devices import CPU, Device, DeviceFigures, HostFigures
from rolemesh.wire.node_metrics import MAX_DEVICES, read_metrics, write_metrics

GPU = Device("GPU-a1", 0, "Tesla P40", 24)
HOST = HostFigures(0.5, 1, 2)


def test_what_is_written_is_what_is_read() -> None:
    written = write_metrics([(GPU, DeviceFigures(5, 24, 0.25, 41, 60.5))], HOST)
    assert written == {
        "devices": [
            {
                "id": "GPU-a1",
                "name": "Tesla P40",
                "memory_used_bytes": 5,
                "memory_total_bytes": 24,
                "utilization_ratio": 0.25,
                "temperature_celsius": 41,
                "power_watts": 60.5,
            }
        ],
        "host": {"load1": 0.5, "memory_used_bytes": 1, "memory_total_bytes": 2},
    }
    assert read_metrics(written) == written


def test_what_is_not_known_is_not_written() -> None:
    written = write_metrics(
        [(GPU, DeviceFigures(temperature_celsius=0)), (CPU, None)], HostFigures()
    )
    assert written == {
        "devices": [
            {"id": "GPU-a1", "name": "Tesla P40", "temperature_celsius": 0},
            {"id": "cpu", "name": "CPU"},
        ],
        "host": {},
    }
    assert read_metrics(written) == written


def test_a_gateway_takes_them_whatever_a_card_is_called_and_however_many_there_are() -> None:
    names = ["", " ", "a\nb\x00", "\udcff", "x" * 200]
    cards = [
        (Device(f"GPU-{place}", place, names[place % len(names)]), DeviceFigures())
        for place in range(MAX_DEVICES + 6)
    ]
    read = read_metrics(write_metrics(cards, HOST))
    assert read is not None
    assert [device["id"] for device in read["devices"]] == [f"GPU-{n}" for n in range(MAX_DEVICES)]
    shown = [device["name"] for device in read["devices"][: len(names)]]
    assert shown == ["?", "?", "a?b?", "?", "x" * 128]
