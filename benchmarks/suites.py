"""Which works make up a run: two minutes, all of them, or seconds for the harness's own test."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.saturation import ThirdOfRequests, ThirdOfStreams
from benchmarks.workloads import (
    Work,
    beside_idle,
    paced,
    prompts,
    ramp,
    requests,
    sized_streams,
    streams,
)


def quick() -> tuple[Work, ...]:
    """Streams first: memory is read while the gateway is fresh."""
    return streams(events=100), requests(duration_s=1.0), paced(duration_s=1.0, a_second=2000)


def full() -> tuple[Work, ...]:
    """About a minute for each gateway in each round. Those that need a fresh gateway are last."""
    return (
        streams(events=100),
        sized_streams("streams-small", event_bytes=20, events=100),
        sized_streams("streams-large", event_bytes=4096, events=100),
        requests(duration_s=2.0),
        ThirdOfRequests(duration_s=3.0),
        ThirdOfStreams(duration_s=3.0),
        paced(duration_s=2.0, a_second=2000),
        prompts("requests-64k", kib=64, duration_s=1.5, connections=32),
        prompts("requests-1m", kib=1024, duration_s=2.0, connections=8),
        ramp("streams-2000", at_once=2000, a_second=200, events=15),
        beside_idle(duration_s=2.0, a_second=2000, idle=5000),
    )


def tiny() -> tuple[Work, ...]:
    """Each kind of work, small."""
    return (
        streams(events=5, at_once=4),
        sized_streams("streams-large", event_bytes=4096, events=3, at_once=4),
        requests(duration_s=0.2, connections=4),
        ThirdOfRequests(duration_s=0.2),
        ThirdOfStreams(duration_s=0.3, open_at_once=100),
        paced(duration_s=0.2, a_second=200, connections=4),
        prompts("requests-1m", kib=1024, duration_s=0.1, connections=2),
        ramp("streams-2000", at_once=20, a_second=200, events=3, gap_ms=60),
        beside_idle(duration_s=0.1, a_second=200, idle=60, connections=4),
    )


def named(works: Sequence[Work], names: Sequence[str]) -> tuple[Work, ...]:
    """Those of that name and what they need."""
    wanted = {*names}
    wanted |= {need for each in works if each.name in wanted for need in each.needs}
    return tuple(each for each in works if each.name in wanted)
