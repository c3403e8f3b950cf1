"""What is read of the gateway while it works: from the kernel, from /metrics, from its window."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from attrs import frozen

from benchmarks.process import cpu_s
from benchmarks.soak.scene import Wrong, head
from benchmarks.soak.setup import Place
from benchmarks.soak.wire import Wire

WINDOW_S = 60.0
SETTLE_S = 60.0
_LOOK_S = 0.01


@frozen
class Reading:
    """`at_s`: since the watch began. `uss_bytes`: memory of this process alone. `blocks` of memory
    that Python's objects take. `connections` of clients, the reader's own left out. `threads` are
    the kernel's, `tasks` asyncio's."""

    at_s: float
    rss_bytes: int
    pss_bytes: int
    uss_bytes: int
    blocks: int
    descriptors: int
    threads: int
    tasks: int
    connections: int
    in_flight: int
    cpu_s: float


@frozen
class Kept:
    """What the gateway holds, as far as it can be told without asking it for anything."""

    descriptors: int
    tasks: int

    def is_within(self, other: Kept) -> bool:
        return self.descriptors <= other.descriptors and self.tasks <= other.tasks


class Watch:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._began_at = time.monotonic()

    async def kept(self) -> Kept:
        seen = await look(self._place, signal.SIGUSR1)
        return Kept(_count(self._place.pid, "fd"), int(seen["tasks"]))

    async def read(self) -> Reading:
        place = self._place
        seen = await look(place, signal.SIGUSR1)
        descriptors = _count(place.pid, "fd")
        memory = _memory(place.pid)
        metrics = await scrape(place.port)  # last: it makes the gateway probe its backends
        return Reading(
            at_s=round(time.monotonic() - self._began_at, 3),
            rss_bytes=memory["Rss"],
            pss_bytes=memory["Pss"],
            uss_bytes=memory["Private_Clean"] + memory["Private_Dirty"],
            blocks=int(seen["blocks"]),
            descriptors=descriptors,
            threads=_count(place.pid, "task"),
            tasks=int(seen["tasks"]),
            connections=int(figure(metrics, "rolemesh_connections")) - 1,
            in_flight=int(figure(metrics, "rolemesh_requests_in_flight")),
            cpu_s=round(cpu_s((place.pid,)), 6),
        )


async def settled(
    watch: Watch, quiet_s: float, before: Reading | None = None, settle_s: float = SETTLE_S
) -> None:
    """Until all is as it was `before`, for a while at most: the reading that follows tells what is
    not. Without `before` until nothing has changed for so long; raises RuntimeError when it always
    does. Nobody asks for /metrics meanwhile: that would probe the backends."""
    loop = asyncio.get_running_loop()
    since = began_at = loop.time()
    last = await watch.kept()
    while loop.time() - began_at < settle_s:
        await asyncio.sleep(0.25)
        now = await watch.kept()
        if now != last:
            last, since = now, loop.time()
        if before is None and loop.time() - since > quiet_s:
            return
        if before is not None and now.is_within(Kept(before.descriptors, before.tasks)):
            return
    if before is None:
        raise RuntimeError(f"the gateway does not come to rest within {settle_s:g} s")


async def scrape(port: int) -> str:
    """The text of /metrics. Raises Wrong for another answer."""
    wire = await Wire.open(port)
    try:
        reply = await wire.ask(head("GET", "/metrics", ()))
    finally:
        await wire.close()
    if reply.status != 200 or not reply.whole:
        raise Wrong(f"/metrics answered {reply.status}")
    return reply.body.decode()


def figure(metrics: str, name: str, label: str = "") -> float:
    """The sum of a family's samples, or of those with `label` in them."""
    total = 0.0
    for line in metrics.splitlines():
        sample, _, value = line.rpartition(" ")
        if sample.partition("{")[0] == name and label in sample:
            total += float(value)
    return total


async def look(place: Place, number: signal.Signals) -> dict[str, Any]:
    """Through the window of `watched`. Raises TimeoutError."""
    path = place.window
    size = _size(path)
    place.signal(number)
    for _ in range(round(WINDOW_S / _LOOK_S)):
        text = b"" if _size(path) == size else path.read_bytes()[size:]
        if text.endswith(b"\n"):
            # What a look that was given up had asked for may come first.
            told: dict[str, Any] = json.loads(text.splitlines()[-1])
            return told
        await asyncio.sleep(_LOOK_S)
    raise TimeoutError(f"the gateway does not answer a signal within {WINDOW_S:g} s")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _count(pid: int, kind: str) -> int:
    return len(os.listdir(f"/proc/{pid}/{kind}"))


def _memory(pid: int) -> dict[str, int]:
    """Of /proc/PID/smaps_rollup, in bytes."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name.removesuffix(":")] = int(value) * 1024
    return fields
