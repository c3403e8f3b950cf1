"""The models written on the spot: the same seed gives the same file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

tiny_model = pytest.importorskip(
    "rolemesh.builtin.tiny_model", reason="needs: pip install '.[llama]'"
)


def written(path: Path, **settings: object) -> bytes:
    tiny_model.write(path, **settings)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    assert written(tmp_path / "a", seed=7) == written(tmp_path / "b", seed=7)


def test_another_seed_gives_another_model(tmp_path: Path) -> None:
    assert written(tmp_path / "a", seed=7) != written(tmp_path / "b", seed=8)


def test_it_is_tiny(tmp_path: Path) -> None:
    assert len(written(tmp_path / "a")) < 500_000


def test_as_a_program_it_writes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a"
    program = [sys.executable, "-m", "rolemesh.builtin.tiny_model"]
    argv = [*program, str(path), "--name", "writer", "--seed", "3"]
    subprocess.run(argv, check=True, timeout=20)
    assert path.read_bytes() == written(tmp_path / "b", name="writer", seed=3)
