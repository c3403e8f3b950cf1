"""What the node must still know after a restart: its access token, whether it is drained, and its
children, so that a start after a crash can end what is left of them.

Kept in one file (`store/file`), locked against a second node. Fed by the node's wiring and the
supervisor. A change is written at once: a child that is not in the file when the node is killed
would be known to nobody.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from rolemesh.node.process import Process
from rolemesh.store.file import StateFile

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ChildRecord(msgspec.Struct, frozen=True):
    """A process started for `model`. With the boot, pid and start time name it for ever."""

    pid: int
    started_at: int
    marker: str
    model: str


class _Kept(msgspec.Struct):
    """As in the file. `boot`: which boot the children's start times count from."""

    access_token: str
    seed: str
    drained: bool = False
    boot: str = ""
    children: list[ChildRecord] = []


class NodeState:
    """Order of calls: `open`, then anything, `close`. `owner` begins the marker of every child of
    this file's node, and of no other's."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = StateFile(path)
        self._kept = _Kept(access_token=secrets.token_urlsafe(32), seed=secrets.token_hex(16))
        self._children: dict[int, ChildRecord] = {}
        self._in_order = asyncio.Lock()

    def open(self) -> None:
        """Lock it and read it. Blocks for a moment. Raises RunError when another process has it.
        What was never written is, with the first change, or now by `save`."""
        self._file.open()
        data = self._file.read()
        if data is None:
            return
        try:
            kept = msgspec.convert(data, _Kept)
            if not kept.access_token or not kept.seed:
                raise ValueError("it lacks a token")
        except (msgspec.ValidationError, ValueError) as error:
            self._file.set_aside(str(error))
            return
        self._kept = kept
        if kept.boot == _boot():
            self._children = {each.pid: each for each in kept.children}

    @property
    def directory(self) -> Path:
        return self._file.path.parent

    @property
    def access_token(self) -> str:
        """What gateways present to this node. Made once."""
        return self._kept.access_token

    @property
    def owner(self) -> str:
        # Not what is in the file alone: it may have been copied to a second node's.
        seed = f"{self._kept.seed} {self._file.path}"
        return hashlib.sha256(seed.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def drained(self) -> bool:
        return self._kept.drained

    @property
    def children(self) -> Mapping[int, ChildRecord]:
        """By pid. After `open`, those of the former run."""
        return MappingProxyType(self._children)

    async def drain(self, drained: bool) -> None:
        self._kept.drained = drained
        await self.save()

    async def child_started(self, process: Process, model: str) -> None:
        child = ChildRecord(process.pid, process.started_at, process.marker, model)
        self._children[process.pid] = child
        await self.save()

    async def child_ended(self, *pids: int) -> None:
        for pid in pids:
            self._children.pop(pid, None)
        await self.save()

    async def save(self) -> None:
        """Returns when it is on the disk, or when that has failed and been told."""
        async with self._in_order:
            await self._file.write(self._snapshot)

    async def close(self) -> None:
        await self._file.close(self._snapshot)

    def _snapshot(self) -> Mapping[str, Any]:
        self._kept.boot = _boot()
        self._kept.children = list(self._children.values())
        kept: dict[str, Any] = msgspec.to_builtins(self._kept)
        return kept


def _boot() -> str:
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:  # a service may be shown nothing of /proc but processes
        return ""
