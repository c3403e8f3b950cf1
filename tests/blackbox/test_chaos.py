"""Everything at once: backends that misbehave by chance, clients that leave by chance.

Nothing is asked of the single request but an answer that is well framed, or none. What counts is
what is left: no request in flight, no descriptor, no place taken, no exception in the log.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.blackbox.conftest import Config, Pair
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import Truncated
from tests.script import (
    DONE,
    Answer,
    Chunk,
    Die,
    Flood,
    Head,
    LastChunk,
    Send,
    Stall,
    Step,
    Stream,
    completion,
    event,
)

CLIENTS = 12
SECONDS = 5.0
SEED = 20_260_701

MOODS: list[list[Step]] = [
    [Answer.json(completion())],
    [Stream((event("a"), event("b")), gap_s=0.01)],
    [Answer.error(503)],
    [Answer.error(400)],
    [Die()],
    [Die(reset=True)],
    [Send(b"nonsense\r\n\r\n")],
    [Head(), Die()],
    [Head(), Chunk(event("a")), Die(reset=True)],
    [Head(), Chunk(event("a")[:9]), Stall(0.05), Die()],
    [Head(), Chunk(event("a")), Stall(1), Chunk(DONE), LastChunk()],
    [Stall(0.2), Answer.json(completion())],
    [Head(), Flood(event("x" * 10_000), 100), Chunk(DONE), LastChunk()],
    [Answer.json(completion()), Die()],
    [Send(Answer.json(completion()).data * 2)],
    [Answer.json(completion(), headers=[("Connection", "close")])],
]


@pytest.fixture(scope="module")
def config() -> Config:
    return {"timeouts": {"first_byte_s": 0.5, "idle_s": 0.5}}


def misbehave(backend: FakeBackend, chance: random.Random, over: threading.Event) -> None:
    while not over.is_set():
        if len(backend.scripts) < 5:
            backend.script(*chance.choice(MOODS))
        if chance.random() < 0.02:
            backend.drop_connections()
        time.sleep(0.002)


def ask(gateway: GatewayProcess, alias: str, chance: random.Random, over: threading.Event) -> None:
    while not over.is_set():
        with (
            gateway.connect() as wire,
            contextlib.suppress(ConnectionError, Truncated),
        ):
            for _ in range(chance.randrange(1, 6)):
                stream = chance.random() < 0.5
                wire.request("POST", "/v1/chat/completions", body=chat_body(alias, stream=stream))
                if chance.random() < 0.2:
                    time.sleep(chance.random() * 0.1)
                    (wire.reset if chance.random() < 0.5 else wire.close)()
                    break
                reply = wire.reply()
                if reply.status not in (200, 400, 502, 503, 504):
                    raise AssertionError(reply)


def test_nothing_is_left_of_it(gateway: GatewayProcess, pair: Pair) -> None:
    gateway.get("/metrics")
    descriptors = gateway.open_descriptors()
    over = threading.Event()
    failed: list[BaseException] = []

    def guarded(work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments, over)
        except BaseException as error:  # noqa: BLE001 - told by the test, not by the thread
            failed.append(error)

    threads = [
        threading.Thread(target=guarded, args=(misbehave, backend, random.Random(SEED + n)))
        for n, backend in enumerate((pair.first, pair.second))
    ]
    threads += [
        threading.Thread(target=guarded, args=(ask, gateway, pair.alias, random.Random(SEED - n)))
        for n in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    over.set()
    for thread in threads:
        thread.join(20)
    assert not failed, failed[:3]
    eventually(lambda: gateway.metric("requests_in_flight") == 0)
    assert gateway.metric("requests_total", alias=pair.alias) > 200
    for backend in (pair.first, pair.second):
        backend.scripts.clear()
    time.sleep(5)  # idle connections to the backends are dropped after 4 s
    eventually(lambda: gateway.open_descriptors() <= descriptors + 2)
    assert gateway.chat(pair.alias).status == 200
    gateway.check_log()
