"""What is kept of a run: one value, written as JSON and read back. What is shown comes from it."""

from __future__ import annotations

import msgspec
from attrs import frozen

from benchmarks.figures import Sample
from benchmarks.page.machine import Machine


@frozen
class WorkDone:
    name: str
    title: str
    unit: str
    fixed_rate: bool
    open_at_once: int


@frozen
class Run:
    """`missing`: gateways that are not installed, and how to install them."""

    command: str
    at: str
    rounds: int
    machine: Machine
    settings: dict[str, str]
    missing: dict[str, str]
    works: tuple[WorkDone, ...]
    samples: tuple[Sample, ...]
    may_fail: tuple[str, ...] = ()
    took_s: float = 0.0

    @property
    def gateways(self) -> tuple[str, ...]:
        return tuple(self.settings)

    def work(self, name: str) -> WorkDone | None:
        return next((each for each in self.works if each.name == name), None)


def as_json(run: Run) -> bytes:
    """One sample a line: two runs can be compared by eye."""
    fields = msgspec.to_builtins(run)
    samples = b",\n".join(map(msgspec.json.encode, fields.pop("samples")))
    return b'%b,"samples":[\n%b\n]}\n' % (msgspec.json.encode(fields)[:-1], samples)


def from_json(data: bytes) -> Run:
    """Raises msgspec.ValidationError when it is no run."""
    return msgspec.json.decode(data, type=Run)
