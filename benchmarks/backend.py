"""The process behind the gateways: an upstream, started and ended, and the port it serves on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from benchmarks.process import Process


@frozen
class Backend:
    process: Process
    port: int

    @property
    def pids(self) -> tuple[int, ...]:
        return self.process.pids


@contextmanager
def backend(directory: Path, module: str = "benchmarks.upstream") -> Iterator[Backend]:
    """`module` prints the port it serves on. Raises RuntimeError when it does not."""
    with Process((sys.executable, "-m", module), directory / "upstream.log") as process:
        said = process.wait_for_line()
        if not said.isdigit():
            raise process.failed("does not say its port")
        yield Backend(process, int(said))
