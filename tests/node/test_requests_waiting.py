"""Requests that wait, that cannot be served here, and whose client does not read."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.node.scripted import Obedient, obedient_node
from tests.node_process import NodeProcess
from tests.rawhttp import request_bytes

CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
Pair = tuple[NodeProcess, Obedient]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with obedient_node(tmp_path_factory.mktemp("node"), "a", "b", "doomed") as made:
        yield made


def test_who_leaves_waits_no_more(pair: Pair) -> None:
    node, llama = pair
    node.unload("a")
    with llama.held("a"):
        with contextlib.ExitStack() as stack:
            for stream in (False, True, False):
                wire = stack.enter_context(node.connect())
                wire.request("POST", CHAT, body=chat_body("a", stream=stream))
            eventually(lambda: node.child("a")["waiting"] == 3)
        eventually(lambda: node.child("a")["waiting"] == 0)
        assert node.state("a") == "STARTING"
    node.wait_state("a", "READY")  # the load is left to finish
    assert node.child("a")["in_flight"] == 0
    assert node.metric("cancelled_total", phase="load") == 3
    assert llama.noted("requests", "a") == []


def test_a_load_that_fails_is_a_503_for_all_who_wait(pair: Pair) -> None:
    node, llama = pair
    llama.fail("doomed")

    def ask(number: int) -> tuple[int, str | None, object]:
        reply = node.chat("doomed", stream=number % 2 == 0)
        error = reply.json()["error"]
        assert str(llama.folder) not in reply.body.decode()
        assert error["code"] == "no_available_backend"
        return reply.status, reply.get("Retry-After"), error["details"]

    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(ask, range(6)))
    said = "exit code 1: loading doomed | error: there is not enough memory"
    assert {(status, after) for status, after, _ in told} == {(503, "5")}
    assert all(said in str(details) for _, _, details in told), told
    assert node.state("doomed") == "FATAL"
    began = time.monotonic()
    assert ask(0)[0] == 503  # and in the pause that follows nobody waits
    assert time.monotonic() - began < 1
    assert node.chat("a").status == 200
    assert [each["id"] for each in node.get("/v1/models").json()["data"]] == ["a", "b"]
    llama.mend("doomed")
    assert node.load("doomed")["state"] == "READY"


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream": True, "n": 2}])
def test_a_client_that_does_not_read_holds_up_its_child_and_costs_little(
    pair: Pair, fields: dict[str, object]
) -> None:
    node, llama = pair
    left = len(llama.noted("left", "a"))
    assert node.chat("a").status == 200
    before = node.resident_bytes()
    flood = {"events": [{"choices": [], "text": "x" * 30_000}], "times": 3000}
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            wire = stack.enter_context(node.connect(receive_buffer=16_384))
            wire.send(request_bytes("POST", CHAT, body=chat_body("a", do=flood, **fields)))
            wire.head()
        time.sleep(0.5)  # in which all of it would have come
        assert node.resident_bytes() - before < 10 * 262_144 + 4_000_000
        assert node.child("a")["in_flight"] == 10
    llama.wait_noted("left", "a", left + 10)
    eventually(lambda: node.child("a")["in_flight"] == 0)


def test_a_slow_reader_gets_everything(pair: Pair) -> None:
    node, _ = pair
    flood = {"events": [{"choices": [], "text": "x" * 30_000}], "times": 200}
    with node.connect(receive_buffer=16_384) as wire:
        wire.send(request_bytes("POST", CHAT, body=chat_body("a", do=flood, stream=True)))
        head = wire.head()
        time.sleep(0.3)
        body = wire.body(head)
    assert body.count(b"\n\n") == 201
    assert body.endswith(DONE)


# Where there is another node


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GatewayProcess, Pair, Pair]]:
    """A gateway that finds two nodes for a role, and asks either."""
    models = {"writer": {"type": "discovered", "prefer_ready": False}}
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("gateway")
        gateway = stack.enter_context(GatewayProcess({"models": models}, folder))
        url = f"http://127.0.0.1:{gateway.address[1]}"
        pairs = []
        for name in ("first", "second"):
            folder = tmp_path_factory.mktemp(name)
            llama = Obedient(folder / "llama")
            config = {
                "models": [llama.model("m", roles=["writer"], parallel=4)],
                "llama_server": llama.section(),
                "gateways": [{"url": url}],
                "node": {"node_id": name},
            }
            pairs.append((stack.enter_context(NodeProcess(config, folder)), llama))
        eventually(lambda: len(states(gateway)) == 2, 10)
        yield gateway, pairs[0], pairs[1]


def states(gateway: GatewayProcess) -> dict[str, str]:
    nodes = gateway.get("/v1/nodes").json()["nodes"]
    return {node["node_id"]: node["served_models"][0]["state"] for node in nodes}


def served_by(gateway: GatewayProcess, **fields: object) -> set[str | None]:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: gateway.chat("writer", **fields), range(8)))
    assert {reply.status for reply in replies} == {200}, replies
    return {reply.get("X-RoleMesh-Node") for reply in replies}


def test_what_one_node_cannot_load_the_other_serves(
    two: tuple[GatewayProcess, Pair, Pair],
) -> None:
    gateway, (first, first_llama), _ = two
    first_llama.fail("m")
    assert served_by(gateway) == {"second"}
    assert first.metric("requests_total", status="503") >= 1
    assert served_by(gateway, stream=True) == {"second"}
    eventually(lambda: states(gateway)["first"] == "FATAL")
    first_llama.mend("m")
    first.load("m")
    eventually(lambda: states(gateway)["first"] == "READY")


def test_a_drained_node_is_passed_over(two: tuple[GatewayProcess, Pair, Pair]) -> None:
    gateway, (first, _), (second, _) = two
    assert served_by(gateway) == {"first", "second"}
    assert first.post("/v1/node/drain", {}).status == 200
    assert served_by(gateway, stream=True) == {"second"}
    assert first.post("/v1/node/resume", {}).status == 200
    eventually(lambda: states(gateway)["first"] == "READY")
    assert second.post("/v1/node/drain", {}).status == 200
    assert served_by(gateway) == {"first"}
    assert first.post("/v1/node/drain", {}).status == 200
    reply = gateway.chat("writer")
    assert reply.status == 503
    assert reply.json()["error"]["code"] in ("no_available_backend", "shutting_down")


def test_what_a_childs_end_cuts_before_a_byte_the_other_serves(
    two: tuple[GatewayProcess, Pair, Pair],
) -> None:
    gateway, (first, first_llama), (second, _) = two
    for node in (first, second):
        assert node.post("/v1/node/resume", {}).status == 200
    eventually(lambda: set(states(gateway).values()) == {"READY"})
    asked = len(first_llama.noted("requests", "m"))
    deadly = {"do": {"events": [], "then": "die"}}
    reply = gateway.chat("writer", **deadly)  # the one, and then the other
    assert reply.status == 502
    assert reply.get("X-RoleMesh-Error") is None  # the last node's own
    assert len(first_llama.noted("requests", "m")) == asked + 1
    eventually(lambda: second.child("m")["restarts"] == 1)
