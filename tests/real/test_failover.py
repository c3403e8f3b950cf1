"""Real llama.cpp servers that load, are not there, freeze, are killed or want a key: who serves."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.blackbox import expect
from tests.dead_ports import RefusedPort
from tests.gateway_process import GatewayProcess, eventually
from tests.llama import LlamaServer, Starter, until
from tests.rawhttp import Truncated
from tests.real.conftest import CHAT, StartGateway, proxy, streaming


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a server that is not there."""
    port = RefusedPort()
    yield port.url
    port.close()


def chat_in_background(
    pool: ThreadPoolExecutor, gateway: GatewayProcess, server: LlamaServer, **fields: Any
) -> Any:
    """A non-streaming chat that `server` is busy with."""
    reply = pool.submit(gateway.chat, "writer", max_tokens=200, **fields)
    until(lambda: server.busy_slots() == 1, "the slot is busy")
    return reply


def start_again(server: LlamaServer) -> None:
    """On the same port; it has to load."""
    with server.log.open("ab") as stderr:
        server.process = subprocess.Popen(server.process.args, stderr=stderr)


# Not there, or not there yet


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_is_not_there_leaves_it_to_the_next(
    start_gateway: StartGateway, llama: LlamaServer, nobody: str, stream: bool
) -> None:
    gateway = start_gateway({"writer": proxy(nobody, llama)})
    reply = gateway.chat("writer", stream=stream, max_tokens=3)
    assert (reply.status, reply.get("X-RoleMesh-Backend")) == (200, "second")
    line = gateway.request_line(reply)
    assert (line["backend"], line["outcome"]) == ("writer/second", "ok")
    assert gateway.metric("upstream_attempts_total", backend="writer/first", result="connect") == 1


def test_nobody_there_says_so_with_reasons_and_when_to_ask_again(
    start_gateway: StartGateway, nobody: str
) -> None:
    gateway = start_gateway({"writer": proxy(nobody)})
    reply = gateway.chat("writer")
    told = expect.error(reply, 503, "no_available_backend")
    assert int(reply.get("Retry-After") or 0) > 0
    assert [(each["backend"], each["reason"]) for each in told["details"]] == [
        ("writer/first", "connection_refused")
    ]


@pytest.fixture
def away(llama_server: Starter) -> LlamaServer:
    """It has run and will again, with the file of its model still in memory."""
    server = llama_server(model="slow")
    server.kill()
    return server


def test_a_loading_server_is_passed_over_and_taken_up_when_it_is_ready(
    start_gateway: StartGateway, away: LlamaServer, llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": proxy(away, llama)})
    start_again(away)
    until(lambda: away.health() == 503, "it is loading")
    reply = gateway.chat("writer", max_tokens=2)
    assert (reply.status, reply.get("X-RoleMesh-Backend")) == (200, "second")
    assert gateway.metric("upstream_attempts_total", backend="writer/first", result="status") == 1
    away.wait_ready()
    reply = gateway.chat("writer", max_tokens=2)
    assert (reply.status, reply.get("X-RoleMesh-Backend")) == (200, "first")


def test_a_loading_server_alone_says_so_itself(
    start_gateway: StartGateway, away: LlamaServer
) -> None:
    gateway = start_gateway({"writer": proxy(away)}, default_model="writer")
    start_again(away)
    until(lambda: away.health() == 503, "it is loading")
    reply = gateway.chat("writer", max_tokens=1)
    listed = gateway.get("/v1/models").json()
    expect.upstreams_own(reply)
    assert (reply.status, reply.json()["error"]["message"]) == (503, "Loading model")
    (out,) = listed["rolemesh"]["unavailable_models"]
    assert (out["reason"], listed["data"]) == ("upstream_status", [])
    assert gateway.get("/ready").status == 503


# Killed


@pytest.mark.parametrize(
    ("path", "number"),
    [(CHAT, signal.SIGKILL), (CHAT, signal.SIGTERM), ("/v1/completions", signal.SIGKILL)],
)
def test_a_server_that_ends_in_mid_stream_ends_it_with_an_error(
    start_gateway: StartGateway,
    llama_server: Starter,
    llama: LlamaServer,
    path: str,
    number: signal.Signals,
) -> None:
    # After SIGTERM llama.cpp holds the stream until its next comment: as short as it goes.
    server = llama_server(model="slow", args=("--sse-ping-interval", "1"))
    gateway = start_gateway({"writer": proxy(server, llama)})
    with streaming(gateway, "writer", path) as stream:
        server.process.send_signal(number)
        expect.broken_stream(stream.first + stream.rest(), "upstream_error")
        line = gateway.wait_line(lambda line: line.get("alias") == "writer")
    assert line["outcome"] == "truncated"
    assert gateway.chat("writer", max_tokens=2).get("X-RoleMesh-Backend") == "second"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_on_paths_of_named_events_the_error_is_named(
    start_gateway: StartGateway, llama_server: Starter, path: str
) -> None:
    server = llama_server(model="slow")
    gateway = start_gateway({"writer": proxy(server)})
    with streaming(gateway, "writer", path) as stream:
        server.kill()
        expect.broken_stream(stream.first + stream.rest(), "upstream_error", named=True)


def test_a_server_killed_before_its_answer_leaves_it_to_the_next(
    start_gateway: StartGateway, llama_server: Starter, llama: LlamaServer
) -> None:
    server = llama_server(model="slow")
    gateway = start_gateway({"writer": proxy(server, llama)})
    with ThreadPoolExecutor(1) as pool:
        answer = chat_in_background(pool, gateway, server)
        server.kill()
        reply = answer.result(10)
    assert (reply.status, reply.get("X-RoleMesh-Backend")) == (200, "second")
    assert gateway.request_line(reply)["outcome"] == "ok"
    lost = gateway.metric("upstream_attempts_total", backend="writer/first")
    assert lost == 1


def test_requests_waiting_inside_a_killed_server_are_answered_by_the_next(
    start_gateway: StartGateway, llama_server: Starter, llama: LlamaServer
) -> None:
    server = llama_server(model="slow")  # one slot: the others are deferred in llama.cpp
    gateway = start_gateway({"writer": proxy(server, llama)})
    with ThreadPoolExecutor(6) as pool:
        first = chat_in_background(pool, gateway, server)
        others = [
            pool.submit(gateway.chat, "writer", stream=n % 2 == 0, max_tokens=5) for n in range(5)
        ]
        eventually(lambda: gateway.metric("requests_in_flight", alias="writer") == 6)
        server.kill()
        replies = [answer.result(10) for answer in (first, *others)]
    assert {(reply.status, reply.get("X-RoleMesh-Backend")) for reply in replies} == {
        (200, "second")
    }


def test_killed_with_no_other_is_an_upstream_error(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    server = llama_server(model="slow")
    gateway = start_gateway({"writer": proxy(server)})
    with ThreadPoolExecutor(1) as pool:
        answer = chat_in_background(pool, gateway, server)
        server.kill()
        reply = answer.result(10)
    told = expect.error(reply, 502, "upstream_error")
    assert told["details"][0]["reason"] == "connection_lost"
    assert gateway.request_line(reply)["outcome"] == "upstream_error"


def test_a_server_that_was_restarted_is_served_over_fresh_connections(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    """The kept connections of the old one are dead; no client may notice."""
    server = llama_server()
    gateway = start_gateway({"writer": proxy(server)})
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: gateway.chat("writer", max_tokens=20), range(4)))
    assert {reply.status for reply in replies} == {200}
    server.kill()
    start_again(server)
    server.wait_ready()
    assert {gateway.chat("writer", max_tokens=1).status for _ in range(10)} == {200}


# Frozen


@pytest.fixture
def frozen_llama(llama_server: Starter) -> LlamaServer:
    """It takes connections, as the kernel does for it, and says nothing."""
    server = llama_server(model="slow")
    os.kill(server.pid, signal.SIGSTOP)
    return server


def test_a_frozen_server_runs_into_the_time_out(
    start_gateway: StartGateway, frozen_llama: LlamaServer, llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": proxy(frozen_llama, llama)}, timeouts={"first_byte_s": 0.5})
    expect.error(gateway.chat("writer"), 504, "upstream_timeout")


def test_a_server_that_freezes_in_mid_stream_ends_it_with_an_error(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    server = llama_server(model="slow")
    gateway = start_gateway({"writer": proxy(server)}, timeouts={"idle_s": 0.5})
    with streaming(gateway, "writer") as stream:
        os.kill(server.pid, signal.SIGSTOP)
        expect.broken_stream(stream.first + stream.rest(), "upstream_timeout")
    os.kill(server.pid, signal.SIGCONT)
    until(lambda: server.busy_slots() == 0, "the slot is free")


def test_a_frozen_server_is_not_listed(
    start_gateway: StartGateway, frozen_llama: LlamaServer, llama: LlamaServer
) -> None:
    gateway = start_gateway(
        {"writer": proxy(frozen_llama), "tiny": proxy(llama)}, default_model="writer"
    )
    listed = gateway.get("/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
    (out,) = listed["rolemesh"]["unavailable_models"]
    assert (out["id"], out["reason"]) == ("writer", "probe_timeout")
    assert gateway.get("/ready").status == 503
    os.kill(frozen_llama.pid, signal.SIGCONT)
    eventually(lambda: gateway.get("/ready").status == 200)


# Keys


def keyed(server: LlamaServer, token: str) -> dict[str, str]:
    return {"base_url": server.url, "auth_token": token}


def test_the_key_of_a_server_is_presented_and_the_clients_is_not(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    server = llama_server(key="right")
    backends = [{"name": "first", **keyed(server, "right")}]
    gateway = start_gateway({"writer": {"type": "proxy", "backends": backends}})
    headers = [("Authorization", "Bearer the-clients-own"), ("X-Api-Key", "the-clients-own")]
    assert gateway.chat("writer", headers, max_tokens=2).status == 200
    assert [model["id"] for model in gateway.get("/v1/models").json()["data"]] == ["writer"]


def test_a_server_that_refuses_our_key_leaves_it_to_the_next(
    start_gateway: StartGateway, llama_server: Starter, llama: LlamaServer
) -> None:
    server = llama_server(key="right")
    wrong, spare = {"name": "first", **keyed(server, "wrong")}, {"name": "second"}
    both = [wrong, {**spare, "base_url": llama.url}]
    gateway = start_gateway(
        {"both": {"type": "proxy", "backends": both}, "one": {"type": "proxy", "backends": [wrong]}}
    )
    assert gateway.chat("both", max_tokens=2).get("X-RoleMesh-Backend") == "second"
    reply = gateway.chat("one", max_tokens=2)
    assert expect.error(reply, 502, "upstream_error")["details"][0]["reason"] == "unauthorized"
    assert "right" not in gateway.text
    assert "wrong" not in gateway.text


# The gateway's own end


def test_a_gateway_that_stops_ends_its_streams_and_frees_their_slots(
    start_gateway: StartGateway, slow_llama: LlamaServer
) -> None:
    until(lambda: slow_llama.busy_slots() == 0, "nothing of another test is left")
    gateway = start_gateway({"writer": proxy(slow_llama)}, gateway={"drain_timeout_s": 0.5})
    with streaming(gateway, "writer") as stream:
        gateway.signal(signal.SIGTERM)
        body = stream.first + stream.rest()
    assert len(expect.broken_stream(body, "shutting_down")) > 10
    assert gateway.wait_exit() == 0
    until(lambda: slow_llama.busy_slots() == 0, "the slot is free", 1.0)


def test_a_gateway_that_stops_lets_short_answers_finish(
    start_gateway: StartGateway, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": proxy(slow_llama)}, gateway={"drain_timeout_s": 10})
    with streaming(gateway, "writer", max_tokens=40) as stream:
        gateway.signal(signal.SIGTERM)
        expect.whole_stream(stream.first + stream.rest())
        with pytest.raises((ConnectionError, Truncated)):
            gateway.get("/health")
    assert gateway.wait_exit() == 0


def test_a_reload_does_not_cut_a_stream_even_of_an_alias_that_goes(
    start_gateway: StartGateway, slow_llama: LlamaServer, llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": proxy(slow_llama)})
    with streaming(gateway, "writer", max_tokens=40) as stream:
        gateway.configure({"models": {"tiny": proxy(llama)}})
        gateway.signal(signal.SIGHUP)
        gateway.wait_line(lambda line: line["message"] == "configuration reloaded")
        expect.whole_stream(stream.first + stream.rest())
    assert gateway.chat("tiny", max_tokens=1).status == 200
    expect.error(gateway.chat("writer"), 404, "model_not_found", param="model")


def test_a_killed_gateway_frees_the_slots_of_its_streams(
    start_gateway: StartGateway, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway({"writer": proxy(slow_llama)})
    with streaming(gateway, "writer") as stream:
        until(lambda: slow_llama.busy_slots() == 1, "the slot is busy")
        gateway.kill()
        with pytest.raises(Truncated):
            stream.rest()
    until(lambda: slow_llama.busy_slots() == 0, "the slot is free", 1.0)
