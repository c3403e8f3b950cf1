"""`rolemesh init gateway`: a first configuration, with fresh keys, that runs as it is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import click

from rolemesh.config.load import find_gateway, load_gateway
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

_NEXT = """\
Wrote {folder}:
  gateway.yaml      set proxy_url to your model server
  keys/client.key   for clients
  keys/node.key     for servers that register
  keys/admin.key    for you

Next:
  rolemesh gateway --config {config} --check
  rolemesh gateway --config {config}
  curl http://127.0.0.1:8000/v1/models -H "Authorization: Bearer $(cat {folder}/keys/client.key)"
  rolemesh status --key-file {folder}/keys/admin.key
"""


@click.group()
def init() -> None:
    """Write a first configuration with fresh keys."""


@init.command("gateway")
@click.option(
    "--dir", "folder", default="etc", show_default=True, metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path), help="Where to write it.",
)  # fmt: skip
def init_gateway(folder: Path) -> None:
    """Write DIR/gateway.yaml and DIR/keys, readable by you alone. What is there is not touched."""
    config = folder / "gateway.yaml"
    keys = {folder / "keys" / f"{name}.key": f"{_new_key(name)}\n" for name in _KEYS}
    _write({**keys, config: _GATEWAY.format(config=config)})
    # What we wrote must be good: better to hear of it here than at the first start.
    load_gateway(find_gateway(str(config), (), {}), {})
    click.echo(_NEXT.format(folder=folder, config=config), nl=False)


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
