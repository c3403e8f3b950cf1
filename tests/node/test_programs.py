"""Finding the program, and asking it for its flags: once, and within bounds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rolemesh.errors import RunError
from rolemesh.node import programs
from rolemesh.node.programs import find
from rolemesh.wire.llama_help import ASSUMED
from tests.llama import until
from tests.node.programs import HELP, asked, script, telling

ENV = {"PATH": os.environ["PATH"]}


def test_a_name_is_looked_up_in_the_childs_path(tmp_path: Path) -> None:
    path = telling(tmp_path / "llama-server")
    env = {"PATH": f"/nowhere:{tmp_path}:{ENV['PATH']}"}
    assert find("llama-server", env).argv == (str(path),)


def test_what_it_knows_is_what_it_tells(tmp_path: Path) -> None:
    known = find(str(telling(tmp_path / "server")), ENV).known
    assert known.is_told
    assert known.values["--flash-attn"] == 1


def test_it_is_asked_once_until_its_file_changes(tmp_path: Path) -> None:
    path = telling(tmp_path / "server")
    assert "--mlock" not in find(str(path), ENV).known.values
    find(str(path), ENV)
    assert asked(path) == ["--help"]
    telling(path, HELP + "--mlock                                 keep in RAM\n")
    os.utime(path, ns=(1, 1))
    assert "--mlock" in find(str(path), ENV).known.values
    assert asked(path) == ["--help", "--help"]


def test_many_that_start_at_once_ask_once(tmp_path: Path) -> None:
    path = telling(tmp_path / "server")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: find(str(path), ENV), range(8)))
    assert asked(path) == ["--help"]
    assert all(program == found[0] for program in found)


def test_it_is_asked_in_the_environment_of_a_child(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script(tmp_path / "server", f'echo "$CUDA_VISIBLE_DEVICES,$LD_LIBRARY_PATH" > {told}')
    find(str(tmp_path / "server"), {**ENV, "CUDA_VISIBLE_DEVICES": "", "LD_LIBRARY_PATH": "/opt"})
    assert told.read_text() == ",/opt\n"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.write_text("#!/bin/sh\n"), "is not executable"),
    ],
)
def test_a_program_that_cannot_be_run_is_an_error_without_its_path(
    make: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    make(tmp_path / "server")
    with pytest.raises(RunError) as failed:
        find(str(tmp_path / "server"), ENV)
    assert failed.value.message == f"the program of llama_server.path {says}"


def test_a_name_that_is_nowhere_is_an_error() -> None:
    with pytest.raises(RunError, match=r"is not to be found in \$PATH"):
        find("no-such-llama-server", {"PATH": "/nowhere"})


@pytest.mark.parametrize(
    "body", ["exit 1", "echo hello", "kill -SEGV $$", "printf '\\377\\376\\0'"]
)
def test_a_program_that_tells_nothing_is_assumed_to_be_of_today(body: str, tmp_path: Path) -> None:
    assert find(str(script(tmp_path / "server", body)), ENV).known is ASSUMED


def test_no_program_at_all_is_assumed_to_be_of_today(tmp_path: Path) -> None:
    path = tmp_path / "server"
    path.write_bytes(b"\x7fELF" + bytes(100))
    path.chmod(0o755)
    assert find(str(path), ENV).known is ASSUMED


def test_a_flood_is_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_BYTES", 65536)
    path = telling(tmp_path / "server")
    with path.open("a") as file:
        file.write("\nexec yes\n")
    assert find(str(path), ENV).known.is_told


def test_one_that_serves_instead_is_ended_with_all_that_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "WITHIN_S", 0.3)
    pids = tmp_path / "pids"
    body = f"trap '' TERM\nsleep 60 &\necho $! $$ > {pids}\nwait"
    assert find(str(script(tmp_path / "server", body)), ENV).known is ASSUMED
    for pid in pids.read_text().split():
        until(lambda pid=pid: not _lives(int(pid)), f"{pid} has ended")


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_the_built_in_one_is_known_without_being_started() -> None:
    pytest.importorskip("xllamacpp", reason="needs: pip install '.[llama]'")
    program = find("builtin", {"PATH": "/nowhere"})
    assert program.argv[0] == sys.executable
    assert program.argv[-2:] == ("-m", "rolemesh.builtin")
    assert program.known.is_told
    assert program.known.values["--reranking"] == 0


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(RunError, match=r"rolemesh\[llama\]"):
        find("builtin", ENV)
