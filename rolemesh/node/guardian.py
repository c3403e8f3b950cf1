"""The guardian: a small process that ends the children when the node has died, however it died.

The node's own shutdown ends its children by itself. Nothing of it runs after a `kill -9`, a crash
or the kernel's out-of-memory killer, and a llama-server that lives on holds the GPU against the
next start. The kernel has a parent-death signal, which is not used: it is tied to the *thread* that
forked (the child dies when that thread ends, be the node alive or not), it does not reach
grandchildren, so that a wrapper script's llama-server survives, and it is reset by setuid programs.
A process that holds the reading end of a pipe learns of the node's end from the kernel at once.

It is told of each child (`watch`) when that has been started. A node that dies between fork and
`watch` leaves a child that it was not told of: the guardian finds that one by the marker in its
environment, whose beginning it is told at its own start. Should the guardian itself die, another
one is started and told everything. Its program is `guardian_main`, in a session of its own; the
pipe is all it has of the node, so no listening socket is held open by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import subprocess
import sys
from pathlib import Path

from attrs import define

from rolemesh.errors import RunError
from rolemesh.node import groups

log = logging.getLogger("rolemesh.node.guardian")

PROGRAM = Path(__file__).with_name("guardian_main.py")
# Between two that died soon, doubled each time; the first is replaced at once.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 30.0
CLOSE_S = 5.0
_LONG_LIFE_S = 10.0


@define(eq=False)
class _Running:
    process: subprocess.Popen[bytes]
    pipe: int
    pidfd: int
    begun: float


class Guardian:
    """`owner` is a word of the node's state file that no other node has: every marker begins with
    it. `pid`: of the process, for those who want to look at it; 0 between two."""

    def __init__(self, owner: str) -> None:
        # The second part is this run's: a former run's guardian does not touch our children.
        self._prefix = f"{owner}.{secrets.token_hex(4)}."
        self._numbers = itertools.count(1)
        self._watched: dict[str, tuple[int, int]] = {}
        self._running: _Running | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._closing = False
        self._pause_s = 0.0

    @classmethod
    async def start(cls, owner: str) -> Guardian:
        """Raises RunError: without it, children could outlive the node."""
        guardian = cls(owner)
        try:
            await guardian._begin()
        except OSError as error:
            raise RunError(
                f"the process that ends the children should the node die cannot be started:"
                f" {error.strerror}"
            ) from error
        return guardian

    @property
    def pid(self) -> int:
        return self._running.process.pid if self._running is not None else 0

    def marker(self) -> str:
        """For the environment of one child."""
        return f"{self._prefix}{next(self._numbers)}."

    def watch(self, pid: int, started_at: int, marker: str) -> None:
        self._watched[marker] = pid, started_at
        self._tell(f"watch {pid} {started_at} {marker}\n")

    def forget(self, marker: str) -> None:
        """Nobody of that child is left."""
        if self._watched.pop(marker, None) is not None:
            self._tell(f"forget {marker}\n")

    async def close(self) -> None:
        """The node ends. Children that are left are ended as if it had died, and not waited
        for."""
        self._closing = True
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait({self._starting})
        if self._running is None:
            return
        os.close(self._running.pipe)
        self._running = None
        if not self._watched:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._ended.wait()

    # Inside

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._ended.clear()
        running = await asyncio.to_thread(_spawn, self._prefix, loop.time())
        self._running = running
        loop.add_reader(running.pidfd, self._on_end, running)
        for marker, (pid, started_at) in self._watched.items():
            self._tell(f"watch {pid} {started_at} {marker}\n")

    def _tell(self, line: str) -> None:
        if self._running is None:
            return  # the next one is told everything
        try:
            # Whole or not at all: a line is shorter than PIPE_BUF.
            os.write(self._running.pipe, line.encode())
        except BlockingIOError:
            # It has been stopped, and would not see the node's end either.
            self._running.process.kill()
        except BrokenPipeError:
            pass  # `_on_end` comes

    def _on_end(self, running: _Running) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(running.pidfd)
        os.close(running.pidfd)
        code = running.process.wait()  # it has ended
        self._ended.set()
        if self._closing:
            return
        os.close(running.pipe)
        self._running = None
        if loop.time() - running.begun > _LONG_LIFE_S:
            self._pause_s = 0.0
        log.warning("the guardian process ended (code %d): another one is started", code)
        self._starting = asyncio.create_task(self._begin_again(), name="node: guardian")

    async def _begin_again(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
            try:
                await self._begin()
            except OSError as error:
                log.warning("no guardian process can be started (%s): should the node die now, its"
                            " children would be ended at its next start only",
                            error.strerror)  # fmt: skip
            else:
                return


def _spawn(prefix: str, now: float) -> _Running:
    """In a thread: a fork may take its time. Raises OSError."""
    itself = groups.entry(os.getpid())
    since = itself.started_at if itself is not None else 0
    read, write = os.pipe()
    try:
        os.set_blocking(write, False)
        # Not this node's, should it be a child itself. The rest may say where Python's library is.
        env = {name: value for name, value in os.environ.items() if name != groups.MARKER}
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", str(PROGRAM), prefix, str(since)],
            env=env,
            cwd="/",
            stdin=read,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        os.close(write)
        raise
    finally:
        os.close(read)
    try:
        return _Running(process, write, os.pidfd_open(process.pid), now)
    except OSError:
        os.close(write)  # which ends it
        process.wait()
        raise
