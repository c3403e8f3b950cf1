"""A real node in a process of its own: see `daemon_process`. Its children are the built-in
llama.cpp on the CPU, unless the test's configuration says otherwise.

    with NodeProcess({"models": [model("planner", path, preload=True)]}, tmp_path) as node:
        node.wait_state("planner", "READY")
        node.chat("planner", max_tokens=4)
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from tests.daemon_process import DaemonProcess, chat_body, eventually
from tests.rawhttp import Head, RawClient, Truncated

LOAD_S = 20.0
BUILTIN = {"path": "builtin", "args": ["--threads", "1", "--cache-ram", "0"]}


def model(model_id: str, path: Path, **fields: Any) -> dict[str, Any]:
    """An entry of `models`."""
    small = {"ctx_size": 2048, "roles": []}
    return {"model_id": model_id, "path": str(path), **small, **fields}


class NodeProcess(DaemonProcess):
    word = "node"
    otherwise: ClassVar[dict[str, Any]] = {"llama_server": BUILTIN, "gpus": "none"}

    # What it says of itself

    def view(self) -> dict[str, Any]:
        reply = self.get("/v1/node")
        assert reply.status == 200, reply
        told: dict[str, Any] = reply.json()
        return told

    def child(self, model_id: str) -> dict[str, Any]:
        """Its entry in /v1/node."""
        found: list[dict[str, Any]] = [
            child for child in self.view()["children"] if child["model"] == model_id
        ]
        return found[0]

    def state(self, model_id: str) -> str:
        return str(self.child(model_id)["state"])

    def wait_state(self, model_id: str, state: str, timeout_s: float = LOAD_S) -> dict[str, Any]:
        """Wait until the model's child is in it."""
        eventually(lambda: self.state(model_id) == state, timeout_s)
        return self.child(model_id)

    # What is asked of it

    def load(self, model_id: str) -> dict[str, Any]:
        """Its entry in /v1/node, once it is loaded."""
        reply = self.post(f"/v1/node/models/{model_id}/load", {})
        assert reply.status == 200, reply
        return self.child(model_id)

    def unload(self, model_id: str) -> None:
        reply = self.post(f"/v1/node/models/{model_id}/unload", {})
        assert reply.status == 200, reply

    def open_stream(self, model_id: str, **fields: Any) -> StreamedChat:
        """A streamed chat, asked for and not read."""
        return StreamedChat(self, model_id, fields)

    # Its processes

    def family(self) -> set[int]:
        """It, and the processes that descend from it."""
        parents = _parents()
        family, grown = {self.pid}, True
        while grown:
            children = {pid for pid, parent in parents.items() if parent in family} - family
            family |= children
            grown = bool(children)
        return family


class StreamedChat:
    """`with node.open_stream("writer") as chat: chat.begun(); chat.rest()`."""

    def __init__(self, node: NodeProcess, model_id: str, fields: dict[str, Any]) -> None:
        self.wire: RawClient = node.connect(timeout_s=60.0)
        headers = [("Content-Type", "application/json")]
        self.wire.request(
            "POST", "/v1/chat/completions", headers, chat_body(model_id, stream=True, **fields)
        )
        self._answer: tuple[Head, Iterator[bytes]] | None = None

    def __enter__(self) -> StreamedChat:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wire.close()

    @property
    def head(self) -> Head:
        return self._begin()[0]

    def begun(self) -> StreamedChat:
        """Until the first piece of the answer is there."""
        head, pieces = self._begin()
        assert head.status == 200, head
        next(pieces)
        return self

    def rest(self) -> bytes:
        """What is left of the answer. Raises Truncated when it has no end."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        return self._begin()[1]

    def _begin(self) -> tuple[Head, Iterator[bytes]]:
        if self._answer is None:
            head = self.wire.head()
            self._answer = head, self.wire.pieces(head, "POST")
        return self._answer


def error_of(stream: bytes) -> dict[str, Any] | None:
    """The error that a stream ended with."""
    last = stream.rstrip().rpartition(b"\n\n")[2]
    if not last.startswith(b"data: {"):
        return None
    error: dict[str, Any] | None = json.loads(last.removeprefix(b"data: ")).get("error")
    return error


def alive(pids: Iterable[int]) -> set[int]:
    """Those of them that run; one that has only its exit status left does not."""
    return {pid for pid in pids if _is_alive(pid)}


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = stat.rpartition(")")[2].split()
    return fields[0] not in "ZX" or int(fields[17]) > 1  # the other threads may be ending still


def _parents() -> dict[int, int]:
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(f"/proc/{name}/stat").read_text()
            found[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return found


__all__ = [
    "BUILTIN", "NodeProcess", "StreamedChat", "Truncated",
    "alive", "error_of", "eventually", "model",
]  # fmt: skip
