"""Running out of file descriptors: newcomers are turned away, streams go on."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

from tests.blackbox import expect
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import RawClient, Truncated
from tests.script import DONE, Chunk, Gate, Head, LastChunk, Pass, event

LIMIT = 128


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(hard, 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    try:
        gateway = GatewayProcess({}, tmp_path)
        with gateway:
            limits = Path(f"/proc/{gateway.pid}/limits").read_text()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
    told_soft, told_hard = line.split()[3:5]
    assert told_soft == told_hard


def test_without_descriptors_newcomers_are_shed_and_streams_go_on(
    tmp_path: Path, backend: FakeBackend
) -> None:
    config = {"models": {"writer": {"type": "proxy", "proxy_url": backend.url}}}
    gates = [Gate(), Gate()]
    backend.script(
        Head(),
        Chunk(event("a")),
        Pass(gates[0]),
        Chunk(event("b")),
        Pass(gates[1]),
        Chunk(event("c") + DONE),
        LastChunk(),
    )
    with (
        GatewayProcess(config, tmp_path, descriptors=LIMIT) as gateway,
        gateway.connect() as wire,
        contextlib.ExitStack() as stack,
    ):
        body = chat_body("writer", stream=True)
        wire.request("POST", "/v1/chat/completions", body=body)
        pieces = wire.pieces(wire.head())
        got = wire.until(pieces, b"\n\n")
        crowd = [stack.enter_context(gateway.connect()) for _ in range(2 * LIMIT)]
        eventually(lambda: any(_closed(each) for each in crowd))
        gates[0].open()
        got += wire.until(pieces, b"\n\n")
        assert gateway.open_descriptors() <= LIMIT
        gateway.wait_line(lambda line: line["level"] == "warning")
        gates[1].open()
        assert len(expect.whole_stream(got + b"".join(pieces))) == 3
        stack.close()
        eventually(lambda: _works(gateway), 5)
        assert gateway.metric("connections_shed_total") > 0


def _closed(wire: RawClient) -> bool:
    return not wire.silent_for(0.001)


def _works(gateway: GatewayProcess) -> bool:
    try:
        return gateway.chat("writer").status == 200
    except (OSError, Truncated):
        return False
