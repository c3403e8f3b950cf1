"""Which of llama-server's flags and variables are the node's own, and what to configure instead.

Asked by the configuration's checks, of `args` and `env`. A flag is the node's where the operator's
would undo supervision (address, keys, help texts that end the process, models that come and go by
themselves), contradict the configuration (model, device, slots), or bring in weights that the
configuration does not name as a file. Files beside the model (`--lora`, `--mmproj`,
`--model-draft`) stand in the configuration like the model itself, and are the operator's; so is all
that tunes.

llama-server reads `_` as `-` in a long flag, and a flag's value is the next argument. Everything
that looks like one of the node's flags is refused wherever it stands, `--flag=value` too: no build
takes that today, and one that did must find it refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_ADDRESS = "the node chooses a free port on 127.0.0.1 for each child"
_KEYS = "the node gives each child a key of its own"
_TLS = "a child is reached on 127.0.0.1 only; node.tls is for the node's own port"
_DOWNLOAD = "a child is given files of this host only: download first, and name the file"
_ROUTER = "one child serves one model: list more of them under models"
_WEB_PAGE = "a child's web page and its tools cannot be reached through the node"
_WATCHED = "the node watches its children by it"
_ENDS = "a child with it would print something and end"
_LOG = "the node keeps each child's log, at GET /v1/node/models/{model_id}/log"

_OWN: Mapping[str, tuple[str, ...]] = {
    _ADDRESS: ("--host", "--port", "--reuse-port", "--api-prefix"),
    _KEYS: ("--api-key", "--api-key-file"),
    _TLS: ("--ssl-key-file", "--ssl-cert-file"),
    "set models[].path": ("-m", "--model"),
    "set models[].model_id": ("-a", "--alias"),
    "set models[].n_gpu_layers": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
    "set models[].ctx_size": ("-c", "--ctx-size"),
    "set models[].parallel": ("-np", "--parallel"),
    "set models[].device": ("-dev", "--device"),
    "set models[].idle_unload_s": ("--sleep-idle-seconds",),
    _DOWNLOAD: (
        *("-mu", "--model-url", "-mmu", "--mmproj-url", "-dr", "--docker-repo"),
        *("--spec-draft-hf", "--tts-oute-default"),
    ),
    _ROUTER: ("--no-models-autoload",),
    _WEB_PAGE: (
        *("--path", "--ui", "--no-ui", "--webui", "--no-webui"),
        *("--ui-config", "--ui-config-file", "--webui-config", "--webui-config-file"),
        *("--ui-mcp-proxy", "--no-ui-mcp-proxy", "--webui-mcp-proxy", "--no-webui-mcp-proxy"),
        *("--tools", "--tools-runtime", "--mcp-servers-config", "--mcp-servers-json"),
        *("-ag", "--agent", "-no-ag", "--no-agent", "--public-path"),
    ),
    _WATCHED: ("--metrics", "--slots", "--no-slots", "--props", "--no-props"),
    _ENDS: (
        *("-h", "--help", "--usage", "--version", "--license", "--licenses"),
        *("-cl", "--cache-list", "--list-devices", "--completion-bash"),
    ),
    _LOG: ("--log-file", "--log-disable"),
}
_REASONS = {flag: reason for reason, flags in _OWN.items() for flag in flags}

# Families that grow with every few releases.
_PREFIXES = {"-hf": _DOWNLOAD, "--hf-": _DOWNLOAD, "--models-": _ROUTER, "--ssl-": _TLS}
# `--gpt-oss-20b-default` and its like are whole settings: a download, a port, a context size.
_PRESET_PREFIXES = ("--fim-", "--embd-", "--gpt-oss-", "--vision-", "--tts-")
_PRESET_SUFFIXES = ("-default", "-spec")

_PINNING = "the node pins each child to its device: set models[].device"
_OWN_VARIABLES = {
    "CUDA_VISIBLE_DEVICES": _PINNING,
    "CUDA_DEVICE_ORDER": _PINNING,
    "LLAMA_API_KEY": _KEYS,
    "ROLEMESH_CHILD": "the node knows its children by it",
    "LLAMA_SERVER_ROUTER_PORT": _ROUTER,
    "LLAMA_SERVER_CHILD_MODE": _ROUTER,
}
_FLAG_VARIABLES = ("LLAMA_ARG_", "AIP_")

# Templates and grammars have line ends and tabs; any other control character is a mistake.
_NO_TEXT = re.compile(r"[^\t\n\r -~\u00a0-\ud7ff\ue000-\U0010ffff]")


def refused(args: Sequence[str]) -> str | None:
    """Why these arguments cannot be a child's, by the first that cannot; None where they can."""
    return next((said for arg in args if (said := refused_argument(arg))), None)


def refused_argument(arg: str) -> str | None:
    """Why this one cannot be among a child's arguments."""
    if _NO_TEXT.search(arg):
        return f"{arg!r} has characters that no argument can have"
    flag = spelled(arg)
    reason = _REASONS.get(flag) or _family(flag)
    return f"{flag} is not for args: {reason}" if reason else None


def refused_variable(name: str) -> str | None:
    """Why this environment variable cannot be set for children."""
    if is_flag_variable(name):
        return f"{name} stands for a flag: put the flag into args"
    reason = _OWN_VARIABLES.get(name)
    return f"{name} is not for env: {reason}" if reason else None


def is_flag_variable(name: str) -> bool:
    """A variable that llama-server reads in the place of a flag: none may reach a child."""
    return name.startswith(_FLAG_VARIABLES)


def spelled(arg: str) -> str:
    """A flag as llama-server's list has it: without `=value`, and `-` for `_` in a long one."""
    if not arg.startswith("-"):
        return arg
    flag = arg.partition("=")[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _family(flag: str) -> str | None:
    if flag.startswith(_PRESET_PREFIXES) and flag.endswith(_PRESET_SUFFIXES):
        return _DOWNLOAD
    return next((reason for start, reason in _PREFIXES.items() if flag.startswith(start)), None)
