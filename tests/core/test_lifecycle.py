"""The life of a child, without a process and without waiting."""

from __future__ import annotations

import pytest
from attrs import evolve

from rolemesh.core.lifecycle import (
    FATAL_PAUSE_S,
    LONGEST_BACKOFF_S,
    MAX_FAILED_LOADS,
    MAX_FAILURES,
    STEADY_S,
    Action,
    Answered,
    Child,
    Drained,
    Event,
    Exited,
    Impossible,
    Limits,
    Load,
    Moved,
    Possible,
    Resume,
    Sick,
    Start,
    State,
    Stop,
    Tick,
    step,
)

CHILD = Child(limits=Limits(load_timeout_s=100.0, stop_timeout_s=10.0))


def after(*events: tuple[float, Event], child: Child = CHILD) -> tuple[Child, list[Action]]:
    """The child behind these events, and every action on the way."""
    done: list[Action] = []
    for now, event in events:
        child, actions = step(child, event, now)
        done += actions
    return child, done


READY = after((0, Start()), (1, Answered()))[0]


def test_a_start_spawns_and_an_answer_makes_it_ready() -> None:
    child, actions = after((0, Start()), (1, Answered()))
    assert child.state is State.READY
    assert child.since == 1
    assert child.until is None
    assert actions == [Action.SPAWN]


def test_a_load_goes_on_as_long_as_something_moves() -> None:
    child, actions = after(
        (0, Start()), (90, Moved()), (180, Tick()), (189, Moved()), (280, Tick())
    )
    assert child.state is State.STARTING
    assert actions == [Action.SPAWN]


def test_a_load_in_which_nothing_moves_is_killed_and_tried_again() -> None:
    child, actions = after((0, Start()), (100, Tick()))
    assert child.state is State.STOPPING
    assert actions == [Action.SPAWN, Action.KILL]
    assert child.reason == "nothing moved for 100 s of loading"
    child, actions = after((101, Exited("exit code -9")), (101.5, Tick()), child=child)
    assert child.state is State.STARTING
    assert actions == [Action.SPAWN]
    assert child.restarts == 1


def test_an_idle_child_is_terminated_at_once() -> None:
    child, actions = after((5, Stop()), child=READY)
    assert child.state is State.STOPPING
    assert actions == [Action.TERMINATE]
    child, actions = after((6, Exited("exit code 0")), child=child)
    assert child.state is State.STOPPED
    assert child.reason is None
    assert actions == []


def test_a_busy_child_finishes_its_requests_first() -> None:
    child, actions = after((5, Stop(busy=True)), (500, Tick()), child=READY)
    assert child.state is State.DRAINING
    assert actions == []
    child, actions = after((501, Drained()), child=child)
    assert child.state is State.STOPPING
    assert actions == [Action.TERMINATE]


def test_a_stop_can_be_taken_back_while_it_drains_and_not_later() -> None:
    assert after((5, Stop(busy=True)), (6, Resume()), child=READY)[0].state is State.READY
    assert after((5, Stop()), (6, Resume()), child=READY)[0].state is State.STOPPING


def test_what_does_not_hear_sigterm_is_killed_again_and_again() -> None:
    _, actions = after(
        (5, Stop()), (14, Tick()), (15, Tick()), (16, Tick()), (25, Tick()), child=READY
    )
    assert actions == [Action.TERMINATE, Action.KILL, Action.KILL]


def test_a_crash_restarts_with_growing_back_off() -> None:
    child, pauses = READY, []
    now = 10.0
    while child.state is not State.FATAL:
        child, _ = step(child, Exited("exit code 139"), now)
        if child.state is State.BACKOFF:
            assert child.until is not None
            pauses.append(child.until - now)
            assert step(child, Tick(), child.until - 0.01)[0].state is State.BACKOFF
            now = child.until
            child, actions = step(child, Tick(), now)
            assert actions == (Action.SPAWN,)
            child, _ = step(child, Answered(), now)
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert len(pauses) == MAX_FAILURES - 1
    assert child.reason == "exit code 139"
    assert child.restarts == MAX_FAILURES - 1


def test_the_pause_between_two_starts_is_bounded() -> None:
    many = evolve(READY, failures=-100)  # a longer row than is ever allowed
    child, _ = step(evolve(many, failures=MAX_FAILURES - 2), Exited("x"), 10)
    assert child.until is not None
    assert child.until - 10 <= LONGEST_BACKOFF_S


def test_a_load_that_fails_again_and_again_is_fatal_sooner() -> None:
    child, _ = after((0, Start()))
    failures = 0
    now = 0.0
    while child.state is not State.FATAL:
        child, _ = step(child, Exited("exit code 1: no such tensor"), now)
        failures += 1
        now += 100
        child, _ = step(child, Tick(), now)
    assert failures == MAX_FAILED_LOADS
    assert child.reason == "exit code 1: no such tensor"


def test_a_crash_after_a_steady_time_begins_a_new_row() -> None:
    nearly = evolve(READY, failures=MAX_FAILURES - 1)
    assert step(nearly, Exited("x"), 1 + STEADY_S - 1)[0].state is State.FATAL
    child, _ = step(nearly, Exited("x"), 1 + STEADY_S)
    assert child.state is State.BACKOFF
    assert child.failures == 1


LOST, _ = step(CHILD, Impossible("no such file"), 10)
FATAL = evolve(
    READY, state=State.FATAL, since=10.0, until=10 + FATAL_PAUSE_S, failures=5, reason="x"
)


def test_what_cannot_work_is_fatal_until_it_can() -> None:
    assert LOST.state is State.FATAL
    assert LOST.reason == "no such file"
    assert not LOST.may_retry(1e9)
    assert step(LOST, Start(), 1e9) == (LOST, ())
    child, _ = step(LOST, Possible(), 20)
    assert child.state is State.STOPPED
    assert child.reason is None
    assert step(LOST, Load(), 20)[0].state is State.STARTING


def test_that_nothing_is_seen_to_be_wrong_says_nothing_after_a_crash_loop() -> None:
    assert step(FATAL, Possible(), 20) == (FATAL, ())


def test_a_request_retries_fatal_only_after_its_pause_and_an_operator_at_once() -> None:
    assert not FATAL.may_retry(11)
    assert step(FATAL, Start(), 11) == (FATAL, ())
    assert FATAL.may_retry(10 + FATAL_PAUSE_S)
    for now, event in ((10 + FATAL_PAUSE_S, Start()), (11, Load())):
        child, actions = step(FATAL, event, now)
        assert child.state is State.STARTING
        assert actions == (Action.SPAWN,)


def test_the_retry_of_fatal_is_the_last_of_its_row() -> None:
    child, _ = after((11, Load()), (12, Exited("again")), child=FATAL)
    assert child.state is State.FATAL
    assert child.reason == "again"


def test_a_retry_that_stays_up_begins_anew() -> None:
    child, _ = after((11, Load()), (12, Answered()), (12 + STEADY_S, Exited("x")), child=FATAL)
    assert child.state is State.BACKOFF


def test_a_sick_child_is_ended_and_comes_back() -> None:
    child, actions = after((5, Sick("no token for 300 s")), child=READY)
    assert child.state is State.STOPPING
    assert actions == [Action.TERMINATE]
    child, actions = after((6, Exited("exit code 0")), (6.5, Tick()), child=child)
    assert child.state is State.STARTING
    assert child.reason == "no token for 300 s"
    assert child.restarts == 1


def test_a_child_that_is_sick_again_and_again_is_fatal() -> None:
    child, now = READY, 1.0
    for _ in range(MAX_FAILURES):
        child, _ = after(
            (now, Sick("no token")), (now, Exited("-9")), (now + 9, Tick()), (now + 9, Answered()),
            child=child,
        )  # fmt: skip
        now += 9
    assert child.state is State.FATAL
    assert child.reason == "no token"


def test_a_sick_child_that_is_to_make_room_does_not_come_back() -> None:
    draining, _ = after((5, Stop(busy=True)), child=READY)
    child, _ = after((6, Sick("stuck")), (7, Exited("-9")), child=draining)
    assert child.state is State.STOPPED
    child, _ = after((5, Sick("stuck")), (6, Stop()), (7, Exited("-9")), child=READY)
    assert child.state is State.STOPPED


def test_a_crash_while_draining_ends_in_stopped() -> None:
    child, _ = after((5, Stop(busy=True)), (6, Exited("exit code 1")), child=READY)
    assert child.state is State.STOPPED


def test_a_child_in_back_off_makes_room_at_once() -> None:
    child, actions = after((5, Exited("exit code 1")), (5.1, Stop()), child=READY)
    assert child.state is State.STOPPED
    assert actions == []


def test_being_stopped_does_not_forgive_failures_but_a_steady_time_does() -> None:
    once, _ = after((5, Exited("x")), (6, Tick()), (7, Answered()), child=READY)
    for stopped_at, failures in ((8, 1), (7 + STEADY_S, 0)):
        child, _ = after((stopped_at, Stop()), (stopped_at + 1, Exited("0")), child=once)
        assert child.state is State.STOPPED
        assert child.failures == failures
    assert after((50, Stop()), child=FATAL)[0].failures == 0


def test_a_request_does_not_shorten_the_back_off_and_an_operator_does() -> None:
    waiting, _ = after((5, Exited("exit code 1")), child=READY)
    assert step(waiting, Start(), 5.1)[0].state is State.BACKOFF
    assert step(waiting, Load(), 5.1)[0].state is State.STARTING


def test_a_start_behind_a_failure_is_a_restart_wherever_it_waited_and_counts_once() -> None:
    crashed, _ = after((5, Exited("x")), (5.1, Stop()), (6, Start()), (7, Answered()), child=READY)
    assert (crashed.failures, crashed.restarts) == (1, 1)
    again, _ = after((8, Stop()), (9, Exited("0")), (10, Start()), child=crashed)
    assert (again.state, again.restarts) == (State.STARTING, 1)


@pytest.mark.parametrize("state", State)
def test_every_event_is_taken_in_every_state(state: State) -> None:
    child = evolve(CHILD, state=state, since=0.0, until=1.0)
    for event in (
        Start(), Load(), Impossible("x"), Possible(), Moved(), Answered(), Stop(), Stop(busy=True),
        Drained(), Resume(), Sick("x"), Exited("x"), Tick(),
    ):  # fmt: skip
        after_it, actions = step(child, event, 2.0)
        spawns = Action.SPAWN in actions
        assert spawns == (after_it.state is State.STARTING and state is not State.STARTING)
