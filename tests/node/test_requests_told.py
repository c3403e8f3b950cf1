"""What a node tells of its requests, in log lines and metrics, and what it says while drained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.gateway_process import chat_body
from tests.node.scripted import Obedient, obedient_node
from tests.node_process import NodeProcess, eventually

OPERATOR = "sk-of-the-operator-of-this-node"
KEY = [("Authorization", f"Bearer {OPERATOR}")]
PROMPT = "a prompt that stays between us"
ANSWER = "Hello."

EXPECTED = {  # and their labels
    "requests_total": {"alias", "status", "outcome"},
    "request_duration_seconds_count": {"alias"},
    "time_to_first_byte_seconds_count": {"alias"},
    "requests_in_flight": {"alias"},
    "tokens_total": {"alias", "kind"},
    "upstream_attempts_total": {"backend", "result"},
    "cancelled_total": {"phase"},
    "build_info": {"version"},
    "child_state": {"device", "model", "state"},
    "child_restarts_total": {"device"},
    "model_load_seconds": {"model"},
    "gateway_registered": {"gateway"},
}
# There is no GPU here, and there was no reload.
WITHOUT_SAMPLES = (
    "config_reloads_total",
    "gpu_memory_used_bytes", "gpu_memory_total_bytes", "gpu_utilization_ratio",
    "gpu_temperature_celsius", "gpu_power_watts",
)  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, Obedient]]:
    folder = tmp_path_factory.mktemp("node")
    gateways = [{"url": "http://127.0.0.1:9", "node_key": "sk-for-the-gateway"}]
    section = {"node_id": "box", "api_keys": [{"name": "ops", "key": OPERATOR}]}
    with obedient_node(folder, "a", "b", node=section, gateways=gateways) as made:
        yield made


@pytest.fixture
def node(pair: tuple[NodeProcess, Obedient]) -> NodeProcess:
    return pair[0]


@pytest.fixture
def llama(pair: tuple[NodeProcess, Obedient]) -> Obedient:
    return pair[1]


# The log


def test_a_line_says_what_a_request_came_to(node: NodeProcess) -> None:
    for stream in (False, True):
        reply = node.chat("a", KEY, stream=stream)
        line = node.request_line(reply)
        wanted = {
            "caller": "ops", "alias": "a", "model": "a", "backend": "a", "status": 200,
            "outcome": "ok", "attempts": 1, "path": "/v1/chat/completions", "method": "POST",
            "prompt_tokens": 2, "completion_tokens": 3, "bytes_out": len(reply.body),
        }  # fmt: skip
        assert {name: line.get(name) for name in wanted} == wanted
        assert 0 <= line["first_byte_s"] <= line["duration_s"]
        assert line["bytes_in"] == len(chat_body("a", stream=stream))


def test_a_refusal_has_its_word(node: NodeProcess) -> None:
    line = node.request_line(node.chat("nobody", KEY))
    assert (line["status"], line["outcome"], line["code"]) == (404, "rejected", "model_not_found")
    line = node.request_line(node.chat("a"))
    assert (line["status"], line["outcome"], line.get("caller")) == (401, "rejected", None)


def test_who_leaves_is_counted(node: NodeProcess, llama: Obedient) -> None:
    before = node.metric("cancelled_total")
    for number, fields in enumerate(({"stream": True}, {}), 1):
        asked, left = (len(llama.noted(name, "a")) for name in ("requests", "left"))
        with node.connect() as wire:
            body = chat_body("a", do={"then": "stall"}, **fields)
            wire.request(
                "POST", "/v1/chat/completions", [*KEY, ("X-Request-ID", f"l{number}")], body
            )
            eventually(lambda: node.metric("requests_in_flight", alias="a") == 1)
            llama.wait_noted("requests", "a", asked + 1)
            if fields:
                wire.head()
        llama.wait_noted("left", "a", left + 1)
        line = node.wait_line(lambda line, wanted=f"l{number}": line.get("request_id") == wanted)
        assert line["outcome"] == "client_abort"
    assert node.metric("cancelled_total") == before + 2
    assert node.metric("requests_in_flight", alias="a") == 0


def test_no_secret_is_ever_logged(node: NodeProcess, llama: Obedient) -> None:
    token = json.loads(node.state_path.read_text())["data"]["access_token"]
    messages = [{"role": "user", "content": PROMPT}]
    headers = [*KEY, ("X-Request-ID", "no id of ours")]
    target = "/v1/chat/completions?api_key=sk-in-the-query"
    node.post(target, {"model": "a", "messages": messages}, headers)
    node.post(target, {"model": "a", "messages": messages, "stream": True}, headers)
    node.post(target, {"model": PROMPT}, headers)
    node.post(target, f'{{"model": "{PROMPT}'.encode(), headers)
    node.chat("a", [("Authorization", f"Bearer {token}x")])
    node.get(f"/v1/models/{PROMPT.replace(' ', '%20')}", KEY)
    die = {"model": "a", "messages": messages, "do": {"events": [], "then": "die"}}
    assert node.post(target, die, headers).status in (502, 503)
    node.request_line(node.get("/health"))
    child_key = llama.last_request("a")["headers"]
    secret = next(value for name, value in child_key if name == "Authorization")
    for word in (OPERATOR, token, "sk-for-the-gateway", "sk-in-the-query", "?api_key", ANSWER,
                 secret.removeprefix("Bearer ")):  # fmt: skip
        assert word not in node.text, word
    assert node.text.count(PROMPT) == 1  # the path that was asked for


# Metrics


def test_every_metric_is_there_with_its_labels(node: NodeProcess) -> None:
    assert node.chat("a", KEY).status == 200
    text = node.get("/metrics").body.decode()
    for name, labels in EXPECTED.items():
        samples = re.findall(rf"^rolemesh_{name}(?:{{(.*)}})? ", text, re.MULTILINE)
        assert samples, name
        for sample in samples:
            found = set(re.findall(r'(?:^|,)(\w+)="', sample))
            assert found == labels or (name == "build_info" and labels <= found), name
    for name in WITHOUT_SAMPLES:
        assert f"# TYPE rolemesh_{name} " in text


def test_promtool_has_nothing_to_say(node: NodeProcess) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    text = node.get("/metrics").body
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, check=False, timeout=30
    )
    ours = [line for line in checked.stderr.decode().splitlines() if "rolemesh" in line]
    assert not ours
    assert checked.returncode in (0, 3), checked.stderr


def test_what_clients_invent_makes_no_label(node: NodeProcess) -> None:
    before = node.metric("requests_total", alias="_other")
    for number in range(5):
        node.chat(f"invented-{number}", KEY)
    node.post("/v1/chat/completions", b"{", KEY)
    node.chat("invented", [("Authorization", "Bearer no")])
    assert node.metric("requests_total", alias="_other") == before + 7
    assert "invented" not in node.get("/metrics").body.decode()


def test_a_childs_state_is_one_of_all(node: NodeProcess) -> None:
    assert node.chat("b", KEY).status == 200
    assert node.metric("child_state", model="b", device="cpu", state="READY") == 1
    assert node.metric("child_state", model="b") == 1
    assert node.metric("child_state", model="a", state="STOPPED") == 1
    assert node.metric("model_load_seconds", model="b") > 0


# Drained


def test_a_drained_node_says_so_and_finishes_what_it_has(
    node: NodeProcess, llama: Obedient
) -> None:
    llama.hold("b")
    node.post("/v1/node/models/b/unload", {}, KEY)
    with node.connect() as waiting, node.connect() as streaming:
        streaming.request(
            "POST", "/v1/chat/completions", KEY,
            chat_body("a", stream=True, do={"times": 8, "gap_s": 0.05}),
        )  # fmt: skip
        head = streaming.head()
        waiting.request("POST", "/v1/chat/completions", KEY, chat_body("b"))
        eventually(lambda: node.get("/v1/node", KEY).json()["children"][1]["waiting"] == 1)
        told = node.post("/v1/node/drain", {}, KEY)
        assert told.json() == {"status": "ok", "node_id": "box", "state": "draining"}
        refusal = node.chat("a", KEY)
        assert refusal.status == 503
        assert refusal.json()["error"]["code"] == "shutting_down"
        assert int(refusal.get("Retry-After") or 0) > 0
        assert node.chat("nobody", KEY).status == 404
        assert node.chat("a").status == 401
        assert node.get("/v1/models", KEY).json()["data"] == []
        assert node.get("/v1/models/a", KEY).status == 404
        ready = node.get("/ready")
        assert (ready.status, ready.json()["reason"]) == (503, "draining")
        assert node.get("/v1/node", KEY).json()["state"] == "draining"
        assert node.get("/health").status == 200
        llama.go_on("b")
        assert streaming.body(head).endswith(b"data: [DONE]\n\n")
        assert waiting.reply().status == 200
    assert node.post("/v1/node/drain", {}, KEY).status == 200


def test_a_drain_outlives_a_restart_and_ends_with_resume(node: NodeProcess) -> None:
    assert node.post("/v1/node/drain", {}, KEY).status == 200
    node.stop()
    node.start()
    assert node.chat("a", KEY).status == 503
    told = node.post("/v1/node/resume", {}, KEY)
    assert told.json() == {"status": "ok", "node_id": "box", "state": "serving"}
    assert node.get("/ready").status == 200
    assert node.chat("a", KEY).status == 200
