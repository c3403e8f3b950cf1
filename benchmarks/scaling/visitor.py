"""One client that asks one thing after another and waits for each: CPU per request over every
alias, what a page of the gateway's costs, and how long another client waits meanwhile.

Blocking, in the process that measures: nothing here is fast, and nothing needs to be.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

from attrs import frozen

from benchmarks.gateways import RoleMesh
from benchmarks.process import cpu_s
from benchmarks.script import MODEL, PATH, Script, expected, request_body

SCRIPT = Script(answer_bytes=920)
# /health does nothing: what another client waits for beside it, this machine makes it wait for.
PAGES = ("/health", "/ready", "/v1/models", "/v1/nodes", "/metrics")
REUSED_S = 2.1  # a probe's answer is used again for 2 s
LEAST_WAITS = 20  # of the other client before the page is asked for
_KEYS = RoleMesh().headers


@frozen
class Visited:
    """A page of the gateway's. `waited_s`: the longest that another client's request took
    meanwhile."""

    path: str
    size_bytes: int
    cpu_s: float
    took_s: float
    waited_s: float


class Visitor:
    """Its requests have one size, whichever alias they ask for."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._body = request_body(SCRIPT, 1024)
        keys = "".join(f"{name}: {value}\r\n" for name, value in _KEYS)
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: rolemesh-benchmark\r\n"
            "Accept: */*\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(self._body)}\r\n{keys}\r\n"
        ).encode()

    def ask(self, model: str) -> float:
        """Seconds until the answer was there. Raises RuntimeError for another one than expected."""
        body = self._body.replace(MODEL.encode(), model.encode(), 1)
        if len(body) != len(self._body):
            raise ValueError(f"an alias has {len(MODEL)} characters here")
        began_at = time.perf_counter()
        self._connection.sendall(self._head + body)
        wanted = expected(SCRIPT)
        answer = b""
        while not answer.endswith(wanted):
            part = self._connection.recv(65_536)
            answer += part
            if not part or len(answer) > 4 * len(wanted):
                raise RuntimeError(f"{model}: another answer than expected: {answer[:300]!r}")
        return time.perf_counter() - began_at

    def close(self) -> None:
        self._connection.close()


@frozen
class Spent:
    """What so many requests cost the gateway, and how long they took."""

    cpu_s: float
    elapsed_s: float


def one_by_one(port: int, models: Sequence[str], requests: int, pids: Sequence[int]) -> Spent:
    """So many requests, over the aliases in turn, the second time that they are asked: by then
    there are connections."""
    with closing(Visitor(port)) as visitor:
        for _ in range(2):
            before, began_at = cpu_s(pids), time.monotonic()
            for number in range(requests):
                visitor.ask(models[number % len(models)])
            spent = Spent(cpu_s(pids) - before, time.monotonic() - began_at)
    return spent


def visit(path: str, port: int, pids: Sequence[int], pause_s: float) -> Visited:
    """CPU time is of the first time, when no other client is there, only the nodes' heartbeats."""
    time.sleep(pause_s)
    before = cpu_s(pids)
    size, took_s = _get(path, port)
    spent = cpu_s(pids) - before
    time.sleep(pause_s)
    return Visited(path, size, spent, took_s, _waiting_beside(path, port))


def _waiting_beside(path: str, port: int) -> float:
    """Raises what went wrong with either client."""
    waits: list[float] = []
    over = threading.Event()

    def wait() -> None:
        with closing(Visitor(port)) as visitor:
            while not over.is_set():
                waits.append(visitor.ask(MODEL))

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(wait)
        try:
            while len(waits) < LEAST_WAITS and not other.done():
                time.sleep(0.01)
            from_here = len(waits)
            if not other.done():
                _get(path, port)
        finally:
            over.set()
        other.result()
    return max(waits[from_here:])


def _get(path: str, port: int) -> tuple[int, float]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        began_at = time.perf_counter()
        connection.request("GET", path, headers=dict(_KEYS))
        answer = connection.getresponse()
        size = len(answer.read())
        took_s = time.perf_counter() - began_at
    if answer.status != 200:
        raise RuntimeError(f"GET {path} answered {answer.status}")
    return size, took_s
