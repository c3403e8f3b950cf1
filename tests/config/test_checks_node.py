"""The rules between a node's keys: each is broken once, and told by its place."""

from __future__ import annotations

import pytest

from tests.config.conftest import LoadNode, Problems

REMOTE = "gateways: [{url: 'http://10.0.0.1:8000', node_key: k}]"
LOCAL = "gateways: [{url: 'http://localhost:8000'}]"


def models(*entries: str) -> str:
    lines = "".join(f"  - {{path: a.gguf, roles: [r], {entry}}}\n" for entry in entries)
    return f"models:\n{lines}"


BAD = [
    (f"node: {{host: 0.0.0.0}}\n{LOCAL}", "node.advertise_url", "is needed: node.host stands for"),
    (f"node: {{host: '::'}}\n{REMOTE}", "node.advertise_url", "is needed: node.host stands for"),
    (REMOTE, "node.advertise_url", "is needed: a gateway on another machine cannot reach"),
    (
        f"node: {{advertise_url: 'http://0.0.0.0:1'}}\n{REMOTE}",
        "node.advertise_url",
        "is no address",
    ),
    ("node: {api_keys: [a, a]}", "node.api_keys[1]", "is the same key as [0]"),
    ("node: {host: 10.0.0.2, api_keys: [change-me]}", "node.api_keys[0]", "is the sample key"),
    ("node: {api_keys: [{name: x}]}", "node.api_keys[0]", "needs exactly one of key, key_file"),
    (
        "gateways: [{url: 'http://localhost:8000'}, {url: 'http://localhost:8000/v1'}]",
        "gateways[1].url",
        "is that of another gateway in this list",
    ),
    ("gateways: [{url: 'http://127.0.0.1:8091'}]", "gateways[0].url", "is this node itself"),
    ("gateways: [{url: 'http://localhost:8091'}]", "gateways[0].url", "is this node itself"),
    (
        "gateways: [{url: 'https://localhost:1', cert_key_file: /dev/null}]",
        "gateways[0].cert_key_file",
        "needs cert_file",
    ),
    ("llama_server: {args: [--jinja, --host, x]}", "llama_server.args[1]", "--host is not for"),
    ("llama_server: {args: ['--api_key=x']}", "llama_server.args[0]", "--api-key is not for args"),
    (
        "llama_server: {env: {LLAMA_ARG_HOST: x}}",
        "llama_server.env.LLAMA_ARG_HOST",
        "LLAMA_ARG_HOST stands for a flag",
    ),
    (
        "llama_server: {env: {CUDA_VISIBLE_DEVICES: 0}}",
        "llama_server.env.CUDA_VISIBLE_DEVICES",
        "CUDA_VISIBLE_DEVICES is not for env",
    ),
    ("gpus: [0, 1, 0]", "gpus[2]", "is listed twice"),
    ("gpus: none\ncpu: false", "cpu", "leaves the node without any device"),
    ("gpus: []\ncpu: false", "cpu", "leaves the node without any device"),
]


@pytest.mark.parametrize(("text", "path", "says"), BAD)
def test_a_broken_rule_is_told_with_its_place(
    node_problems: Problems, text: str, path: str, says: str
) -> None:
    (problem,) = node_problems(text)
    place, _, message = problem.partition(f": {path}: ")
    assert place.startswith("0.yaml:")
    assert message.startswith(says)


BAD_MODELS = [
    (models("model_id: a", "model_id: a"), "models[1].model_id", "is that of another model"),
    (models("model_id: a, args: [-m, b]"), "models[0].args[0]", "-m is not for args: set"),
    (
        models("model_id: a, pinned: true, idle_unload_s: 5"),
        "models[0].idle_unload_s",
        "stands beside pinned",
    ),
    (models("model_id: a, device: []"), "models[0].device", "is an empty list"),
    (models("model_id: a, device: [0, 0]"), "models[0].device[1]", "is listed twice"),
    (
        models("model_id: a, pinned: true, device: 0", "model_id: b, device: [1, 0]"),
        "models[1].device",
        "is shared with a: a is pinned, and never makes room",
    ),
    (
        models("model_id: a, device: cpu", "model_id: b, device: cpu, pinned: true"),
        "models[1].device",
        "is shared with a: b is pinned, and never makes room",
    ),
    (
        "gpus: [1]\n" + models("model_id: a, device: 0"),
        "models[0].device",
        "is not among the node's: gpus does not list 0",
    ),
    (
        "gpus: none\n" + models("model_id: a, device: GPU-1"),
        "models[0].device",
        "is not among the node's: gpus does not list GPU-1",
    ),
    (
        "cpu: false\n" + models("model_id: a, device: cpu"),
        "models[0].device",
        "is not among the node's: cpu is false",
    ),
    (
        models("model_id: a, meta: {x: " + "y" * 20_000 + "}"),
        "models[0].meta",
        "is too much: a node has 16384 bytes",
    ),
    (
        models(*(f"model_id: m{n}, meta: {{x: {'y' * 6_000}}}" for n in range(3))),
        "models[2].meta",
        "is too much: a node has 16384 bytes",
    ),
    (
        models("model_id: a, meta: {x: " + "[" * 17 + "]" * 17 + "}"),
        "models[0].meta",
        "must not be nested deeper than 16",
    ),
    (models(*(f"model_id: m{n}" for n in range(257))), "models", "are too many"),
]


@pytest.mark.parametrize(("text", "path", "says"), BAD_MODELS)
def test_a_broken_rule_of_models_is_told_with_its_place(
    node_problems: Problems, text: str, path: str, says: str
) -> None:
    (problem,) = node_problems(text)
    assert problem.partition(f": {path}: ")[2].startswith(says)


def test_too_many_roles_are_a_problem_here_and_not_at_the_gateway(
    node_problems: Problems,
) -> None:
    roles = ", ".join(f"r{number}" for number in range(65))
    (problem,) = node_problems(f"models: [{{model_id: a, path: a, roles: [{roles}]}}]")
    assert problem == "0.yaml:1: models[0].roles: must not have more than 64 entries"


def test_every_problem_is_listed_with_its_own_line(node_problems: Problems) -> None:
    text = f"node: {{host: 0.0.0.0}}\n{REMOTE}\nllama_server: {{args: [--port, 1]}}\n" + models(
        "model_id: a, device: 0, pinned: true", "model_id: a, device: 0", "nonsense: 1"
    )
    assert [problem.split(": ")[0] for problem in node_problems(text)] == [
        *("0.yaml:1", "0.yaml:3", "0.yaml:6", "0.yaml:6", "0.yaml:7", "0.yaml:7")
    ]


def test_a_problem_after_an_entry_that_was_lost_has_its_own_place(
    node_problems: Problems,
) -> None:
    text = models("model_id: ' '", "model_id: a, args: [--port, 1]")
    assert [problem.split(": ")[1] for problem in node_problems(text)] == [
        *("models[0].model_id", "models[1].args[0]")
    ]


GOOD = [
    f"node: {{advertise_url: 'http://10.0.0.2:8091'}}\n{REMOTE}",
    f"node: {{host: 10.0.0.2}}\n{REMOTE}",
    f"node: {{host: box.lan}}\n{REMOTE}",
    LOCAL,
    "node: {host: 0.0.0.0}",
    "node: {api_keys: [change-me]}",
    "gateways: [{url: 'http://10.0.0.1:1'}, {url: 'http://10.0.0.2:1'}]\nnode: {host: 10.0.0.3}",
    "gpus: [GPU-1]\n" + models("model_id: a, device: 0"),
    models("model_id: a, pinned: true, device: 0", "model_id: b, pinned: true, device: 1"),
    models("model_id: a, pinned: true", "model_id: b, device: 0"),
    models("model_id: a, device: 0", "model_id: b, device: 0"),
    models("model_id: a, args: [--threads, 4, --lora, x.gguf]"),
]


@pytest.mark.parametrize("text", GOOD)
def test_what_breaks_no_rule_is_taken(node: LoadNode, text: str) -> None:
    assert node(text).config is not None


def test_bytes_of_the_environment_that_are_no_text_are_a_problem(node_problems: Problems) -> None:
    text = models("model_id: a, meta: {x: '${ODD}'}")
    (problem,) = node_problems(text, env={"ODD": "\udcff"})
    assert problem == "0.yaml:2: models[0]: has a text that is not UTF-8"
