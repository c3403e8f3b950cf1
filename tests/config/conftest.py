"""Configurations out of texts: loaded, or the list of what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rolemesh.config.assemble import Loaded
from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.errors import ConfigError

Load = Callable[..., Loaded[GatewayFile]]
Problems = Callable[..., list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """load(base, override..., env={...}): the texts are files `0.yaml`, `1.yaml`, ..."""

    def load(*texts: str, env: Mapping[str, str] | None = None) -> Loaded[GatewayFile]:
        files = []
        for number, text in enumerate(texts):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text)
            files.append(str(path))
        return load_gateway(Sources(tuple(files)), env or {})

    return load


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Problems:
    """What is wrong with the texts, a line each, file names without their folder."""

    def problems(*texts: str, env: Mapping[str, str] | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(*texts, env=env)
        return caught.value.message.replace(f"{tmp_path}/", "").split("\n")

    return problems
