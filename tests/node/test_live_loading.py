"""When models are loaded, switched and unloaded: a real node with real children on one device."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.node_process import NodeProcess, alive, eventually, model


@pytest.fixture(scope="module")
def node(tiny: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    models = [
        model("writer", tiny, parallel=2),
        model("critic", tiny),
        model("slow", slow),
        model("fleeting", tiny, idle_unload_s=0.5),
    ]
    with NodeProcess({"models": models}, tmp_path_factory.mktemp("node")) as process:
        yield process


def loads(node: NodeProcess) -> list[str]:
    """Which models have become ready, one after the other."""
    node.request_line(node.get("/v1/models"))  # what was logged before it has been read, too
    return [line["model"] for line in node.lines if line.get("message") == "READY, was STARTING"]


def test_a_model_is_loaded_by_the_first_request_for_it(node: NodeProcess) -> None:
    assert node.state("writer") == "STOPPED"
    reply = node.chat("writer", max_tokens=4)
    assert reply.status == 200, reply
    assert reply.json()["model"] == "writer"
    child = node.child("writer")
    assert (child["state"], child["devices"], child["restarts"]) == ("READY", ["cpu"], 0)
    assert child["pid"] in node.family()
    assert 0 < node.metric("model_load_seconds", model="writer") < 20
    assert node.metric("child_state", device="cpu", model="writer", state="READY") == 1


def test_another_model_takes_the_device_and_the_first_one_is_gone(node: NodeProcess) -> None:
    old = node.load("writer")
    assert node.chat("critic", max_tokens=4).json()["model"] == "critic"
    assert node.state("writer") == "STOPPED"
    assert not alive([old["pid"]])
    assert node.metric("child_state", model="writer", state="STOPPED") == 1


def test_requests_that_wait_for_one_model_share_its_load(node: NodeProcess) -> None:
    node.load("writer")
    before = len(loads(node))
    with ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda _: node.chat("critic", max_tokens=2), range(10)))
    assert {reply.status for reply in replies} == {200}
    assert loads(node)[before:] == ["critic"]


def test_two_models_under_concurrent_requests_take_turns(node: NodeProcess) -> None:
    """Twenty clients ask again and again, for one or the other: a switch for each would be many."""
    before = len(loads(node))

    def client(number: int) -> list[tuple[int, str, str]]:
        wanted = ("writer", "critic")[number % 2]
        replies = [node.chat(wanted, max_tokens=2) for _ in range(3)]
        return [(reply.status, wanted, reply.json().get("model")) for reply in replies]

    with ThreadPoolExecutor(20) as pool:
        answers = [answer for each in pool.map(client, range(20)) for answer in each]
    assert len(answers) == 60
    assert all(status == 200 and wanted == told for status, wanted, told in answers), answers
    assert len(loads(node)) - before <= 8


def test_a_model_in_use_finishes_its_requests_first(node: NodeProcess) -> None:
    with node.open_stream("slow", max_tokens=60, ignore_eos=True) as chat:
        chat.begun()
        other = node.chat("writer", max_tokens=2)
        assert other.status == 200
        assert chat.rest().endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_does_not_stop_the_load(node: NodeProcess) -> None:
    node.load("writer")
    with node.open_stream("slow", max_tokens=2):
        eventually(lambda: node.state("slow") == "STARTING" or node.state("slow") == "READY")
    node.wait_state("slow", "READY")
    assert node.child("slow")["waiting"] == 0
    eventually(lambda: node.child("slow")["in_flight"] == 0)


def test_an_operator_loads_and_unloads(node: NodeProcess) -> None:
    pid = node.load("critic")["pid"]
    assert node.load("critic")["pid"] == pid
    node.unload("critic")
    assert node.state("critic") == "STOPPED"
    assert not alive([pid])
    node.unload("critic")
    assert node.post("/v1/node/models/nobody/load", {}).status == 404


def test_unloading_lets_requests_finish(node: NodeProcess) -> None:
    node.load("slow")
    with node.open_stream("slow", max_tokens=60, ignore_eos=True) as chat:
        chat.begun()
        with ThreadPoolExecutor(1) as pool:
            unloading = pool.submit(node.unload, "slow")
            node.wait_state("slow", "DRAINING")
            assert chat.rest().endswith(b"data: [DONE]\n\n")
            unloading.result(20)
    assert node.state("slow") == "STOPPED"


def test_requests_that_wait_survive_an_unload_during_the_load(node: NodeProcess) -> None:
    node.load("writer")
    with node.open_stream("slow", max_tokens=2) as chat:
        eventually(lambda: node.state("slow") in ("STARTING", "READY"))
        node.unload("slow")
        assert chat.rest().endswith(b"data: [DONE]\n\n")


def test_a_request_that_waits_too_long_hears_for_what(tiny: Path, tmp_path: Path) -> None:
    config = {"models": [model("writer", tiny)], "timeouts": {"queue_s": 0}}
    with NodeProcess(config, tmp_path) as node:
        reply = node.chat("writer")
        assert reply.status == 503
        error = reply.json()["error"]
        assert "not ready within 0 s" in json.dumps(error)
        node.wait_state("writer", "READY")  # nobody waits for it, and it is left to finish
        assert node.chat("writer", max_tokens=1).status == 200


def test_an_idle_model_is_unloaded_whatever_is_scraped_and_probed(node: NodeProcess) -> None:
    node.load("fleeting")

    def looked() -> bool:
        for target in ("/metrics", "/health", "/ready", "/v1/models", "/v1/models/fleeting"):
            assert node.get(target).status == 200
        return node.state("fleeting") == "STOPPED"

    eventually(looked, 10)


def test_requests_hold_off_the_unloading(node: NodeProcess) -> None:
    pid = node.load("fleeting")["pid"]
    for _ in range(30):
        assert node.chat("fleeting", max_tokens=1).status == 200
    assert node.child("fleeting")["pid"] == pid
    node.wait_state("fleeting", "STOPPED", 10)


def test_models_are_preloaded_and_a_pinned_one_stays(tiny: Path, tmp_path: Path) -> None:
    models = [model("here", tiny, preload=True, pinned=True), model("other", tiny)]
    with NodeProcess({"models": models}, tmp_path) as node:
        pid = node.wait_state("here", "READY")["pid"]
        reply = node.chat("other")
        assert reply.status == 503
        assert "pinned" in json.dumps(reply.json()["error"])
        with node.open_stream("other") as chat:
            assert chat.head.status == 503
        assert node.post("/v1/node/models/other/load", {}).status == 503
        assert node.child("here")["pid"] == pid
        node.unload("here")  # an operator's word goes further
        assert node.chat("other", max_tokens=1).status == 200


def test_a_device_is_preloaded_once(tiny: Path, tmp_path: Path) -> None:
    models = [model(name, tiny, preload=True) for name in ("first", "second")]
    with NodeProcess({"models": models}, tmp_path) as node:
        node.wait_state("first", "READY")
        assert node.state("second") == "STOPPED"
        assert node.chat("second", max_tokens=1).status == 200
