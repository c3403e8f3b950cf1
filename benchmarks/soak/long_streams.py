"""Thousands of streams through one gateway, open at once for minutes, every event numbered.

`Holding` opens them one after the other and waits until they have ended; its script keeps them all
open for the time that was asked for. What was lost, moved or doubled is counted, and what an open
stream costs in memory is what was read meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import cast

import httptools
from attrs import frozen

from benchmarks.job import note
from benchmarks.script import Script
from benchmarks.soak.numbered import Losses, Numbered
from benchmarks.soak.watch import Reading

AT_ONCE_A_SECOND = 200
MAX_WORDS = 20
LATE_S = 60.0


@frozen
class Held:
    """`expected` and `received`: events. `broken`: streams that did not end as they should.
    `readings` with every stream open; `words`: what broke, the first few."""

    streams: int
    minutes: float
    event_bytes: int
    expected: int
    received: int
    losses: Losses
    broken: int
    words: tuple[str, ...]
    base_bytes: int
    readings: tuple[Reading, ...]

    @property
    def open_bytes(self) -> float:
        return median(each.pss_bytes for each in self.readings)

    @property
    def most_bytes(self) -> int:
        return max(each.pss_bytes for each in self.readings)

    @property
    def per_stream_bytes(self) -> float:
        return (self.open_bytes - self.base_bytes) / self.streams

    @property
    def cpu_share(self) -> float:
        first, last = self.readings[0], self.readings[-1]
        return (last.cpu_s - first.cpu_s) / max(last.at_s - first.at_s, 1e-9)

    @property
    def cpu_us(self) -> float:
        """Per event: one a second on each stream."""
        return self.cpu_share / self.streams * 1e6

    @property
    def is_readable(self) -> bool:
        """Whether there is enough for a page."""
        return bool(self.readings)

    def faults(self) -> list[str]:
        """Why it has failed, in words."""
        losses = self.losses
        counts = {
            "lost": losses.lost,
            "reordered": losses.reordered,
            "duplicated": losses.duplicated,
            "spoilt": losses.spoilt,
            "streams broken": self.broken,
        }
        found = [f"{name}: {count}" for name, count in counts.items() if count]
        if not self.is_readable:
            found.append("nothing was read while every stream was open")
        return [*found, *self.words]


class Stream(asyncio.Protocol):
    """One connection, one request, one numbered stream. `ended` is called once, with what was wrong
    or None."""

    def __init__(self, request: bytes, script: Script, ended: Callable[[str | None], None]) -> None:
        self._request = request
        self._ended: Callable[[str | None], None] | None = ended
        self._parser = httptools.HttpResponseParser(self)
        self._answers = 0
        self.numbered = Numbered(script)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(f"not HTTP: {error}")
            return
        if self._answers:
            status = self._parser.get_status_code()
            once = None if self._answers == 1 else "more answers than requests"
            self._end(once if status == 200 else f"HTTP {status}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the connection was lost")

    def on_body(self, data: bytes) -> None:
        self.numbered.feed(data)

    def on_message_complete(self) -> None:
        self._answers += 1

    def give_up(self) -> None:
        self._end("it did not end in time")

    def _end(self, words: str | None) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._transport.close()
            ended(words)


class Holding:
    """The streams of one run. `all_flow` from when each has its first event until one ends."""

    def __init__(self, port: int, request: bytes, script: Script) -> None:
        self._port = port
        self._request = request
        self._script = script
        self._over = asyncio.Event()
        self.streams: list[Stream] = []
        self.words: list[str] = []
        self.broken = 0
        self._left = 0

    async def open(self, count: int) -> None:
        """One after the other. Raises OSError when a connection cannot be had."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        self._left = count
        for number in range(count):
            await asyncio.sleep(began_at + number / AT_ONCE_A_SECOND - loop.time())
            _, stream = await loop.create_connection(self._stream, "127.0.0.1", self._port)
            self.streams.append(stream)

    @property
    def all_flow(self) -> bool:
        """Whether each has had an event and none has ended."""
        return self._left == len(self.streams) and all(
            each.numbered.received for each in self.streams
        )

    async def wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._over.wait()
        except TimeoutError:
            for stream in self.streams:
                stream.give_up()

    def _stream(self) -> Stream:
        return Stream(self._request, self._script, self._ended)

    def _ended(self, words: str | None) -> None:
        self._left -= 1
        if words is not None:
            self.broken += 1
            note(self.words, words, MAX_WORDS)
        if not self._left:
            self._over.set()


def script_for(streams: int, duration_s: float, event_bytes: int) -> Script:
    """Long enough that the first stream is still open so long after the last has begun."""
    events = math.ceil(duration_s + streams / AT_ONCE_A_SECOND) + 1
    return Script(answer_bytes=event_bytes, events=events, gap_ms=1000)


def received(streams: Sequence[Stream]) -> int:
    return sum(each.numbered.received for each in streams)


def losses(streams: Sequence[Stream]) -> Losses:
    return sum((each.numbered.losses for each in streams), Losses())
