"""What each key of a node's configuration takes, what it refuses, and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from rolemesh.config.compile_node import (
    base_url,
    child_timeouts,
    log_dir,
    node_id,
    node_state_path,
    offered,
)
from rolemesh.core.types import ServedModel, Timeouts
from tests.config.conftest import LoadNode, Problems

CONTRACT = """\
version: 1
node:
  node_id: gpu-box-1
  host: 127.0.0.1
  port: 8091
  advertise_url: http://10.0.0.12:8091
  api_keys: []
  heartbeat_interval_s: 10
  state_path: null
  log_dir: null
  drain_timeout_s: 30
  max_body_bytes: 33554432
  tls: null
log: {level: info, format: null}
timeouts: {connect_s: 5, first_byte_s: 600, idle_s: 300, queue_s: 600}
gateways:
  - {url: http://10.0.0.1:8000, node_key_file: node.key, ca_file: null, cert_file: null,
     cert_key_file: null}
llama_server: {path: llama-server, args: [], env: {}, load_timeout_s: 600, stop_timeout_s: 10}
gpus: all
cpu: auto
models:
  - model_id: planner-gguf
    path: /models/SomePlannerModel.Q5_K_M.gguf
    roles: [planner]
    device: auto
    n_gpu_layers: 999
    ctx_size: 8192
    parallel: 2
    args: ["--flash-attn", "on"]
    preload: true
    pinned: false
    idle_unload_s: null
    meta: {family: Qwen3, quant: Q5_K_M}
"""


def test_a_whole_configuration_loads_and_what_it_repeats_is_the_default(
    node: LoadNode, tmp_path: Path
) -> None:
    (tmp_path / "node.key").write_text("the-key\n")
    config = node(CONTRACT).config
    assert config.gateways[0].node_key == "the-key"
    (model,) = config.models
    assert (model.args, model.preload, model.parallel) == (("--flash-attn", "on"), True, 2)
    least = node("version: 1").config
    for name in ("log", "timeouts", "llama_server", "gpus", "cpu"):
        assert getattr(config, name) == getattr(least, name), name


def model(text: str = "") -> str:
    return f"models: [{{model_id: a, path: a.gguf, roles: [r], {text}}}]"


GOOD = [
    "node: {node_id: a.b_c-D1, port: 0}",
    "node: {api_keys: [abc, {name: ops, key: def}]}",
    "node: {request_id_header: X-Correlation-ID, fast_lane: false}",
    "gpus: [0, GPU-8932f937-d72c-4106-c12f-20bd9faed9f6]",
    "gpus: GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    "gpus: []",
    "gpus: none",
    "cpu: yes",
    "llama_server: {path: builtin}",
    "llama_server: {args: [--threads, 4, --jinja], env: {GGML_LOG: 1}}",
    "timeouts: {queue_s: 0}",
    model("ctx_size: 0, idle_unload_s: 0.5"),
    model("meta: {any: {thing: [1, null]}}"),
    "models: [{model_id: org/model:q5 x, path: ../a b.gguf, roles: []}]",
]


@pytest.mark.parametrize("text", GOOD)
def test_good_values_are_taken(node: LoadNode, text: str) -> None:
    assert node(text).config is not None


BAD = [
    ("node: {node_id: 'a b'}", "node.node_id"),
    (f"node: {{node_id: {'a' * 65}}}", "node.node_id"),
    ("node: {advertise_url: 10.0.0.1:8091}", "node.advertise_url"),
    ("node: {heartbeat_interval_s: 0}", "node.heartbeat_interval_s"),
    ("node: {api_keys: ['a b']}", "node.api_keys[0].key"),
    ("node: {tls: {cert_file: /dev/null}}", "node.tls"),
    ("node: {tls: {cert_file: /nowhere, key_file: /dev/null}}", "node.tls.cert_file"),
    ("timeouts: {connect_s: 0}", "timeouts.connect_s"),
    ("timeouts: {queue_s: -1}", "timeouts.queue_s"),
    ("gateways: [{node_key: x}]", "gateways[0]"),
    ("gateways: [{url: ftp://a}]", "gateways[0].url"),
    ("gateways: [{url: 'http://localhost:1', node_key_file: none}]", "gateways[0].node_key_file"),
    ("gateways: [{url: 'http://localhost:1', ca_file: none}]", "gateways[0].ca_file"),
    ("gateways: [{url: 'http://localhost:1', key: x}]", "gateways[0].key"),
    ("gateways: http://localhost:1", "gateways"),
    ("llama_server: {path: ''}", "llama_server.path"),
    ('llama_server: {path: "/a\\x1bb"}', "llama_server.path"),
    ("llama_server: {load_timeout_s: 0}", "llama_server.load_timeout_s"),
    ("llama_server: {stop_timeout_s: 0}", "llama_server.stop_timeout_s"),
    ("llama_server: {args: --jinja}", "llama_server.args"),
    ('llama_server: {args: ["a\\0b"]}', "llama_server.args[0]"),
    (f"llama_server: {{args: [{'a' * 2**17}]}}", "llama_server.args[0]"),
    ("llama_server: {env: {A-B: 1}}", "llama_server.env.A-B"),
    ("llama_server: {env: {A: [1]}}", "llama_server.env.A"),
    ("gpus: some", "gpus"),
    ("gpus: [all]", "gpus[0]"),
    ("gpus: [-1]", "gpus[0]"),
    ("gpus: {a: 1}", "gpus"),
    ("cpu: maybe", "cpu"),
    (model("device: gpu0"), "models[0].device"),
    (model("device: [cpu]"), "models[0].device[0]"),
    (model("device: 1.5"), "models[0].device"),
    (model("device: true"), "models[0].device"),
    (model("n_gpu_layers: -1"), "models[0].n_gpu_layers"),
    (model("ctx_size: -1"), "models[0].ctx_size"),
    (model("ctx_size: 8k"), "models[0].ctx_size"),
    (model("parallel: 0"), "models[0].parallel"),
    (model("idle_unload_s: 0"), "models[0].idle_unload_s"),
    (model("preload: 1"), "models[0].preload"),
    (model("meta: [a]"), "models[0].meta"),
    (model("rôles: [a]"), 'models[0]."rôles"'),
    ("models: [{model_id: a, roles: [r]}]", "models[0]"),
    ("models: [{path: a, roles: [r]}]", "models[0]"),
    ("models: [{model_id: a, path: a}]", "models[0]"),
    ("models: [{model_id: ' ', path: a, roles: [r]}]", "models[0].model_id"),
    (f"models: [{{model_id: {'a' * 257}, path: a, roles: [r]}}]", "models[0].model_id"),
    ("models: [{model_id: a, path: '', roles: [r]}]", "models[0].path"),
    ('models: [{model_id: a, path: "a\\nb", roles: [r]}]', "models[0].path"),
    ('models: [{model_id: a, path: "a\\u202eb", roles: [r]}]', "models[0].path"),
    ("models: [{model_id: a, path: a, roles: r}]", "models[0].roles"),
    (f"models: [{{model_id: a, path: a, roles: [{'a' * 129}]}}]", "models[0].roles[0]"),
    ("models: {a: {path: a}}", "models"),
]


@pytest.mark.parametrize(("text", "path"), BAD)
def test_a_bad_value_is_told_with_its_file_line_and_key(
    node_problems: Problems, text: str, path: str
) -> None:
    (problem,) = node_problems(text)
    assert problem.startswith(f"0.yaml:1: {path}: ")


@pytest.mark.parametrize(
    ("written", "device"),
    [
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("1", (1,)),
        ("'1'", (1,)),
        ("GPU-1a", ("GPU-1a",)),
        ("[0, GPU-1a]", (0, "GPU-1a")),
        ("'${DEVICE}'", (0, 1)),
        ("'${ONE}'", (1,)),
        ("null", "auto"),
    ],
)
def test_a_device_is_a_word_or_gpus(node: LoadNode, written: str, device: object) -> None:
    env = {"DEVICE": "[0, 1]", "ONE": "1"}
    assert node(model(f"device: {written}"), env=env).config.models[0].device == device


@pytest.mark.parametrize(
    ("written", "cpu"), [("auto", "auto"), ("true", True), ("no", False), ("null", "auto")]
)
def test_cpu_is_auto_or_a_truth(node: LoadNode, written: str, cpu: object) -> None:
    assert node(f"cpu: {written}").config.cpu == cpu


def test_paths_are_relative_to_their_file_but_a_bare_program_is_for_the_path(
    node: LoadNode, tmp_path: Path
) -> None:
    bare = node("llama_server: {path: llama-server}\n" + model()).config
    assert bare.llama_server.path == "llama-server"
    assert bare.models[0].path == f"{tmp_path}/a.gguf"
    with_slash = node("llama_server: {path: ./bin/llama-server}").config
    assert with_slash.llama_server.path == f"{tmp_path}/bin/llama-server"
    placed = node(model().replace("a.gguf", "$MODELS/a.gguf"), env={"MODELS": "/m"}).config
    assert placed.models[0].path == "/m/a.gguf"


def test_an_override_removes_entries_of_env_and_meta_and_replaces_lists(node: LoadNode) -> None:
    base = "llama_server: {env: {A: 1, B: 2}, args: [-t, 4]}\ngpus: [0, 1]"
    config = node(base, "llama_server: {env: {A: null, C: 3}, args: []}\ngpus: null").config
    assert config.llama_server.env == {"B": "2", "C": "3"}
    assert config.llama_server.args == ()
    assert config.gpus == "all"
    assert node(model("meta: {a: 1, b: null}")).config.models[0].meta == {"a": 1}


def test_the_check_masks_keys_and_what_the_environment_calls_a_secret(node: LoadNode) -> None:
    shown = node(
        "node: {api_keys: [first-secret, {name: ops, key: second-secret}]}\n"
        "gateways: [{url: 'http://localhost:1', node_key: third-secret}]\n"
        "llama_server: {env: {HF_TOKEN: fourth-secret, GGML_LOG: loud}}\n" + model("device: 0")
    ).render()
    assert "secret" not in shown
    assert shown.count("***") == 4
    assert "GGML_LOG: loud" in shown
    assert "    device: [0]  # " in shown
    assert "gpus: all  # default" in shown


@pytest.mark.parametrize(
    ("host_name", "expected"),
    [
        ("gpu-box-1", "gpu-box-1"),
        ("Box_1.lan", "Box_1.lan"),
        ("a b/ü", "a-b"),
        ("", "node"),
        ("é", "node"),
        ("x" * 80, "x" * 64),
    ],
)
def test_the_host_name_is_made_to_fit(node: LoadNode, host_name: str, expected: str) -> None:
    config = node("version: 1").config
    assert node_id(config, host_name) == expected
    assert node_id(node("node: {node_id: own}").config, host_name) == "own"


def test_where_state_and_logs_are_kept(node: LoadNode) -> None:
    env = {"STATE_DIRECTORY": "/s:/t", "HOME": "/h"}
    default = node("version: 1").config
    assert node_state_path(default, "box", env) == "/s/node-box.json"
    assert log_dir(default, "box", env) == "/s/node-box-logs"
    assert node_state_path(default, "box", {"HOME": "/h"}) == (
        "/h/.local/state/rolemesh/node-box.json"
    )
    placed = node("node: {state_path: /x/y.json}").config
    assert node_state_path(placed, "box", env) == "/x/y.json"
    assert log_dir(placed, "box", env) == "/x/y-logs"
    assert log_dir(node("node: {log_dir: /l}").config, "box", env) == "/l"


def test_how_gateways_reach_the_node(node: LoadNode, tmp_path: Path) -> None:
    def url(text: str) -> str:
        return str(base_url(node(text).config.node, 8091))

    assert url("node: {host: 10.0.0.2}") == "http://10.0.0.2:8091"
    assert url("node: {host: 'fd00::1'}") == "http://[fd00::1]:8091"
    assert url("node: {host: 0.0.0.0, advertise_url: 'https://a.lan/n1/v1'}") == "https://a.lan/n1"
    tls = "tls: {cert_file: /dev/null, key_file: /dev/null}"
    assert url(f"node: {{host: 10.0.0.2, {tls}}}") == "https://10.0.0.2:8091"


def test_what_gateways_are_told_of_models(node: LoadNode) -> None:
    config = node(model("meta: {quant: Q5}") + "\ntimeouts: {idle_s: 1}").config
    assert offered(config) == (ServedModel("a", ("r",), {"quant": "Q5"}),)
    assert child_timeouts(config.timeouts) == Timeouts(5, 600, 1)
