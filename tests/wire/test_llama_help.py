"""What builds of llama-server say of their flags, from the first ones on."""

from __future__ import annotations

import pytest

from rolemesh.wire.llama_help import ASSUMED, Help, read_help

TODAY = """\
ggml_cuda_init: found 1 CUDA devices:
----- common params -----

-h,    --help, --usage                  print usage and exit
--version                               show version and build info
-c,    --ctx-size N                     size of the prompt context (default: 0)
                                        (env: LLAMA_ARG_CTX_SIZE)
-fa,   --flash-attn [on|off|auto]       set Flash Attention use (default: 'auto')
-kvo,  --kv-offload, -nkvo, --no-kv-offload
                                        whether to enable KV cache offloading (default: enabled)
-ot,   --override-tensor <tensor name pattern>=<buffer type>,...
                                        override tensor buffer type
-lm,   --load-mode MODE                 model loading mode (default: auto)
                                        - auto: mmap, unless a device does not support it
                                        - none: no special loading mode
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-sm,   --split-mode {none,layer,row,tensor}
                                        how to split the model across multiple GPUs, one of:
--control-vector-layer-range START END  layer range to apply the control vector(s) to
-m,    --model FNAME                    model path to load
--temp, --temperature N                 temperature (default: 0.80)


----- example-specific params -----

--port PORT                             port to listen (default: 9931)
--ui, --webui, --no-ui, --no-webui      whether to enable the Web UI (default: enabled)
"""

OF_2023 = """\
usage: ./server [options]

options:
  -h, --help            show this help message and exit
  -c N, --ctx-size N    size of the prompt context (default: 512)
  --mlock               force system to keep model in RAM
  -m FNAME, --model FNAME
                        model path (default: models/7B/ggml-model.bin)
  --port PORT           port to listen (default  (default: 8080)
  -fa, --flash-attn     enable Flash Attention (default: disabled)
"""


@pytest.fixture(params=[TODAY, OF_2023], ids=["today", "2023"])
def either(request: pytest.FixtureRequest) -> Help:
    return read_help(request.param)


def test_names_and_values_are_read_of_any_build(either: Help) -> None:
    assert either.is_told
    for name, count in (("-h", 0), ("--help", 0), ("-c", 1), ("--ctx-size", 1), ("-m", 1)):
        assert either.values[name] == count, name
    assert either.values["--port"] == 1


def test_nothing_else_in_the_text_is_a_flag() -> None:
    assert len(read_help(TODAY).values) == 31
    assert len(read_help(OF_2023).values) == 10


def test_what_stands_for_values_is_counted() -> None:
    values = read_help(TODAY).values
    assert values["--flash-attn"] == values["--override-tensor"] == values["--split-mode"] == 1
    assert values["--control-vector-layer-range"] == 2
    assert values["--no-kv-offload"] == values["--no-webui"] == 0
    assert read_help(OF_2023).values["--flash-attn"] == 0


@pytest.mark.parametrize(
    "text", ["", "Segmentation fault\n", "--verbose  talk\n", "-m, --model F\n"]
)
def test_a_text_that_is_no_such_list_leaves_it_at_what_is_assumed(text: str) -> None:
    assert read_help(text) is ASSUMED


def test_the_first_known_name_is_found() -> None:
    help_ = read_help(TODAY)
    assert help_.first_known("--no-ui", "--no-webui") == "--no-ui"
    assert help_.first_known("--layers", "--n-gpu-layers") == "--n-gpu-layers"
    assert help_.first_known("--metrics") is None
    assert ASSUMED.first_known("--no-ui", "--no-webui") == "--no-webui"


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--flash-attn", "on"],
        ["--kv_offload", "--temp", "-1"],
        ["--control-vector-layer-range", "1", "2", "-nkvo"],
        ["--override-tensor", "--looks-like-a-flag"],
    ],
)
def test_what_the_build_takes_has_no_flaw(args: list[str]) -> None:
    assert read_help(TODAY).flaw(args) is None


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--flassh-attn", "on"], "--flassh-attn is no flag of this llama-server"),
        (["--mlock"], "--mlock is no flag of this llama-server"),
        (["--secret-s3cr3t=x"], "--secret-s3cr3t is no flag of this llama-server"),
        (["--temp=1"], "--temp takes its value as the next argument, not behind ="),
        (["--temp"], "--temp needs a value"),
        (["--control-vector-layer-range", "1"], "--control-vector-layer-range needs a value"),
        (["s3cr3t"], "there is a value where this llama-server expects a flag"),
        (
            ["--no-kv-offload", "s3cr3t"],
            "there is a value behind --no-kv-offload where this llama-server expects a flag",
        ),
    ],
)
def test_what_it_does_not_take_is_said_without_values(args: list[str], says: str) -> None:
    assert read_help(TODAY).flaw(args) == says


def test_an_older_build_is_not_given_the_value_of_a_newer_one() -> None:
    flaw = read_help(OF_2023).flaw(["--flash-attn", "on"])
    assert flaw == "there is a value behind --flash-attn where this llama-server expects a flag"


def test_nothing_is_judged_by_what_is_assumed() -> None:
    assert ASSUMED.flaw(["--anything"]) is None
