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
    params.api_keys = list(flags.api_keys)
    if flags.alias is not None:
        params.model_alias = {flags.alias}
    params.flash_attn_type = getattr(llama.llama_flash_attn_type, _FLASH_ATTN[flags.flash_attn])
    pooling = "rank" if flags.reranking else flags.pooling
    if pooling is not None:
        kind = f"LLAMA_POOLING_TYPE_{pooling.upper()}"
        params.pooling_type = getattr(llama.llama_pooling_type, kind)
    params.embedding = flags.embeddings or flags.reranking
    batch_threads = flags.threads_batch or flags.threads
    _set(params.cpuparams, n_threads=flags.threads)
    _set(params.cpuparams_batch, n_threads=batch_threads)
    seed = None if flags.seed is None else flags.seed % 2**32  # -1 is llama.cpp's random one
    _set(params.sampling, seed=seed, temp=flags.temp)
    _set(
        params,
        port=flags.port,
        n_gpu_layers=flags.n_gpu_layers,
        n_ctx=flags.ctx_size,
        n_parallel=flags.parallel,
        n_batch=flags.batch_size,
        n_ubatch=flags.ubatch_size,
        n_predict=flags.predict,
        cache_ram_mib=flags.cache_ram,
        sse_ping_interval=flags.sse_ping_interval,
        endpoint_metrics=flags.metrics,
        endpoint_slots=flags.slots,
        ui=flags.web_page,
        use_jinja=flags.jinja,
        chat_template=flags.chat_template,
        warmup=flags.warmup,
        verbosity=flags.verbosity,
    )
    return params


_FLASH_ATTN = {
    "on": "LLAMA_FLASH_ATTN_TYPE_ENABLED",
    "off": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
    "auto": "LLAMA_FLASH_ATTN_TYPE_AUTO",
}


def _set(section: Any, **settings: Any) -> None:
    """Leave alone what was not asked for: llama.cpp has its own defaults."""
    for name, value in settings.items():
        if value is not None:
            setattr(section, name, value)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
