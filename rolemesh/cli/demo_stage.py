"""The demo's processes: started, watched, and ended as a node does it with its own children.

A Ctrl-C on the terminal reaches the demo alone, which then ends them; should it be killed, its
guardian does. What they say goes to files in the demo's folder; the last lines are in the error
when one of them fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from attrs import frozen

from rolemesh.cli.demo_setup import environment
from rolemesh.errors import RunError
from rolemesh.node.child_log import ChildLog
from rolemesh.node.guardian import Guardian
from rolemesh.node.process import Process, StartFailed, how

_POLL_S = 0.03
_START_S = 60.0
_STOP_S = 10.0
_TAIL_LINES = 12


@frozen(eq=False)
class _Actor:
    name: str
    process: Process
    log: ChildLog

    def check(self) -> None:
        """Raise RunError if it has ended."""
        exited = self.process.exited
        if exited.done():
            words = "".join(f"\n  {line}" for line in self.log.last_words(_TAIL_LINES))
            raise RunError(f"the {self.name} ended: {how(exited.result())}{words}")


class Stage:
    """`folder` is where the logs go."""

    def __init__(self, folder: Path, guardian: Guardian) -> None:
        self._folder = folder
        self._guardian = guardian
        self._actors: list[_Actor] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, folder: Path) -> AsyncIterator[Stage]:
        """At its end nobody is left."""
        stage = cls(folder, await Guardian.start(secrets.token_hex(8)))
        try:
            yield stage
        finally:
            await stage._close()

    async def start(self, name: str, argv: Sequence[str]) -> None:
        log, guardian = ChildLog(self._folder, name), self._guardian
        try:
            process = await Process.start(argv, environment(), log, guardian, guardian.marker())
        except StartFailed as failed:
            raise RunError(failed.reason) from failed
        self._actors.append(_Actor(name, process, log))

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait for a condition; raise RunError when somebody ends or the time is over first."""
        try:
            async with asyncio.timeout(_START_S):
                while not await condition():
                    self._check()
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise RunError(f"{what}: not within {_START_S:g} s") from None

    async def watch(self) -> None:
        """Return never: raises RunError when somebody ends."""
        exits = [actor.process.exited for actor in self._actors]
        await asyncio.wait(exits, return_when=asyncio.FIRST_COMPLETED)
        self._check()

    def kill(self) -> None:
        for actor in self._actors:
            actor.process.kill()

    def _check(self) -> None:
        for actor in self._actors:
            actor.check()

    async def _close(self) -> None:
        gone = [asyncio.create_task(actor.process.gone()) for actor in self._actors]
        for actor in self._actors:
            actor.process.terminate()
        if gone:
            await asyncio.wait(gone, timeout=_STOP_S)
            self.kill()
            await asyncio.wait(gone, timeout=_STOP_S)
        await self._guardian.close()
