"""Nodes whose llama-server does what it is told (`obedient`), and how it is told.

with obedient_node(tmp_path, "a", "b") as (node, llama):
    llama.hold("a")
    node.chat("a", do={"status": 400, "json": {"error": {...}}})
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.node.programs import HELP, script
from tests.node_process import NodeProcess, eventually, model

GGUF = b"GGUF\x03" + bytes(91)
REFUSAL = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}


class Obedient:
    """The llama-server of a node: told by files, and what it noted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "help").write_text(HELP)
        served = [sys.executable, "-I", "-S", str(Path(__file__).with_name("obedient.py"))]
        self.path = script(
            folder / "llama-server",
            f'[ "$1" = --help ] && exec cat {shlex.quote(str(folder / "help"))}\n'
            f'exec {shlex.join(served)} "$@"',
        )

    def section(self) -> dict[str, Any]:
        """`llama_server` of the configuration."""
        env = {"OBEDIENT_DIR": str(self.folder)}
        return {"path": str(self.path), "env": env, "stop_timeout_s": 2}

    def model(self, model_id: str, **fields: Any) -> dict[str, Any]:
        """An entry of `models`, with a file for it."""
        path = self._file(model_id, "gguf")
        path.write_bytes(GGUF)
        return model(model_id, path, **fields)

    def hold(self, model_id: str) -> None:
        """From its next start on it loads, until `go_on`."""
        self._file(model_id, "hold").touch()

    def go_on(self, model_id: str) -> None:
        self._file(model_id, "hold").unlink()

    @contextlib.contextmanager
    def held(self, model_id: str) -> Iterator[None]:
        self.hold(model_id)
        try:
            yield
        finally:
            self.go_on(model_id)

    def fail(self, model_id: str) -> None:
        """Its loads fail, until `mend`."""
        self._file(model_id, "fail").touch()

    def mend(self, model_id: str) -> None:
        self._file(model_id, "fail").unlink()

    @contextlib.contextmanager
    def spoiled(self, model_id: str) -> Iterator[None]:
        """Whatever it is asked, it fails."""
        path = self._file(model_id, "spoiled")
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    def noted(self, name: str, model_id: str) -> list[dict[str, Any]]:
        """`starts`, `requests` or `left` of a model, the oldest first."""
        path = self.folder / name
        lines = path.read_text().splitlines() if path.exists() else []
        return [each for each in map(json.loads, lines) if each["model"] == model_id]

    def last_request(self, model_id: str) -> dict[str, Any]:
        return self.noted("requests", model_id)[-1]

    def wait_noted(self, name: str, model_id: str, count: int, timeout_s: float = 5.0) -> None:
        eventually(lambda: len(self.noted(name, model_id)) >= count, timeout_s)

    def _file(self, model_id: str, kind: str) -> Path:
        return self.folder / f"{quote(model_id, safe='')}.{kind}"


@contextlib.contextmanager
def obedient_node(
    folder: Path, *models: str, **config: Any
) -> Iterator[tuple[NodeProcess, Obedient]]:
    """A node with these models (ids), all of which want the one device."""
    llama = Obedient(folder / "llama")
    sections = [llama.model(each) for each in models]
    whole = {"llama_server": llama.section(), "models": sections, **config}
    with NodeProcess(whole, folder) as node:
        yield node, llama
