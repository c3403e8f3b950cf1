"""What a node reads of its devices, as operators of its gateways see it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.gateway_process import GatewayProcess, eventually
from tests.mesh.conftest import ROLE, Mesh, told_of, url_of, wait_told
from tests.node.nvml import Stub, nvml_library, stub
from tests.node_process import model

__all__ = ["nvml_library", "stub"]  # fixtures


def status(gateway: GatewayProcess, *options: str) -> str:
    argv = [sys.executable, "-m", "rolemesh", "status", "--gateway", url_of(gateway), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def test_figures_of_devices_arrive_at_the_gateway(mesh: Mesh, tiny: Path, stub: Stub) -> None:
    stub.say(used0=6144, util0=42, temp0=61, power0=180_500, power1="!3")
    gateway = mesh.gateway()
    served = [model("m", tiny, roles=[ROLE], device="cpu", parallel=2, preload=True)]
    mesh.node("box", gateway, models=served, env=stub.env, gpus="all", cpu=True)
    wait_told(gateway, "box", m="READY")
    eventually(lambda: len(told_of(gateway, "box")["devices"]) == 3, 10)
    first, second, cpu = told_of(gateway, "box")["devices"]
    gpus = [each["id"] for each in (first, second)]
    assert first == {
        "id": gpus[0], "name": "NVIDIA Stub 24GB",
        "memory_used_bytes": 6 * 2**30, "memory_total_bytes": 24 * 2**30,
        "utilization_ratio": 0.42, "temperature_celsius": 61, "power_watts": 180.5,
    }  # fmt: skip
    assert "power_watts" not in second
    assert cpu == {"id": "cpu", "name": "CPU"}
    used = [
        gateway.metric("node_gpu_memory_used_bytes", node="box", gpu=gpu) / 2**30 for gpu in gpus
    ]
    assert used == [6, 2]
    assert gateway.metric("node_gpu_power_watts") == 180.5
    stub.say(temp0=70)
    eventually(lambda: gateway.metric("node_gpu_temperature_celsius", gpu=gpus[0]) == 70, 10)
    tables = status(gateway)
    assert re.search(r"m +box +critic +READY +0 of 2 +1024\n", tables), tables
    row = r" +box +NVIDIA Stub 24GB +6.0 GiB +24.0 GiB +42 % +70 C +180 W\n"
    assert re.search(gpus[0] + row, tables), tables
    told = json.loads(status(gateway, "--json"))
    assert told["nodes"]["nodes"][0]["served_models"][0]["state"] == "READY"
