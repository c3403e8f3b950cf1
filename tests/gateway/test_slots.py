"""Who gets a slot, who waits, and that none is ever lost or given twice."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rolemesh.core.types import Backend, BaseUrl, Candidate
from rolemesh.gateway.slots import Slots

LONG_S = 60.0


def candidate(key: str, limit: int | None = 1) -> Candidate:
    return Candidate(Backend(key, key, BaseUrl("http", "10.0.0.1", 80)), None, key, limit)


A, B = candidate("a"), candidate("b")
PAIR = candidate("pair", 2)
FREE = candidate("free", None)


async def turns() -> None:
    """Let everything that can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


def waiting(slots: Slots, *candidates: Candidate) -> asyncio.Task[Candidate | None]:
    return asyncio.create_task(slots.wait(candidates, LONG_S))


@pytest.mark.parametrize(
    ("taken", "candidates", "given"),
    [
        ([], [A, B], A),
        ([A], [A, B], B),
        ([A, B], [A, B], None),
        ([PAIR], [PAIR], PAIR),
        ([PAIR, PAIR], [PAIR], None),
        ([FREE] * 50, [FREE], FREE),
        ([A], [A, FREE], FREE),
        ([], [], None),
    ],
)
def test_the_first_with_room_is_taken(
    taken: list[Candidate], candidates: list[Candidate], given: Candidate | None
) -> None:
    slots = Slots()
    for each in taken:
        assert slots.take([each]) is each
    assert slots.take(candidates) is given


def test_a_released_slot_can_be_taken_again_and_is_counted() -> None:
    slots = Slots()
    assert slots.in_flight("pair") == 0
    slots.take([PAIR])
    slots.take([PAIR])
    assert slots.in_flight("pair") == 2
    slots.release(PAIR)
    assert slots.in_flight("pair") == 1
    assert slots.take([PAIR]) is PAIR
    slots.release(PAIR)
    slots.release(PAIR)
    assert slots.in_flight("pair") == 0


def test_candidates_of_one_key_share_their_slots() -> None:
    """The same model of a node, as the candidate of two aliases or of two registrations."""
    slots = Slots()
    slots.take([A])
    assert slots.take([candidate("a")]) is None
    slots.release(candidate("a"))
    assert slots.take([A]) is A


async def test_who_waits_gets_the_next_slot_in_the_order_of_coming() -> None:
    slots = Slots()
    slots.take([A])
    first, second = waiting(slots, A), waiting(slots, A)
    await turns()
    slots.release(A)
    assert await first is A
    assert not second.done()
    assert slots.in_flight("a") == 1
    slots.release(A)
    assert await second is A


async def test_nobody_barges_in_before_one_who_waits() -> None:
    slots = Slots()
    slots.take([A])
    waiter = waiting(slots, A)
    await turns()
    slots.release(A)
    # Given, though the one who waited has not run yet.
    assert slots.take([A]) is None
    assert await waiter is A


async def test_one_who_waits_for_several_takes_whichever_comes_free() -> None:
    slots = Slots()
    slots.take([A])
    slots.take([B])
    either, only_a = waiting(slots, A, B), waiting(slots, A)
    await turns()
    slots.release(B)
    assert await either is B
    slots.release(A)
    assert await only_a is A


async def test_a_slot_that_nobody_who_waits_wants_is_free() -> None:
    slots = Slots()
    slots.take([A])
    slots.take([B])
    waiter = waiting(slots, A)
    await turns()
    slots.release(B)
    assert not waiter.done()
    assert slots.take([A, B]) is B
    waiter.cancel()


async def test_waiting_ends_in_time_and_leaves_no_place_in_the_queue() -> None:
    slots = Slots()
    slots.take([A])
    with pytest.raises(TimeoutError):
        await slots.wait([A], 0.0)
    with pytest.raises(TimeoutError):
        await slots.wait([A], -1.0)
    slots.release(A)
    assert slots.in_flight("a") == 0
    assert slots.take([A]) is A


async def test_one_who_leaves_the_queue_is_passed_over() -> None:
    slots = Slots()
    slots.take([A])
    first, second = waiting(slots, A), waiting(slots, A)
    await turns()
    first.cancel()
    slots.release(A)  # before the one who left has run
    with contextlib.suppress(asyncio.CancelledError):
        await first
    assert await second is A
    assert slots.in_flight("a") == 1


async def test_a_slot_given_to_one_who_leaves_in_the_same_turn_is_handed_on() -> None:
    slots = Slots()
    slots.take([A])
    first, second = waiting(slots, A), waiting(slots, A)
    await turns()
    slots.release(A)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second is A
    slots.release(A)
    assert slots.in_flight("a") == 0


async def test_a_slot_given_to_one_who_leaves_comes_free_where_nobody_else_waits() -> None:
    slots = Slots()
    slots.take([A])
    waiter = waiting(slots, A)
    await turns()
    slots.release(A)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert slots.in_flight("a") == 0
    assert slots.take([A]) is A


async def test_when_candidates_change_everyone_who_waits_plans_again() -> None:
    slots = Slots()
    slots.take([A])
    first, second = waiting(slots, A), waiting(slots, A)
    await turns()
    slots.look_again()
    slots.look_again()
    assert await first is None
    assert await second is None
    slots.release(A)
    assert slots.in_flight("a") == 0


async def test_one_who_was_sent_to_plan_again_is_given_no_slot_besides() -> None:
    slots = Slots()
    slots.take([A])
    waiter = waiting(slots, A)
    await turns()
    slots.look_again()
    slots.release(A)
    assert await waiter is None
    assert slots.take([A]) is A


async def test_a_lowered_limit_hands_nothing_on_until_there_is_room() -> None:
    slots = Slots()
    slots.take([PAIR])
    slots.take([PAIR])
    waiter = waiting(slots, candidate("pair", 1))
    await turns()
    slots.release(PAIR)
    await turns()
    assert not waiter.done()
    slots.release(PAIR)
    assert (await waiter) is not None
    assert slots.in_flight("pair") == 1


async def test_what_a_slot_costs_does_not_depend_on_how_many_wait_for_others() -> None:
    async def cost(others: int) -> float:
        slots, many = Slots(), [candidate(f"node-{number}") for number in range(20)]
        for each in many:
            slots.take([each])
        crowd = [waiting(slots, *many) for _ in range(others)]
        slots.take([PAIR])
        slots.take([PAIR])
        queue = [waiting(slots, PAIR) for _ in range(100)]
        await turns()
        gc.disable()
        began = time.process_time()
        for _ in queue:
            slots.release(PAIR)
        for _ in range(500):
            slots.release(slots.take([B]) or PAIR)
        took = time.process_time() - began
        gc.enable()
        assert [await task for task in queue] == [PAIR] * 100
        assert all(task.cancel() for task in crowd)
        return took

    assert await cost(2000) < 20 * await cost(1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "release", "leave", "leave", "turn", "look_again"]),
        st.integers(0, 5),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_whatever_comes_between_no_slot_is_lost_and_none_given_twice(
    steps: list[tuple[str, int]],
) -> None:
    asyncio.run(_live_through(steps))


async def _live_through(steps: list[tuple[str, int]]) -> None:
    slots, wishes = Slots(), ([A], [B], [A, B], [PAIR], [PAIR, A], [B, A])
    held: list[Candidate] = []
    asking: list[asyncio.Task[None]] = []

    async def ask(wish: list[Candidate]) -> None:
        while (given := slots.take(wish) or await slots.wait(wish, LONG_S)) is None:
            pass  # told to plan again
        held.append(given)

    def within_limits() -> bool:
        return all(slots.in_flight(each.key) <= (each.limit or 0) for each in (A, B, PAIR))

    for step, number in steps:
        if step == "ask":
            asking.append(asyncio.create_task(ask(wishes[number])))
        elif step == "release" and held:
            slots.release(held.pop(number % len(held)))
        elif step == "leave" and asking:
            asking[number % len(asking)].cancel()
        elif step == "turn":
            await asyncio.sleep(0)
        elif step == "look_again":
            slots.look_again()
        assert within_limits()
    await turns()
    while held:
        slots.release(held.pop())
        await turns()
        assert within_limits()
    # Everybody who stayed has been served.
    assert all(task.done() for task in asking)
    assert all(slots.in_flight(each.key) == 0 for each in (A, B, PAIR))
    await asyncio.gather(*asking, return_exceptions=True)
