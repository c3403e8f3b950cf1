"""`rolemesh status`: tables for people, JSON for scripts, and keys that open one door only."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from tests.dead_ports import RefusedPort
from tests.register.fake_gateway import FakeGateway, refusal

MODELS = {
    "object": "list",
    "data": [
        {"id": "gpt", "rolemesh": {"alias": "writer", "type": "proxy", "backends": 1}},
        {"id": "planner", "rolemesh": {"alias": "planner", "type": "discovered", "backends": 2}},
    ],
    "rolemesh": {
        "default_model": "planner",
        "unavailable_models": [
            {
                "id": "reviewer",
                "alias": "reviewer",
                "type": "discovered",
                "reason": "no_fresh_node",
                "detail": "box\x1b[31m stale for 42 s",
                "since": 1764000000,
            }
        ],
    },
}
NODES = {
    "nodes": [
        {
            "node_id": "box",
            "base_url": "http://10.0.0.12:8014",
            "state": "stale",
            "reason": "node_stale",
            "detail": "not heard of for 42 s",
            "age_s": 42.3,
            "served_models": [
                {
                    "model_id": "qwen3",
                    "roles": ["reviewer", "planner"],
                    "state": "READY",
                    "slots": 4,
                    "slots_busy": 3,
                    "max_context": 8192,
                    "in_flight": 1,
                },
                {"model_id": "m", "roles": ["r"], "state": "FATAL", "detail": "exit\x1b code 1"},
                {"model_id": "plain", "roles": ["r"], "state": None, "in_flight": 2},
            ],
            "devices": [
                {
                    "id": "GPU-1",
                    "name": "Tesla P40",
                    "memory_used_bytes": 3 * 2**29,
                    "memory_total_bytes": 24 * 2**30,
                    "utilization_ratio": 0.42,
                    "temperature_celsius": 61,
                    "power_watts": 180.4,
                },
                {"id": "cpu", "name": "CPU"},
            ],
        }
    ],
    "backends": [
        {
            "alias": "writer",
            "name": "gpu",
            "base_url": "http://127.0.0.1:8012",
            "state": "reachable",
            "reason": None,
            "detail": None,
            "in_flight": 1,
            "max_in_flight": 4,
        }
    ],
}


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway() as fake:
        answers = {"/v1/models": MODELS, "/v1/nodes": NODES}
        fake.answer = lambda method, path: web.json_response(answers[path])
        yield fake


async def test_tables_say_what_is_in_and_why_the_rest_is_out(run_beside, gateway: FakeGateway):
    done = await run_beside("status", "--gateway", gateway.url)
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "ALIAS     MODEL     TYPE        STATE          DETAIL\n"
        "writer    gpt       proxy       available      1 backend\n"
        "planner   planner   discovered  available      2 backends, the default\n"
        "reviewer  reviewer  discovered  no_fresh_node  box\\x1b[31m stale for 42 s\n"
        "\n"
        "BACKEND     URL                    STATE      DETAIL  IN FLIGHT\n"
        "writer/gpu  http://127.0.0.1:8012  reachable          1 of 4\n"
        "\n"
        "NODE  URL                    STATE       DETAIL                 HEARD\n"
        "box   http://10.0.0.12:8014  node_stale  not heard of for 42 s  42 s\n"
        "\n"
        "MODEL  NODE  ROLES             STATE  DETAIL           IN FLIGHT  CONTEXT\n"
        "qwen3  box   reviewer,planner  READY                   3 of 4     8192\n"
        "m      box   r                 FATAL  exit\\x1b code 1\n"
        "plain  box   r                                         2\n"
        "\n"
        "DEVICE  NODE  NAME       MEMORY USED  MEMORY    UTILIZATION  TEMPERATURE  POWER\n"
        "GPU-1   box   Tesla P40  1.5 GiB      24.0 GiB  42 %         61 C         180 W\n"
        "cpu     box   CPU\n"
    )


async def test_json_has_both_answers_whole(run_beside, gateway: FakeGateway):
    done = await run_beside("status", "--gateway", gateway.url, "--json")
    assert json.loads(done.out) == {"gateway": gateway.url, "models": MODELS, "nodes": NODES}


async def test_the_admin_key_comes_from_the_environment(
    run_beside, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROLE_MESH_ADMIN_KEY", "boss")
    await run_beside("status", "--gateway", gateway.url)
    assert {headers["Authorization"] for _, _, _, headers in gateway.calls} == {"Bearer boss"}


async def test_a_key_that_opens_one_door_shows_what_is_behind_it(run_beside, gateway: FakeGateway):
    gateway.answer = lambda method, path: (
        web.json_response(MODELS) if path == "/v1/models" else refusal(401, "invalid_api_key")
    )
    done = await run_beside("status", "--gateway", gateway.url)
    assert done.code == 1
    assert done.out.startswith("ALIAS")
    assert "NODE" not in done.out
    assert "nodes not shown (need an admin key: --key-file or ROLE_MESH_ADMIN_KEY)" in done.err
    done = await run_beside("status", "--gateway", gateway.url, "--json")
    assert (done.code, json.loads(done.out)["nodes"]) == (1, None)


async def test_a_key_that_opens_none_is_an_error(run_beside, gateway: FakeGateway):
    gateway.answer = lambda method, path: refusal(401, "invalid_api_key", "Wrong key.")
    done = await run_beside("status", "--gateway", gateway.url)
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"rolemesh: {gateway.url}: Wrong key. (401 invalid_api_key);"
        " no key was sent: give one with --key-file or ROLE_MESH_ADMIN_KEY\n"
    )


def test_no_gateway_there_is_an_error_with_a_hint(run):
    nobody = RefusedPort()
    done = run("status", "--gateway", nobody.url)
    nobody.close()
    assert done.code == 1
    assert "is a gateway running there?" in done.err


async def test_answers_of_an_odd_shape_are_shown_as_far_as_they_go(
    run_beside, gateway: FakeGateway
):
    node = {"age_s": "x", "served_models": [{}], "devices": [{"power_watts": "x"}]}
    odd = {"data": [{"id": 3}, 7], "nodes": [node], "backends": None, "rolemesh": None}
    gateway.answer = lambda method, path: web.json_response(odd)
    done = await run_beside("status", "--gateway", gateway.url)
    assert done.code == 0
