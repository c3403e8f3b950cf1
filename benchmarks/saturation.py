"""Work at a third of what a gateway can do: what it adds to the time until an answer.

A gateway that needs so much CPU time per request when it is never idle handles so many a second
with one core's worth of CPU: the rate at saturation. A third of that is asked of it, steadily, and
then, right after and at the same rate, of the upstream itself; the difference is the gateway's.
Computed, not searched for: that takes no minutes, and needs no machine with cores to spare.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

from benchmarks.figures import Sample
from benchmarks.job import Job
from benchmarks.script import Script
from benchmarks.workloads import Workload, requests

SHARE = 1 / 3
_STREAM = Script(answer_bytes=230, events=10, gap_ms=20)
_PACE_S = 0.25  # each connection opens one stream in that time, which lasts 0.2 s
_FEWEST, _MOST = 4, 64  # connections for requests
_EACH_A_SECOND = 50


@frozen
class ThirdOfRequests:
    """Requests of 1 KiB, as `requests` asks them."""

    duration_s: float
    name: str = "latency"
    title: str = "1 KiB in, 920 bytes out, at a third of the gateway's saturation of one core"
    unit: str = "request"
    fresh: bool = False
    fixed_rate: bool = True
    needs: tuple[str, ...] = ("requests",)
    open_at_once: int = _MOST

    def after(self, earlier: Sequence[Sample]) -> Workload | None:
        cost_s = _cost_s(earlier, "requests")
        return None if cost_s is None else self._at(SHARE / cost_s)

    def _at(self, rate: float) -> Workload:
        connections = max(_FEWEST, min(_MOST, round(rate / _EACH_A_SECOND)))
        pace_s = connections / rate
        job = evolve(requests(self.duration_s, connections).job, pace_s=pace_s, ramp_s=pace_s)
        return Workload(self.name, self.title, self.unit, job, beside=True)


@frozen
class ThirdOfStreams:
    """Short streams, one after the other on each connection, so that they open all the time.
    `open_at_once`: on no more connections than that, however much the gateway could do."""

    duration_s: float
    name: str = "latency-streams"
    title: str = "Streams of 10 events in 0.2 s at a third of the gateway's saturation of one core"
    unit: str = "event"
    fresh: bool = False
    fixed_rate: bool = True
    needs: tuple[str, ...] = ("requests", "streams")
    open_at_once: int = 2000

    def after(self, earlier: Sequence[Sample]) -> Workload | None:
        request_s, event_s = _cost_s(earlier, "requests"), _cost_s(earlier, "streams")
        if request_s is None or event_s is None:
            return None
        return self._at(SHARE / (request_s + _STREAM.events * event_s))

    def _at(self, rate: float) -> Workload:
        job = Job(
            port=0,
            script=_STREAM,
            connections=max(1, min(self.open_at_once, round(rate * _PACE_S))),
            duration_s=self.duration_s,
            ramp_s=_PACE_S,
            pace_s=_PACE_S,
            warm_up=evolve(_STREAM, events=3, gap_ms=5),
        )
        return Workload(self.name, self.title, self.unit, job, beside=True)


def _cost_s(earlier: Sequence[Sample], workload: str) -> float | None:
    whole = [each for each in earlier if each.workload == workload and not each.is_void]
    costs = [each.cpu_s / each.units for each in whole]
    return costs[-1] if costs and costs[-1] else None
