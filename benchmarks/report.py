"""The page of a run, for people: docs/performance.md.

Pure: a `Run` in, text out. The page holds no figure that is not computed from the run's samples.
"""

from __future__ import annotations

from benchmarks.machine import Machine
from benchmarks.record import Run
from benchmarks.tables import tables


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
