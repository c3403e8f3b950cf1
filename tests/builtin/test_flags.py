"""llama-server's flags: those a node and its operator pass are taken, any other is refused."""

from __future__ import annotations

import attrs
import pytest

from rolemesh.builtin.flags import Flags, UsageError, listing, parse


def read(*argv: str, key: str = "") -> Flags:
    return parse(["--model", "m.gguf", *argv], {"LLAMA_API_KEY": key, "LLAMA_ARG_PORT": "1"})


def test_what_a_node_passes_is_read() -> None:
    flags = read(
        *("--host", "127.0.0.2", "--port", "9000", "--alias", "qwen3-8b", "-ngl", "0"),
        *("--ctx-size", "8192", "--parallel", "2", "--device", "none"),
        *("--metrics", "--slots", "--no-webui"),
    )
    assert flags == Flags(
        model="m.gguf",
        alias="qwen3-8b",
        host="127.0.0.2",
        port=9000,
        n_gpu_layers=0,
        device="none",
        ctx_size=8192,
        parallel=2,
        metrics=True,
        slots=True,
        web_page=False,
    )


def test_what_an_operator_may_add_is_read() -> None:
    flags = read(
        *("--threads", "3", "--threads-batch", "4", "--batch-size", "64", "--ubatch-size", "32"),
        *("--flash-attn", "on", "--cache-ram", "0", "--sse-ping-interval", "1", "--predict", "-1"),
        *("--seed", "7", "--temp", "0.5", "--embeddings", "--reranking", "--pooling", "rank"),
        *("--no-jinja", "--chat-template", "chatml", "--no-warmup", "--verbosity", "1"),
    )
    assert flags == Flags(
        model="m.gguf",
        threads=3,
        threads_batch=4,
        batch_size=64,
        ubatch_size=32,
        flash_attn="on",
        cache_ram=0,
        sse_ping_interval=1,
        predict=-1,
        seed=7,
        temp=0.5,
        embeddings=True,
        reranking=True,
        pooling="rank",
        jinja=False,
        chat_template="chatml",
        warmup=False,
        verbosity=1,
    )


def test_without_a_host_only_loopback_is_listened_on() -> None:
    assert read().host == "127.0.0.1"


def test_the_last_one_wins() -> None:
    assert read("--threads", "1", "-t", "2").threads == 2
    assert read("--jinja", "--no-jinja", "--jinja").jinja


def test_underlines_in_a_long_flag_are_dashes() -> None:
    assert read("--ctx_size", "64").ctx_size == 64


def test_a_value_is_the_next_argument_whatever_it_looks_like() -> None:
    assert read("--alias", "--help").alias == "--help"
    assert read("--chat-template", "").chat_template == ""


def test_keys_come_from_the_environment_and_are_not_shown() -> None:
    flags = read(key="first,second,")
    assert flags.api_keys == ("first", "second")
    assert "first" not in repr(flags)


def test_variables_that_stand_for_flags_are_not_read() -> None:
    assert read().port == 8080


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
        ["--ctx-size=64"],
        ["--flash-attn", "maybe"],
        ["--device", "CUDA0"],
        ["--pooling", "most"],
        ["--temp", "-1"],
        ["--temp", "nan"],
        ["--seed", "4294967296"],
        ["--alias"],
        ["stray"],
        [""],
    ],
)
def test_anything_else_is_refused(argv: list[str]) -> None:
    with pytest.raises(UsageError):
        read(*argv)


def test_a_bad_value_is_said_with_its_flag() -> None:
    with pytest.raises(UsageError, match=r"^--port: not a whole number from 1 to 65535: 'x'$"):
        read("--port", "x")


def test_a_model_is_needed_but_for_help() -> None:
    with pytest.raises(UsageError, match="--model"):
        parse([], {})
    assert parse(["-h"], {}).help


def test_the_list_has_every_flag_in_the_form_of_llama_server() -> None:
    lines = listing().splitlines()
    assert "-c,    --ctx-size N                     context in tokens" in listing()
    assert all(line.startswith("-") for line in lines)
    assert len(lines) == len([each for each in attrs.fields(Flags) if "flag" in each.metadata])
