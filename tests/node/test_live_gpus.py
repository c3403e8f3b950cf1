"""A node with two GPUs that a stub library tells of, and a llama-server that needs none."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.node.nvml import Stub, nvml_library
from tests.node.scripted import Obedient
from tests.node_process import NodeProcess

__all__ = ["nvml_library"]  # a fixture

FIRST, SECOND = (f"GPU-00000000-0000-0000-0000-00000000000{number}" for number in (0, 1))


@pytest.fixture(scope="module")
def stub(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Stub:
    return Stub(nvml_library, tmp_path_factory.mktemp("nvml") / "says")


@pytest.fixture(scope="module")
def node(stub: Stub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    folder = tmp_path_factory.mktemp("node")
    llama = Obedient(folder / "llama")
    models = [
        llama.model("first", device=0),
        llama.model("second", device=SECOND),
        llama.model("both", device=[1, 0]),
        llama.model("any"),
        llama.model("any-other"),
        llama.model("on-cpu", device="cpu", n_gpu_layers=5),
    ]
    env = {
        **stub.env, "CUDA_VISIBLE_DEVICES": "7", "LLAMA_ARG_MODEL": "/other", "LLAMA_API_KEY": "x",
    }  # fmt: skip
    config = {"llama_server": llama.section(), "models": models, "gpus": "all", "cpu": True}
    with NodeProcess(config, folder, env=env) as process:
        yield process


def environment(pid: int) -> dict[str, str]:
    """Of a process, as it was started."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def seen(child: dict[str, Any]) -> str:
    """The GPUs that a child has."""
    return environment(child["pid"])["CUDA_VISIBLE_DEVICES"]


def test_the_gpus_are_shown_with_their_figures(node: NodeProcess) -> None:
    devices = node.view()["devices"]
    assert [(each["id"], each["index"]) for each in devices] == [
        (FIRST, 0), (SECOND, 1), ("cpu", None),
    ]  # fmt: skip
    assert devices[0]["memory_total_bytes"] == 24 * 2**30
    assert node.metric("gpu_memory_used_bytes", gpu="1") == 2 * 2**30


def test_a_child_sees_its_own_gpu_by_uuid_and_in_pci_order(node: NodeProcess) -> None:
    child = node.load("second")
    env = environment(child["pid"])
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == (SECOND, "PCI_BUS_ID")
    assert child["devices"] == [SECOND]
    assert "LLAMA_ARG_MODEL" not in env
    assert len(env["LLAMA_API_KEY"]) >= 24
    command = Path(f"/proc/{child['pid']}/cmdline").read_bytes().decode()
    assert env["LLAMA_API_KEY"] not in command
    assert seen(node.load("first")) == FIRST
    assert environment(node.child("first")["pid"])["LLAMA_API_KEY"] != env["LLAMA_API_KEY"]
    assert node.state("second") == "READY"  # each has a device of its own
    assert node.metric("child_state", device="0", model="first", state="READY") == 1


def test_a_list_of_gpus_is_one_child_that_holds_them_all(node: NodeProcess) -> None:
    node.load("first")
    node.load("second")
    child = node.load("both")
    assert seen(child) == f"{SECOND},{FIRST}"
    assert sorted(child["devices"]) == [FIRST, SECOND]
    assert {node.state("first"), node.state("second")} == {"STOPPED"}
    assert [each["model"] for each in node.view()["devices"][:2]] == ["both", "both"]
    node.load("first")
    assert node.state("both") == "STOPPED"


def test_auto_takes_the_gpus_and_not_the_cpu(node: NodeProcess) -> None:
    for model_id in ("both", "first", "second"):
        node.unload(model_id)
    with ThreadPoolExecutor(2) as pool:
        children = list(pool.map(node.load, ["any", "any-other"]))
    assert {seen(child) for child in children} == {FIRST, SECOND}


def test_a_model_on_the_cpu_sees_no_gpu(node: NodeProcess) -> None:
    child = node.load("on-cpu")
    assert seen(child) == ""
    command = Path(f"/proc/{child['pid']}/cmdline").read_bytes().decode().split("\0")
    assert command[command.index("--n-gpu-layers") + 1] == "0"


def test_nvml_that_hangs_delays_nothing_but_its_own_figures(node: NodeProcess, stub: Stub) -> None:
    for model_id in ("any", "any-other", "both", "second"):
        node.unload(model_id)
    assert node.load("first")["state"] == "READY"
    stub.say(hang=1)
    try:
        for _ in range(20):
            assert node.chat("first").status == 200
            assert node.child("first")["state"] == "READY"
            assert node.get("/metrics").status == 200
        assert node.load("second")["state"] == "READY"
    finally:
        stub.say(hang=None)


def test_a_node_uses_the_gpus_that_are_chosen(stub: Stub, tmp_path: Path) -> None:
    llama = Obedient(tmp_path / "llama")
    models = [llama.model("any"), llama.model("other")]
    config = {"llama_server": llama.section(), "models": models, "gpus": [SECOND]}
    with NodeProcess(config, tmp_path, env=stub.env) as node:
        assert [each["id"] for each in node.view()["devices"]] == [SECOND]
        assert seen(node.load("any")) == SECOND
        assert seen(node.load("other")) == SECOND
        assert node.state("any") == "STOPPED"
