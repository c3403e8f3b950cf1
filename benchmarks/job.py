"""What the load generator is told, and what it tells: values that travel as lines of JSON."""

from __future__ import annotations

from attrs import field, frozen

from benchmarks.script import Script

# What the generator prints when it has come so far, one word a line; the result follows `done`.
READY = "ready"  # warmed up; waits for a line before the measured part
OPEN = "open"  # every stream has its first event
DONE = "done"

MAX_WORDS = 5


@frozen
class Job:
    """`duration_s` for requests one after the other on each connection; streams end by themselves,
    one on each connection. Connections begin one after the other over `ramp_s`. With `pace_s` each
    asks once in that time, else as soon as it has its answer. `warm_up` comes first, uncounted.
    `idle` more connections are open beside them, silent since one answer each. `rewritten`: answers
    come as JSON made anew, and are compared by what they say."""

    port: int
    script: Script
    connections: int
    prompt_bytes: int = 1024
    headers: tuple[tuple[str, str], ...] = ()
    duration_s: float = 0.0
    ramp_s: float = 0.0
    pace_s: float = 0.0
    warm_up: Script | None = None
    warm_up_s: float = 0.0
    give_up_s: float = 60.0
    idle: int = 0
    rewritten: bool = False

    @property
    def streams_once(self) -> bool:
        """Then there is a moment at which all of them are open."""
        return self.script.streams and not self.pace_s


@frozen
class Spread:
    """Seconds."""

    p50: float = 0.0
    p99: float = 0.0


@frozen
class Outcome:
    """`answers` came whole and as expected; `errors` holds the first few words.
    `cpu_s`: the generator's own. `idle_closed`: of the idle connections, closed by the other side
    before the end."""

    answers: int
    events: int
    failed: int
    errors: tuple[str, ...]
    elapsed_s: float
    cpu_s: float
    first_byte: Spread = field(factory=Spread)
    duration: Spread = field(factory=Spread)
    idle_closed: int = 0


def note(found: list[str], words: str, most: int = MAX_WORDS) -> None:
    """Of what went wrong the first few, each once."""
    if len(found) < most and words not in found:
        found.append(words)


def spread(seconds: list[float]) -> Spread:
    if not seconds:
        return Spread()
    ordered = sorted(seconds)
    return Spread(ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100])
