"""`python -m benchmarks.soak`: the long runs, which show that nothing leaks and nothing is lost.

Without `--streams`: minutes of mixed traffic with aborts, cuts, slow readers and reloads, the
gateway's memory, descriptors and tasks read all the while. With it: so many streams open at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks.process import end_on_signals
from benchmarks.soak.figures import Soaked
from benchmarks.soak.long_streams import LATE_S, Held, Holding, losses, received, script_for
from benchmarks.soak.operators import LASTING, registration
from benchmarks.soak.page import soak_page, streams_page
from benchmarks.soak.scene import Scene
from benchmarks.soak.setup import Place, running
from benchmarks.soak.traffic import kinds, traffic
from benchmarks.soak.visits import answered, large_events, ordinary
from benchmarks.soak.watch import Kept, Reading, Watch, look
from rolemesh.server.limits import raise_descriptor_limit

MINUTES = 30.0
WARM_UP_SHARE = 0.1
MAX_WARM_UP_S = 120.0
LEAST_READINGS = 20
JUDGED_FROM_MINUTES = 10.0  # a shorter run has no slope to speak of
QUIET_S = 5.0  # longer than idle connections to backends are kept
MOMENT_S = 0.5
SETTLE_S = 60.0


def main(argv: list[str] | None = None) -> int:
    """0; 1 when something leaked, was lost or came back wrong."""
    options = _options(argv)
    end_on_signals()
    raise_descriptor_limit()
    options.out.mkdir(parents=True, exist_ok=True)
    run = _hold if options.streams else _soak
    with (
        tempfile.TemporaryDirectory(prefix="rolemesh-soak-") as name,
        running(Path(name), options.trace) as place,
    ):
        return uvloop.run(run(place, options))


async def _soak(place: Place, options: argparse.Namespace) -> int:
    run_s = options.minutes * 60
    scene, watch = Scene(place.port), Watch(place)
    async with scene.wire() as wire:
        await answered(wire, registration(LASTING, place.upstream_port), 200)
    warm_up_s = min(run_s * WARM_UP_SHARE, MAX_WARM_UP_S)
    if options.warm_up:
        await traffic(scene, kinds(place), warm_up_s)
    await _settled(watch, QUIET_S if options.warm_up else MOMENT_S)
    idle = await watch.read()
    _tell(idle)
    if options.trace:
        await look(place, signal.SIGUSR2)
    readings: list[Reading] = []
    reader = _read_on(watch, readings, min(options.every_s, run_s / LEAST_READINGS))
    await asyncio.gather(traffic(scene, kinds(place), run_s), _for(run_s, reader))
    await _settled(watch, QUIET_S, idle)
    after = await watch.read()
    _tell(after)
    tally = scene.tally
    done = Soaked(
        minutes=options.minutes,
        idle=idle,
        after=after,
        readings=tuple(readings),
        visits=tally.visits,
        answers=tally.answers,
        events=tally.events,
        wrong=tally.wrong,
        words=tuple(tally.words),
    )
    if options.trace:
        seen = msgspec.json.encode(await look(place, signal.SIGUSR2))
        (options.out / "soak_trace.json").write_bytes(msgspec.json.format(seen))
    _write(options.out / "soak", done, soak_page(done))
    faults = done.faults(memory=options.minutes >= JUDGED_FROM_MINUTES)
    return _verdict([*faults, *done.words])


async def _hold(place: Place, options: argparse.Namespace) -> int:
    scene, watch = Scene(place.port), Watch(place)
    for act in (ordinary, large_events):
        await act(scene)
    base = await watch.read()
    _tell(base)
    run_s = options.minutes * 60
    script = script_for(options.streams, run_s, options.event_bytes)
    request = scene.request(script, size=options.prompt_bytes)
    holding = Holding(place.port, request, script)
    await holding.open(options.streams)
    readings: list[Reading] = []
    reader = asyncio.create_task(_read_on(watch, readings, options.every_s, holding))
    await holding.wait(script.events + LATE_S)
    reader.cancel()
    done = Held(
        streams=options.streams,
        minutes=options.minutes,
        event_bytes=options.event_bytes,
        expected=script.events * options.streams,
        received=received(holding.streams),
        losses=losses(holding.streams),
        broken=holding.broken,
        words=tuple(holding.words),
        base_bytes=base.pss_bytes,
        readings=tuple(readings),
    )
    _write(options.out / "streams", done, streams_page(done))
    return _verdict([*done.faults(), *done.words])


async def _for(duration_s: float, work: Coroutine[Any, Any, None]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            await work


async def _read_on(
    watch: Watch, readings: list[Reading], every_s: float, holding: Holding | None = None
) -> None:
    """For ever; with `holding` only what is read while every stream is open."""
    while True:
        reading = await watch.read()
        if holding is None or holding.all_flow:
            readings.append(reading)
            _tell(reading)
        await asyncio.sleep(every_s)


async def _settled(watch: Watch, quiet_s: float, before: Reading | None = None) -> None:
    """Until all is as it was before, or nothing has changed for so long. Nobody asks for /metrics
    meanwhile: that would probe the backends."""
    loop = asyncio.get_running_loop()
    since = began_at = loop.time()
    last = await watch.kept()
    while loop.time() - began_at < SETTLE_S:
        await asyncio.sleep(0.25)
        now = await watch.kept()
        if now != last:
            last, since = now, loop.time()
        if before is None and loop.time() - since > quiet_s:
            break
        if before is not None and now.is_within(Kept(before.descriptors, before.tasks)):
            break


def _write(path: Path, done: Soaked | Held, page: str) -> None:
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=1))
    path.with_suffix(".md").write_text(page)
    print(f"\n{page}\nwritten: {path.with_suffix('.md')}, {path.with_suffix('.json')}")


def _verdict(faults: list[str]) -> int:
    for each in faults:
        print(f"failed: {each}", file=sys.stderr)
    return 1 if faults else 0


def _tell(reading: Reading) -> None:
    print(
        f"{reading.at_s:7.1f} s  {reading.pss_bytes / 2**20:6.1f} MiB"
        f"  {reading.descriptors:5} descriptors  {reading.tasks:5} tasks"
        f"  {reading.connections:5} connections  CPU {reading.cpu_s:.1f} s",
        flush=True,
    )


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--streams", type=int, default=0, help="hold so many open instead")
    parser.add_argument("--event-bytes", type=int, default=230, help="with --streams")
    parser.add_argument("--prompt-bytes", type=int, default=1024, help="with --streams")
    parser.add_argument("--every-s", type=float, default=2.0, help="between two readings")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    parser.add_argument("--trace", type=int, default=0, help="remember so many frames; slow")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
