"""Which files are taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rolemesh.config.files import Sources
from rolemesh.config.load import find_gateway, load_gateway
from rolemesh.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(path: Path, text: str = "version: 1") -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return str(path)


def test_a_named_file_comes_first(here: Path) -> None:
    written(here / "etc/gateway.yaml")
    env = {"ROLE_MESH_CONFIG": "b.yaml"}
    assert find_gateway("a.yaml", (), env).files == (str(here / "a.yaml"),)
    assert find_gateway(None, (), env).files == (str(here / "b.yaml"),)
    assert find_gateway(None, (), {"ROLE_MESH_CONFIG": ""}).searched


def test_the_first_place_that_exists_is_taken(here: Path) -> None:
    second = written(here / "configs/models.yaml")
    assert find_gateway(None, (), {}) == Sources((second,), searched=True)
    first = written(here / "etc/gateway.yaml")
    assert find_gateway(None, (), {}) == Sources((first,), searched=True)


def test_without_any_file_the_places_are_named(here: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_gateway(None, (), {})
    assert caught.value.exit_code == 2
    for place in (here / "etc/gateway.yaml", here / "configs/models.yaml"):
        assert f"{place}: not there" in caught.value.message
    assert "/etc/rolemesh/gateway.yaml: not there" in caught.value.message
    assert "--config or ROLE_MESH_CONFIG" in caught.value.message


def test_overrides_come_from_the_options_or_else_the_variable(here: Path) -> None:
    env = {"ROLE_MESH_CONFIG_OVERRIDE": os.pathsep.join(["x.yaml", "", "/y.yaml"])}
    found = find_gateway("a.yaml", (), env)
    assert found.files == (str(here / "a.yaml"), str(here / "x.yaml"), "/y.yaml")
    found = find_gateway("a.yaml", ("b.yaml", "c.yaml"), env)
    assert found.files == tuple(str(here / f"{name}.yaml") for name in "abc")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_strangers_file_is_passed_over_by_the_search_alone(here: Path) -> None:
    path = written(here / "etc/gateway.yaml")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        find_gateway(None, (), {})
    assert load_gateway(find_gateway(path, (), {}), {}).files == (path,)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_that_changes_hands_is_not_read_again(here: Path) -> None:
    path = written(here / "etc/gateway.yaml")
    sources = find_gateway(None, (), {})
    assert load_gateway(sources, {}).files == (path,)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match=r"gateway\.yaml: belongs to another user"):
        load_gateway(sources, {})


def test_a_pipe_does_not_hang_the_load(here: Path) -> None:
    os.mkfifo(here / "pipe")
    with pytest.raises(ConfigError, match="pipe: is not a regular file"):
        load_gateway(find_gateway("pipe", (), {}), {})
