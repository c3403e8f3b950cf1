"""The life of a child: one llama-server for one model, as a transition table.

The rules, in words:

- A child is STOPPED until somebody wants its model. `Start` spawns it: STARTING.
- STARTING lasts while something moves (`Moved`: the log grows, the port is bound, pages come in).
  Nothing for `load_timeout_s`: it is killed, and that counts as a failure. `Answered` makes it
  READY. A load that nobody waits for any more is left to finish.
- READY until it is told to `Stop`, exits, or is found `Sick`. Told to stop, it finishes the
  requests in flight first (DRAINING), then gets SIGTERM (STOPPING), and after `stop_timeout_s`
  SIGKILL.
  `Resume` takes back a stop that has not gone further than DRAINING.
- An exit that nobody asked for is a failure. So is sickness: the child is ended and started again.
  After a failure comes BACKOFF, twice as long each time, and then another start.
- Failures in a row end in FATAL, with the last one's reason: sooner where the child has not once
  been READY. One that was READY for `STEADY_S` begins a new row; being stopped does not.
- FATAL may be tried again once its pause is over (`may_retry`), by the next request that wants the
  model; `Load`, an operator's word, does not wait for it. That one try is the last of the row.
- What cannot work (`Impossible`: no such file) is FATAL at once, and until it is `Possible`.

Pure: events in, the next child and the actions to perform out. Events that say nothing in a state
(an answer that arrives behind the stop) change nothing. node/supervisor performs the actions and
feeds what came of them back as events.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any

from attrs import evolve, frozen

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0
MAX_FAILURES = 5
MAX_FAILED_LOADS = 3  # in a row, without having been READY: it will hardly get better
STEADY_S = 60.0
FATAL_PAUSE_S = 30.0


class State(enum.Enum):
    STOPPED = "STOPPED"
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    STOPPING = "STOPPING"
    BACKOFF = "BACKOFF"
    FATAL = "FATAL"


class Action(enum.Enum):
    SPAWN = "spawn"
    TERMINATE = "terminate"
    KILL = "kill"


@frozen
class Limits:
    """Seconds."""

    load_timeout_s: float = 600.0
    stop_timeout_s: float = 10.0


@frozen
class Child:
    """`since`: when it came into its state. `until`: when that state's time is over (None: it has
    all the time). `failures`: how many in a row. `has_failed`: the last run did. `was_ready`:
    within this row. `restarts`: starts that followed a failure, for ever. `reason`: the last
    failure's, while it matters. `comes_back`: STOPPING because it was sick."""

    limits: Limits = Limits()
    state: State = State.STOPPED
    since: float = 0.0
    until: float | None = None
    failures: int = 0
    has_failed: bool = False
    was_ready: bool = False
    restarts: int = 0
    reason: str | None = None
    comes_back: bool = False

    def may_retry(self, now: float) -> bool:
        """Whether a request may start it: FATAL keeps its pause, all else may be tried."""
        return self.state is not State.FATAL or (self.until is not None and now >= self.until)


# Events


@frozen
class Start:
    """Its model is wanted, and its devices are free."""


@frozen
class Load:
    """As Start, by an operator."""


@frozen
class Impossible:
    reason: str


@frozen
class Possible:
    """Nothing is seen any more that would keep it from working."""


@frozen
class Moved:
    """Something is going on while it loads."""


@frozen
class Answered:
    """It serves its model."""


@frozen
class Stop:
    """Make room. `busy`: requests are in flight."""

    busy: bool = False


@frozen
class Drained:
    """The last request in flight has ended."""


@frozen
class Resume:
    """The reason for its stop has gone."""


@frozen
class Sick:
    reason: str


@frozen
class Exited:
    """All of its processes are gone, or it could not be started."""

    reason: str


@frozen
class Tick:
    """Time has passed."""


Event = (
    Start
    | Load
    | Impossible
    | Possible
    | Moved
    | Answered
    | Stop
    | Drained
    | Resume
    | Sick
    | Exited
    | Tick
)
Step = tuple[Child, tuple[Action, ...]]


def step(child: Child, event: Event, now: float) -> Step:
    """What the event makes of the child, and what is to be done about it."""
    rule = _TABLE.get((child.state, type(event)))
    return (child, ()) if rule is None else rule(child, event, now)


def _spawn(child: Child, event: Event, now: float) -> Step:
    until = now + child.limits.load_timeout_s
    if child.has_failed:
        child = evolve(child, restarts=child.restarts + 1, has_failed=False)
    return _enter(child, State.STARTING, now, until), (Action.SPAWN,)


def _retry(child: Child, event: Event, now: float) -> Step:
    if isinstance(event, Start) and not child.may_retry(now):
        return child, ()
    last_one = evolve(child, failures=MAX_FAILURES - 1)
    return _spawn(last_one, event, now)


def _impossible(child: Child, event: Impossible, now: float) -> Step:
    failed = evolve(child, reason=event.reason, was_ready=False, comes_back=False)
    return _enter(failed, State.FATAL, now), ()


def _possible(child: Child, event: Event, now: float) -> Step:
    return (child, ()) if child.until is not None else _forgive(child, event, now)


def _moved(child: Child, event: Event, now: float) -> Step:
    return evolve(child, until=now + child.limits.load_timeout_s), ()


def _ready(child: Child, event: Event, now: float) -> Step:
    return evolve(_enter(child, State.READY, now), was_ready=True), ()


def _stop_ready(child: Child, event: Stop, now: float) -> Step:
    child = _steadied(child, now)
    if event.busy:
        return _enter(child, State.DRAINING, now), ()
    return _terminate(child, event, now)


def _terminate(child: Child, event: Event, now: float) -> Step:
    until = now + child.limits.stop_timeout_s
    return _enter(child, State.STOPPING, now, until), (Action.TERMINATE,)


def _resume(child: Child, event: Event, now: float) -> Step:
    return _enter(child, State.READY, now), ()


def _sick(child: Child, event: Sick, now: float) -> Step:
    failed = evolve(_failed(child, event.reason, now), comes_back=child.state is State.READY)
    return _terminate(failed, event, now)


def _load_too_long(child: Child, event: Event, now: float) -> Step:
    if not _is_over(child, now):
        return child, ()
    failed = _failed(child, f"nothing moved for {child.limits.load_timeout_s:g} s of loading", now)
    until = now + child.limits.stop_timeout_s
    stopping = _enter(evolve(failed, comes_back=True), State.STOPPING, now, until)
    return stopping, (Action.KILL,)


def _stop_too_long(child: Child, event: Event, now: float) -> Step:
    if not _is_over(child, now):
        return child, ()
    # Again and again: a process that is stuck in a driver hears it late.
    return evolve(child, until=now + child.limits.stop_timeout_s), (Action.KILL,)


def _back_off_over(child: Child, event: Event, now: float) -> Step:
    if not _is_over(child, now):
        return child, ()
    return _spawn(child, event, now)


def _crashed(child: Child, event: Exited, now: float) -> Step:
    failed = _failed(child, event.reason, now)
    if child.state is State.DRAINING:  # it was on its way out
        return _stopped(failed, now), ()
    return _after_failure(failed, now)


def _gone(child: Child, event: Event, now: float) -> Step:
    if child.comes_back:
        return _after_failure(evolve(child, comes_back=False), now)
    return _stopped(child, now), ()


def _stop_for_good(child: Child, event: Event, now: float) -> Step:
    """It was to come back, and is not wanted any more."""
    return evolve(child, comes_back=False), ()


def _rest(child: Child, event: Event, now: float) -> Step:
    return _stopped(child, now), ()


def _forgive(child: Child, event: Event, now: float) -> Step:
    """An operator has unloaded it: what was, was."""
    return _stopped(evolve(child, failures=0, has_failed=False, reason=None), now), ()


def _steadied(child: Child, now: float) -> Child:
    """What it went through before it was READY for so long does not count any more."""
    if child.state is State.READY and now - child.since >= STEADY_S:
        return evolve(child, failures=0, reason=None)
    return child


def _failed(child: Child, reason: str, now: float) -> Child:
    child = _steadied(child, now)
    return evolve(child, failures=child.failures + 1, has_failed=True, reason=reason)


def _after_failure(child: Child, now: float) -> Step:
    limit = MAX_FAILURES if child.was_ready else MAX_FAILED_LOADS
    if child.failures >= limit:
        return _fatal(child, now)
    pause_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** (child.failures - 1))
    return _enter(child, State.BACKOFF, now, now + pause_s), ()


def _fatal(child: Child, now: float) -> Step:
    over = evolve(child, was_ready=False, comes_back=False)
    return _enter(over, State.FATAL, now, now + FATAL_PAUSE_S), ()


def _stopped(child: Child, now: float) -> Child:
    return _enter(child, State.STOPPED, now)


def _enter(child: Child, state: State, now: float, until: float | None = None) -> Child:
    return evolve(child, state=state, since=now, until=until)


def _is_over(child: Child, now: float) -> bool:
    return child.until is not None and now >= child.until


# Any: each rule takes the event that it stands beside.
_TABLE: Mapping[tuple[State, type[Event]], Callable[[Child, Any, float], Step]] = {
    (State.STOPPED, Start): _spawn,
    (State.STOPPED, Load): _spawn,
    (State.STOPPED, Impossible): _impossible,
    (State.STARTING, Moved): _moved,
    (State.STARTING, Answered): _ready,
    (State.STARTING, Stop): _terminate,
    (State.STARTING, Exited): _crashed,
    (State.STARTING, Impossible): _impossible,
    (State.STARTING, Tick): _load_too_long,
    (State.READY, Stop): _stop_ready,
    (State.READY, Sick): _sick,
    (State.READY, Exited): _crashed,
    (State.DRAINING, Resume): _resume,
    (State.DRAINING, Drained): _terminate,
    (State.DRAINING, Sick): _sick,
    (State.DRAINING, Exited): _crashed,
    (State.STOPPING, Stop): _stop_for_good,
    (State.STOPPING, Exited): _gone,
    (State.STOPPING, Tick): _stop_too_long,
    (State.BACKOFF, Start): _back_off_over,
    (State.BACKOFF, Load): _spawn,
    (State.BACKOFF, Stop): _rest,
    (State.BACKOFF, Impossible): _impossible,
    (State.BACKOFF, Tick): _back_off_over,
    (State.FATAL, Start): _retry,
    (State.FATAL, Load): _retry,
    (State.FATAL, Stop): _forgive,
    (State.FATAL, Impossible): _impossible,
    (State.FATAL, Possible): _possible,
}
