"""The work that every gateway is given: what a request is, how many at once, for how long."""

from __future__ import annotations

from attrs import evolve, frozen

from benchmarks.job import Job
from benchmarks.script import Script


@frozen
class Workload:
    """`unit`: what the CPU time is divided by, `request` or `event`."""

    name: str
    title: str
    unit: str
    job: Job

    @property
    def fixed_rate(self) -> bool:
        """Whether it is the load that says how much comes in a second, not the gateway."""
        return self.job.pace_s > 0 or self.job.script.streams

    def units(self, answers: int, events: int) -> int:
        return events if self.unit == "event" else answers

    def at(self, port: int, headers: tuple[tuple[str, str], ...]) -> Job:
        return evolve(self.job, port=port, headers=headers)


def requests(duration_s: float, connections: int = 64) -> Workload:
    script = Script(answer_bytes=920)
    return Workload(
        name="requests",
        title=f"{connections} connections, each request 1 KiB in and 920 bytes out",
        unit="request",
        job=Job(
            port=0,
            script=script,
            connections=connections,
            duration_s=duration_s,
            warm_up=script,
            warm_up_s=0.5,
        ),
    )


def paced(duration_s: float, a_second: int, connections: int = 64) -> Workload:
    """The same rate for all: what a request costs depends on how many come at once. A gateway that
    is never idle finds many requests each time it looks, and its peers awake."""
    pace_s = connections / a_second
    return Workload(
        name="paced",
        title=f"The same at {a_second:,} requests a second, whichever the gateway",
        unit="request",
        job=evolve(requests(duration_s, connections).job, pace_s=pace_s, ramp_s=pace_s),
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
    )


def quick() -> tuple[Workload, ...]:
    """Streams first: memory is read while the gateway is fresh."""
    return streams(events=100), requests(duration_s=1.0), paced(duration_s=1.0, a_second=2000)


def tiny() -> tuple[Workload, ...]:
    """For the harness's own test."""
    return (
        streams(events=5, at_once=4),
        requests(duration_s=0.2, connections=4),
        paced(duration_s=0.2, a_second=200, connections=4),
    )
