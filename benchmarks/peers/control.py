"""The control among the peers: `relay`, with the Python that runs the harness."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from attrs import frozen

from benchmarks.adapter import Launch


@frozen
class PlainRelay:
    name: str = "aiohttp"
    headers: tuple[tuple[str, str], ...] = ()
    setting: str = (
        "a relay of sixty plain lines, aiohttp's server and client on asyncio's own loop; no keys,"
        " no log"
    )
    install: str = "pip install aiohttp"
    may_fail: bool = True

    def version(self) -> str | None:
        return version("aiohttp")

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        return Launch(
            (sys.executable, "-m", "benchmarks.peers.relay", str(port), str(upstream_port))
        )
