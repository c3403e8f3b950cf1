"""What takes a minute: clients that are slow, silent or deaf, all at once beside the other tests.

`Patience` starts one gateway and every scenario in a thread of its own; the tests of
`test_patience` only ask what came of them. It is begun when the first black-box test starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from attrs import frozen

from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body
from tests.rawhttp import RawClient, request_bytes
from tests.script import Answer, Flood, Head, LastChunk, Stall, completion, event

PATH = "/v1/chat/completions"
LONGEST_S = 100.0


@frozen
class Fate:
    """How long a connection lived from the moment that counts, and what it was told."""

    lived_s: float
    told: bytes


class Patience:
    def __init__(self, directory: Path) -> None:
        self._backend = FakeBackend().start()
        config = {"models": {"writer": {"type": "proxy", "proxy_url": self._backend.url}}}
        self.gateway = GatewayProcess(config, directory).start()
        self._pool = ThreadPoolExecutor(16)
        self._fates: dict[str, Future[Fate]] = {
            run.__name__.strip("_"): self._pool.submit(run)
            for run in (
                self._says_nothing,
                self._half_a_head,
                self._drips_its_head,
                self._half_a_body,
                self._stays_idle,
                self._uploads_slowly,
                self._waits_long,
                self._stops_reading,
            )
        }

    def fate(self, name: str) -> Fate:
        return self._fates[name].result(LONGEST_S)

    def stop(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self.gateway.stop()
        self._backend.stop()

    def _until_closed(self, begin: Callable[[RawClient], None]) -> Fate:
        with self.gateway.connect() as wire:
            begin(wire)
            began = time.monotonic()
            told = wire.rest(LONGEST_S)
            return Fate(time.monotonic() - began, told)

    def _says_nothing(self) -> Fate:
        return self._until_closed(lambda wire: None)

    def _half_a_head(self) -> Fate:
        return self._until_closed(lambda wire: wire.send(b"GET /health HTTP/1.1\r\nHo"))

    def _drips_its_head(self) -> Fate:
        """A byte now and then is no progress worth waiting for."""
        with self.gateway.connect() as wire:
            began = time.monotonic()
            wire.send(b"GET /health HTTP/1.1\r\nX-A: ")
            while wire.silent_for(0.5) and time.monotonic() - began < LONGEST_S:
                try:
                    wire.send(b"a")
                except OSError:
                    break
            return Fate(time.monotonic() - began, wire.rest(5))

    def _half_a_body(self) -> Fate:
        head = request_bytes("POST", PATH, [("Content-Length", "100")])
        return self._until_closed(lambda wire: wire.send(head + b'{"model": "wri'))

    def _stays_idle(self) -> Fate:
        def begin(wire: RawClient) -> None:
            wire.request("GET", "/health")
            wire.reply()

        return self._until_closed(begin)

    def _uploads_slowly(self) -> Fate:
        """Slow, but it goes on: served, though it takes longer than any silence may last."""
        body = chat_body("writer")
        with self.gateway.connect(timeout_s=30) as wire:
            began = time.monotonic()
            wire.send(request_bytes("POST", PATH, [("Content-Length", str(len(body)))]))
            for start in range(0, len(body), 10):
                time.sleep(42 / (len(body) / 10))
                wire.send(body[start : start + 10])
            reply = wire.reply()
            return Fate(time.monotonic() - began, str(reply.status).encode())

    def _waits_long(self) -> Fate:
        """No limit on slowness may hit a client that waits for its answer."""
        self._backend.script(Stall(50), Answer.json(completion()))
        with self.gateway.connect(timeout_s=LONGEST_S) as wire:
            began = time.monotonic()
            wire.request("POST", PATH, body=chat_body("writer"))
            reply = wire.reply()
            return Fate(time.monotonic() - began, str(reply.status).encode())

    def _stops_reading(self) -> Fate:
        """Told by the backend's side: this one does not look at its connection any more."""
        time.sleep(1)  # after _waits_long has taken its script
        self._backend.script(Head(), Flood(event("x" * 30_000), 2000), LastChunk())
        with self.gateway.connect(receive_buffer=16_384) as wire:
            wire.request("POST", PATH, body=chat_body("writer", stream=True))
            began = time.monotonic()
            while True:
                stopped = [
                    each for each in self._backend.received if b'"stream": true' in each.body
                ]
                if stopped and stopped[0].closed_within(LONGEST_S):
                    return Fate(time.monotonic() - began, b"")
                if time.monotonic() - began > LONGEST_S:
                    raise AssertionError("never closed")
                time.sleep(0.05)
