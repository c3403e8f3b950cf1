"""`rolemesh register` for a real llama.cpp: from nowhere to an answer, and the truth at its end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.blackbox import expect
from tests.gateway_process import ROOT, GatewayProcess, chat_body, eventually
from tests.llama import LlamaServer, Starter
from tests.real.conftest import StartGateway, streaming

REVIEWER = {"reviewer": {"type": "discovered"}}
Rolemesh = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def rolemesh(tmp_path: Path) -> Iterator[Rolemesh]:
    """Start `rolemesh ...` as its user would; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rolemesh", *arguments]
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


def url(gateway: GatewayProcess) -> str:
    return f"http://127.0.0.1:{gateway.address[1]}"


def registering(gateway: GatewayProcess, server: LlamaServer, *more: str) -> list[str]:
    node = ["--node-id", "box", "--base-url", server.url, "--model", f"{server.alias}=reviewer"]
    return ["register", "--gateway", url(gateway), *node, *more]


def keep_alive(
    rolemesh: Rolemesh, gateway: GatewayProcess, server: LlamaServer, *more: str
) -> subprocess.Popen[str]:
    """Returns when the gateway routes to it."""
    command = registering(gateway, server, "--keep-alive", "--interval", "0.2", *more)
    process = rolemesh(*command)
    eventually(lambda: not why_out(gateway), 10)
    return process


def why_out(gateway: GatewayProcess) -> list[tuple[str, str]]:
    """Aliases that are not available, with the reason's word."""
    told = gateway.get("/v1/models").json()["rolemesh"]["unavailable_models"]
    return [(each["id"], each["reason"]) for each in told]


def nodes(gateway: GatewayProcess) -> dict[str, str]:
    told = gateway.get("/v1/models").json()["rolemesh"]["nodes"]
    return {node["node_id"]: node["state"] for node in told}


def test_a_registered_server_answers_under_the_alias(
    start_gateway: StartGateway, rolemesh: Rolemesh, llama: LlamaServer
) -> None:
    gateway = start_gateway(REVIEWER, default_model="reviewer")
    assert why_out(gateway) == [("reviewer", "no_node")]
    assert gateway.get("/ready").status == 503
    expect.error(gateway.chat("reviewer"), 503, "no_available_backend")

    once = rolemesh(*registering(gateway, llama, "--meta", "quant=F16"))
    said, complaints = once.communicate(timeout=20)
    assert (once.returncode, complaints) == (0, "")
    assert said == f"box registered with {url(gateway)} for 30 s; --keep-alive keeps it\n"

    assert gateway.get("/ready").status == 200
    reply = gateway.chat("reviewer", max_tokens=3)
    assert reply.status == 200
    assert reply.json()["model"] == "tiny"
    headers = ("X-RoleMesh-Alias", "X-RoleMesh-Node", "X-RoleMesh-Model")
    assert [reply.get(name) for name in headers] == ["reviewer", "box", "tiny"]
    (entry,) = gateway.get("/v1/models").json()["data"]
    assert entry["rolemesh"] == {"alias": "reviewer", "type": "discovered", "backends": 1}


def test_the_end_of_the_server_is_told_within_seconds_and_so_is_its_return(
    start_gateway: StartGateway, rolemesh: Rolemesh, llama_server: Starter
) -> None:
    server = llama_server()
    gateway = start_gateway(REVIEWER)
    keep_alive(rolemesh, gateway, server)
    server.kill()  # its registration lives on
    eventually(lambda: why_out(gateway) == [("reviewer", "connection_refused")], 3)
    assert nodes(gateway) == {"box": "fresh"}
    expect.error(gateway.chat("reviewer"), 503, "no_available_backend")
    said = rolemesh("status", "--gateway", url(gateway)).communicate(timeout=20)[0]
    assert "connection_refused" in said
    with server.log.open("ab") as stderr:
        server.process = subprocess.Popen(server.process.args, stderr=stderr)
    server.wait_ready()
    assert gateway.chat("reviewer", max_tokens=1).status == 200
    eventually(lambda: why_out(gateway) == [], 3)


def test_sigterm_says_goodbye_and_cuts_nothing(
    start_gateway: StartGateway, rolemesh: Rolemesh, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway(REVIEWER)
    process = keep_alive(rolemesh, gateway, slow_llama)
    with streaming(gateway, "reviewer", max_tokens=40) as stream:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert why_out(gateway) == [("reviewer", "no_node")]
        expect.whole_stream(stream.first + stream.rest())


def test_who_is_killed_goes_stale_and_comes_back(
    start_gateway: StartGateway, rolemesh: Rolemesh, llama: LlamaServer
) -> None:
    gateway = start_gateway(REVIEWER, registry={"stale_after_s": 1})
    process = keep_alive(rolemesh, gateway, llama)
    process.kill()
    eventually(lambda: why_out(gateway) == [("reviewer", "no_fresh_node")], 3)
    assert nodes(gateway) == {"box": "stale"}
    reply = gateway.chat("reviewer")
    told = expect.error(reply, 503, "no_available_backend")
    assert [(each["backend"], each["reason"]) for each in told["details"]] == [
        ("box", "node_stale")
    ]
    keep_alive(rolemesh, gateway, llama)
    assert nodes(gateway) == {"box": "fresh"}


def test_a_gateway_that_lost_its_memory_is_told_again(
    start_gateway: StartGateway, rolemesh: Rolemesh, llama: LlamaServer
) -> None:
    gateway = start_gateway(REVIEWER)
    keep_alive(rolemesh, gateway, llama)
    port = gateway.address[1]
    gateway.stop()
    gateway.state_path.unlink()
    gateway.configure({"models": REVIEWER, "gateway": {"port": port}})
    gateway.start()
    eventually(lambda: gateway.chat("reviewer", max_tokens=1).status == 200, 10)


def test_a_servers_key_goes_with_its_registration(
    start_gateway: StartGateway, rolemesh: Rolemesh, llama_server: Starter, tmp_path: Path
) -> None:
    server = llama_server(key="the-servers-own-key")
    token = tmp_path / "token"
    token.write_text("the-servers-own-key\n")
    gateway = start_gateway(REVIEWER)
    keep_alive(rolemesh, gateway, server, "--access-token-file", str(token))
    assert gateway.chat("reviewer", max_tokens=1).status == 200
    for told in (gateway.get("/v1/nodes").body, gateway.get("/v1/models").body):
        assert b"the-servers-own-key" not in told
    assert "the-servers-own-key" not in gateway.text
    eventually(gateway.state_path.exists)
    assert gateway.state_path.stat().st_mode & 0o777 == 0o600


def test_a_node_key_is_asked_for(
    start_gateway: StartGateway, rolemesh: Rolemesh, llama: LlamaServer, tmp_path: Path
) -> None:
    keys = [{"name": "box-key", "key": "node-key-1", "node_ids": ["box"], "roles": ["reviewer"]}]
    gateway = start_gateway(REVIEWER, auth={"node_api_keys": keys})
    refused = rolemesh(*registering(gateway, llama))
    assert "invalid_api_key" in refused.communicate(timeout=20)[1]
    assert refused.returncode == 1
    key = tmp_path / "key"
    key.write_text("node-key-1\n")
    process = keep_alive(rolemesh, gateway, llama, "--node-key-file", str(key))
    gateway.configure({"models": REVIEWER, "auth": {"node_api_keys": ["another-key-2"]}})
    gateway.signal(signal.SIGHUP)  # removing a key ends what it let in
    eventually(lambda: why_out(gateway) == [("reviewer", "no_node")], 3)
    assert process.poll() is None


def test_two_servers_share_a_role_until_one_is_killed(
    start_gateway: StartGateway, llama_server: Starter, llama: LlamaServer
) -> None:
    other = llama_server(alias="other")
    gateway = start_gateway(REVIEWER)
    for node, server in (("box-1", llama), ("box-2", other)):
        served = [{"model_id": server.alias, "roles": ["reviewer"]}]
        body = {"node_id": node, "base_url": server.url, "served_models": served}
        assert gateway.post("/v1/nodes/register", body).status == 200
    seen = [gateway.chat("reviewer", max_tokens=1) for _ in range(6)]
    assert [reply.get("X-RoleMesh-Node") for reply in seen].count("box-1") == 3
    assert {(r.get("X-RoleMesh-Node"), r.json()["model"]) for r in seen} == {
        ("box-1", "tiny"),
        ("box-2", "other"),
    }
    other.kill()
    body = chat_body("reviewer", max_tokens=1)
    after = [gateway.post("/v1/chat/completions", body) for _ in range(6)]
    assert {(r.status, r.get("X-RoleMesh-Node")) for r in after} == {(200, "box-1")}
