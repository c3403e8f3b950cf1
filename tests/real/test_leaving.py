"""A client that goes away frees its slot in a real llama.cpp, whatever it was doing."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess, eventually
from tests.llama import LlamaServer, Starter, hello, until
from tests.rawhttp import request_bytes
from tests.real.conftest import CHAT, StartGateway, as_json, bearer, proxy, streaming

SOON_S = 1.0  # the answers asked for would take 16 s
PATHS = [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"]


def free_soon(server: LlamaServer) -> None:
    until(lambda: server.busy_slots() == 0, "the slot is free", SOON_S)


def open_sockets(gateway: GatewayProcess) -> int:
    folder = Path(f"/proc/{gateway.pid}/fd")
    links = []
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):  # closed since it was listed
            links.append(str(entry.readlink()))
    return sum(link.startswith("socket:") for link in links)


@pytest.fixture(autouse=True)
def _idle(slow_llama: LlamaServer) -> None:
    until(lambda: slow_llama.busy_slots() == 0, "nothing of another test is left")


@pytest.mark.parametrize("path", PATHS)
def test_leaving_a_stream_frees_its_slot(
    front: GatewayProcess, slow_llama: LlamaServer, path: str
) -> None:
    with streaming(front, "slow", path):
        until(lambda: slow_llama.busy_slots() == 1, "the slot is busy")
    free_soon(slow_llama)


def test_leaving_by_reset_frees_its_slot(front: GatewayProcess, slow_llama: LlamaServer) -> None:
    with streaming(front, "slow") as stream:
        stream.wire.reset()
        free_soon(slow_llama)


def test_a_client_that_stops_sending_has_left(
    front: GatewayProcess, slow_llama: LlamaServer
) -> None:
    """A half-closed connection counts as gone, as it does in llama.cpp itself."""
    with streaming(front, "slow") as stream:
        stream.wire.socket.shutdown(socket.SHUT_WR)
        free_soon(slow_llama)


def test_one_that_leaves_takes_no_other_with_it(
    front: GatewayProcess, slow_llama: LlamaServer
) -> None:
    with streaming(front, "slow", max_tokens=40) as stays:
        with streaming(front, "slow"):
            until(lambda: slow_llama.busy_slots() == 2, "both slots are busy")
        until(lambda: slow_llama.busy_slots() == 1, "one slot is free", SOON_S)
        assert stays.rest().endswith(b"data: [DONE]\n\n")


def test_a_conversation_id_does_not_keep_the_slot(
    front: GatewayProcess, slow_llama: LlamaServer
) -> None:
    """llama.cpp would go on with such a stream after its client has left."""
    headers = [*bearer(), ("X-Conversation-Id", "abc")]
    with streaming(front, "slow", headers=headers):
        until(lambda: slow_llama.busy_slots() == 1, "the slot is busy")
    free_soon(slow_llama)


def test_a_departure_is_logged_and_counted_against_nobody(
    front: GatewayProcess, slow_llama: LlamaServer
) -> None:
    before = front.metric("cancelled_total", phase="relay")
    with streaming(front, "slow") as stream:
        request_id = stream.head.get("X-Request-ID")
    line = front.wait_line(lambda line: line.get("request_id") == request_id)
    assert (line["outcome"], line["status"]) == ("client_abort", 200)
    assert line["bytes_out"] > 0
    assert front.metric("cancelled_total", phase="relay") == before + 1
    assert front.metric("requests_in_flight", alias="slow") == 0
    assert front.metric("upstream_up", backend="slow/first") == 1


def test_leaving_without_a_stream_closes_the_backends_connection(
    start_gateway: StartGateway, slow_llama: LlamaServer
) -> None:
    """llama.cpp computes such an answer to its end (here after half a second), whatever we do."""
    gateway = start_gateway({"slow": proxy(slow_llama)})
    before = open_sockets(gateway)
    body = as_json({"model": "slow", "messages": hello(), "max_tokens": 30})
    with gateway.connect() as wire:
        wire.send(request_bytes("POST", CHAT, [], body))
        until(lambda: slow_llama.busy_slots() == 1, "the slot is busy")
        assert open_sockets(gateway) == before + 2
        left = time.monotonic()
    line = gateway.wait_line(lambda line: line.get("outcome") == "client_abort")
    assert line["alias"] == "slow"
    eventually(lambda: open_sockets(gateway) == before)
    assert time.monotonic() - left < SOON_S / 3
    free_soon(slow_llama)


def test_the_place_of_one_that_left_goes_to_the_next_in_the_queue(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    server = llama_server(model="slow", alias="slow")
    backends = [{"name": "only", "base_url": server.url, "max_in_flight": 1}]
    gateway = start_gateway({"slow": {"type": "proxy", "backends": backends, "queue_s": 20}})
    body = as_json({"model": "slow", "messages": hello(), "max_tokens": 2})
    with gateway.connect() as waiting, gateway.connect() as leaving:
        with streaming(gateway, "slow"):
            leaving.send(request_bytes("POST", CHAT, [], body))
            waiting.send(request_bytes("POST", CHAT, [], body))
            eventually(lambda: gateway.metric("requests_in_flight", alias="slow") == 3)
            leaving.close()
            eventually(lambda: gateway.metric("cancelled_total", phase="queue") == 1)
            assert waiting.silent_for(0.1)
        last = waiting.reply()
    assert last.status == 200
    gateway.request_line(last)
    lines = [line for line in gateway.lines if line.get("alias") == "slow"]
    assert [(line["outcome"], line.get("backend")) for line in lines] == [
        ("client_abort", None),
        ("client_abort", "slow/only"),
        ("ok", "slow/only"),
    ]
