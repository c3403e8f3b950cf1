"""llama-server's flags, as far as this one has them: read, and listed as it lists its own.

A flag that is not here is refused, not ignored: a child that runs without what it was told is
harder to find than one that does not start. Names, defaults, the form of `--help` and the way of
reading are llama-server's: a value is the next argument, whatever it looks like; the last one wins;
`_` is `-` in a long flag; there are no abbreviations. `LLAMA_ARG_*` is not read at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import field, frozen

_ABOUT_COLUMN = 40
_MOST = 2**31 - 1


class UsageError(ValueError):
    """What is wrong with the command line, in a sentence."""


@frozen
class _Flag:
    """`hint` stands for the value in the list; without one, the flag takes none and `read` is given
    its name."""

    names: tuple[str, ...]
    hint: str
    about: str
    read: Callable[[str], Any]

    def listed(self) -> str:
        first, *others = self.names
        names = f"{first + ', ':<7}{', '.join(others)}" if others else first
        return f"{names} {self.hint}".ljust(_ABOUT_COLUMN) + self.about


def _value(*names: str, hint: str, about: str, read: Callable[[str], Any] = str) -> dict[str, Any]:
    return {"flag": _Flag(names, hint, about, read)}


def _switch(*names: str, about: str) -> dict[str, Any]:
    return {"flag": _Flag(names, "", about, lambda name: not name.startswith("--no-"))}


def _number(low: int, high: int = _MOST) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise UsageError(f"not a whole number from {low} to {high}: {text!r}")
        return number

    return read


def _fraction(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise UsageError(f"not a number of at least 0: {text!r}")
    return number


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise UsageError(f"not one of {', '.join(words)}: {text!r}")
        return text

    return read


@frozen(kw_only=True)
class Flags:
    """One server's settings. None: what llama.cpp thinks best."""

    help: bool = field(
        default=False, metadata=_switch("-h", "--help", "--usage", about="list the flags")
    )

    # What a node sets.
    model: str = field(
        default="", metadata=_value("-m", "--model", hint="FNAME", about="the model, a GGUF file")
    )
    alias: str | None = field(
        default=None,
        metadata=_value("-a", "--alias", hint="STRING", about="the model's id; else the path"),
    )
    host: str = field(
        default="127.0.0.1", metadata=_value("--host", hint="HOST", about="address to listen on")
    )
    port: int = field(
        default=8080,
        metadata=_value("--port", hint="PORT", about="port to listen on", read=_number(1, 65535)),
    )
    n_gpu_layers: int | None = field(
        default=None,
        metadata=_value(
            *("-ngl", "--gpu-layers", "--n-gpu-layers"),
            hint="N",
            about="taken, and without effect: there is no GPU in this build",
            read=_number(0),
        ),
    )
    device: str | None = field(
        default=None,
        metadata=_value(
            *("-dev", "--device"),
            hint="DEVICE",
            about="none: the CPU, the only one of this build",
            read=_one_of("none"),
        ),
    )
    ctx_size: int = field(
        default=0,
        metadata=_value(
            *("-c", "--ctx-size"),
            hint="N",
            about="context in tokens, for all slots (default: 0, the model's own)",
            read=_number(0),
        ),
    )
    # One slot, not llama.cpp's `auto`: how much memory a child takes has to be known.
    parallel: int = field(
        default=1,
        metadata=_value(
            "-np", "--parallel", hint="N", about="number of slots (default: 1)", read=_number(1)
        ),
    )
    metrics: bool = field(default=False, metadata=_switch("--metrics", about="serve /metrics"))
    slots: bool = field(
        default=True, metadata=_switch("--slots", "--no-slots", about="serve /slots, or not")
    )
    web_page: bool = field(
        default=True,
        metadata=_switch(
            *("--ui", "--webui", "--no-ui", "--no-webui"), about="serve a web page, or not"
        ),
    )

    # What its operator may add.
    threads: int | None = field(
        default=None,
        metadata=_value(
            "-t", "--threads", hint="N", about="CPU threads while answering", read=_number(1)
        ),
    )
    threads_batch: int | None = field(
        default=None,
        metadata=_value(
            *("-tb", "--threads-batch"),
            hint="N",
            about="CPU threads while reading a prompt (default: same as --threads)",
            read=_number(1),
        ),
    )
    batch_size: int | None = field(
        default=None,
        metadata=_value(
            *("-b", "--batch-size"), hint="N", about="tokens in a batch", read=_number(1)
        ),
    )
    ubatch_size: int | None = field(
        default=None,
        metadata=_value(
            *("-ub", "--ubatch-size"), hint="N", about="tokens at a time", read=_number(1)
        ),
    )
    flash_attn: str = field(
        default="auto",
        metadata=_value(
            *("-fa", "--flash-attn"),
            hint="[on|off|auto]",
            about="flash attention (default: auto)",
            read=_one_of("on", "off", "auto"),
        ),
    )
    # llama.cpp's default is 8 GiB of host memory for every child.
    cache_ram: int | None = field(
        default=None,
        metadata=_value(
            *("-cram", "--cache-ram"),
            hint="N",
            about="MiB of host memory for prompts read before (-1: any; default: 8192)",
            read=_number(-1),
        ),
    )
    # How long after SIGTERM a stream in flight may hold the server: 30 s unless said otherwise.
    sse_ping_interval: int | None = field(
        default=None,
        metadata=_value(
            "--sse-ping-interval",
            hint="N",
            about="seconds between comments in idle streams (default: 30)",
            read=_number(1),
        ),
    )
    predict: int | None = field(
        default=None,
        metadata=_value(
            *("-n", "--predict", "--n-predict"),
            hint="N",
            about="tokens in an answer, at most (-1: any)",
            read=_number(-1),
        ),
    )
    seed: int | None = field(
        default=None,
        metadata=_value(
            *("-s", "--seed"),
            hint="SEED",
            about="seed where a request has none (-1: another each time)",
            read=_number(-1, 2**32 - 1),
        ),
    )
    temp: float | None = field(
        default=None,
        metadata=_value(
            *("--temp", "--temperature"),
            hint="N",
            about="temperature where a request has none",
            read=_fraction,
        ),
    )
    embeddings: bool = field(
        default=False,
        metadata=_switch("--embedding", "--embeddings", about="serve embeddings, and no chat"),
    )
    reranking: bool = field(
        default=False,
        metadata=_switch("--rerank", "--reranking", about="serve reranking, and no chat"),
    )
    pooling: str | None = field(
        default=None,
        metadata=_value(
            "--pooling",
            hint="{none,mean,cls,last,rank}",
            about="how embeddings are pooled (default: the model's way)",
            read=_one_of("none", "mean", "cls", "last", "rank"),
        ),
    )
    jinja: bool = field(
        default=True,
        metadata=_switch("--jinja", "--no-jinja", about="read the chat template as Jinja, or not"),
    )
    chat_template: str | None = field(
        default=None,
        metadata=_value(
            "--chat-template",
            hint="JINJA_TEMPLATE",
            about="chat template, or the name of a known one (default: the model's)",
        ),
    )
    warmup: bool = field(
        default=True,
        metadata=_switch("--warmup", "--no-warmup", about="run it once while loading, or not"),
    )
    verbosity: int | None = field(
        default=None,
        metadata=_value(
            *("-lv", "--verbosity", "--log-verbosity"),
            hint="N",
            about="0: hardly a line, to 5: all of them",
            read=_number(0, 5),
        ),
    )

    api_keys: tuple[str, ...] = field(default=(), repr=False)


def parse(argv: Sequence[str], env: Mapping[str, str]) -> Flags:
    """Read the command line. Raises UsageError for what llama-server would not take either, and for
    what this one does not have."""
    keys = env.get("LLAMA_API_KEY", "").split(",")
    flags = Flags(**dict(_settings(argv)), api_keys=tuple(key for key in keys if key))
    if not flags.model and not flags.help:
        raise UsageError("no model: say --model FNAME")
    return flags


def listing() -> str:
    """What `--help` says."""
    return "".join(f"{flag.listed()}\n" for _, flag in _flags())


def _settings(argv: Sequence[str]) -> Iterator[tuple[str, Any]]:
    by_name = {name: (key, flag) for key, flag in _flags() for name in flag.names}
    rest = iter(argv)
    for arg in rest:
        name = arg.replace("_", "-") if arg.startswith("--") else arg
        if name not in by_name:
            raise UsageError(f"invalid argument: {arg} (this llama-server has no such flag)")
        key, flag = by_name[name]
        text = next(rest, None) if flag.hint else name
        if text is None:
            raise UsageError(f"{name}: expected value for argument")
        try:
            yield key, flag.read(text)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None


def _flags() -> Iterator[tuple[str, _Flag]]:
    for setting in attrs.fields(Flags):
        if "flag" in setting.metadata:
            yield setting.name, setting.metadata["flag"]
