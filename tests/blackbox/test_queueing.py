"""`max_in_flight`, slots, and how long a request waits for one of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, eventually
from tests.rawhttp import Reply
from tests.script import Answer, Die, Gate, Pass, Stall, completion

QUEUE_S = 0.5


@pytest.fixture(scope="module")
def one() -> Iterator[FakeBackend]:
    with FakeBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def other() -> Iterator[FakeBackend]:
    with FakeBackend() as backend:
        yield backend


@pytest.fixture(scope="module")
def config(one: FakeBackend, other: FakeBackend) -> Config:
    def both(**fields: object) -> list[dict[str, object]]:
        return [
            {"name": "one", "base_url": one.url, "max_in_flight": 1, **fields},
            {"name": "other", "base_url": other.url, "max_in_flight": 1, **fields},
        ]

    return {
        "models": {
            "patient": {"type": "proxy", "backends": both()[:1], "queue_s": 10},
            "hasty": {"type": "proxy", "backends": both()[:1], "queue_s": QUEUE_S},
            "now": {"type": "proxy", "backends": both()[:1], "queue_s": 0},
            "two": {"type": "proxy", "backends": both(), "queue_s": QUEUE_S},
            "slots": {"type": "discovered", "role": "slots", "queue_s": QUEUE_S},
        }
    }


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


@pytest.fixture(autouse=True)
def clean(one: FakeBackend, other: FakeBackend) -> None:
    for backend in (one, other):
        backend.scripts.clear()
        while not backend.none_came(0.001):
            pass


def occupy(
    gateway: GatewayProcess, alias: str, backend: FakeBackend, pool: ThreadPoolExecutor
) -> tuple[Gate, Future[Reply]]:
    """A request that takes the backend's only place until the gate is opened."""
    gate = Gate()
    backend.script(Pass(gate), Answer.json(completion("held")))
    held = pool.submit(gateway.chat, alias)
    backend.next()
    return gate, held


def test_a_request_waits_for_a_place(
    gateway: GatewayProcess, one: FakeBackend, pool: ThreadPoolExecutor
) -> None:
    gate, held = occupy(gateway, "patient", one, pool)
    waiting = pool.submit(gateway.chat, "patient")
    assert one.none_came(0.2)
    gate.open()
    assert held.result(5).status == 200
    assert waiting.result(5).status == 200


def test_who_waits_is_served_in_turn(
    gateway: GatewayProcess, one: FakeBackend, pool: ThreadPoolExecutor
) -> None:
    gate, _ = occupy(gateway, "patient", one, pool)
    for number in range(5):
        pool.submit(gateway.chat, "patient", user=str(number))
        eventually(
            lambda want=number + 2: gateway.metric("requests_in_flight", alias="patient") == want  # type: ignore[misc]
        )
    gate.open()
    assert [one.next().json()["user"] for _ in range(5)] == list("01234")


def test_never_more_than_the_limit_are_in_flight(
    gateway: GatewayProcess, one: FakeBackend, pool: ThreadPoolExecutor
) -> None:
    for _ in range(10):
        one.script(Stall(0.01), Answer.json(completion()))
    replies = [pool.submit(gateway.chat, "patient") for _ in range(10)]
    assert {reply.result(10).status for reply in replies} == {200}
    assert one.open_connections <= 2


@pytest.mark.parametrize(("alias", "waits_s"), [("hasty", QUEUE_S), ("now", 0.0)])
def test_the_wait_is_bounded(
    gateway: GatewayProcess,
    one: FakeBackend,
    pool: ThreadPoolExecutor,
    alias: str,
    waits_s: float,
) -> None:
    gate, held = occupy(gateway, alias, one, pool)
    began = time.monotonic()
    reply = gateway.chat(alias)
    assert waits_s * 0.9 <= time.monotonic() - began < waits_s + 0.7
    error = expect.error(reply, 503, "no_available_backend")
    assert reply.get("Retry-After")
    assert "at_capacity" in {entry["reason"] for entry in error["details"]}
    gate.open()
    assert held.result(5).status == 200


def test_a_full_backend_leaves_it_to_the_next(
    gateway: GatewayProcess, one: FakeBackend, other: FakeBackend, pool: ThreadPoolExecutor
) -> None:
    gate, held = occupy(gateway, "two", one, pool)
    began = time.monotonic()
    assert gateway.chat("two").status == 200
    assert time.monotonic() - began < QUEUE_S
    other.next()
    gate.open()
    held.result(5)


def test_a_place_that_comes_free_anywhere_is_taken(
    gateway: GatewayProcess, one: FakeBackend, other: FakeBackend, pool: ThreadPoolExecutor
) -> None:
    gate, held = occupy(gateway, "two", one, pool)
    second_gate, second = occupy(gateway, "two", other, pool)
    waiting = pool.submit(gateway.chat, "two")
    assert one.none_came(0.1)
    second_gate.open()
    assert waiting.result(5).status == 200
    other.next()
    gate.open()
    for reply in (held, second):
        assert reply.result(5).status == 200


def test_failures_give_their_place_back(gateway: GatewayProcess, one: FakeBackend) -> None:
    for step in (Die(), Answer.error(503), Answer.error(500), Die()):
        one.script(step)
        gateway.chat("hasty")
    assert gateway.chat("hasty").status == 200


def test_a_nodes_slots_are_its_limit(
    gateway: GatewayProcess, one: FakeBackend, pool: ThreadPoolExecutor
) -> None:
    model = {"model_id": "m", "roles": ["slots"], "slots": 1}
    node = {"node_id": "n", "base_url": one.url, "served_models": [model]}
    assert gateway.post("/v1/nodes/register", node).status == 200
    gate, held = occupy(gateway, "slots", one, pool)
    expect.error(gateway.chat("slots"), 503, "no_available_backend")
    beat = {"node_id": "n", "served_models": [{**model, "slots": 2}]}
    assert gateway.post("/v1/nodes/heartbeat", beat).status == 200
    assert gateway.chat("slots").status == 200
    gate.open()
    assert held.result(5).status == 200
