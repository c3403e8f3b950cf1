"""SIGHUP: what has not changed runs on, with its streams; what has changed goes when it is done."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node_process import BUILTIN, NodeProcess, alive, eventually, model


@pytest.fixture(scope="module")
def process(slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    models = [model("slow", slow, parallel=2, preload=True)]
    with NodeProcess({"models": models}, tmp_path_factory.mktemp("node")) as process:
        yield process


@pytest.fixture
def node(process: NodeProcess, slow: Path) -> NodeProcess:
    """With a model that a stream can be in the middle of."""
    reload(process, [model("slow", slow, parallel=2, preload=True)])
    process.load("slow")
    return process


def reload(node: NodeProcess, models: list[dict[str, Any]], **config: Any) -> None:
    node.configure({"models": models, **config})
    hang_up(node, "success")


def hang_up(node: NodeProcess, result: str) -> None:
    before = node.metric("config_reloads_total", result=result)
    node.signal(signal.SIGHUP)
    eventually(lambda: node.metric("config_reloads_total", result=result) == before + 1, 10)


def test_what_has_not_changed_keeps_its_process_and_its_streams(
    node: NodeProcess, slow: Path, tiny: Path
) -> None:
    pid = node.child("slow")["pid"]
    with node.open_stream("slow", max_tokens=60, ignore_eos=True) as chat:
        chat.begun()
        # Nothing of this is on its command line.
        same = model("slow", slow, parallel=2, preload=True, roles=["critic"], idle_unload_s=600)
        reload(node, [same, model("new", tiny)], timeouts={"idle_s": 100})
        assert chat.rest().endswith(b"data: [DONE]\n\n")
    child = node.child("slow")
    assert (child["pid"], child["state"], child["roles"]) == (pid, "READY", ["critic"])
    assert node.chat("new", max_tokens=1).status == 200


def test_what_has_changed_finishes_its_requests_and_starts_anew(
    node: NodeProcess, slow: Path
) -> None:
    pid = node.child("slow")["pid"]
    with node.open_stream("slow", max_tokens=60, ignore_eos=True) as chat:
        chat.begun()
        reload(node, [model("slow", slow, parallel=3, preload=True)])
        assert node.state("slow") == "DRAINING"
        with node.open_stream("slow", max_tokens=2) as later:  # it gets the new one
            assert chat.rest().endswith(b"data: [DONE]\n\n")
            assert later.rest().endswith(b"data: [DONE]\n\n")
    child = node.child("slow")
    assert child["slots"] == 3
    assert child["pid"] != pid
    assert child["restarts"] == 0


def test_another_program_is_another_child(node: NodeProcess, slow: Path) -> None:
    pid = node.child("slow")["pid"]
    same = model("slow", slow, parallel=2, preload=True)
    reload(node, [same], llama_server={**BUILTIN, "env": {"SOME": "thing"}})
    eventually(lambda: not alive([pid]))
    assert node.wait_state("slow", "READY")["pid"] != pid


def test_what_is_gone_from_the_configuration_ends_when_its_requests_have(
    node: NodeProcess, tiny: Path
) -> None:
    pid = node.child("slow")["pid"]
    with node.open_stream("slow", max_tokens=60, ignore_eos=True) as chat:
        chat.begun()
        reload(node, [model("other", tiny)])
        assert node.chat("slow").status == 404
        with node.open_stream("other", max_tokens=1) as waiting:  # for the device
            assert alive([pid])
            assert chat.rest().endswith(b"data: [DONE]\n\n")
            assert waiting.rest().endswith(b"data: [DONE]\n\n")
    assert not alive([pid])
    assert [child["model"] for child in node.view()["children"]] == ["other"]


def test_requests_that_wait_for_a_model_that_goes_hear_it(
    node: NodeProcess, slow: Path, tiny: Path
) -> None:
    keeps = model("slow", slow, parallel=2, preload=True)
    reload(node, [keeps, model("other", tiny)])
    with (
        node.open_stream("slow", max_tokens=60, ignore_eos=True) as chat,
        node.open_stream("other") as waiting,
    ):
        chat.begun()
        eventually(lambda: node.child("other")["waiting"] == 1)
        reload(node, [keeps])
        assert waiting.head.status == 503
        assert b"not configured any more" in waiting.rest()
        assert chat.rest().endswith(b"data: [DONE]\n\n")
    assert node.state("slow") == "READY"


def test_a_bad_file_changes_nothing(node: NodeProcess) -> None:
    before = node.child("slow")
    for text in ("models: [", "node: {port: no}", "models: [{model_id: a}]"):
        node.write_config(text)
        hang_up(node, "failure")
    after = node.child("slow")
    assert (after["pid"], after["state"]) == (before["pid"], "READY")
    assert node.chat("slow", max_tokens=1).status == 200
    assert node.get("/ready").json()["last_reload"]["result"] == "failure"


def test_a_model_that_could_not_work_may_be_tried_when_its_entry_changes(
    node: NodeProcess, slow: Path, tiny: Path
) -> None:
    keeps = model("slow", slow, parallel=2, preload=True)
    reload(node, [keeps, model("lost", tiny.with_name("lost.gguf"))])
    reply = node.chat("lost")
    assert reply.status == 503
    assert "does not exist" in json.dumps(reply.json())
    reload(node, [keeps, model("lost", tiny)])
    assert node.chat("lost", max_tokens=1).status == 200
