"""`python -m benchmarks.soak`: the long runs, which show that nothing leaks and nothing is lost.

Without `--streams`: minutes of mixed traffic with aborts, cuts, slow readers and reloads, the
gateway's memory, descriptors and tasks read all the while. With it: so many streams open at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from benchmarks import descriptors
from benchmarks.process import end_on_signals
from benchmarks.soak import end
from benchmarks.soak.long_streams import LATE_S, Held, Holding, losses, received, script_for
from benchmarks.soak.operators import LASTING, registration
from benchmarks.soak.page import soak_page, streams_page
from benchmarks.soak.scene import Scene, Wrong
from benchmarks.soak.setup import Place, running
from benchmarks.soak.traffic import kinds, traffic
from benchmarks.soak.verdict import Soaked
from benchmarks.soak.visits import answered, large_events, ordinary
from benchmarks.soak.watch import Reading, Watch, look, settled

MINUTES = 30.0
WARM_UP_SHARE = 0.1
MAX_WARM_UP_S = 120.0
LEAST_READINGS = 20
LEAST_CONNECTIONS = 200  # the mixed traffic has some fifty, and as many to nodes and backends
QUIET_S = 5.0  # longer than idle connections to backends are kept
MOMENT_S = 0.5

Work = Callable[[Place, argparse.Namespace], Coroutine[Any, Any, Soaked | Held]]


def main(argv: list[str] | None = None) -> int:
    """0; 1 when something leaked, was lost or came back wrong, and then the gateway's log is kept;
    2 when the machine does not allow that many connections."""
    options = _options(argv)
    end_on_signals()
    try:
        descriptors.claim(max(options.streams, LEAST_CONNECTIONS))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    name = "streams" if options.streams else "soak"
    with tempfile.TemporaryDirectory(prefix="rolemesh-soak-") as directory:
        try:
            done, faults = _run(Path(directory), options)
        except RuntimeError as error:  # it did not even start
            done, faults = None, [str(error)]
        for each in faults:
            print(f"failed: {each}", file=sys.stderr)
        if faults:
            shutil.copytree(directory, options.out / f"failed-{name}", dirs_exist_ok=True)
    if done is not None:
        _write(options.out / name, done)
    return 1 if faults else 0


def _run(directory: Path, options: argparse.Namespace) -> tuple[Soaked | Held | None, list[str]]:
    """What came of it, and why it has failed. Raises RuntimeError when nothing could begin."""
    work: Work = _hold if options.streams else _soak
    done: Soaked | Held | None = None
    with running(directory, options.trace) as place:
        try:
            done = uvloop.run(work(place, options))
            faults = done.faults()
        except (Wrong, RuntimeError, OSError) as error:
            faults = [f"{type(error).__name__}: {error}"]
    return done, [*faults, *end.faults(place.process, place.log)]


async def _soak(place: Place, options: argparse.Namespace) -> Soaked:
    scene, watch = Scene(place.port), Watch(place)
    await _warm_up(scene, place, options)
    await settled(watch, QUIET_S if options.warm_up else MOMENT_S)
    idle = await _read(watch)
    if options.trace:
        await look(place, signal.SIGUSR2)
    readings = await _under_load(scene, place, watch, options)
    await settled(watch, QUIET_S, idle)
    after = await _read(watch)
    if options.trace:
        seen = msgspec.json.encode(await look(place, signal.SIGUSR2))
        (options.out / "soak_trace.json").write_bytes(msgspec.json.format(seen))
    tally = scene.tally
    return Soaked(
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


async def _warm_up(scene: Scene, place: Place, options: argparse.Namespace) -> None:
    async with scene.wire() as wire:
        await answered(wire, registration(LASTING, place.upstream_port), 200)
    if options.warm_up:
        run_s = options.minutes * 60
        await traffic(scene, kinds(place), min(run_s * WARM_UP_SHARE, MAX_WARM_UP_S))
    scene.tally = scene.tally.counted_anew()


async def _under_load(
    scene: Scene, place: Place, watch: Watch, options: argparse.Namespace
) -> list[Reading]:
    run_s = options.minutes * 60
    readings: list[Reading] = []
    reader = _read_on(watch, readings, min(options.every_s, run_s / LEAST_READINGS))
    await asyncio.gather(traffic(scene, kinds(place), run_s), for_so_long(run_s, reader))
    return readings


async def _hold(place: Place, options: argparse.Namespace) -> Held:
    scene, watch = Scene(place.port), Watch(place)
    for act in (ordinary, large_events):
        await act(scene)
    base = await _read(watch)
    run_s = options.minutes * 60
    script = script_for(options.streams, run_s, options.event_bytes)
    request = scene.request(script, size=options.prompt_bytes)
    holding = Holding(place.port, request, script)
    await holding.open(options.streams)
    readings: list[Reading] = []
    async with beside(_read_on(watch, readings, options.every_s, holding)):
        await holding.wait(script.events + LATE_S)
    return Held(
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


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """`work` goes on meanwhile. Raises what ended it before."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def for_so_long(duration_s: float, work: Coroutine[Any, Any, None]) -> None:
    """Raises what `work` raises, a TimeoutError of its own as well."""
    try:
        async with asyncio.timeout(duration_s) as scope:
            await work
    except TimeoutError:
        if not scope.expired():
            raise


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


async def _read(watch: Watch) -> Reading:
    reading = await watch.read()
    _tell(reading)
    return reading


def _write(path: Path, done: Soaked | Held) -> None:
    """A page only where there is enough for one."""
    path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(done), indent=1))
    if done.is_readable:
        page = soak_page(done) if isinstance(done, Soaked) else streams_page(done)
        path.with_suffix(".md").write_text(page)
        print(f"\n{page}")
    print(f"written below {path.parent}: {path.stem}")


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
