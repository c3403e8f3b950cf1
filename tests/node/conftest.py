"""Model files for nodes with real children."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llama import Starter


@pytest.fixture(scope="session")
def tiny(llama_folder: Path) -> Path:
    """Loads and answers at once."""
    return Starter(llama_folder).model("tiny")


@pytest.fixture(scope="session")
def slow(llama_folder: Path) -> Path:
    """60 tokens a second: an answer can be interrupted."""
    return Starter(llama_folder).model("slow")
