"""A connection to a backend: an asyncio protocol that hands its bytes to the exchange it carries.

All connections of the process read into one buffer, which is consumed inside `buffer_updated`: that
bounds what a read can bring (64 KiB; uvloop would read 256,000 bytes) at no cost per stream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from rolemesh.proxy.answer import Answer
from rolemesh.proxy.exchange import Exchange

if TYPE_CHECKING:
    from rolemesh.proxy.pool import Pool

READ_BYTES = 65_536
# Shorter than the keep-alive of llama-server and of uvicorn (both 5 s), so that a connection is
# not closed under a request.
IDLE_S = 4.0
_MARGIN_S = 1.0
JOINED_BYTES = 16_384  # a request this small is copied together: one buffer costs less than two

_buffer = memoryview(bytearray(READ_BYTES))


class Connection(asyncio.BufferedProtocol):
    """Carries one exchange at a time; idle in its pool otherwise."""

    __slots__ = (
        "_ended", "_joined", "_paused", "_pool", "_transport", "_unanswered", "exchange",
        "idle_until",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._joined = False
        self._unanswered = False  # its pool waits for the first byte
        self._ended = False
        self._paused = False
        self.exchange: Exchange | None = None
        self.idle_until = 0.0

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def address(self) -> str:
        """The address really connected to."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def forget(self) -> None:
        """Its opening was broken off: uvloop has closed it, and tells it nothing."""
        self._transport = None

    def join(self) -> None:
        """It counts in its pool, from now on: its opening has come to its end."""
        if self._transport is not None:
            self._joined = self._unanswered = True
            self._pool.begun(self)

    def begin(self, exchange: Exchange, request: list[bytes]) -> None:
        """Send a request; from now on what comes belongs to `exchange`."""
        if self._transport is None:  # lost since it was made: nobody will tell of it again
            exchange.lost(orderly=False)
            return
        self.exchange = exchange
        if sum(map(len, request)) <= JOINED_BYTES:
            self._transport.write(b"".join(request))
        else:
            self._transport.writelines(request)

    def finished(self, answer: Answer) -> None:
        """Called by the exchange when its answer is whole."""
        self.exchange = None
        transport = self._transport
        if transport is None:
            return
        # A backend that answered before it had read the request will read the rest as another one.
        written = not transport.is_closing() and transport.get_write_buffer_size() == 0
        told_s = answer.head.keep_alive_s
        idle_s = IDLE_S if told_s is None else min(IDLE_S, told_s - _MARGIN_S)
        if answer.reusable and written and idle_s > 0:
            if self._paused:
                self.resume_reading()
            self._pool.keep(self, idle_s)
        else:
            self.abort()

    def abort(self) -> None:
        self.exchange = None
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._unanswered:
            self._wait_no_more()
        if self.exchange is not None:
            self.exchange.feed(_buffer[:nbytes])
        else:
            self.abort()  # bytes that nobody asked for

    def eof_received(self) -> bool:
        """Over TLS uvloop only calls this for a close_notify: an end without one may have been made
        by anybody on the way (RFC 9112 section 9.8)."""
        self._ended = True
        return False  # close: connection_lost follows

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._unanswered:
            self._wait_no_more()
        if self._joined:
            self._pool.lost(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.lost(orderly=self._ended and exc is None)

    def _wait_no_more(self) -> None:
        self._unanswered = False
        self._pool.answered(self)
