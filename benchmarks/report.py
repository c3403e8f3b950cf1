"""What a run came to: as JSON for programs, as a page for people (docs/performance.md).

Pure: a `Run` in, text out. The page holds no figure that is not computed from the run's samples.
"""

from __future__ import annotations

import msgspec
from attrs import frozen

from benchmarks.figures import Figure, Sample, figure, headroom, of, over_rounds, ratio
from benchmarks.machine import Machine
from benchmarks.runner import DIRECT

BASE = "nginx"


@frozen
class Work:
    name: str
    title: str
    unit: str
    fixed_rate: bool


@frozen
class Run:
    """`missing`: gateways that are not installed, and how to install them."""

    command: str
    at: str
    rounds: int
    machine: Machine
    settings: dict[str, str]
    missing: dict[str, str]
    works: tuple[Work, ...]
    samples: tuple[Sample, ...]

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(self.settings)


def as_json(run: Run) -> bytes:
    """One sample a line: two runs can be compared by eye."""
    fields = msgspec.to_builtins(run)
    samples = b",\n".join(map(msgspec.json.encode, fields.pop("samples")))
    return b'%b,"samples":[\n%b\n]}\n' % (msgspec.json.encode(fields)[:-1], samples)


def tables(run: Run) -> str:
    """The figures alone."""
    return "\n\n".join([*(_costs(run, work) for work in run.works), _memory(run), _harness(run)])


def page(run: Run) -> str:
    return _PAGE.format(
        command=run.command,
        at=run.at,
        rounds=run.rounds,
        tables=tables(run),
        settings="\n".join(
            f"- **{name}** {run.machine.versions[name]}: {setting}"
            for name, setting in run.settings.items()
        ),
        missing="".join(
            f"\n- **{name}** was not installed (`{how}`)" for name, how in run.missing.items()
        ),
        machine=_machine(run.machine),
    )


def _costs(run: Run, work: Work) -> str:
    head = (
        f"| {work.title} | CPU per {work.unit} | times {BASE} | {work.unit}s a second | of a core |"
    )
    lines = [_row(run, work, gateway) for gateway in run.gateways]
    return "\n".join([head, "|---|---|---|---|---|", *lines])


def _row(run: Run, work: Work, gateway: str) -> str:
    samples, name = run.samples, work.name
    cpu = over_rounds(samples, gateway, name, lambda each: each.cpu_us)
    rate = over_rounds(samples, gateway, name, lambda each: each.rate)
    share = over_rounds(samples, gateway, name, lambda each: each.share)
    times = "" if not of(samples, BASE, name) else _shown(ratio(samples, gateway, BASE, name), 2)
    return (
        f"| {gateway} | {_shown(cpu, 1)} µs | {times} | {rate.median:,.0f} | {share.median:.0%} |"
    )


def _memory(run: Run) -> str:
    lines = ["| memory (PSS) | at rest | per open stream |", "|---|---|---|"]
    for gateway in run.gateways:
        opened = [
            each for each in run.samples
            if each.gateway == gateway and each.pss_per_stream_bytes is not None
        ]  # fmt: skip
        base = figure(each.pss_base_bytes / 2**20 for each in opened)
        stream = figure((each.pss_per_stream_bytes or 0) / 1024 for each in opened)
        lines.append(f"| {gateway} | {base.median:.0f} MiB | {_shown(stream, 0)} KiB |")
    return "\n".join(lines)


def _harness(run: Run) -> str:
    """The proof that neither the load generator nor the upstream is what is measured."""
    lines = [
        "| harness | without a gateway | of the fastest gateway | generator busy | upstream busy |",
        "|---|---|---|---|---|",
    ]
    for work in run.works:
        direct = over_rounds(run.samples, DIRECT, work.name, lambda each: each.rate)
        through = [each for each in run.samples if _through(each, work)]
        room = "fixed rate"
        if not work.fixed_rate:
            room = f"{_shown(headroom(run.samples, DIRECT, work.name), 1)} times"
        generator = max(each.outcome.cpu_s / each.outcome.elapsed_s for each in through)
        upstream = max(each.upstream_cpu_s / each.outcome.elapsed_s for each in through)
        lines.append(
            f"| {work.name}: {work.unit}s a second | {direct.median:,.0f} | {room}"
            f" | at most {generator:.0%} of a core | at most {upstream:.0%} |"
        )
    return "\n".join(lines)


def _through(sample: Sample, work: Work) -> bool:
    return sample.gateway != DIRECT and sample.workload == work.name


def _shown(value: Figure, digits: int) -> str:
    """The median, and from where to where the rounds went."""
    return f"{value.median:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {each}" for name, each in machine.versions.items())
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.kernel},"
        f" Python {machine.python}; {versions}."
    )


_PAGE = """# Performance

What RoleMesh costs on the way between a client and a model server, beside nginx and HAProxy, which
know nothing of models, keys or aliases and are shown as the limit of what a proxy can reach. This
page is written by the command

```sh
{command}
```

which needs nginx and HAProxy installed (Debian: `apt install nginx haproxy`), takes about two
minutes and puts its samples into `performance.json` beside this page. These are the figures of
{at}, of one run.

{tables}

Medians of {rounds} rounds, with the lowest and the highest round in brackets. Look at the ratios:
the microseconds are those of one machine on one day.

## What is measured

- **CPU time** is the kernel's account of the gateway's processes, all threads, user and system
  time, divided by what came through in order. It does not grow while others have the CPU; what it
  feels of busy neighbours is that they empty the caches. A ratio is taken within each round, and
  then the median of them.
- **Streams** include what opening a stream costs: each is a request of 1 KiB whose answer is an
  event stream. They begin one after the other within 200 ms, so that they do not tick together.
- **Memory** is the proportional set size of a gateway that has just been started, after ten
  requests (at rest) and with every stream open.
- In each round each gateway is started afresh, does all of the work, and is ended; their order
  changes from round to round. They share one upstream and meet the same load generator, each a
  process of its own (uvloop protocols that write prepared bytes).
- **Every byte is checked**: the upstream numbers the events, and the generator compares status,
  framing and body of each answer with what was asked for. One error makes the whole run void: it
  ends with exit code 1 and writes no page.
- **The harness is not what is measured.** In each round the generator also meets the upstream
  without a gateway: the last table. A gateway well below 100 % of a core was held back by the
  machine's cores, which generator and upstream (and whatever else runs there) share with it.
- **Why requests are measured twice.** As fast as 64 connections go, nginx handles many requests per
  wake-up, and neither it nor its peers ever sleep; a slower gateway has its peers asleep at each
  write and pays for waking them, which is a good part of what a small request costs in the kernel.
  At one rate for all that difference is gone, and what is left is the gateways' own.

## What was run

{settings}{missing}

{machine}
"""
