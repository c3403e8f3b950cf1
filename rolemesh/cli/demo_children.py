"""The demo's child processes: started in sessions of their own, watched, and ended in order.

A Ctrl-C on the terminal reaches the demo alone, which then ends the children: first what was
started last. What they say goes to files in the demo's folder; the last lines are in the error when
one of them fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from attrs import define, field

from rolemesh.errors import RunError

_POLL_S = 0.03
_STOP_S = 10.0
_TAIL_LINES = 12


@define(eq=False)
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise RunError if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise RunError(f"{self.name} ended with exit code {code}{self._last_words()}")

    async def wait(self, within_s: float) -> int:
        """The exit code. Raises RunError when there is none in time."""
        end = time.monotonic() + within_s
        while (code := self.process.poll()) is None:
            if time.monotonic() > end:
                raise RunError(f"{self.name} did not end within {within_s:g} s")
            await asyncio.sleep(_POLL_S)
        return code

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL to its group when that does not help."""
        self.process.terminate()
        with contextlib.suppress(RunError):
            await self.wait(_STOP_S)
        self.kill()

    def kill(self) -> None:
        # Once it has been waited for, its number may be another's.
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "".join(f"\n  {line}" for line in lines[-_TAIL_LINES:])


@define(eq=False)
class Children:
    """All of them. `folder` is where their logs go."""

    folder: Path
    _running: list[Child] = field(factory=list)

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> Child:
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own programs, by absolute path
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._running.append(child)
        return child

    async def finish(self, name: str, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Run one that ends by itself. Raises RunError unless it does so with exit code 0."""
        child = self.start(name, argv, env)
        if await child.wait(within_s=60) != 0:
            child.check()
        self._running.remove(child)

    async def until(
        self, condition: Callable[[], Awaitable[bool]], what: str, within_s: float
    ) -> None:
        """Wait for a condition; raise RunError when a child ends or the time is over first."""
        end = time.monotonic() + within_s
        while not await condition():
            self._check()
            if time.monotonic() > end:
                raise RunError(f"{what}: not within {within_s:g} s")
            await asyncio.sleep(_POLL_S)

    async def watch(self) -> None:
        """Return never: raises RunError when a child ends."""
        while True:
            self._check()
            await asyncio.sleep(10 * _POLL_S)

    async def stop(self) -> None:
        """End them all, the last one first: the gateway before its backends."""
        while self._running:
            await self._running[-1].stop()
            self._running.pop()

    def kill(self) -> None:
        for child in self._running:
            child.kill()

    def _check(self) -> None:
        for child in self._running:
            child.check()
