"""What is wrong with the configured models on this machine: files, program, flags, devices.

Asked in whole by `rolemesh node --check`, and for one model before each start of its child, which
is then FATAL with the reason while everything else keeps serving. What the configuration alone can
show has been told by then (config/checks_node). Nothing is started here but the program, with
`--help`.

A model's reason reaches clients in errors: there are neither paths nor values in it. Blocks: not
for the event loop.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from rolemesh.config.assemble import Loaded
from rolemesh.config.schema_node import LlamaServerSection, ModelSection, NodeFile
from rolemesh.config.tree import Path, Problem, nearest_origin, shown_key
from rolemesh.core.devices import CPU, Device, named
from rolemesh.errors import RunError
from rolemesh.node import command
from rolemesh.node.programs import BUILTIN, WHAT, Program, find
from rolemesh.wire import gguf

Flaw = tuple[Path, str]

_CPU_ONLY = (
    "the built-in llama.cpp runs on the CPU only: give it the CPU (cpu: true, and device: cpu), or"
    " name a llama-server with CUDA in llama_server.path"
)


def flaw(section: ModelSection, llama: LlamaServerSection, devices: Sequence[Device]) -> str | None:
    """Why this model's child cannot run on these devices; None where it may."""
    if reason := model_flaw(section.path):
        return f"its file {reason}"
    if len(usable(llama, devices)) < len(devices):
        return _CPU_ONLY
    try:
        program = _program(llama)
    except RunError as error:
        return error.message
    reason = program.known.flaw([*llama.args, *section.args])
    return f"its arguments: {reason}" if reason else None


def problems(loaded: Loaded[NodeFile], devices: Sequence[Device]) -> list[Problem]:
    """Everything that can be told beforehand. `devices`: the node's own (core/devices.select)."""
    config = loaded.config
    found = [*_program_flaws(config), *_file_flaws(config), *_place_flaws(config, devices)]
    return [Problem(nearest_origin(loaded.tree, path), path, says) for path, says in found]


def usable(llama: LlamaServerSection, devices: Sequence[Device]) -> tuple[Device, ...]:
    """Those of the node's devices that its program can use: what `auto` may choose from."""
    if llama.path != BUILTIN:
        return tuple(devices)
    return tuple(device for device in devices if device == CPU)


def device_flaw(
    section: ModelSection, llama: LlamaServerSection, devices: Sequence[Device]
) -> str | None:
    """Why this model has no place on the node's devices; None where it has."""
    choice = section.device
    if choice == "auto":
        if devices and not usable(llama, devices):
            return _CPU_ONLY
        return None if devices else "there is no device for it: no GPU, and no cpu: true"
    if choice == "cpu":
        return None if CPU in devices else "this node has no CPU device: say cpu: true"
    missing = [name for name in choice if named(name, devices) is None]
    if missing:
        return f"{_shown(missing[0])} is none of this node's devices"
    held = held_devices(section, devices)
    if len(held) < len(choice):
        return "one GPU is named twice"
    return _CPU_ONLY if len(usable(llama, held)) < len(held) else None


def held_devices(section: ModelSection, devices: Sequence[Device]) -> tuple[Device, ...]:
    """The devices that a model has to have, as far as they are there; none for `auto`."""
    if section.device == "auto":
        return ()
    if section.device == "cpu":
        return tuple(device for device in devices if device == CPU)
    found = (named(name, devices) for name in section.device)
    return tuple(dict.fromkeys(device for device in found if device is not None))


def model_flaw(path: str) -> str | None:
    """Why there is no model in this file, in words that go on after its name."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "is a directory" if os.path.isdir(path) else "is no regular file"
        with open(path, "rb") as file:
            head = file.read(gguf.HEAD_BYTES)
        return gguf.flaw(head) or _part_flaw(path)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _part_flaw(path: str) -> str | None:
    folder, name = os.path.split(path)
    try:
        others = gguf.other_parts(name)
    except ValueError as error:
        return str(error)
    missing = [part for part in others if not os.path.exists(os.path.join(folder, part))]
    if not missing:
        return None
    return f"is one of {len(others) + 1} parts, of which {len(missing)} are missing beside it"


def _program(llama: LlamaServerSection) -> Program:
    """It needs no GPU to tell its flags."""
    return find(llama.path, command.environment(llama, (CPU,), key=""))


def _program_flaws(config: NodeFile) -> Iterator[Flaw]:
    llama = config.llama_server
    try:
        program = _program(llama)
    except RunError as error:
        yield ("llama_server", "path"), error.message.replace(WHAT, llama.path)
        return
    if reason := program.known.flaw(llama.args):
        yield ("llama_server", "args"), reason
    for number, section in enumerate(config.models):
        if reason := program.known.flaw(section.args):
            yield ("models", number, "args"), reason


def _file_flaws(config: NodeFile) -> Iterator[Flaw]:
    for number, section in enumerate(config.models):
        if reason := model_flaw(section.path):
            yield ("models", number, "path"), f"{section.path} {reason}"


def _place_flaws(config: NodeFile, devices: Sequence[Device]) -> Iterator[Flaw]:
    llama, models = config.llama_server, config.models
    for number, section in enumerate(models):
        reasons = (
            device_flaw(section, llama, devices),
            _rival_flaw(section, models[:number], devices),
            _crowd_flaw(section, models[:number], models, usable(llama, devices)),
        )
        for reason in filter(None, reasons):
            yield ("models", number, "device"), reason


def _rival_flaw(
    section: ModelSection, earlier: Sequence[ModelSection], devices: Sequence[Device]
) -> str | None:
    """A pinned model has its devices for itself. Where two models use the same name for a device,
    that has been told; an index and a uuid may be one, too."""
    held = set(held_devices(section, devices))
    for other in earlier:
        both = held & set(held_devices(other, devices))
        pinned = other if other.pinned else section
        if both and pinned.pinned and not _names(section) & _names(other):
            return (
                f"is shared with {shown_key(other.model_id)} ({min(both, key=str)}):"
                f" {shown_key(pinned.model_id)} is pinned, and never makes room for the other"
            )
    return None


def _crowd_flaw(
    section: ModelSection,
    earlier: Sequence[ModelSection],
    models: Sequence[ModelSection],
    devices: Sequence[Device],
) -> str | None:
    """Whether pinned models leave a device for one that takes any."""
    if section.device != "auto" or not devices:
        return None
    fixed = {each for other in models if other.pinned for each in held_devices(other, devices)}
    free = len(devices) - len(fixed)
    floating = [other for other in (earlier if section.pinned else models) if other.pinned]
    taken = sum(1 for other in floating if other.device == "auto")
    if taken < free:
        return None
    return "every device is held by a pinned model: this one could never be loaded"


def _names(section: ModelSection) -> frozenset[object]:
    return frozenset([section.device] if isinstance(section.device, str) else section.device)


def _shown(name: int | str) -> str:
    return f"GPU {name}" if isinstance(name, int) else name
