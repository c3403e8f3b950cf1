"""Load a model and serve it until a signal says stop: one child's whole life.

As in llama-server: a signal while loading ends the process at once by its default action, the first
one while serving ends it with exit code 0 as soon as llama.cpp's threads have joined, a second one
at once. Exit code 1: the model did not load, or the port could not be bound.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from typing import Any

from rolemesh.builtin.flags import Flags

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(flags: Flags) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. Needs the main thread, for its signals."""
    llama = importlib.import_module("xllamacpp")
    _default_action()
    try:
        server = llama.Server(_params(llama, flags))  # returns when the model is loaded
    except (RuntimeError, ValueError, OSError) as error:
        _say(f"error: {error}")
        return 1
    _wait_for_signal()
    _say("llama-server: stopping")
    del server  # cancels what is in flight and joins its threads
    return 0


def _default_action() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def _wait_for_signal() -> None:
    stop = threading.Event()

    def on_signal(_number: int, _frame: object) -> None:
        # The second must work while llama.cpp's destructor blocks, which starves Python handlers.
        _default_action()
        stop.set()

    for number in _SIGNALS:
        signal.signal(number, on_signal)
    # Behind the handlers: from now on a signal ends it with exit code 0.
    _say("llama-server: ready")
    stop.wait()


def _params(llama: Any, flags: Flags) -> Any:
    params = llama.CommonParams()
    params.model.path = flags.model
    params.hostnames = [flags.host]
    params.port = flags.port
    params.n_ctx = flags.ctx_size
    params.n_parallel = flags.parallel
    params.api_keys = list(flags.api_keys)
    params.endpoint_metrics = flags.metrics
    params.ui = not flags.no_webui
    params.embedding = flags.embeddings
    params.flash_attn_type = getattr(llama.llama_flash_attn_type, _FLASH_ATTN[flags.flash_attn])
    if flags.alias is not None:
        params.model_alias = {flags.alias}
    if flags.threads is not None:
        params.cpuparams.n_threads = flags.threads
        params.cpuparams_batch.n_threads = flags.threads
    for name, value in (
        ("n_gpu_layers", flags.n_gpu_layers),
        ("cache_ram_mib", flags.cache_ram),
        ("sse_ping_interval", flags.sse_ping_interval),
    ):
        if value is not None:
            setattr(params, name, value)
    return params


_FLASH_ATTN = {
    "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
    "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
}


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
