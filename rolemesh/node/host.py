"""The machine's load and memory, from /proc.

Read anew for every heartbeat, in the event loop: these files are made in memory, in microseconds.
In a container they speak of the whole machine. What cannot be read is not told.
"""

from __future__ import annotations

from pathlib import Path

from rolemesh.core.devices import HostFigures

PROC = Path("/proc")
_KIB = 1024


def read_host(proc: Path = PROC) -> HostFigures:
    memory = _memory(proc)
    total, available = memory.get("MemTotal"), memory.get("MemAvailable")
    used = None if total is None or available is None else max(total - available, 0)
    return HostFigures(load1=_load1(proc), memory_used_bytes=used, memory_total_bytes=total)


def _load1(proc: Path) -> float | None:
    try:
        return float((proc / "loadavg").read_text("ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _memory(proc: Path) -> dict[str, int]:
    """Bytes by their name in meminfo, where lines are `MemTotal:       24576 kB`."""
    try:
        lines = (proc / "meminfo").read_text("ascii").splitlines()
        pairs = [line.split()[:2] for line in lines if line.endswith(" kB")]
        return {name.rstrip(":"): int(size) * _KIB for name, size in pairs}
    except (OSError, ValueError):
        return {}
