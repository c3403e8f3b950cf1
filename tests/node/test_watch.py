"""When a child that was READY is held to be sick, and when not; it and its answers are played."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from rolemesh.core.types import Backend, BaseUrl
from rolemesh.node.ask import Asker, Health, Verdict
from rolemesh.node.watch import MAX_FAILED_REQUESTS, Watch

WITHIN_S = 10.0
COUNTED = (b"1",)


class Child:
    """watch.Watched, and what an Asker would hear of it."""

    def __init__(self, port: int) -> None:
        self.backend = Backend("a", "a", BaseUrl("http", "127.0.0.1", port))
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.ours: Callable[[], bool] = lambda: True
        self.verdict = Verdict.WORKS
        self.counted: Callable[[], tuple[bytes, ...] | None] = lambda: COUNTED
        self.asked: list[str] = []
        self.busy = False
        self.settled = 0
        self.trouble: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def listens(self, port: int) -> bool:
        return self.ours()

    def kill(self) -> None:
        raise AssertionError

    async def works(self, backend: Backend) -> Verdict:
        self.asked.append("works")
        return self.verdict

    async def work(self, backend: Backend) -> tuple[bytes, ...] | None:
        self.asked.append("work")
        return self.counted()

    async def health(self, backend: Backend) -> Health:
        return Health.READY

    def settle(self) -> None:
        self.settled += 1

    def watch(self, stuck_s: float = 300.0) -> Watch:
        asker = cast("Asker", self)
        trouble = self.trouble
        return Watch(
            self, self.backend, asker, lambda: self.busy, stuck_s, self.counted(), self.settle,
            lambda reason: None if trouble.done() else trouble.set_result(reason),
        )  # fmt: skip


@pytest.fixture
async def child() -> AsyncIterator[Child]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Child(server.getsockname()[1])


async def reason(child: Child) -> str:
    async with asyncio.timeout(WITHIN_S):
        return await child.trouble


async def settled(child: Child, times: int) -> None:
    async with asyncio.timeout(WITHIN_S):
        while child.settled < times:  # noqa: ASYNC110 - bounded, and told by nobody
            await asyncio.sleep(0.001)


async def fails(watched: Watch, child: Child) -> None:
    for number in range(MAX_FAILED_REQUESTS):
        watched.heard(worked=False)
        await settled(child, number + 1)


async def test_requests_that_fail_are_not_held_against_a_child_that_works(child: Child) -> None:
    watched = child.watch()
    await fails(watched, child)
    await asyncio.sleep(0)
    assert child.asked.count("works") == 1
    assert not child.trouble.done()


async def test_a_child_that_fails_the_nodes_own_question_is_sick(child: Child) -> None:
    watched = child.watch()
    child.verdict = Verdict.FAILS
    await fails(watched, child)
    assert "and one of the node's own" in await reason(child)


async def test_silence_is_sickness_unless_its_slots_bring_something_forth(child: Child) -> None:
    watched = child.watch()
    child.verdict = Verdict.SILENT
    child.counted = lambda: (b"%d" % len(child.asked),)
    await fails(watched, child)
    await asyncio.sleep(0)
    assert not child.trouble.done()
    child.counted = lambda: COUNTED
    child.settled = 0
    await fails(watched, child)
    assert "one of the node's own" in await reason(child)


async def test_a_port_that_another_program_holds_is_sent_nothing(child: Child) -> None:
    watched = child.watch()
    child.ours = lambda: False
    watched.heard(worked=False)
    assert watched.in_doubt
    assert await reason(child) == "another program holds its port"
    assert watched.in_doubt
    assert (child.asked, child.settled) == ([], 0)


async def test_a_port_that_nobody_holds_is_lost_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = Child(server.getsockname()[1])
    child.ours = lambda: False
    child.watch().heard(worked=False)
    assert await reason(child) == "it does not listen any more"


async def test_a_port_that_cannot_be_looked_at_is_not_held_against_the_child(child: Child) -> None:
    def blind() -> bool:
        raise OSError(24, "Too many open files")

    watched = child.watch()
    child.ours = blind
    watched.heard(worked=False)
    await settled(child, 1)
    assert not watched.in_doubt
    assert not child.trouble.done()


async def test_no_busy_child_is_asked_with_its_key_before_its_port_has_been_looked_at(
    child: Child,
) -> None:
    watched = asyncio.create_task(child.watch(stuck_s=0.01).run())
    await asyncio.sleep(0)
    child.ours, child.busy, child.asked = (lambda: False), True, []
    assert await reason(child) == "another program holds its port"
    assert child.asked == []
    await watched


@pytest.mark.parametrize("told", [COUNTED, None])
async def test_only_counters_that_are_told_say_that_nothing_moves(
    child: Child, told: tuple[bytes, ...] | None
) -> None:
    child.counted, child.busy = lambda: told, True
    watched = asyncio.create_task(child.watch(stuck_s=0.01).run())
    if told is not None:
        assert "without a token" in await reason(child)
    async with asyncio.timeout(WITHIN_S):
        while len(child.asked) < 5 and told is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    assert watched.done() or not child.trouble.done()
    watched.cancel()


async def test_counters_that_fall_silent_have_not_moved(child: Child) -> None:
    child.busy = True
    watched = asyncio.create_task(child.watch(stuck_s=0.01).run())
    child.counted = lambda: None
    assert "without a token" in await reason(child)
    await watched
