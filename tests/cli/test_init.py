"""`rolemesh init gateway`: a configuration that is good as it is, and nothing overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest


def test_what_it_writes_passes_the_check(run, tmp_path: Path):
    folder = tmp_path / "etc"
    done = run("init", "gateway", "--dir", folder)
    assert done.code == 0
    assert f"rolemesh gateway --config {folder}/gateway.yaml" in done.out
    assert run("gateway", "--config", folder / "gateway.yaml", "--check").code == 0


def test_the_search_finds_it_where_it_is_written_by_default(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run("init", "gateway").code == 0
    assert run("gateway", "--check").code == 0


def test_files_and_folders_are_readable_by_the_owner_alone(run, tmp_path: Path):
    folder = tmp_path / "etc"
    run("init", "gateway", "--dir", folder)
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_the_keys_are_fresh_and_different_and_not_printed(run, tmp_path: Path):
    keys: set[str] = set()
    for name in ("one", "two"):
        done = run("init", "gateway", "--dir", tmp_path / name)
        found = [path.read_text().strip() for path in (tmp_path / name / "keys").iterdir()]
        assert not any(key in done.out for key in found)
        keys.update(found)
    assert len(keys) == 6
    assert all(len(key) > 40 for key in keys)


@pytest.mark.parametrize("there", ["gateway.yaml", "keys/node.key"])
def test_a_file_that_is_there_is_not_touched_and_nothing_else_written(
    run, tmp_path: Path, there: str
):
    path = tmp_path / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    done = run("init", "gateway", "--dir", tmp_path)
    assert done.code == 1
    assert str(path) in done.err
    assert path.read_text() == "mine"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [path]


def test_a_folder_that_cannot_be_made_is_a_clear_error(run, tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = run("init", "gateway", "--dir", tmp_path / "file" / "etc")
    assert done.code in (1, 2)
    assert "Traceback" not in done.err
