"""What the node remembers, and that its children are remembered at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from rolemesh.errors import RunError
from rolemesh.node.state import ChildRecord, NodeState


@frozen
class Started:
    """What a process is to the state."""

    pid: int
    started_at: int = 5
    marker: str = "m"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "node-a.json"


def opened(path: Path) -> NodeState:
    state = NodeState(path)
    state.open()
    return state


def on_disk(path: Path) -> Any:
    return json.loads(path.read_text())["data"]


async def test_the_access_token_is_made_once(path: Path) -> None:
    state = opened(path)
    token = state.access_token
    assert len(token) >= 43
    await state.close()
    again = opened(path)
    assert again.access_token == token
    await again.close()
    assert opened(path.with_name("other.json")).access_token != token


async def test_a_drain_is_kept(path: Path) -> None:
    state = opened(path)
    assert not state.drained
    await state.drain(True)
    await state.close()
    again = opened(path)
    assert again.drained
    await again.drain(False)
    await again.close()
    assert not opened(path).drained


async def test_a_child_is_on_disk_at_once(path: Path) -> None:
    state = opened(path)
    for pid in (11, 12, 13):
        await state.child_started(Started(pid), "tiny")
        assert [each["pid"] for each in on_disk(path)["children"]][-1] == pid
    await state.child_ended(11, 12)
    assert [each["pid"] for each in on_disk(path)["children"]] == [13]
    # As if it had been killed: not closed.
    assert on_disk(path)["access_token"] == state.access_token
    await state.close()


async def test_the_former_run_s_children_are_known(path: Path) -> None:
    state = opened(path)
    await state.child_started(Started(11, 5, "m.1."), "tiny")
    await state.close()
    again = opened(path)
    assert dict(again.children) == {11: ChildRecord(11, 5, "m.1.", "tiny")}
    await again.close()


async def test_another_boot_s_are_forgotten(path: Path) -> None:
    state = opened(path)
    await state.child_started(Started(11), "tiny")
    token = state.access_token
    await state.close()
    path.write_text(path.read_text().replace(f'"boot":"{on_disk(path)["boot"]}"', '"boot":"old"'))
    again = opened(path)
    assert not again.children
    assert again.access_token == token
    await again.close()


async def test_a_second_node_on_the_same_file_is_refused(path: Path) -> None:
    state = opened(path)
    with pytest.raises(RunError, match="in use by another process"):
        opened(path)
    await state.close()
    await opened(path).close()


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"access_token": "", "seed": "s"},
        {"access_token": 7, "seed": "s"},
        {"access_token": "t", "seed": "s", "children": [{"pid": 1}]},
        {"nodes": []},
    ],
)
async def test_what_it_did_not_write_is_set_aside(path: Path, data: dict[str, object]) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"format": 1, "written_at": 1, "data": data}))
    state = opened(path)
    assert len(state.access_token) >= 43
    assert not state.children
    assert not path.exists()
    assert path.with_name("node-a.json.corrupt").exists()
    await state.close()


async def test_the_owner_is_this_file_s_alone(path: Path) -> None:
    state = opened(path)
    owner = state.owner
    await state.close()
    assert opened(path).owner == owner
    copy = path.with_name("node-b.json")
    shutil.copy(path, copy)
    assert opened(copy).owner != owner


async def test_a_disk_that_is_full_stops_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = opened(path)
    path.with_name("node-a.json.new").mkdir()
    await state.child_started(Started(11), "tiny")
    await state.child_ended(11)
    await state.close()
    assert caplog.text.count("cannot be written") == 1
