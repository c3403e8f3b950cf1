"""The work that a gateway is given: what a request is, how many at once, for how long.

Which of them make up a run, `suites` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import evolve, frozen

from benchmarks.figures import Sample
from benchmarks.job import Job
from benchmarks.script import Script

WHOLE = Script(answer_bytes=920)


class Work(Protocol):
    """`unit`: what the CPU time is divided by, `request` or `event`. `fresh`: for a gateway that
    has just been started. `needs`: the works, done before by the same gateway, whose figures say
    what this one is: `after` returns None when they are not there. `open_at_once`: connections."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def fresh(self) -> bool: ...

    @property
    def fixed_rate(self) -> bool: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def open_at_once(self) -> int: ...

    def after(self, earlier: Sequence[Sample]) -> Workload | None: ...


@frozen
class Workload:
    """`beside`: done without a gateway right after each gateway, not once in a round."""

    name: str
    title: str
    unit: str
    job: Job
    fresh: bool = False
    beside: bool = False
    needs: tuple[str, ...] = ()

    @property
    def fixed_rate(self) -> bool:
        """Whether it is the load that says how much comes in a second, not the gateway."""
        return self.job.pace_s > 0 or self.job.script.streams

    @property
    def open_at_once(self) -> int:
        return self.job.connections + self.job.idle

    def after(self, earlier: Sequence[Sample]) -> Workload | None:
        return self

    def units(self, answers: int, events: int) -> int:
        return events if self.unit == "event" else answers

    def at(self, port: int, headers: tuple[tuple[str, str], ...]) -> Job:
        return evolve(self.job, port=port, headers=headers)


def requests(duration_s: float, connections: int = 64) -> Workload:
    return Workload(
        name="requests",
        title=f"{connections} connections, each request 1 KiB in and 920 bytes out",
        unit="request",
        job=Job(
            port=0,
            script=WHOLE,
            connections=connections,
            duration_s=duration_s,
            warm_up=WHOLE,
            warm_up_s=min(0.5, duration_s),
        ),
    )


def prompts(name: str, kib: int, duration_s: float, connections: int) -> Workload:
    size = f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
    return Workload(
        name=name,
        title=f"{connections} connections, each request {size} in and 920 bytes out",
        unit="request",
        job=evolve(requests(duration_s, connections).job, prompt_bytes=kib * 1024),
    )


def paced(duration_s: float, a_second: int, connections: int = 64) -> Workload:
    """The same rate for all: what a request costs depends on how many come at once. A gateway that
    is never idle finds many requests each time it looks, and its peers awake."""
    pace_s = connections / a_second
    return Workload(
        name="paced",
        title=f"1 KiB in, 920 bytes out, {a_second:,} requests a second whichever the gateway",
        unit="request",
        job=evolve(requests(duration_s, connections).job, pace_s=pace_s, ramp_s=pace_s),
    )


def beside_idle(duration_s: float, a_second: int, idle: int, connections: int = 64) -> Workload:
    same = paced(duration_s, a_second, connections)
    return evolve(
        same,
        name="idle",
        title=f"{a_second:,} requests a second beside {idle:,} idle connections",
        job=evolve(same.job, idle=idle),
        fresh=True,
    )


def streams(events: int, at_once: int = 200, gap_ms: int = 20) -> Workload:
    script = Script(answer_bytes=230, events=events, gap_ms=gap_ms)
    return Workload(
        name="streams",
        title=f"{at_once} streams at once, {events} events each, 230 bytes every {gap_ms} ms",
        unit="event",
        job=Job(
            port=0,
            script=script,
            connections=at_once,
            # Spread, so that the streams do not tick together: a gateway would read many at once.
            ramp_s=0.2,
            warm_up=evolve(script, events=5, gap_ms=5),
        ),
        fresh=True,
    )


def sized_streams(name: str, event_bytes: int, events: int, at_once: int = 200) -> Workload:
    same = streams(events, at_once)
    size = f"{event_bytes // 1024} KiB" if event_bytes >= 1024 else f"{event_bytes} bytes"
    return evolve(
        same,
        name=name,
        title=f"{at_once} streams at once, {events} events each, {size} every 20 ms",
        job=evolve(same.job, script=evolve(same.job.script, answer_bytes=event_bytes)),
        fresh=False,
    )


def ramp(name: str, at_once: int, a_second: int, events: int, gap_ms: int = 1000) -> Workload:
    """No warm-up: that many clients come and meet a gateway that has accepted them at most."""
    script = Script(answer_bytes=230, events=events, gap_ms=gap_ms)
    return Workload(
        name=name,
        title=f"{at_once:,} streams, opened at {a_second:,} a second, {events} events each,"
        f" 230 bytes every {gap_ms:,} ms",
        unit="event",
        job=Job(
            port=0,
            script=script,
            connections=at_once,
            ramp_s=at_once / a_second,
            give_up_s=at_once / a_second + events * gap_ms / 1000 + 30,
        ),
        fresh=True,
    )
