"""Takes connections from listening sockets, and turns newcomers away when descriptors run short.

An accept loop of our own instead of the event loop's server: the descriptor is seen before anything
is spent on the connection (a TLS handshake first of all), an EMFILE is answered by closing the
newcomer instead of leaving it in the queue, and the TLS context can be changed while it listens.
Made by the daemons' wiring; the protocol that it starts is theirs.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

from rolemesh.server.limits import Descriptors

log = logging.getLogger("rolemesh.accept")

# Accepts per turn of the loop: a burst of newcomers must not hold up streams.
BATCH = 64
HANDSHAKE_S = 10.0
TLS_SHUTDOWN_S = 2.0
# How long accepting rests when the kernel has no means for even one more socket.
REST_S = 0.5
WARN_EVERY_S = 10.0
_NO_MEANS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """`shed` counts the connections turned away. `open_connections` says how many are open now."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        descriptors: Descriptors,
        *,
        open_connections: Callable[[], int] = lambda: 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.shed = 0
        self.tls = tls  # may be replaced at any time: the next handshake uses it
        self._sockets = list(sockets)
        self._descriptors = descriptors
        self._open_connections = open_connections
        self._make_protocol: Callable[[], asyncio.BaseProtocol] = asyncio.Protocol
        self._starting: dict[asyncio.Task[None], socket.socket] = {}
        self._resting: list[asyncio.TimerHandle] = []
        self._warned_at: float | None = None
        self._warned_of = 0

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each socket, as bound: port 0 has become a number."""
        return tuple(listening.getsockname()[:2] for listening in self._sockets)

    def start(self, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Accept from now on; each connection gets a protocol. Call it in the running loop."""
        self._make_protocol = protocol_factory
        for listening in self._sockets:
            self._watch(listening)

    def close(self) -> None:
        """Accept nothing more and close the sockets. Open connections go on; a handshake that is
        under way is broken off."""
        loop = asyncio.get_running_loop()
        for timer in self._resting:
            timer.cancel()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()
        for task, connection in self._starting.items():
            task.cancel()
            connection.close()
        self._descriptors.close()

    def _watch(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listening, self._accept_some, listening)

    def _accept_some(self, listening: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                connection, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_MEANS:
                    self._shed_queue(listening)
                    return
                continue  # the newcomer left before its turn (ECONNABORTED and its like)
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        open_now = self._open_connections() + len(self._starting)
        if not self._descriptors.admits(connection.fileno(), open_now):
            connection.close()
            self._count_shed()
            return
        self._descriptors.take_spare()
        work = self._begin_plain(connection) if self.tls is None else self._begin_tls(connection)
        task = asyncio.get_running_loop().create_task(work)
        self._starting[task] = connection
        task.add_done_callback(self._started)

    async def _begin_plain(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one

        def make() -> asyncio.BaseProtocol:
            # Runs right before `connection_made`, where the owner begins to count: so a connection
            # is counted once, by `_starting` or by the owner.
            loop.call_soon(self._started, task)
            return self._make_protocol()

        try:
            await loop.connect_accepted_socket(make, connection)
        except OSError as error:
            log.debug("a connection could not be begun: %s", error)
            connection.close()

    async def _begin_tls(self, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=self.tls,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=TLS_SHUTDOWN_S,
            )
        except (OSError, EOFError) as error:
            # Time-outs are OSErrors too. A handshake that failed is the newcomer's affair.
            log.debug("a TLS handshake failed: %s", error)
            connection.close()

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.pop(task, None)

    def _shed_queue(self, listening: socket.socket) -> None:
        """Accept those who wait, with the spare descriptor, and close each at once."""
        if not self._descriptors.give_spare():
            self._rest(listening)
            return
        try:
            for _ in range(BATCH):
                connection, _ = listening.accept()
                connection.close()
                self._count_shed()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in _NO_MEANS:
                self._rest(listening)
        finally:
            self._descriptors.take_spare()

    def _rest(self, listening: socket.socket) -> None:
        """Not even the spare helped: leave the queue alone for a moment, or the loop would spin."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        self._resting = [timer for timer in self._resting if timer.when() > loop.time()]
        self._resting.append(loop.call_later(REST_S, self._watch, listening))
        self._warn("no descriptor for a new connection")

    def _count_shed(self) -> None:
        self.shed += 1
        self._warn("descriptors run short: connections are turned away")

    def _warn(self, message: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._warned_at is not None and now - self._warned_at < WARN_EVERY_S:
            return
        shed, self._warned_of = self.shed - self._warned_of, self.shed
        self._warned_at = now
        log.warning("%s (%d since the last such line); raise LimitNOFILE", message, shed)
