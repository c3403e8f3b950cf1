"""`rolemesh init gateway` and `init node`: a first configuration, with fresh keys.

The gateway's runs as it is. The node's lacks what nobody can guess, a model; where a gateway's keys
are beside it, it is that gateway's node.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import click

from rolemesh.config.load import find_gateway, find_node, load_gateway, load_node
from rolemesh.errors import RunError

_KEYS = ("client", "node", "admin")

_GATEWAY = """\
# A gateway's configuration. Every key, with its default: rolemesh.yaml(5).
# After a change: rolemesh gateway --config {config} --check, then send SIGHUP.
version: 1

# Used when a request names no model; what /ready speaks of.
default_model: planner

gateway:
  host: 127.0.0.1        # 0.0.0.0 to serve the LAN
  port: 8000

auth:
  # Who may ask, who may register servers, who may see and drain them. Paths are relative to here.
  client_api_keys:
    - {{name: first, key_file: keys/client.key}}
  node_api_keys:
    - {{name: nodes, key_file: keys/node.key}}
  admin_api_keys:
    - {{name: admin, key_file: keys/admin.key}}

models:
  # A server with an OpenAI-compatible API: llama-server, vLLM, llamafile.
  planner:
    type: proxy
    proxy_url: http://127.0.0.1:8011

  # Ollama: one alias per model, which `defaults` names.
  # writer:
  #   type: proxy
  #   proxy_url: http://127.0.0.1:11434
  #   defaults: {{model: "qwen3:8b"}}

  # Whatever servers register for a role (rolemesh register --model ...=reviewer).
  reviewer:
    type: discovered
    role: reviewer
"""

_GATEWAY_NEXT = """\
Wrote {folder}:
  gateway.yaml      set proxy_url to your model server
  keys/client.key   for clients
  keys/node.key     for nodes, and other servers that register
  keys/admin.key    for you

Next:
  rolemesh gateway --config {config} --check
  rolemesh gateway --config {config}
  curl http://127.0.0.1:8000/v1/models -H "Authorization: Bearer $(cat {folder}/keys/client.key)"
  rolemesh status --key-file {folder}/keys/admin.key
"""

_NODE = """\
# A node's configuration. Every key, with its default: rolemesh-node.yaml(5).
# After a change: rolemesh node --config {config} --check, then send SIGHUP.
version: 1

node:
  # What gateways call this node; without it, the host name.
  # node_id: gpu-box-1
  # For gateways on other machines: 0.0.0.0, and how they reach this node.
  host: 127.0.0.1
  port: 8091
  # advertise_url: http://10.0.0.12:8091
  # For you. Gateways come in with a token that the node gives them. Paths are relative to here.
  api_keys:
    - {{name: operator, key_file: keys/operator.key}}

gateways:
  # Any number. The key is the gateway's keys/node.key: copy it here, readable by you alone.
{gateways}
llama_server:
  # A path, a name in $PATH, or builtin: the llama.cpp of the [llama] extra, CPU only (to install
  # it, in a clone: pip install '.[llama]').
  path: llama-server

# Which devices: all GPUs (or none, or a list such as [0, 1]); the CPU where there is no GPU.
gpus: all
cpu: auto

models:
  # The first to fill in: which file, and for which roles of the gateways' aliases.
  # - model_id: qwen3-8b
  #   path: /models/Qwen3-8B-Q5_K_M.gguf
  #   roles: [planner, reviewer]
  #   device: auto           # or cpu, or a GPU's index, its uuid (nvidia-smi -L), a list of GPUs
  #   ctx_size: 16384        # shared by its slots
  #   parallel: 2            # slots: how many requests at once
  #   preload: true          # when the node starts, not at the first request
"""

_A_GATEWAY_HERE = """\
  - {url: http://127.0.0.1:8000, node_key_file: keys/node.key}
"""

_NO_GATEWAY_HERE = """\
  # - {url: http://10.0.0.1:8000, node_key_file: keys/node.key}
"""

_NODE_NEXT = """\
Wrote {folder}:
  node.yaml          {fill_in}
  keys/operator.key  for you

Next:
  rolemesh node --config {config} --check
  rolemesh node --config {config}
  curl http://127.0.0.1:8091/v1/node -H "Authorization: Bearer $(cat {folder}/keys/operator.key)"
"""

_FILL_IN_ALL = """\
fill in `models`, and `gateways`; copy the gateway's
                     keys/node.key to {folder}/keys/node.key"""
_FILL_IN_MODELS = "fill in `models`; the gateway is the one of this folder"


@click.group()
def init() -> None:
    """Write a first configuration with fresh keys."""


_where = click.option(
    "--dir", "folder", default="etc", show_default=True, metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path), help="Where to write it.",
)  # fmt: skip


@init.command("gateway")
@_where
def init_gateway(folder: Path) -> None:
    """Write DIR/gateway.yaml and DIR/keys, readable by you alone. What is there is not touched."""
    config = folder / "gateway.yaml"
    keys = {folder / "keys" / f"{name}.key": f"{_new_key(name)}\n" for name in _KEYS}
    _write({**keys, config: _GATEWAY.format(config=config)})
    # What we wrote must be good: better to hear of it here than at the first start.
    load_gateway(find_gateway(str(config), (), {}), {})
    click.echo(_GATEWAY_NEXT.format(folder=folder, config=config), nl=False)


@init.command("node")
@_where
def init_node(folder: Path) -> None:
    """Write DIR/node.yaml and DIR/keys, readable by you alone. What is there is not touched.

    Beside a gateway's configuration it is a node of that gateway.
    """
    config = folder / "node.yaml"
    beside = (folder / "keys" / "node.key").exists()
    text = _NODE.format(config=config, gateways=_A_GATEWAY_HERE if beside else _NO_GATEWAY_HERE)
    _write({folder / "keys" / "operator.key": f"{_new_key('operator')}\n", config: text})
    load_node(find_node(str(config), (), {}), {})
    fill_in = (_FILL_IN_MODELS if beside else _FILL_IN_ALL).format(folder=folder)
    click.echo(_NODE_NEXT.format(folder=folder, config=config, fill_in=fill_in), nl=False)


def _new_key(name: str) -> str:
    """The prefix tells what a key found somewhere is for."""
    return f"rm-{name}-{secrets.token_urlsafe(32)}"


def _write(files: Mapping[Path, str]) -> None:
    """All of them or none: an existing file is not touched. Raises RunError."""
    there = [str(path) for path in files if path.exists() or path.is_symlink()]
    if there:
        raise RunError(
            "nothing was written, for there is already " + ", ".join(there)
            + "; move it away, or choose another folder with --dir"
        )  # fmt: skip
    for path, text in files.items():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Exclusive: a file that appeared meanwhile, or a link, is not written through.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from error
