"""What the harness has to know of a gateway to run it: what every adapter gives.

An adapter says what version is installed (None: it is not), and writes a configuration for one
upstream into a directory of its own. `life` starts and ends what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

from benchmarks.process import START_S


@frozen
class Launch:
    """`headers`: what requests have to carry besides the gateway's own, because the upstream's port
    is in it. `rewrites`: it makes its answers' JSON anew, so what they say is compared and not
    their bytes. `start_s`: for how long it may be starting."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(factory=dict)
    headers: tuple[tuple[str, str], ...] = ()
    rewrites: bool = False
    start_s: float = START_S

    def argv_of(self, module: str) -> tuple[str, ...]:
        """The same, with this module run instead of `rolemesh`."""
        return tuple(module if each == "rolemesh" else each for each in self.argv)


class Gateway(Protocol):
    """`headers`: what each request has to carry. `setting`: how it is run, in a few words.
    `may_fail`: what it does not finish is said on the page; one error of another voids the run."""

    @property
    def name(self) -> str: ...

    @property
    def headers(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def setting(self) -> str: ...

    @property
    def install(self) -> str: ...

    @property
    def may_fail(self) -> bool: ...

    def version(self) -> str | None: ...

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch: ...
