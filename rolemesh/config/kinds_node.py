"""The kinds of scalar that a node's configuration has of its own; see `kinds`.

A child's argv and environment are made of some of these, so what no process can be given, or what
would hide in a log or a listing, is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal

import attrs

from rolemesh.config.kinds import BOOLEAN, FILE_PATH, Kind, matching, printable, whole
from rolemesh.config.shape import LoneOr
from rolemesh.config.tree import Leaf
from rolemesh.core.devices import GpuName
from rolemesh.wire.registration import MAX_MODEL_ID_LENGTH, MAX_ROLE_LENGTH

_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GPU_UUID = re.compile(r"GPU-[0-9A-Za-z-]{1,64}")
_MAX_GPU_INDEX = 1023
_MAX_TEXT_BYTES = 128 * 1024 - 1  # Linux takes no longer one in an argv or an environment


def _path(leaf: Leaf) -> str:
    """Absolute. It becomes an argument and a part of log lines: one that could break those, or look
    like another, is no path for a model."""
    path: str = FILE_PATH.read(leaf)
    if not path.isprintable():
        raise ValueError("has control characters, or others that cannot be shown")
    return path


def _program(leaf: Leaf) -> str:
    """A name without a slash is looked up in $PATH when a child starts, as a shell would."""
    return _path(leaf) if "/" in leaf.text else str(printable(256).read(leaf))


def _text(leaf: Leaf) -> str:
    if "\0" in leaf.text or len(leaf.text.encode("utf-8", "surrogatepass")) > _MAX_TEXT_BYTES:
        raise ValueError
    return leaf.text


def _gpu(leaf: Leaf) -> GpuName:
    if _GPU_UUID.fullmatch(leaf.text):
        return leaf.text
    return int(whole(0, _MAX_GPU_INDEX).read(leaf))


def _words_or_gpu(*words: str) -> Callable[[Leaf], str | tuple[GpuName]]:
    def read(leaf: Leaf) -> str | tuple[GpuName]:
        return leaf.text if leaf.text in words else (_gpu(leaf),)

    return read


def _auto_or_boolean(leaf: Leaf) -> str | bool:
    return "auto" if leaf.text == "auto" else bool(BOOLEAN.read(leaf))


_GPU = Kind("a GPU's index, or its uuid as GPU-...", _gpu, text=False)
_DEVICE = Kind(
    "auto, cpu, a GPU's index, its uuid as GPU-..., or a list of GPUs",
    _words_or_gpu("auto", "cpu"),
    text=False,
)
_GPUS = Kind(
    "all, none, or a list of GPUs' indices and uuids", _words_or_gpu("all", "none"), text=False
)

NodeId = Annotated[str, matching(_NODE_ID, "1 to 64 letters, digits or any of . _ -")]
ModelId = Annotated[str, printable(MAX_MODEL_ID_LENGTH)]
Role = Annotated[str, printable(MAX_ROLE_LENGTH)]
Program = Annotated[str, Kind("a program's name or path, or builtin", _program, path=True)]
ModelPath = Annotated[str, Kind("a path", _path, path=True)]
Argument = Annotated[str, Kind("text without NUL characters, of at most 128 KiB", _text)]
EnvName = Annotated[str, matching(_ENV_NAME, "letters, digits and _, with no digit first")]
Layers = Annotated[int, whole(0, 1_000_000)]
Context = Annotated[int, whole(0, 2**31 - 1)]  # llama-server keeps it in 32 bits
Slots = Annotated[int, whole(1, 1024)]
CpuDevice = Annotated[
    Literal["auto"] | bool,
    attrs.evolve(BOOLEAN, words="auto, true or false", read=_auto_or_boolean),
]
DeviceChoice = Annotated[Literal["auto", "cpu"] | tuple[GpuName, ...], LoneOr(_DEVICE, _GPU)]
GpuChoice = Annotated[Literal["all", "none"] | tuple[GpuName, ...], LoneOr(_GPUS, _GPU)]
