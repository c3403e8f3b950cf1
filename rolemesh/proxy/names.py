"""Names of backends -> addresses, looked up in threads of our own.

uvloop looks names up in libuv's pool of four threads, and goes on with what nobody waits for any
more: one dead name would starve all others and hold up the end of the process. Here everybody who
wants a name shares one look-up of it; it goes on when they leave, and what came of it, good or bad,
is kept for 2 s. The threads are daemons: nobody waits for them at the end.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from itertools import zip_longest

from attrs import frozen

from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.proxy.exchange import Broken

KEPT_S = 2.0
THREADS = 16
THREAD_WAIT_S = 2.0

NO_DESCRIPTORS = {errno.EMFILE, errno.ENFILE}  # of this process, of this machine
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


@frozen
class Why:
    """A look-up came to nothing. That we were short of something is no news of the name: such an
    outcome is not kept."""

    reason: Reason
    detail: str
    kept_s: float = KEPT_S


Outcome = tuple[str, ...] | Why


def look_up(host: str) -> Sequence[str]:
    """The addresses of a name, best first. Blocks. Raises OSError, UnicodeError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror:
        socket.socket().close()  # raises when no descriptor is left: the name was not at fault
        raise
    return list(dict.fromkeys(_text(*each[4]) for each in found))


class Names:
    """`look_up` is called in a thread of its own."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        look_up: Callable[[str], Sequence[str]] = look_up,
    ) -> None:
        self._loop = loop
        self._look_up = look_up
        self._look_ups: dict[str, asyncio.Task[Outcome]] = {}  # under way, or kept
        self._threads = asyncio.Semaphore(THREADS)

    async def addresses(self, host: str) -> Sequence[str]:
        """In the order in which to try them. Raises Broken (Failure.CONNECT)."""
        if _is_address(host):
            return (host,)
        shared = self._look_ups.get(host)
        if shared is None:
            shared = self._look_ups[host] = self._loop.create_task(self._find(host))
        outcome = await asyncio.shield(shared)
        if isinstance(outcome, Why):
            raise Broken(Failure.CONNECT, outcome.reason, outcome.detail)
        return outcome

    def close(self) -> None:
        """Wait for nothing any more."""
        for shared in self._look_ups.values():
            shared.cancel()

    async def _find(self, host: str) -> Outcome:
        try:
            outcome = await self._in_thread(host)
        except TimeoutError:
            outcome = Why(Reason.NAME_NOT_RESOLVED, "too many other names are being looked up", 0.0)
        except RuntimeError:
            outcome = Why(
                Reason.NAME_NOT_RESOLVED, "there is no thread to look its name up in", 0.0
            )
        kept_s = outcome.kept_s if isinstance(outcome, Why) else KEPT_S
        self._loop.call_later(kept_s, self._look_ups.pop, host, None)
        return outcome

    async def _in_thread(self, host: str) -> Outcome:
        """Raises TimeoutError when all threads are taken, RuntimeError when none can be started."""
        async with asyncio.timeout(THREAD_WAIT_S):
            await self._threads.acquire()
        found: asyncio.Future[Outcome] = self._loop.create_future()
        thread = threading.Thread(
            target=self._run, args=(host, found), name="name look-up", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            self._threads.release()
            raise
        return await found

    def _run(self, host: str, found: asyncio.Future[Outcome]) -> None:
        """In the thread."""
        outcome: Outcome
        try:
            outcome = _alternating(self._look_up(host))
        except (OSError, UnicodeError) as error:
            outcome = _why(error)
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._ended, found, outcome)

    def _ended(self, found: asyncio.Future[Outcome], outcome: Outcome) -> None:
        self._threads.release()
        if not found.done():
            found.set_result(outcome)


def _why(error: OSError | UnicodeError) -> Why:
    if isinstance(error, OSError) and error.errno in NO_DESCRIPTORS:
        return Why(Reason.NO_DESCRIPTORS, "no file descriptor was left to look its name up", 0.0)
    if isinstance(error, UnicodeError) or error.errno in _NO_SUCH_NAME:
        return Why(Reason.NAME_NOT_RESOLVED, "its name has no address")
    return Why(Reason.NAME_NOT_RESOLVED, "its name could not be looked up")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _text(address: str, _port: int, _flow: int = 0, scope: int = 0) -> str:
    """A link-local IPv6 address is none without the interface that it belongs to."""
    return f"{address}%{scope}" if scope else address


def _alternating(addresses: Sequence[str]) -> tuple[str, ...]:
    """The two families in turn, the preferred one first (RFC 8305 section 4)."""
    first = [each for each in addresses if (":" in each) is (":" in addresses[0])]
    other = [each for each in addresses if each not in first]
    pairs = zip_longest(first, other)
    return tuple(each for pair in pairs for each in pair if each is not None)
