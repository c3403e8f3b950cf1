"""The page of a run, for people: docs/performance.md.

Pure: a `Run` in, text out. The page holds no figure that is not computed from the run's samples;
`sections`, from other runs, are put into it as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.page.machine import Machine
from benchmarks.page.plots import shown
from benchmarks.page.record import Run
from benchmarks.page.summary import summary
from benchmarks.page.tables import tables
from benchmarks.page.targets import targets


def page(run: Run, sections: Sequence[str] = ()) -> str:
    return _PAGE.format(
        command=run.command,
        at=run.at,
        minutes=_minutes(run),
        rounds=run.rounds,
        summary=summary(run),
        plots="\n\n".join(f"![{each.title}]({each.path})" for each in shown(run)),
        targets=targets(run),
        tables=tables(run),
        sections="".join(f"{each.strip()}\n\n" for each in sections),
        settings="\n".join(_settings(run)),
        machine=_machine(run.machine),
    )


def _minutes(run: Run) -> str:
    minutes = round(run.took_s / 60)
    return f"{minutes} minutes" if minutes > 1 else "a minute"


def _settings(run: Run) -> list[str]:
    versions = run.machine.versions
    return [
        *(f"- **{name}** {versions[name]}: {setting}" for name, setting in run.settings.items()),
        *(f"- **{name}** was not installed (`{how}`)" for name, how in run.missing.items()),
    ]


def _machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {each}" for name, each in machine.versions.items())
    return (
        f"{machine.processor}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.kernel},"
        f" Python {machine.python}; {versions}."
    )


_PAGE = """# Performance

What RoleMesh costs on the way between a client and a model server, beside its peers, and beside
nginx and HAProxy, which know nothing of models, keys or aliases and are shown as the limit of what
a proxy can reach. These are the figures of {at}, of one run of {minutes}:

{summary}

Medians of {rounds} rounds. Look at the ratios: the microseconds are those of one machine on one
day. In the pictures the bars are medians, the lines go from the lowest round to the highest, and a
bar that is cut is longer than there is room for.

{plots}

## What RoleMesh is held to

{targets}

Ratios are taken within a round, between gateways that did the same work minutes apart. The best
Rust router is the one whose median is lowest. In brackets, here and below, are the lowest and the
highest round.

## The figures

{tables}

{sections}## What is measured

- **CPU time** is the kernel's account of the gateway's processes, all threads, user and system
  time, divided by what came through in order. It does not grow while others have the CPU; what it
  feels of busy neighbours is that they empty the caches.
- **Streams** include what opening a stream costs: each is a request of 1 KiB whose answer is an
  event stream. They begin one after the other, so that they do not tick together. Where thousands
  are opened, the gateway has accepted their connections before, and read nothing from them.
- **Requests a second per core** are what the gateway can do with one core's worth of CPU time,
  computed: one divided by its CPU time per request while 64 connections keep it busy. A gateway
  that uses several cores needs them all for more; one that waits for its cores reaches less.
- **Added waits** are seen at a third of that rate, for streams at a third of what one core could do
  of a request and ten events, asked steadily: the time to the first byte, less that of the same
  requests at the same rate without the gateway right after; of each its p50 and p99. Of a gateway
  so slow that fewer than 100 answers came, the p99 is the longest wait. A request is late from when
  it was due, also when the one before it kept its client waiting. Steady means to the millisecond:
  the requests of one are asked together.
- **Memory** is the proportional set size of a gateway that has just been started, after ten
  requests (at rest), with every stream open, or with every idle connection open; what it grew by is
  divided by their number. Idle connections have had one answer each; where a gateway closed some,
  their number stands instead of a size.
- In each round each gateway is started afresh (and again where memory is read), does all of the
  work, and is ended; their order changes from round to round. They share one upstream and meet the
  same load generator, each a process of its own (uvloop protocols that write prepared bytes).
- **Every byte of an answer is checked** (of LiteLLM, which writes its own JSON, what it says): the
  upstream numbers the events, and the generator compares status, framing and body of each answer
  with what was asked for. Of a request the upstream checks length, script and end. One error of
  RoleMesh, nginx, HAProxy or the harness makes the whole run void: it ends with exit code 1 and
  writes no page. A peer that fails is shown as not having finished that work, is started again for
  the next, and is not asked for that work in later rounds.
- **The harness is not what is measured.** In each round the generator also meets the upstream
  without a gateway: the last table. A gateway well below 100 % of a core was held back by the
  machine's cores, which generator and upstream (and whatever else runs there) share with it.
- **Why requests are measured twice.** As fast as 64 connections go, nginx handles many requests per
  wake-up, and neither it nor its peers ever sleep; a slower gateway has its peers asleep at each
  write and pays for waking them, which is a good part of what a small request costs in the kernel.
  At one rate for all that difference is gone, and what is left is the gateways' own.

## What was run

```sh
{command}
```

It puts its samples into `performance.json` beside this page. nginx and HAProxy have to be installed
(Debian: `apt install nginx haproxy`), and the peers by `make bench-peers`; the short `make bench`
does without the peers. The interpreter matters: a Python that was built without
`--enable-optimizations` (as pyenv builds it unless told) costs RoleMesh about a tenth more than a
distribution's own.

{settings}

{machine}
"""
