"""A child's command line and environment, as values."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from rolemesh.builtin.flags import parse
from rolemesh.config.schema_node import LlamaServerSection, ModelSection
from rolemesh.core.devices import CPU, Device
from rolemesh.node import command
from rolemesh.node.programs import Program, find
from rolemesh.wire.llama_help import ASSUMED, Help, read_help
from tests.llama import LlamaServer, Starter, free_port
from tests.node.programs import HELP

GPU = Device("GPU-aaaa", 0, "A card", 8 * 2**30)
OTHER = Device("GPU-bbbb", 1, "Another card", 8 * 2**30)
LLAMA = LlamaServerSection(args=("--flash-attn", "on"), env={"LD_LIBRARY_PATH": "/opt/cuda"})


def model(**settings: Any) -> ModelSection:
    given = {"path": "/models/m.gguf", "roles": (), "n_gpu_layers": 20, "ctx_size": 8192}
    return ModelSection(**{"model_id": "qwen3-8b", "parallel": 2, **given, **settings})


def argv(*devices: Device, known: Help | None = None, section: ModelSection | None = None) -> str:
    program = Program(("/bin/llama-server",), read_help(HELP) if known is None else known)
    return " ".join(command.argv(program, section or model(), LLAMA, devices, 9001))


def environment(*devices: Device, **base: str) -> dict[str, str]:
    return command.environment(LLAMA, devices, "k3y", base)


def test_on_a_gpu_everything_is_said() -> None:
    assert argv(GPU) == (
        "/bin/llama-server --model /models/m.gguf --host 127.0.0.1 --port 9001 --alias qwen3-8b"
        " --ctx-size 8192 --parallel 2 --n-gpu-layers 20 --metrics --slots --no-ui --flash-attn on"
    )


def test_on_the_cpu_no_layer_goes_to_a_gpu() -> None:
    assert "--n-gpu-layers 0 --device none" in argv(CPU)


def test_a_models_own_arguments_come_last() -> None:
    section = model(args=("--flash-attn", "off"))
    assert argv(GPU, section=section).endswith("--flash-attn on --flash-attn off")


@pytest.mark.parametrize("missing", ["--alias", "--metrics", "--slots", "--parallel", "--device"])
def test_what_the_build_does_not_know_is_left_out(missing: str) -> None:
    lines = [line for line in HELP.splitlines() if missing not in line]
    assert missing not in argv(CPU, known=read_help("\n".join(lines)))


def test_a_flag_is_called_as_the_build_calls_it() -> None:
    known = read_help(HELP.replace("--ui, --webui, --no-ui, --no-webui", "--no-webui"))
    assert " --no-webui" in argv(GPU, known=known)
    known = read_help(HELP.replace("--gpu-layers, --n-gpu-layers", "--gpu-layers"))
    assert "--gpu-layers 20" in argv(GPU, known=known)


def test_a_build_that_does_not_tell_is_given_what_those_of_today_know() -> None:
    assert argv(GPU, known=ASSUMED) == (
        "/bin/llama-server --model /models/m.gguf --host 127.0.0.1 --port 9001 --alias qwen3-8b"
        " --ctx-size 8192 --parallel 2 --n-gpu-layers 20 --metrics --slots --no-webui"
        " --flash-attn on"
    )


def test_what_looks_like_a_shells_stays_one_argument() -> None:
    section = model(path="/models/a b;$(reboot).gguf", model_id="--host 0.0.0.0")
    program = Program(("/bin/llama-server",), read_help(HELP))
    line = command.argv(program, section, LLAMA, (CPU,), 9001)
    assert line[line.index("--model") + 1] == "/models/a b;$(reboot).gguf"
    assert line[line.index("--alias") + 1] == "--host 0.0.0.0"


def test_the_key_is_in_the_environment_alone() -> None:
    assert environment(GPU)["LLAMA_API_KEY"] == "k3y"
    assert "k3y" not in argv(GPU)


def test_a_child_sees_its_own_gpus_alone_counted_as_nvml_counts() -> None:
    env = environment(OTHER, GPU, CUDA_VISIBLE_DEVICES="0,1", CUDA_DEVICE_ORDER="FASTEST_FIRST")
    assert env["CUDA_VISIBLE_DEVICES"] == "GPU-bbbb,GPU-aaaa"
    assert env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def test_on_the_cpu_it_sees_no_gpu() -> None:
    assert environment(CPU)["CUDA_VISIBLE_DEVICES"] == ""


def test_what_stands_for_a_flag_or_is_the_nodes_own_is_not_inherited() -> None:
    base = {
        "LLAMA_ARG_HOST": "0.0.0.0",
        "LLAMA_ARG_MODEL": "/etc/passwd",
        "AIP_HTTP_PORT": "80",
        "LLAMA_API_KEY": "another",
        "LLAMA_SERVER_ROUTER_PORT": "1",
        "ROLE_MESH_NODE_CONFIG": "/etc/x",
        "NOTIFY_SOCKET": "/run/x",
        "WATCHDOG_USEC": "1",
        "LISTEN_FDS": "1",
        "CREDENTIALS_DIRECTORY": "/run/credentials",
    }
    env = environment(GPU, PATH="/bin", HOME="/root", **base)
    assert env == {
        "PATH": "/bin",
        "HOME": "/root",
        "LD_LIBRARY_PATH": "/opt/cuda",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": "GPU-aaaa",
        "LLAMA_API_KEY": "k3y",
    }


def test_what_is_configured_wins_over_what_is_inherited() -> None:
    assert environment(CPU, LD_LIBRARY_PATH="/usr/lib")["LD_LIBRARY_PATH"] == "/opt/cuda"


def test_the_built_in_server_takes_what_a_node_passes(llama_folder: Path) -> None:
    program = find("builtin", {})
    line = command.argv(program, model(), LLAMA, (CPU,), 9001)
    flags = parse(line[len(program.argv) :], {})
    assert (flags.model, flags.alias, flags.port) == ("/models/m.gguf", "qwen3-8b", 9001)
    assert (flags.ctx_size, flags.parallel, flags.n_gpu_layers) == (8192, 2, 0)
    assert (flags.metrics, flags.slots, flags.web_page) == (True, True, False)
    assert (flags.flash_attn, flags.device) == ("on", "none")


def test_a_child_of_this_command_line_serves(llama_server: Starter) -> None:
    section = model(path=str(llama_server.model("tiny")), model_id="tiny, and more", ctx_size=512)
    llama = LlamaServerSection(path="builtin", args=("--threads", "1", "--cache-ram", "0"))
    env = command.environment(llama, (CPU,), "k3y")
    port = free_port()
    line = command.argv(find("builtin", env), section, llama, (CPU,), port)
    log = llama_server.folder / f"command-{port}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(line, stderr=stderr, env=env)
    server = LlamaServer("tiny", port, "k3y", process, log)
    llama_server.running.append(server)
    server.wait_ready()
    assert server.get("/props")[1]["total_slots"] == 2
    assert server.get("/v1/models")[1]["data"][0]["id"] == "tiny, and more"
    assert server.get("/metrics")[0] == server.get("/slots")[0] == 200
    server.key = None
    assert server.get("/slots")[0] == 401
