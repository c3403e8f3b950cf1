"""llama-server's flags, as far as RoleMesh passes them.

A flag that is not listed is refused, not ignored: a child that runs without what it was told is
harder to find than one that does not start. `--help` lists them, as for any other llama-server.
Names, defaults and the exit code of a usage error are llama-server's.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NoReturn

from attrs import field, frozen


@frozen
class Flags:
    """One server's settings. `ctx_size` 0: the model's own; None: llama.cpp's default."""

    model: str
    alias: str | None
    host: str
    port: int
    n_gpu_layers: int | None
    ctx_size: int
    parallel: int
    threads: int | None
    flash_attn: str
    cache_ram: int | None
    sse_ping_interval: int | None
    metrics: bool
    no_webui: bool
    embeddings: bool
    api_keys: tuple[str, ...] = field(default=(), repr=False)


def parse(argv: Sequence[str], env: Mapping[str, str]) -> Flags:
    """Read the command line. Exits like llama-server: 1 on bad usage, 0 after --help."""
    values = vars(_parser().parse_args(argv))
    keys = env.get("LLAMA_API_KEY", "")
    return Flags(api_keys=tuple(key for key in keys.split(",") if key), **values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}\n")  # argparse itself would exit with 2


def _parser() -> _Parser:
    parser = _Parser(
        prog="llama-server",
        description="The llama.cpp HTTP server of the xllamacpp wheel. LLAMA_API_KEY in the "
        "environment is the key it asks for (several: separated by commas).",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-m", "--model", required=True, metavar="FILE", help="the model, a GGUF file")
    add("-a", "--alias", help="the model's id in the API (default: the file's path)")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=8080, help="port to listen on (default: %(default)s)")
    add("-ngl", "--n-gpu-layers", type=_count, metavar="N", help="layers to keep on the GPU")
    add("-c", "--ctx-size", type=_count, default=0, metavar="N", help="context in tokens")
    # Several slots, but not llama.cpp's `auto`: how much memory a child takes has to be known.
    add("-np", "--parallel", type=_positive, default=1, metavar="N", help="number of slots")
    add("-t", "--threads", type=_positive, metavar="N", help="CPU threads")
    add("-fa", "--flash-attn", choices=("on", "off", "auto"), default="auto")
    # llama.cpp's default is 8 GiB of host memory for every child.
    add("-cram", "--cache-ram", type=_count, metavar="MIB", help="prompt cache in host memory")
    # How long after SIGTERM a stream in flight may hold the server: 30 s unless said otherwise.
    add("--sse-ping-interval", type=_positive, metavar="S", help="between comments in streams")
    add("--metrics", action="store_true", help="serve /metrics")
    add("--no-webui", action="store_true", help="serve no web page")
    add("--embedding", "--embeddings", dest="embeddings", action="store_true")
    return parser


def _count(text: str) -> int:
    return _within(text, 0, 2**31 - 1)


def _positive(text: str) -> int:
    return _within(text, 1, 2**31 - 1)


def _port(text: str) -> int:
    return _within(text, 1, 65535)


def _within(text: str, low: int, high: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = low - 1
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"not a whole number from {low} to {high}: {text!r}")
    return number
