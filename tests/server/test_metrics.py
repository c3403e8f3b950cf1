"""The text that Prometheus reads."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from rolemesh.server.logformat import AccessLine
from rolemesh.server.metrics import OTHER, SCRAPED, Metrics


def line(status: int, outcome: str, duration_s: float, **more: Any) -> AccessLine:
    return AccessLine(status=status, outcome=outcome, duration_s=duration_s, **more)


def told() -> Metrics:
    metrics = Metrics()
    metrics.began("writer")
    metrics.began("writer")
    metrics.ended("writer", line(200, "ok", 1.5, first_byte_s=0.2, prompt_tokens=12))
    metrics.attempted("writer/gpu", "ok")
    metrics.cancelled("body")
    metrics.reloaded(True)
    for scraped in SCRAPED:
        if scraped.name != "requests_in_flight":
            labels = tuple(f"the {label}" for label in scraped.labels)
            metrics.read_at_scrape(scraped.name, lambda labels=labels: [(labels, 1)])
    return metrics


async def lines(metrics: Metrics) -> list[str]:
    return (await metrics.render()).decode().splitlines()


async def test_what_was_told_is_shown():
    shown = await lines(told())
    for line in (
        'rolemesh_requests_total{alias="writer",outcome="ok",status="200"} 1.0',
        'rolemesh_requests_in_flight{alias="writer"} 1.0',
        'rolemesh_request_duration_seconds_count{alias="writer"} 1.0',
        'rolemesh_time_to_first_byte_seconds_bucket{alias="writer",le="0.25"} 1.0',
        'rolemesh_tokens_total{alias="writer",kind="prompt"} 12.0',
        'rolemesh_upstream_attempts_total{backend="writer/gpu",result="ok"} 1.0',
        'rolemesh_cancelled_total{phase="body"} 1.0',
        'rolemesh_config_reloads_total{result="success"} 1.0',
        'rolemesh_upstream_up{backend="the backend"} 1.0',
        'rolemesh_node_gpu_memory_used_bytes{gpu="the gpu",node="the node"} 1.0',
        "rolemesh_connections_shed_total 1.0",
    ):
        assert line in shown
    assert not any("completion" in line or "_created" in line for line in shown)


async def test_a_status_that_is_none_counts_as_other():
    metrics = Metrics()
    metrics.began(OTHER)
    metrics.ended(OTHER, line(999, "upstream_error", 0.1))
    expected = (
        'rolemesh_requests_total{alias="_other",outcome="upstream_error",status="_other"} 1.0'
    )
    assert expected in await lines(metrics)


async def test_a_gauge_is_read_anew_at_each_scrape():
    metrics = Metrics()
    nodes = {"fresh": 2}
    metrics.read_at_scrape("nodes", lambda: [((state,), n) for state, n in nodes.items()])
    assert 'rolemesh_nodes{state="fresh"} 2.0' in await lines(metrics)
    nodes.clear()
    assert not any(line.startswith("rolemesh_nodes{") for line in await lines(metrics))


def test_a_name_that_is_not_in_the_list_is_an_error():
    with pytest.raises(KeyError):
        Metrics().read_at_scrape("made_up", list)


async def test_two_gateways_in_one_process_share_nothing():
    one, other = Metrics(), Metrics()
    one.cancelled("body")
    assert not any(line.startswith("rolemesh_cancelled_total{") for line in await lines(other))


async def test_promtool_finds_nothing_to_complain_about():
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing (Debian: apt install prometheus)")
    text = await told().render()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
