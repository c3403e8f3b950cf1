"""One connection of the load generator: sends requests, and checks each answer.

A uvloop protocol around httptools' strict parser: of each answer status, framing and every byte of
the body are compared with what is expected, or with `rewritten` what the body says. Told what to do
by `generator`, through `ask`; tells it through `Tally`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

from benchmarks.job import note
from benchmarks.meaning import says_as_expected
from benchmarks.script import Script, expected

_now = time.perf_counter  # uvloop's own clock has milliseconds only


class Tally:
    """What has happened since `start_counting`; failures since the beginning."""

    def __init__(self) -> None:
        self.failed = 0
        self.errors: list[str] = []
        self.start_counting()

    def start_counting(self) -> None:
        self.answers = self.events = 0
        self.first_bytes: list[float] = []
        self.durations: list[float] = []

    def fail(self, why: str) -> None:
        self.failed += 1
        note(self.errors, why)


class Client(asyncio.Protocol):
    """`ended` is called when the answer asked for is there, or will not come. `opened` when its
    first byte is."""

    def __init__(self, tally: Tally, rewritten: bool = False) -> None:
        self._tally = tally
        self._rewritten = bytearray() if rewritten else None
        self._parser = httptools.HttpResponseParser(self)
        self._expected = b""
        self._at = 0
        self._spoilt = self._complete = False
        self._asked_at = 0.0
        self._script: Script | None = None
        self.ended: Callable[[], None] = _nothing
        self.opened: Callable[[], None] = _nothing

    def ask(self, request: bytes, script: Script, late_s: float = 0.0) -> None:
        """`late_s`: for how long the request has been due; it is part of what the client waits."""
        self._script = script
        self._expected = expected(script)
        self._at = 0
        self._spoilt = self._complete = False
        if self._transport.is_closing():
            self._end("the connection was closed between two requests")
            return
        self._asked_at = _now() - late_s
        self._transport.write(request)

    def give_up(self) -> None:
        if self._script is not None:
            self._end("no whole answer in time")

    @property
    def usable(self) -> bool:
        return not self._transport.is_closing()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._script is None:
            self._tally.fail("bytes that nobody asked for")
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(f"not HTTP: {error}")
            return
        if self._complete:
            self._check()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._script is not None:
            self._end("the connection was lost")

    # What the parser calls

    def on_body(self, data: bytes) -> None:
        if not self._at:
            self._tally.first_bytes.append(_now() - self._asked_at)
            self.opened()
        end = self._at + len(data)
        if self._rewritten is not None:
            self._rewritten += data
        elif self._expected[self._at : end] != data:
            self._spoilt = True
        self._at = end

    def on_message_complete(self) -> None:
        self._spoilt |= self._complete  # a second answer, were it empty
        self._complete = True

    # Inside

    def _check(self) -> None:
        status = self._parser.get_status_code()
        if status != 200:
            self._end(f"HTTP {status}")
        elif not self._is_as_expected():
            self._end(f"another body than expected ({self._at} bytes)")
        else:
            self._tally.durations.append(_now() - self._asked_at)
            self._tally.answers += 1
            if self._script is not None:
                self._tally.events += self._script.events
            self._end(None)

    def _is_as_expected(self) -> bool:
        if self._spoilt or self._script is None:
            return False
        if self._rewritten is None:
            return self._at == len(self._expected)
        body = bytes(self._rewritten)
        self._rewritten.clear()
        return says_as_expected(body, self._script)

    def _end(self, error: str | None) -> None:
        self._script = None
        if error is not None:
            self._tally.fail(error)
            self._transport.abort()
        self.ended()


def _nothing() -> None:
    return None
