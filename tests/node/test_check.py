"""What is wrong with models on this machine, and what of it is told beforehand."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rolemesh.config.load import find_node, load_node
from rolemesh.config.schema_node import LlamaServerSection, ModelSection
from rolemesh.core.devices import CPU, Device
from rolemesh.node.check import device_flaw, flaw, model_flaw, problems, usable
from tests.node.programs import telling

GPU = Device("GPU-aaaa", 0, "A card")
OTHER = Device("GPU-bbbb", 1, "Another card")
BOTH = (GPU, OTHER)
HEAD = b"GGUF" + struct.pack("<IQQ", 3, 2, 5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(HEAD)
    return path


@pytest.fixture
def llama(tmp_path: Path) -> LlamaServerSection:
    return LlamaServerSection(path=str(telling(tmp_path / "llama-server")))


def model(path: Path | str = "/models/m.gguf", **settings: Any) -> ModelSection:
    return ModelSection(model_id="m", path=str(path), roles=(), **settings)


BUILTIN = LlamaServerSection(path="builtin")


# One model, before its child is started


def test_a_model_that_can_run_has_no_flaw(file: Path, llama: LlamaServerSection) -> None:
    assert flaw(model(file, args=("--flash-attn", "on")), llama, (GPU,)) is None


def test_reasons_have_neither_paths_nor_values_in_them(
    file: Path, llama: LlamaServerSection
) -> None:
    assert flaw(model("/nowhere/m.gguf"), llama, (GPU,)) == "its file does not exist"
    assert flaw(model(file), LlamaServerSection(path="/nowhere/server"), (GPU,)) == (
        "the program of llama_server.path does not exist"
    )
    assert flaw(model(file, args=("--mlock", "s3cr3t")), llama, (GPU,)) == (
        "its arguments: --mlock is no flag of this llama-server"
    )


def test_arguments_of_all_children_are_judged_too(file: Path, llama: LlamaServerSection) -> None:
    section = LlamaServerSection(path=llama.path, args=("--numa", "isolate"))
    assert "--numa is no flag" in str(flaw(model(file), section, (GPU,)))


def test_the_built_in_program_is_refused_on_a_gpu(file: Path) -> None:
    assert "runs on the CPU only" in str(flaw(model(file), BUILTIN, (GPU,)))


def test_the_built_in_program_needs_its_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    assert "rolemesh[llama]" in str(flaw(model(file), BUILTIN, (CPU,)))


# Files


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is no regular file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(b"<html>"), "is no GGUF file"),
        (lambda path: (path.unlink(), path.symlink_to("/nowhere")), "does not exist"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "cannot be read: Too many levels"),
    ],
)
def test_a_file_that_is_no_model_is_told_apart(
    make: Callable[[Path], object], says: str, file: Path
) -> None:
    make(file)
    assert str(model_flaw(str(file))).startswith(says)


def test_a_name_below_a_file_is_no_model(file: Path) -> None:
    assert model_flaw(f"{file}/m.gguf") == "cannot be read: Not a directory"


def test_a_model_in_parts_needs_all_of_them_and_is_named_by_the_first(tmp_path: Path) -> None:
    first, second = (tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2))
    first.write_bytes(HEAD)
    assert model_flaw(str(first)) == "is one of 2 parts, of which 1 are missing beside it"
    second.write_bytes(HEAD)
    assert model_flaw(str(first)) is None
    assert model_flaw(str(second)) == "is part 2 of 2: name the first part"


# Devices


@pytest.mark.parametrize("choice", ["auto", (0,), (1,), ("GPU-bbbb",), (0, 1), ("GPU-aaaa", 1)])
def test_a_device_that_is_there_is_a_place(choice: Any, llama: LlamaServerSection) -> None:
    assert device_flaw(model(device=choice), llama, BOTH) is None


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ((2,), "GPU 2 is none of this node's devices"),
        (("GPU-cccc",), "GPU-cccc is none of this node's devices"),
        ((0, 7), "GPU 7 is none of this node's devices"),
        ((0, "GPU-aaaa"), "one GPU is named twice"),
        ("cpu", "this node has no CPU device: say cpu: true"),
    ],
)
def test_a_device_that_is_not_there_is_no_place(
    choice: Any, says: str, llama: LlamaServerSection
) -> None:
    assert device_flaw(model(device=choice), llama, BOTH) == says


def test_without_any_device_there_is_no_place(llama: LlamaServerSection) -> None:
    assert "there is no device for it" in str(device_flaw(model(), llama, ()))


@pytest.mark.parametrize("choice", ["auto", (0,), (0, 1)])
def test_the_built_in_program_has_no_place_on_gpus(choice: Any) -> None:
    assert "runs on the CPU only" in str(device_flaw(model(device=choice), BUILTIN, BOTH))


@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_the_built_in_program_has_its_place_on_the_cpu(choice: Any) -> None:
    assert device_flaw(model(device=choice), BUILTIN, (*BOTH, CPU)) is None


def test_auto_takes_what_the_program_can_use(llama: LlamaServerSection) -> None:
    assert usable(llama, (*BOTH, CPU)) == (*BOTH, CPU)
    assert usable(BUILTIN, (*BOTH, CPU)) == (CPU,)


# All of it, with the places in the file


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., list[str]]:
    """What is wrong with models, given as mappings, on some devices."""

    def judge(
        models: list[dict[str, Any]], devices: tuple[Device, ...], **server: Any
    ) -> list[str]:
        if "path" not in server:
            server["path"] = str(telling(tmp_path / "llama-server"))
        (tmp_path / "m.gguf").write_bytes(HEAD)
        given = [
            {"model_id": f"m{number}", "path": str(tmp_path / "m.gguf"), "roles": ["r"], **each}
            for number, each in enumerate(models)
        ]
        path = tmp_path / "node.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "llama_server": server, "models": given}))
        loaded = load_node(find_node(str(path), (), {}), {})
        return [str(problem).partition(": ")[2] for problem in problems(loaded, devices)]

    return judge


def test_nothing_is_said_of_what_is_fine(told: Callable[..., list[str]]) -> None:
    models = [{"device": 0, "pinned": True}, {"device": 1}, {"device": [1]}, {}]
    assert told(models, BOTH, args=["--flash-attn", "on"]) == []


def test_every_problem_is_named_by_its_key(told: Callable[..., list[str]]) -> None:
    models = [{"path": "/nowhere/m.gguf", "device": 3}, {"args": ["--mlock"], "device": "GPU-c"}]
    assert told(models, BOTH, args=["--numa", "isolate"]) == [
        "llama_server.args: --numa is no flag of this llama-server",
        "models[1].args: --mlock is no flag of this llama-server",
        "models[0].path: /nowhere/m.gguf does not exist",
        "models[0].device: GPU 3 is none of this node's devices",
        "models[1].device: GPU-c is none of this node's devices",
    ]


def test_a_missing_program_is_told_once(told: Callable[..., list[str]]) -> None:
    assert told([{}, {}], BOTH, path="/nowhere/server") == [
        "llama_server.path: /nowhere/server does not exist"
    ]


def test_a_program_that_does_not_tell_its_flags_is_not_judged_by_them(
    told: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = telling(tmp_path / "silent", "")
    assert told([{"args": ["--mlock"]}], BOTH, path=str(path)) == []


def test_the_built_in_program_beside_gpus_is_told_for_each_model(
    told: Callable[..., list[str]],
) -> None:
    pytest.importorskip("xllamacpp", reason="needs: pip install '.[llama]'")
    said = told([{}, {"device": 0}], BOTH, path="builtin")
    assert [each.partition(": ")[0] for each in said] == ["models[0].device", "models[1].device"]
    assert told([{}, {"device": "cpu"}], (CPU,), path="builtin") == []


def test_a_pinned_models_device_is_not_anothers_under_a_second_name(
    told: Callable[..., list[str]],
) -> None:
    said = told([{"device": 0, "pinned": True}, {"device": ["GPU-aaaa", 1]}], BOTH)
    assert len(said) == 1
    assert said[0].startswith(
        "models[1].device: is shared with m0 (GPU 0 (GPU-aaaa)): m0 is pinned"
    )
    assert told([{"device": 0}, {"device": "GPU-aaaa"}], BOTH) == []


def test_more_pinned_models_than_devices_are_told(told: Callable[..., list[str]]) -> None:
    crowded = "models[2].device: every device is held by a pinned model"
    pinned = {"pinned": True}
    for models in (
        [pinned, pinned, pinned],
        [pinned, pinned, {}],
        [{"device": 0, **pinned}, {"device": 1, **pinned}, {}],
        [{"device": 0, **pinned}, pinned, {}],
        [{"device": [0, 1], **pinned}, {"device": "cpu", **pinned}, pinned],
    ):
        devices = (*BOTH, CPU) if models[0].get("device") == [0, 1] else BOTH
        said = told(models, devices)
        assert [each[: len(crowded)] for each in said] == [crowded], models


def test_a_device_that_no_pinned_model_holds_is_for_the_others(
    told: Callable[..., list[str]],
) -> None:
    assert told([{"pinned": True}, {}, {}], BOTH) == []
    assert told([{"device": 1, "pinned": True}, {"pinned": True}], BOTH) == []


def test_the_program_is_not_asked_for_each_model(
    told: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert told([{}, {}, {}], BOTH) == []
    assert (tmp_path / "llama-server.asked").read_text() == "--help\n"
