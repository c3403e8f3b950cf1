"""One child process and everything that it starts in turn: begun, watched, and ended as a whole.

Fed by the supervisor, which decides when. A child has a session and a process group of its own; a
signal goes to everyone in them, to their descendants and to whoever carries the child's marker in
its environment. Out of reach is only what has left the session, outlived its parents and cleared
its environment, all three: a daemon of its own, which a control group alone would find.

The end of the process that was started is the end of the child: what it leaves behind is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rolemesh.node import child_output, groups, ports
from rolemesh.node.child_log import ChildLog
from rolemesh.node.child_output import ChildOutput
from rolemesh.node.guardian import Guardian

log = logging.getLogger("rolemesh.node")

_PASSING = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.25
# After everybody has gone, for what is in the pipe still.
_LAST_OUTPUT_S = 1.0


class StartFailed(Exception):
    """There is no process. `reason`: why, for the operator. `may_pass`: the machine has too much to
    do, and may have less soon."""

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_pass = may_pass


class _Spawned(NamedTuple):
    process: subprocess.Popen[bytes]
    output: int
    pidfd: int
    started_at: int


class Process:
    """`exited`: the return code, negative for a signal; set once, before `gone` and perhaps before
    the last output has been read. `started_at`: clock ticks since the boot."""

    def __init__(self, spawned: _Spawned, marker: str, log: ChildLog, guardian: Guardian) -> None:
        loop = asyncio.get_running_loop()
        self.pid = spawned.process.pid
        self.started_at = spawned.started_at
        self.marker = marker
        self.exited: asyncio.Future[int] = loop.create_future()
        self._spawned = spawned
        self._log = log
        self._guardian = guardian
        self._output = ChildOutput(spawned.output, log)
        self._wanted: signal.Signals | None = None
        self._again = asyncio.Event()
        self._gone = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        root = (self.pid, self.started_at)
        self._family = groups.Family([root], marker, since=self.started_at)
        self._asked: set[int] = set()
        self._blind = False
        guardian.watch(self.pid, self.started_at, marker)
        loop.add_reader(spawned.pidfd, self._on_exit)

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        log: ChildLog,
        guardian: Guardian,
        marker: str,
    ) -> Process:
        """`env` is all that the child gets, and `marker`, which is `guardian.marker()`. Its
        directory is the node's: relative paths in `argv` mean what they mean to the operator.
        Raises StartFailed."""
        loop = asyncio.get_running_loop()
        spawning = loop.run_in_executor(
            None, _spawn, tuple(argv), {**env, groups.MARKER: marker}, log
        )
        try:
            spawned = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            spawning.add_done_callback(_abandon)
            raise
        except (OSError, ValueError) as error:
            may_pass = isinstance(error, OSError) and error.errno in _PASSING
            raise StartFailed(_reason(argv[0], error), may_pass=may_pass) from error
        process = cls(spawned, marker, log, guardian)
        try:
            process._output.start()
        except RuntimeError as error:
            os.close(spawned.output)
            process.kill()
            reason = f"no thread for the output of {argv[0]}: {error}"
            raise StartFailed(reason, may_pass=True) from error
        return process

    @property
    def last_output_at(self) -> float:
        """When it last said something, in the loop's time: a sign of progress while it loads."""
        return self._output.last_at

    def terminate(self) -> None:
        """SIGTERM, once, to each. (A second one would make llama-server drop everything.)"""
        if self._wanted is None:
            self._want(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to each, until nobody is left."""
        if self._wanted is not signal.SIGKILL:
            self._want(signal.SIGKILL)

    async def gone(self) -> None:
        """Nobody of it is left and its last words are in the log. Never, by itself, while it runs:
        bound the wait after `kill`, too (a process that hangs in a driver cannot be killed)."""
        await self._gone.wait()

    def listens(self, port: int) -> bool:
        """Whether 127.0.0.1:port is this child's. Blocks: call it in a thread. Raises OSError."""
        known = {
            pid
            for pid, started_at in self._family.seen.items()
            if (each := groups.entry(pid)) is not None and each.started_at == started_at
        }
        if ports.listens(port, known):  # as nearly always, at a small part of the cost
            return True
        return ports.listens(port, self._family.living(groups.table()))

    def work(self) -> int:
        """A figure that changes while it loads a model, however silently. Blocks as `listens`."""
        return groups.work(self._family.living(groups.table()))

    # Inside

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._spawned.pidfd)
        os.close(self._spawned.pidfd)
        self.exited.set_result(self._spawned.process.wait())
        self._again.set()
        if self._wanted is None:
            self._want(signal.SIGKILL)

    def _want(self, number: signal.Signals) -> None:
        if self._gone.is_set():
            return
        self._wanted = number
        self._again.set()
        if self._sweeping is None:
            self._sweeping = asyncio.create_task(self._sweep(), name=f"node: end {self.pid}")

    async def _sweep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._again.clear()
            if await self._nobody_left() and self.exited.done():
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._again.wait()
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_OUTPUT_S):
                await self._output.ended.wait()
        with contextlib.suppress(RuntimeError):  # no thread now: the line is missing
            await asyncio.to_thread(
                self._log.note, f"{self.pid} has ended: {how(self.exited.result())}"
            )
        self._guardian.forget(self.marker)
        self._gone.set()

    async def _nobody_left(self) -> bool:
        try:
            return not await asyncio.to_thread(self._signal_everybody)
        except (OSError, RuntimeError) as error:  # no descriptor or thread now: the next look tells
            if not self._blind:
                log.warning("the processes of child %d cannot be seen, and are looked for again:"
                            " %s", self.pid, error)  # fmt: skip
            self._blind = True
            return False

    def _signal_everybody(self) -> set[int]:
        """In a thread. Returns who is left. First everybody is looked for: once a wrapper has
        ended, nobody can tell whose child its child was."""
        processes = groups.table()
        left = self._family.living(processes)
        self._reap_adopted(processes)
        killing = self._wanted is signal.SIGKILL
        asked = left if killing else left - self._asked
        self._asked |= left
        together = {pid for pid in left if processes[pid].group == self.pid}
        if together & asked and (killing or together <= asked):
            # All at once: none of them can fork one that does not get it.
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL if killing else signal.SIGTERM)
        for pid in asked - together:
            groups.send(pid, signal.SIGKILL if killing else signal.SIGTERM)
        return left

    def _reap_adopted(self, processes: Mapping[int, groups.Entry]) -> None:
        """Where the node is the first process of a container, orphans become its own children."""
        for pid, started_at in self._family.seen.items():
            each = processes.get(pid)
            if each is None or not each.dead or pid == self.pid:
                continue
            if each.parent == os.getpid() and each.started_at == started_at:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def how(code: int) -> str:
    """An exit, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _spawn(argv: tuple[str, ...], env: Mapping[str, str], log: ChildLog) -> _Spawned:
    """In a thread: the disk may be slow. No descriptor of ours but the three is inherited."""
    read, write = child_output.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, no shell: the operator's own program
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write,
            start_new_session=True,
        )
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    try:
        pidfd = os.pidfd_open(process.pid)
        itself = groups.entry(process.pid)
        if itself is None:
            raise OSError(errno.ESRCH, "/proc does not show it")
    except OSError:
        os.close(read)
        _put_down(process)
        raise
    log.begin(f"{process.pid} has started: {shlex.join(argv)}")
    return _Spawned(process, read, pidfd, itself.started_at)


def _abandon(spawning: asyncio.Future[_Spawned]) -> None:
    """Whoever wanted it has been cancelled meanwhile."""
    if spawning.cancelled() or spawning.exception() is not None:
        return
    spawned = spawning.result()
    os.close(spawned.output)
    os.close(spawned.pidfd)
    _put_down(spawned.process)


def _put_down(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _reason(program: str, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError) and os.path.exists(program):
        return f"{program} cannot be started: the interpreter in its first line is missing"
    if isinstance(error, FileNotFoundError):
        return f"{program} was not found"
    if isinstance(error, PermissionError):
        return f"{program} cannot be started: it is not executable"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return (
            f"{program} cannot be started: it is no program for this machine, nor a script with"
            " a #! line"
        )
    said = error.strerror if isinstance(error, OSError) else str(error)
    return f"{program} cannot be started: {said}"
