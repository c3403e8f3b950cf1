"""The machine's GPUs as the event loop sees them: the last reading, and a thread that makes them.

The thread owns NVML (`nvml`); a driver that hangs keeps nobody else waiting. Every 5 s it reads all
GPUs, and when somebody asks. The loop is handed whole readings, and waits for none without a bound.
The thread is a daemon: one that hangs at the end is left behind.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue

from rolemesh.core.devices import Device, DeviceFigures
from rolemesh.node.nvml import Nvml, Reading

EVERY_S = 5.0
FIRST_LIST_S = 2.0
STALE_ROUNDS = 6  # figures that are older than this many readings are none
SETTLED_S = 0.1
HANGS_S = 1.0  # a reading that takes longer is waited for by nobody
SETTLED_BYTES = 4 << 20

log = logging.getLogger("rolemesh.gpu")


class Gpus:
    """The event loop's side. `changed` is called in the loop when `devices` has become another.

    Before `start`, and without a driver, there are no devices, no figures, and nothing to wait for.
    """

    def __init__(
        self, changed: Callable[[], None] = lambda: None, every_s: float = EVERY_S
    ) -> None:
        self._changed = changed
        self._every_s = every_s
        self._loop = asyncio.get_running_loop()
        self._last = Reading()
        self._read_at = -math.inf
        self._asked: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="NVML", daemon=True)

    @property
    def devices(self) -> tuple[Device, ...]:
        """What NVML listed last. While it fails, what was known stays known; a GPU is gone when
        NVML works and does not list it."""
        return self._last.devices

    @property
    def problem(self) -> str | None:
        """Why GPUs are missing, or without figures; for operators."""
        if self._thread.is_alive() and self._is_stale():
            return "NVML does not answer"
        return self._last.problem

    def figures(self, ident: str) -> DeviceFigures | None:
        """The last reading of this device; None where it did not answer, or not lately."""
        return None if self._is_stale() else self._last.figures.get(ident)

    async def start(self) -> None:
        """Waits for the first list, FIRST_LIST_S at most; it may still come later."""
        self._thread.start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LIST_S):
                await self._fresh()

    async def memory_settled(self, idents: Collection[str], bound_s: float) -> None:
        """Returns when two readings in a row found the same memory in use: what a process that has
        ended gives back comes with a delay. Or when bound_s is over, or nothing can be read, or
        NVML hangs."""
        with suppress(TimeoutError):
            async with asyncio.timeout(bound_s):
                before = await self._memory_used(idents)
                while before:
                    await asyncio.sleep(SETTLED_S)
                    after = await self._memory_used(idents)
                    if _alike(before, after):
                        return
                    before = after

    def close(self) -> None:
        """Ends the thread, and does not wait for it."""
        self._asked.put(None)

    def _is_stale(self) -> bool:
        return self._loop.time() - self._read_at > STALE_ROUNDS * self._every_s

    async def _memory_used(self, idents: Collection[str]) -> dict[str, int]:
        async with asyncio.timeout(HANGS_S):
            await self._fresh()
        read = {ident: self._last.figures.get(ident) for ident in idents}
        return {
            ident: figures.memory_used_bytes
            for ident, figures in read.items()
            if figures is not None and figures.memory_used_bytes is not None
        }

    async def _fresh(self) -> None:
        """Waits for a reading that begins after this call."""
        if not self._thread.is_alive():
            return
        taken = self._loop.create_future()
        self._asked.put(taken)
        await taken

    def _take(self, reading: Reading, asked: list[asyncio.Future[None]]) -> None:
        before, self._last, self._read_at = self._last, reading, self._loop.time()
        for taken in asked:
            if not taken.done():
                taken.set_result(None)
        if reading.problem != before.problem:
            # A machine without a driver is no trouble: a GPU that is configured, and not there, is
            # told of by whoever wants it.
            level = logging.WARNING if reading.problem and reading.devices else logging.INFO
            log.log(level, "GPUs: %s", reading.problem or "all can be read again")
        if reading.devices != before.devices:
            self._changed()

    def _run(self) -> None:
        """In the thread."""
        nvml = Nvml(self._every_s)
        while (asked := self._next_asked()) is not None:
            reading = nvml.read(time.monotonic())
            try:
                self._loop.call_soon_threadsafe(self._take, reading, asked)
            except RuntimeError:  # the event loop has ended
                break
        nvml.close()

    def _next_asked(self) -> list[asyncio.Future[None]] | None:
        """Waits until somebody wants a reading, or it is time for one. None: close."""
        asked: list[asyncio.Future[None]] = []
        with suppress(Empty):
            while (each := self._asked.get(timeout=0 if asked else self._every_s)) is not None:
                asked.append(each)
            return None
        return asked


def _alike(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    return before.keys() == after.keys() and all(
        abs(after[ident] - used) <= SETTLED_BYTES for ident, used in before.items()
    )
