"""max_in_flight and slots, counted where it matters: in the slots of a real llama.cpp."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.blackbox import expect
from tests.gateway_process import GatewayProcess, eventually
from tests.llama import LlamaServer, Starter, until
from tests.real.conftest import StartGateway, streaming


def limited(*servers: LlamaServer, most: int = 1, **fields: Any) -> dict[str, Any]:
    names = ("first", "second")
    backends = [
        {"name": name, "base_url": server.url, "max_in_flight": most}
        for name, server in zip(names, servers, strict=False)
    ]
    return {"type": "proxy", "backends": backends, **fields}


@contextlib.contextmanager
def most_busy(server: LlamaServer) -> Iterator[list[int]]:
    """The numbers of busy slots that were seen meanwhile."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(server.busy_slots())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def waiting(gateway: GatewayProcess, alias: str, number: int) -> None:
    eventually(lambda: gateway.metric("requests_in_flight", alias=alias) == number)


def test_no_more_requests_than_allowed_reach_the_server_and_all_are_answered(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    server = llama_server(model="slow", parallel=2)
    gateway = start_gateway({"writer": limited(server, most=1)})
    with most_busy(server) as seen, ThreadPoolExecutor(4) as pool:
        replies = list(
            pool.map(lambda n: gateway.chat("writer", stream=n > 1, max_tokens=8), range(4))
        )
    assert {reply.status for reply in replies} == {200}
    assert max(seen) == 1


def test_what_finds_the_first_server_full_goes_to_the_second(
    start_gateway: StartGateway, slow_llama: LlamaServer, llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": limited(slow_llama, llama)})
    with streaming(gateway, "writer") as stream:
        assert stream.head.get("X-RoleMesh-Backend") == "first"
        reply = gateway.chat("writer", max_tokens=2)
        assert (reply.status, reply.get("X-RoleMesh-Backend")) == (200, "second")
    until(lambda: slow_llama.busy_slots() == 0, "the slot is free")
    eventually(lambda: gateway.chat("writer", max_tokens=1).get("X-RoleMesh-Backend") == "first")


def test_who_waits_too_long_is_told_to_come_back(
    start_gateway: StartGateway, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": limited(slow_llama, queue_s=0.3)})
    with streaming(gateway, "writer"):
        reply = gateway.chat("writer", max_tokens=2)
    told = expect.error(reply, 503, "no_available_backend")
    assert int(reply.get("Retry-After") or 0) > 0
    assert [(each["backend"], each["reason"]) for each in told["details"]] == [
        ("writer/first", "at_capacity")
    ]
    assert gateway.request_line(reply)["duration_s"] < 2


def test_a_node_gets_no_more_than_the_slots_it_told(
    start_gateway: StartGateway, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": {"type": "discovered", "queue_s": 0.3}})
    served = {"model_id": "slow", "roles": ["writer"], "slots": 1}
    body = {"node_id": "box", "base_url": slow_llama.url, "served_models": [served]}
    assert gateway.post("/v1/nodes/register", body).status == 200
    with streaming(gateway, "writer"):
        expect.error(gateway.chat("writer"), 503, "no_available_backend")
        served["slots"] = 2
        assert gateway.post("/v1/nodes/register", body).status == 200
        assert gateway.chat("writer", max_tokens=2).status == 200


def test_who_waits_is_served_when_another_node_comes(
    start_gateway: StartGateway, slow_llama: LlamaServer, llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": {"type": "discovered", "queue_s": 20}})

    def register(node: str, server: LlamaServer) -> None:
        served = [{"model_id": server.alias, "roles": ["writer"], "slots": 1}]
        body = {"node_id": node, "base_url": server.url, "served_models": served}
        assert gateway.post("/v1/nodes/register", body).status == 200

    register("box-1", slow_llama)
    with ThreadPoolExecutor(1) as pool, streaming(gateway, "writer"):
        answer = pool.submit(gateway.chat, "writer", max_tokens=2)
        waiting(gateway, "writer", 2)
        register("box-2", llama)
        reply = answer.result(5)
    assert (reply.status, reply.get("X-RoleMesh-Node")) == (200, "box-2")
    assert reply.get("X-RoleMesh-Model") == "tiny"
