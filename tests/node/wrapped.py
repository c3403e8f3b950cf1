"""Programs for `llama_server.path` that do something before, beside or instead of serving.

A script in front of the built-in llama.cpp, which answers for it with its flags.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rolemesh.builtin import command
from tests.node.programs import script
from tests.node_process import BUILTIN

SERVE = f'exec {shlex.join(command())} "$@"'


def wrapped(path: Path, body: str, **fields: Any) -> dict[str, Any]:
    """A section `llama_server` whose program is this shell script; `$serve` in it becomes the
    built-in llama.cpp."""
    ask = f'if [ "$1" = --help ]; then {SERVE}; fi\n'
    program = script(path, ask + body.replace("$serve", shlex.join(command()) + ' "$@"'))
    return {**BUILTIN, "path": str(program), **fields}
