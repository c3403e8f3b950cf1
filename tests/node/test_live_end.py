"""The end of a node, and what it leaves: nothing. Real nodes, ended in every way there is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.node.wrapped import wrapped
from tests.node_process import NodeProcess, StreamedChat, alive, error_of, eventually, model
from tests.rawhttp import Truncated

GONE_WITHIN_S = 5.0  # what the node promises

# A server that a wrapper started and does not pass signals to, and one that left for itself.
STUBBORN = "trap '' TERM\n(trap '' TERM; exec sleep 1000) &\nsetsid sleep 1000 &\n$serve &\nwait"


def gone(pids: set[int]) -> None:
    eventually(lambda: not alive(pids), GONE_WITHIN_S)


@pytest.fixture
def stubborn(tiny: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    llama = wrapped(tmp_path / "llama", STUBBORN, stop_timeout_s=1)
    node = NodeProcess({"llama_server": llama, "models": [model("writer", tiny)]}, tmp_path)
    yield node.start()
    node.kill()


def stubborn_family(node: NodeProcess) -> set[int]:
    """Its processes: node, guardian, wrapper, server, and the two that sleep."""
    assert node.chat("writer", max_tokens=1).status == 200
    eventually(lambda: len(node.family()) >= 6)
    return node.family()


def test_nothing_survives_sigterm_be_it_ignored_or_not(stubborn: NodeProcess) -> None:
    family = stubborn_family(stubborn)
    stubborn.stop()
    gone(family)


def test_nothing_survives_the_kill_of_a_node(stubborn: NodeProcess) -> None:
    family = stubborn_family(stubborn)
    stubborn.kill()
    gone(family)


def test_nothing_survives_an_unload(stubborn: NodeProcess) -> None:
    family = stubborn_family(stubborn)
    stubborn.unload("writer")
    gone(family - {stubborn.pid, *guardian_of(stubborn)})
    assert len(stubborn.family()) == 2


def guardian_of(node: NodeProcess) -> set[int]:
    found = (pid for pid in node.family() if b"guardian_main" in cmdline(pid))
    return set(found)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_start_after_a_kill_is_clean(tiny: Path, slow: Path, tmp_path: Path) -> None:
    config = {"models": [model("writer", tiny, preload=True), model("slow", slow)]}
    node = NodeProcess(config, tmp_path).start()
    with node.open_stream("slow", max_tokens=1000, ignore_eos=True) as chat:
        chat.begun()
        family = node.family()
        node.kill()
        with pytest.raises(Truncated):
            chat.rest()
    gone(family)
    with node:
        assert node.wait_state("writer", "READY")["restarts"] == 0
        assert node.chat("slow", max_tokens=1).status == 200
        assert not [line for line in node.lines if line["level"] in ("warning", "error")]


def test_what_neither_node_nor_guardian_could_end_is_ended_at_the_next_start(
    tiny: Path, tmp_path: Path
) -> None:
    node = NodeProcess({"models": [model("writer", tiny, preload=True)]}, tmp_path).start()
    child = node.wait_state("writer", "READY")["pid"]
    guardians = guardian_of(node)
    for pid in guardians:
        os.kill(pid, signal.SIGSTOP)
    node.kill()
    assert alive([child])
    try:
        with node:
            assert not alive([child])
            assert node.wait_state("writer", "READY")["pid"] != child
    finally:
        for pid in guardians:
            os.kill(pid, signal.SIGCONT)
    gone(guardians)


@pytest.fixture
def slow_node(slow: Path, tmp_path: Path) -> Iterator[NodeProcess]:
    """For 20 s at least, if nobody ends its streams."""
    node = NodeProcess({"models": [model("slow", slow, parallel=2, preload=True)]}, tmp_path)
    node.start().wait_state("slow", "READY")
    yield node
    node.kill()


def stream(node: NodeProcess, tokens: int) -> StreamedChat:
    return node.open_stream("slow", max_tokens=tokens, ignore_eos=True).begun()


def test_streams_in_flight_end_by_themselves_or_with_an_error(slow_node: NodeProcess) -> None:
    family = slow_node.family()
    with stream(slow_node, 40) as short, stream(slow_node, 5000) as long:
        slow_node.signal(signal.SIGTERM)
        with ThreadPoolExecutor(2) as pool:
            ends = [pool.submit(chat.rest) for chat in (short, long)]
            assert ends[0].result(20).endswith(b"data: [DONE]\n\n")
            told = ends[1].result(20)
        error = error_of(told)
        assert error is not None
        assert b"[DONE]" not in told
        slow_node.stop()
    gone(family)


def test_a_second_signal_ends_everything_at_once(slow_node: NodeProcess) -> None:
    family = slow_node.family()
    with stream(slow_node, 5000) as chat:
        began = time.monotonic()
        slow_node.signal(signal.SIGTERM)
        slow_node.wait_line(lambda line: "may finish" in line["message"])
        slow_node.signal(signal.SIGTERM)
        assert error_of(chat.rest()) is not None
        slow_node.stop(expect=130)
        assert time.monotonic() - began < GONE_WITHIN_S
    gone(family)


def test_a_node_ends_in_the_middle_of_a_load(tiny: Path, tmp_path: Path) -> None:
    llama = wrapped(tmp_path / "llama", "trap '' TERM; sleep 1000", stop_timeout_s=0.5)
    config = {
        "llama_server": llama,
        "models": [model("writer", tiny)],
        "node": {"drain_timeout_s": 0.2},
    }
    with NodeProcess(config, tmp_path) as node, node.open_stream("writer") as chat:
        node.wait_state("writer", "STARTING")
        eventually(lambda: len(node.family()) >= 4)
        family = node.family()
        node.signal(signal.SIGTERM)
        assert chat.head.status == 503
        node.stop()
        gone(family)


def test_two_nodes_on_one_host_leave_each_others_children_alone(tiny: Path, tmp_path: Path) -> None:
    nodes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        config = {"models": [model("writer", tiny, preload=True)], "node": {"node_id": name}}
        nodes.append(NodeProcess(config, tmp_path / name).start())
    one, two = nodes
    child = two.wait_state("writer", "READY")
    one.wait_state("writer", "READY")
    one.kill()
    one.start()
    one.wait_state("writer", "READY")
    one.stop()
    assert two.child("writer")["pid"] == child["pid"]
    assert two.chat("writer", max_tokens=1).status == 200
    assert two.child("writer")["restarts"] == 0
    two.stop()


def test_a_second_node_on_one_state_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    config = {"models": [model("writer", tiny, preload=True)]}
    with NodeProcess(config, tmp_path) as node:
        pid = node.wait_state("writer", "READY")["pid"]
        second = NodeProcess(config, tmp_path)
        process = second.launch()
        _, told = process.communicate(timeout=20)
        assert process.returncode == 1
        assert b"state.json" in told
        assert node.child("writer")["pid"] == pid
