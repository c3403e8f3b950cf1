"""NVML without a card: the library of `nvml_stub.c`, steered by a file that it reads at every call.

A process that is started with `Stub.env` finds it instead of the machine's own. In this process it
is loaded by its path beforehand: the loader then takes it for every library of that name. pynvml
keeps what it has loaded, so this process never sees another one.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

LIBRARY = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml_stub.c")


class Stub:
    """What its GPUs tell, unless said otherwise: see `nvml_stub.c`."""

    def __init__(self, library: Path, control: Path) -> None:
        self._control = control
        self._lines: dict[str, object] = {}
        self.env = {"LD_LIBRARY_PATH": str(library.parent), "NVML_STUB": str(control)}
        self.say()

    def say(self, **lines: object) -> None:
        """None: as if it had never been said."""
        self._lines |= lines
        told = {key: value for key, value in self._lines.items() if value is not None}
        text = "".join(f"{key} {value}\n" for key, value in told.items())
        beside = self._control.with_suffix(".new")
        beside.write_text(text, "utf-8", "surrogateescape")
        beside.replace(self._control)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In a folder of its own."""
    if shutil.which("cc") is None:
        pytest.skip("cc is missing: apt install gcc libc6-dev")
    library = tmp_path_factory.mktemp("nvml") / LIBRARY
    argv = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    argv += [f"-Wl,-soname,{LIBRARY}", "-o", str(library), str(SOURCE)]
    subprocess.run(argv, check=True, timeout=60)
    return library


@pytest.fixture
def stub(nvml_library: Path, tmp_path: Path) -> Stub:
    """For child processes."""
    return Stub(nvml_library, tmp_path / "nvml-says")


@pytest.fixture
def loaded_stub(nvml_library: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """For this process."""
    monkeypatch.setenv("NVML_STUB", stub.env["NVML_STUB"])
    ctypes.CDLL(os.fspath(nvml_library))
    return stub
