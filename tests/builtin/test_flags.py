"""llama-server's flags: those RoleMesh passes are taken, any other is refused."""

from __future__ import annotations

import pytest

from rolemesh.builtin.flags import Flags, parse


def read(*argv: str, key: str = "") -> Flags:
    return parse(["--model", "m.gguf", *argv], {"LLAMA_API_KEY": key})


def test_what_a_node_passes_is_read() -> None:
    flags = read(
        *("--host", "127.0.0.2", "--port", "9000", "--alias", "qwen3-8b", "-ngl", "999"),
        *("-c", "8192", "--parallel", "2", "--metrics", "--no-webui", "--embeddings"),
        *("--cache-ram", "0", "--sse-ping-interval", "1", "--flash-attn", "on", "--threads", "3"),
    )
    assert flags == Flags(
        model="m.gguf",
        alias="qwen3-8b",
        host="127.0.0.2",
        port=9000,
        n_gpu_layers=999,
        ctx_size=8192,
        parallel=2,
        threads=3,
        flash_attn="on",
        cache_ram=0,
        sse_ping_interval=1,
        metrics=True,
        no_webui=True,
        embeddings=True,
    )


def test_without_a_host_only_loopback_is_listened_on() -> None:
    assert read().host == "127.0.0.1"


def test_keys_come_from_the_environment_and_are_not_shown() -> None:
    flags = read(key="first,second,")
    assert flags.api_keys == ("first", "second")
    assert "first" not in repr(flags)


@pytest.mark.parametrize(
    "argv",
    [
        ["--mlock"],
        ["--api-key", "secret"],  # would be visible in `ps`
        ["--metric"],  # no abbreviations: llama-server has none
        ["--port", "0"],
        ["--port", "65536"],
        ["--parallel", "0"],
        ["--parallel", "auto"],
        ["--ctx-size", "-1"],
        ["--flash-attn", "maybe"],
        ["--alias"],
        ["stray"],
    ],
)
def test_anything_else_is_refused_with_the_exit_code_of_llama_server(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        read(*argv)
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_model_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([], {})
    assert "--model" in capsys.readouterr().err


def test_help_lists_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], {})
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--model", "--n-gpu-layers", "--ctx-size", "--flash-attn", "--cache-ram"):
        assert flag in shown
