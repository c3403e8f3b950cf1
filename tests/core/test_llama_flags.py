"""Which arguments and variables of a child are the node's, in every spelling."""

from __future__ import annotations

import pytest

from rolemesh.core.llama_flags import refused, refused_variable

_NODES = """
--host --port --reuse-port --api-prefix --api-key --api-key-file --ssl-key-file
--ssl-cert-file -m --model -mu --model-url -a --alias -c --ctx-size -np --parallel -ngl
--gpu-layers --n-gpu-layers -dev --device --sleep-idle-seconds -hf -hfr --hf-repo -hff
--hf-file -hft --hf-token -hfd -hfrd --hf-repo-draft --spec-draft-hf -hfv --hf-repo-v -dr
--docker-repo -mmu --mmproj-url --models-dir --models-preset --models-max --models-autoload
--no-models-autoload --path --ui --no-ui --webui --no-webui --webui-config --tools --agent
--mcp-servers-config --metrics --slots --no-slots --props --log-file --log-disable -h --help
--usage --version --list-devices -cl --cache-list --completion-bash --gpt-oss-20b-default
--fim-qwen-7b-spec --embd-gemma-default --vision-gemma-4b-default --tts-oute-default
"""

OPERATORS = [
    ["--flash-attn", "on"],
    ["-fa"],
    ["--lora", "/models/style.gguf", "--mmproj", "/models/mmproj.gguf", "-md", "/models/d.gguf"],
    ["--model-draft", "/models/d.gguf", "--spec-draft-model", "/models/d.gguf", "--spec-default"],
    ["--embeddings", "--reranking", "--pooling", "rank", "--embd-normalize", "2"],
    ["--jinja", "--chat-template", "{% for m in messages %}\n\t{{ m }}\r\n{% endfor %}"],
    ["--tensor-split", "3,1", "--main-gpu", "1", "--split-mode", "row", "-ot", r"exps=CPU"],
    ["--threads", "4", "--cache-ram", "0", "--sse-ping-interval", "5", "--n-predict", "-1"],
    ["--cache-type-k", "q8_0", "--n-cpu-moe", "12", "--kv-unified", "--no-mmap", "--mlock"],
    ["--log-verbosity", "4", "-v", "--timeout", "60", "--seed", "-1", "--chat-template", ""],
    ["--reasoning-format", "none", "--temp", "0.6", "-r", "Ü 的 🦙"],
]


@pytest.mark.parametrize("flag", _NODES.split())
def test_what_the_node_sets_is_refused_by_its_name_with_what_to_do(flag: str) -> None:
    said = refused(["--flash-attn", "on", flag, "value"])
    assert said is not None
    assert said.startswith(f"{flag} is not for args: ")


@pytest.mark.parametrize("args", OPERATORS, ids=lambda args: args[0])
def test_what_tunes_a_child_is_the_operators(args: list[str]) -> None:
    assert refused(args) is None


@pytest.mark.parametrize(
    "arg",
    ["--api_key", "--ctx_size", "--api-key=secret", "--hf_repo=a/b", "-m=/x", "--n_gpu_layers"],
)
def test_other_spellings_of_a_flag_are_the_same_flag(arg: str) -> None:
    assert refused([arg]) is not None


def test_a_refused_flag_is_named_without_its_value() -> None:
    assert "secret" not in str(refused(["--api-key=secret"]))


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("-m", "models[].path"),
        ("--alias", "models[].model_id"),
        ("-ngl", "models[].n_gpu_layers"),
        ("-c", "models[].ctx_size"),
        ("--parallel", "models[].parallel"),
        ("--device", "models[].device"),
        ("--sleep-idle-seconds", "models[].idle_unload_s"),
    ],
)
def test_the_key_that_sets_it_is_named(flag: str, key: str) -> None:
    assert f"set {key}" in str(refused([flag]))


@pytest.mark.parametrize("arg", ["a\0b", "\x1b[31m", "a\x7f", "a\x9b", "a\x08", "\ud800"])
def test_control_characters_are_refused_and_shown_escaped(arg: str) -> None:
    said = refused(["--chat-template", arg])
    assert said is not None
    assert said.isprintable()


@pytest.mark.parametrize("name", ["LLAMA_ARG_HOST", "LLAMA_ARG_MODEL", "AIP_HTTP_PORT", "AIP_MODE"])
def test_a_variable_that_stands_for_a_flag_is_refused(name: str) -> None:
    assert "args" in str(refused_variable(name))


@pytest.mark.parametrize(
    "name", ["CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "LLAMA_API_KEY", "ROLEMESH_CHILD"]
)
def test_a_variable_that_the_node_sets_is_refused(name: str) -> None:
    assert str(refused_variable(name)).startswith(f"{name} is not for env: ")


@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "GGML_CUDA_ENABLE_UNIFIED_MEMORY", "HF_HOME"])
def test_any_other_variable_is_the_operators(name: str) -> None:
    assert refused_variable(name) is None
