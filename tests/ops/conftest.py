"""What the tests of units, man pages and documents share: the repository's files and the tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tool() -> Run:
    """Run a program that a user's machine may lack: `tool("mandoc", "-T", "lint", path)`."""

    def run(program: str, *args: object) -> subprocess.CompletedProcess[str]:
        # Daemons live in /usr/sbin, which is not on every PATH.
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if found is None:
            pytest.skip(f"{program} is not installed")
        command = [found, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run
