"""The machine's load and memory, from files as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolemesh.core.devices import HostFigures
from rolemesh.node.host import read_host

MEMINFO = """\
MemTotal:       16384 kB
MemFree:         1024 kB
MemAvailable:    4096 kB
HugePages_Total:       0
"""


def proc(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_load_and_memory_are_read(tmp_path: Path) -> None:
    proc(tmp_path, loadavg="0.52 0.58 0.59 1/467 12345\n", meminfo=MEMINFO)
    assert read_host(tmp_path) == HostFigures(0.52, 12288 * 1024, 16384 * 1024)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, HostFigures()),
        ({"loadavg": "", "meminfo": ""}, HostFigures()),
        ({"loadavg": "x y z", "meminfo": "MemTotal: many kB\n"}, HostFigures()),
        ({"meminfo": "MemTotal: 4 kB\n"}, HostFigures(memory_total_bytes=4096)),
        ({"loadavg": "1.5 1 1"}, HostFigures(load1=1.5)),
    ],
)
def test_what_cannot_be_read_is_not_told(
    tmp_path: Path, files: dict[str, str], told: HostFigures
) -> None:
    assert read_host(proc(tmp_path, **files)) == told


def test_this_machine_is_read() -> None:
    host = read_host()
    assert host.load1 is not None
    assert host.memory_used_bytes is not None
    assert host.memory_total_bytes is not None
    assert 0 < host.memory_used_bytes < host.memory_total_bytes
