"""/metrics: what Prometheus and its own checker say of it, and whether the figures are true."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blackbox.conftest import Config, Solo
from tests.dead_ports import RefusedPort
from tests.gateway_process import GatewayProcess, eventually
from tests.script import Answer, Chunk, Die, Head, Stream, completion, event

EXPECTED = {
    "requests_total": {"alias", "status", "outcome"},
    "request_duration_seconds_bucket": {"alias", "le"},
    "time_to_first_byte_seconds_bucket": {"alias", "le"},
    "requests_in_flight": {"alias"},
    "tokens_total": {"alias", "kind"},
    "upstream_attempts_total": {"backend", "result"},
    "upstream_up": {"backend"},
    "model_available": {"alias"},
    "nodes": {"state"},
    "cancelled_total": {"phase"},
    "config_reloads_total": {"result"},
    "node_gpu_memory_used_bytes": {"node", "gpu"},
    "build_info": {"version"},
}


@pytest.fixture(scope="module")
def refused() -> Iterator[RefusedPort]:
    port = RefusedPort()
    yield port
    port.close()


@pytest.fixture(scope="module")
def config(refused: RefusedPort) -> Config:
    return {
        "models": {
            "down": {"type": "proxy", "proxy_url": refused.url},
            "found": {"type": "discovered"},
        }
    }


def busy(gateway: GatewayProcess, solo: Solo) -> str:
    """The text after a bit of everything has happened."""
    gateway.chat(solo.alias)
    solo.backend.script(Stream((event("a"),)))
    gateway.chat(solo.alias, stream=True)
    solo.backend.script(Head(), Chunk(event("a")), Die())
    gateway.chat(solo.alias, stream=True)
    gateway.chat("down")
    gateway.chat("found")
    gateway.chat('odd"\\\n{}')
    device = {"id": 'GPU-"1"\\', "name": "a card", "memory_used_bytes": 1, "memory_total_bytes": 2}
    node = {"node_id": "n", "base_url": solo.backend.url, "roles": ["found"]}
    gateway.post("/v1/nodes/register", node)
    beat = {"node_id": "n", "metrics": {"devices": [device]}}
    assert gateway.post("/v1/nodes/heartbeat", beat).status == 200
    reply = gateway.get("/metrics")
    assert (reply.get("Content-Type") or "").startswith("text/plain")
    return reply.body.decode()


def test_every_metric_of_the_contract_is_there(gateway: GatewayProcess, solo: Solo) -> None:
    text = busy(gateway, solo)
    for name, labels in EXPECTED.items():
        if name in ("cancelled_total", "config_reloads_total"):
            assert f"# TYPE rolemesh_{name}" in text
            continue
        samples = re.findall(rf"^rolemesh_{name}(?:{{(.*)}})? ", text, re.MULTILINE)
        assert samples, f"no sample of {name}"
        for sample in samples:
            assert set(re.findall(r'(?:^|,)(\w+)="', sample)) == labels, name


def test_promtool_has_nothing_to_say(gateway: GatewayProcess, solo: Solo) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=busy(gateway, solo),
        text=True,
        capture_output=True,
        check=False,
        timeout=30,
    )
    ours = [line for line in checked.stderr.splitlines() if "rolemesh" in line]
    assert not ours
    assert checked.returncode in (0, 3), checked.stderr


def test_prometheus_scrapes_it(gateway: GatewayProcess, solo: Solo, tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("prometheus is not installed (Debian: apt install prometheus)")
    busy(gateway, solo)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    target = f"{gateway.address[0]}:{gateway.address[1]}"
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
                "scrape_configs": [
                    {"job_name": "rolemesh", "static_configs": [{"targets": [target]}]}
                ],
            }
        )
    )
    command = [
        prometheus,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    base = f"http://127.0.0.1:{port}/api/v1"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        eventually(lambda: _query(base, "up{job='rolemesh'}") == 1.0, 20)
        wanted = f"rolemesh_requests_total{{alias='{solo.alias}',outcome='ok',status='200'}}"
        eventually(lambda: (_query(base, wanted) or 0) >= 2, 10)
    finally:
        process.terminate()
        process.wait(20)


def _query(base: str, query: str) -> float | None:
    url = f"{base}/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return None
    return float(found[0]["value"][1]) if found else None


def test_requests_are_counted_by_how_they_ended(gateway: GatewayProcess, solo: Solo) -> None:
    gateway.chat(solo.alias)
    solo.backend.script(Answer.error(400))
    gateway.chat(solo.alias)
    for _ in range(2):  # a kept connection that is lost is tried once more
        solo.backend.script(Die())
    gateway.chat(solo.alias)
    solo.backend.script(Head(), Chunk(event("a")), Die())
    gateway.chat(solo.alias, stream=True)
    assert gateway.metric("requests_total", alias=solo.alias, status="200", outcome="ok") == 1
    assert gateway.metric("requests_total", alias=solo.alias, status="400") == 1
    broken = {"status": "502", "outcome": "upstream_error"}
    assert gateway.metric("requests_total", alias=solo.alias, **broken) == 1
    assert gateway.metric("requests_total", alias=solo.alias, outcome="truncated") == 1
    assert gateway.metric("requests_in_flight", alias=solo.alias) == 0
    assert gateway.metric("request_duration_seconds_count", alias=solo.alias) == 4


def test_tokens_are_counted_as_the_backend_told_them(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Answer.json(completion()))
    gateway.chat(solo.alias)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}\n\n'
    solo.backend.script(Stream((event("a"), usage)))
    gateway.chat(solo.alias, stream=True)
    assert gateway.metric("tokens_total", alias=solo.alias, kind="prompt") == 18
    assert gateway.metric("tokens_total", alias=solo.alias, kind="completion") == 8


def test_unknown_models_share_one_label(gateway: GatewayProcess) -> None:
    before = gateway.metric("requests_total", alias="_other")
    for number in range(20):
        gateway.chat(f"made-up-{number}")
    assert gateway.metric("requests_total", alias="_other") == before + 20
    assert "made-up" not in gateway.get("/metrics").body.decode()


def test_backends_are_up_or_down(gateway: GatewayProcess, solo: Solo) -> None:
    gateway.get("/v1/models")
    text = gateway.get("/metrics").body.decode()
    assert re.search(rf'^rolemesh_upstream_up{{backend="{solo.alias}/\w+"}} 1.0$', text, re.M)
    assert re.search(r'^rolemesh_upstream_up{backend="down/\w+"} 0.0$', text, re.M)
    assert gateway.metric("model_available", alias=solo.alias) == 1
    assert gateway.metric("model_available", alias="down") == 0
