"""Programs that stand in for a llama-server as far as it can be asked about itself."""

from __future__ import annotations

from pathlib import Path

HELP = """\
-h,    --help                           print usage and exit
-m,    --model FNAME                    model path to load
-a,    --alias STRING                   set model name aliases
-c,    --ctx-size N                     size of the prompt context
-np,   --parallel N                     number of server slots
-ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM
-dev,  --device <dev1,dev2,..>          comma-separated list of devices to use
-fa,   --flash-attn [on|off|auto]       set Flash Attention use
--host HOST                             IP address to listen
--port PORT                             port to listen
--metrics                               enable prometheus compatible metrics endpoint
--slots, --no-slots                     expose slots monitoring endpoint
--ui, --webui, --no-ui, --no-webui      whether to enable the Web UI
"""


def script(path: Path, body: str) -> Path:
    """A shell script that can be executed."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def telling(path: Path, help_text: str = HELP) -> Path:
    """One that tells its flags, and counts in a file beside it how often it was asked."""
    text = path.with_suffix(".help")
    text.write_text(help_text)
    return script(path, f'echo "$*" >> "{path}.asked"\ncat "{text}"')


def asked(path: Path) -> list[str]:
    """What it was started with, a line each time."""
    record = Path(f"{path}.asked")
    return record.read_text().splitlines() if record.exists() else []
