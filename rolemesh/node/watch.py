"""Is a child that was READY still what it was? Its port its own, its requests answered, its busy
slots at work.

Made by `run` when the child has answered; tells why it is sick, once. It looks now and then, and at
once when a request has failed: a server that died behind a wrapper leaves its port to whoever
binds it next, who must get neither key nor prompts.

Requests that fail may be the clients' own fault (llama.cpp answers 500 to many a mistake), and what
some clients do must not end the others' streams. So after several in a row the child is asked
something by the node itself, and only that is held against it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from rolemesh.core.types import Backend
from rolemesh.node import ports
from rolemesh.node.ask import Asker, Health, Verdict

log = logging.getLogger("rolemesh.node")

WATCH_S = 10.0
HEALTH_S = 30.0
SICK_AFTER = 3  # unanswered looks at an idle child
MAX_FAILED_REQUESTS = 5  # in a row: it answers its probe, and nothing else
AGAIN_S = 0.02  # /proc is not read in one moment: only two looks are believed


class Watched(Protocol):
    """The part of `process.Process` that is looked at."""

    @property
    def exited(self) -> asyncio.Future[int]: ...

    def listens(self, port: int) -> bool: ...

    def kill(self) -> None: ...


class Watch:
    """`busy` is asked whether requests are in flight. `work`: what `Asker.work` has told at first;
    without counters a child is not judged by them. `in_doubt`: nothing is to be sent until
    `settled` or `sick` has been called."""

    def __init__(
        self,
        process: Watched,
        backend: Backend,
        asker: Asker,
        busy: Callable[[], bool],
        stuck_s: float,
        work: tuple[bytes, ...] | None,
        settled: Callable[[], None],
        sick: Callable[[str], None],
    ) -> None:
        self.in_doubt = False
        self._process = process
        self._backend = backend
        self._asker = asker
        self._busy = busy
        self._stuck_s = stuck_s
        self._work = work
        self._settled = settled
        self._sick = sick
        self._failed = 0
        self._again = False
        self._asks = False
        self._examining: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until it is sick."""
        try:
            self._sick(await self._look_now_and_then())
        finally:
            if self._examining is not None:
                self._examining.cancel()

    def heard(self, *, worked: bool) -> None:
        """What came of a request."""
        self._failed = 0 if worked else self._failed + 1
        if worked:
            return
        if self._failed >= MAX_FAILED_REQUESTS:
            self._failed, self._asks = 0, True
        self._again = True
        if self._examining is None:
            self.in_doubt = True
            self._examining = asyncio.create_task(self._examine(), name="node: examine a child")

    # Inside

    async def _examine(self) -> None:
        try:
            while self._again:
                self._again = False
                trouble = await self._lost_port()
                if trouble is None:
                    self.in_doubt = False
                    self._settled()
                    trouble = await self._own_failure() if self._asks else None
                if trouble is not None:
                    self._sick(trouble)
                    return
        except Exception:  # the border of a task: a child that is in doubt for ever is ended
            log.exception("a child that failed could not be examined")
            self._process.kill()
        finally:
            self._examining = None

    async def _own_failure(self) -> str | None:
        self._asks = False
        before = await self._asker.work(self._backend)
        verdict = await self._asker.works(self._backend)
        if verdict is Verdict.SILENT and before is not None:
            # Its slots may all be taken: then they bring something forth.
            now = await self._asker.work(self._backend)
            if now is not None and now != before:
                return None
        if verdict is Verdict.WORKS or self._process.exited.done():
            return None
        return f"{MAX_FAILED_REQUESTS} requests in a row failed, and one of the node's own"

    async def _lost_port(self) -> str | None:
        """Why nothing must be sent there any more."""
        port = self._backend.url.port
        try:
            if await asyncio.to_thread(self._process.listens, port):
                return None
            await asyncio.sleep(AGAIN_S)
            if await asyncio.to_thread(self._process.listens, port) or self._process.exited.done():
                return None
            bound = await asyncio.to_thread(ports.is_bound, port)
        except (OSError, RuntimeError):  # no descriptor, no thread: that says nothing of the child
            return None
        return "another program holds its port" if bound else "it does not listen any more"

    async def _look_now_and_then(self) -> str:
        """Returns why it is sick."""
        backend, asker = self._backend, self._asker
        loop = asyncio.get_running_loop()
        unanswered = 0
        moved_at = looked_at = loop.time()
        while True:
            await asyncio.sleep(min(WATCH_S, self._stuck_s))
            now = loop.time()
            busy = self._busy()
            if not busy and now - looked_at < HEALTH_S:
                moved_at = now
                continue
            trouble = await self._lost_port()
            if trouble is not None:
                return trouble
            if busy:
                done = await asker.work(backend)
                if self._work is None or (done is not None and done != self._work):
                    self._work, moved_at = done, now
                elif now - moved_at >= self._stuck_s:
                    return f"busy for {now - moved_at:.0f} s without a token"
                continue
            moved_at = looked_at = now
            healthy = await asker.health(backend) is Health.READY
            unanswered = 0 if healthy else unanswered + 1
            if unanswered >= SICK_AFTER:
                return "it runs and does not answer"
