"""Configurations out of texts: loaded, or the list of what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rolemesh.config.assemble import Loaded
from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway, load_node
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_node import NodeFile
from rolemesh.errors import ConfigError

Load = Callable[..., Loaded[GatewayFile]]
LoadNode = Callable[..., Loaded[NodeFile]]
Problems = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load(base, override..., env={...}): the texts are files `0.yaml`, `1.yaml`, ..."""
    return _loader(tmp_path, load_gateway)


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Problems:
    """What is wrong with the texts, a line each, file names without their folder."""
    return _complainer(tmp_path, load)


@pytest.fixture
def node(tmp_path: Path) -> LoadNode:
    """As `load`, for a node's configuration."""
    return _loader(tmp_path, load_node)


@pytest.fixture
def node_problems(node: LoadNode, tmp_path: Path) -> Problems:
    """As `problems`, for a node's configuration."""
    return _complainer(tmp_path, node)


def _loader(folder: Path, of_kind: Callable[[Sources, Mapping[str, str]], Any]) -> Any:
    def load(*texts: str, env: Mapping[str, str] | None = None) -> Any:
        files = []
        for number, text in enumerate(texts):
            path = folder / f"{number}.yaml"
            path.write_text(text)
            files.append(str(path))
        return of_kind(Sources(tuple(files)), env or {})

    return load


def _complainer(folder: Path, load: Callable[..., Any]) -> Problems:
    def problems(*texts: str, env: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(*texts, env=env)
        return caught.value.message.replace(f"{folder}/", "").split("\n")

    return problems
