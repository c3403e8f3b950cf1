"""A daemon's life: startup, main loop, drain, shutdown; and the signals that move it along.

`run` is called by a daemon's wiring, once per process. SIGTERM or SIGINT begin the graceful stop, a
second one ends it at once; SIGHUP reloads, one reload at a time, and any number of SIGHUPs during
one are answered by one more. systemd is told through `notify`. A RoleMeshError of `startup` leaves
`run` as it is, for the command line to put into words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, Protocol

import uvloop

from rolemesh.server.notify import Notifier

log = logging.getLogger("rolemesh.life")

EXIT_OK = 0
EXIT_INTERRUPTED = 130
# What `shutdown` may take, gracefully and after a second signal.
SHUTDOWN_S = 10.0
HURRIED_SHUTDOWN_S = 1.0
# How often STATUS= is refreshed where there is no watchdog that asks for more.
STATUS_EVERY_S = 15.0


class Daemon(Protocol):
    """What `run` drives. Called in this order; `reload` any number of times before `drain`."""

    async def startup(self) -> None:
        """Open everything. Raises RoleMeshError; `shutdown` is called then too."""

    async def reload(self) -> None:
        """Read the configuration again. Never raises: a bad one is logged and the old one stays."""

    async def drain(self) -> None:
        """Accept nothing more and wait for requests in flight; the daemon bounds the wait."""

    async def shutdown(self) -> None:
        """End what is left and close everything, however far `startup` came."""

    def status(self) -> str:
        """One short line for the supervisor."""


def run(make: Callable[[], Daemon], env: Mapping[str, str] = os.environ) -> int:
    """Live one daemon's life under uvloop. `make` is called inside the running loop.

    Returns the exit code: 0, or 130 after a second signal. Raises what `startup` raised.
    """
    notifier = Notifier.from_env(env)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_live(make, notifier))
    finally:
        notifier.close()


async def _live(make: Callable[[], Daemon], notifier: Notifier) -> int:
    signals = _Signals()
    with signals.caught():
        return await _Life(make(), signals, notifier).live()


class _Signals:
    """The signals so far, as events that a loop can wait for."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hurry = asyncio.Event()
        self.reload = asyncio.Event()

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self.on_stop,
            signal.SIGINT: self.on_stop,
            signal.SIGHUP: self.reload.set,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def on_stop(self) -> None:
        if self.hurry.is_set():
            os._exit(EXIT_INTERRUPTED)  # the third: whoever sends it wants no more courtesy
        if self.stop.is_set():
            self.hurry.set()
        self.stop.set()


class _Life:
    def __init__(self, daemon: Daemon, signals: _Signals, notifier: Notifier) -> None:
        self.daemon = daemon
        self.signals = signals
        self.notifier = notifier

    async def live(self) -> int:
        heart = asyncio.create_task(self._beat(), name="life: watchdog")
        try:
            await self._until(self.signals.stop, self.daemon.startup())
            if not self.signals.stop.is_set():
                self.notifier.ready(self.daemon.status())
                await self._until(self.signals.stop, self._reload_on_hangup())
            await self._stop_gracefully()
        finally:
            await self._shutdown()
            await _cancelled(heart)
        return EXIT_INTERRUPTED if self.signals.hurry.is_set() else EXIT_OK

    async def _reload_on_hangup(self) -> None:
        """For ever. The event is cleared before the reload, so that a SIGHUP during it counts."""
        wanted = self.signals.reload
        while True:
            await wanted.wait()
            wanted.clear()
            self.notifier.reloading()
            await self.daemon.reload()
            self.notifier.ready(self.daemon.status())

    async def _stop_gracefully(self) -> None:
        if self.signals.hurry.is_set():
            return
        log.info("stopping; a second signal ends it at once")
        self.notifier.stopping("Stopping")
        await self._until(self.signals.hurry, self.daemon.drain())

    async def _shutdown(self) -> None:
        """Bounded, also for a daemon that hangs; a second signal shortens the bound."""
        task = asyncio.create_task(self.daemon.shutdown(), name="life: shutdown")
        hurry = asyncio.create_task(self.signals.hurry.wait(), name="life: second signal")
        await asyncio.wait({task, hurry}, timeout=SHUTDOWN_S, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and self.signals.hurry.is_set():
            await asyncio.wait({task}, timeout=HURRIED_SHUTDOWN_S)
        await _cancelled(hurry)
        if task.done():
            await task
            return
        if not self.signals.hurry.is_set():
            log.warning("the shutdown took longer than %g s and was broken off", SHUTDOWN_S)
        await _cancelled(task)

    async def _until(self, event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end, or break it off when `event` is set first."""
        task = asyncio.create_task(work, name="life: phase")
        waiting = asyncio.create_task(event.wait(), name="life: signal")
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancelled(waiting)
            if not task.done():
                await _cancelled(task)
        if task.done() and not task.cancelled():
            task.result()

    async def _beat(self) -> None:
        """A sign of life at half the watchdog's time: sent by the loop itself, so that a loop that
        no longer turns sends none."""
        watched = self.notifier.watchdog_s
        every_s = STATUS_EVERY_S if watched is None else min(watched / 2, STATUS_EVERY_S)
        while True:
            await asyncio.sleep(every_s)
            if self.signals.stop.is_set():
                self.notifier.send("WATCHDOG=1")
            elif watched is None:
                self.notifier.send(f"STATUS={self.daemon.status()}")
            else:
                self.notifier.alive(self.daemon.status())


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """Cancel and wait, bounded: a task that will not end must not keep the process."""
    task.cancel()
    await asyncio.wait({task}, timeout=HURRIED_SHUTDOWN_S)
