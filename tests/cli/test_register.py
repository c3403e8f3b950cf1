"""`rolemesh register`: what it sends, what it says, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.register.fake_gateway import FakeGateway, refusal

NODE = ("--node-id", "box-1", "--base-url", "http://127.0.0.1:8014/v1")


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    async with FakeGateway() as fake:
        yield fake


async def test_models_roles_and_meta_are_sent_as_given(run_beside, gateway: FakeGateway):
    models = ("--model", "qwen3=8b=reviewer,planner", "--model", "tiny=writer")
    meta = ("--meta", "gpu=Tesla P40", "--meta", "note=a=b")
    done = await run_beside("register", "--gateway", gateway.url, *NODE, *models, *meta)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"box-1 registered with {gateway.url} for 30 s; --keep-alive keeps it\n"
    _, _, body, _ = gateway.calls[0]
    assert body["node_id"] == "box-1"
    assert body["base_url"] == "http://127.0.0.1:8014"
    assert [(m["model_id"], m["roles"]) for m in body["served_models"]] == [
        ("qwen3=8b", ["reviewer", "planner"]),
        ("tiny", ["writer"]),
    ]
    assert body["meta"] == {"gpu": "Tesla P40", "note": "a=b"}


async def test_a_role_is_a_model_of_the_same_name(run_beside, gateway: FakeGateway):
    await run_beside("register", "--gateway", gateway.url, *NODE, "--role", "writer")
    served = gateway.calls[0][2]["served_models"]
    assert [(m["model_id"], m["roles"]) for m in served] == [("writer", ["writer"])]


async def test_keys_come_from_files_or_the_environment(
    run_beside, gateway: FakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROLE_MESH_NODE_KEY", "from-the-environment")
    common = ("register", "--gateway", gateway.url, *NODE, "--role", "writer")
    await run_beside(*common)
    (tmp_path / "key").write_text("from-a-file\n")
    (tmp_path / "token").write_text("for-the-gateway\n")
    files = ("--node-key-file", tmp_path / "key", "--access-token-file", tmp_path / "token")
    await run_beside(*common, *files)
    sent = [headers["Authorization"] for _, _, _, headers in gateway.calls]
    assert sent == ["Bearer from-the-environment", "Bearer from-a-file"]
    assert gateway.calls[1][2]["access_token"] == "for-the-gateway"


async def test_one_gateway_that_refuses_is_named_and_makes_it_1(run_beside, gateway: FakeGateway):
    async with FakeGateway() as other:
        other.answer = lambda method, path: refusal(401, "invalid_api_key", "The key is wrong.")
        urls = ("--gateway", gateway.url, "--gateway", other.url)
        done = await run_beside("register", *urls, *NODE, "--role", "writer")
    assert done.code == 1
    assert done.out == f"box-1 registered with {gateway.url} for 30 s; --keep-alive keeps it\n"
    assert done.err == (
        f"not accepted: {other.url}: The key is wrong. (401 invalid_api_key);"
        " no key was sent: give one with --node-key-file or ROLE_MESH_NODE_KEY\n"
    )


async def test_json_tells_every_gateways_answer(run_beside, gateway: FakeGateway):
    urls = ("--gateway", gateway.url, "--gateway", "http://127.0.0.1:1")
    done = await run_beside("register", *urls, *NODE, "--role", "writer", "--json")
    assert done.code == 1
    first, second = json.loads(done.out)
    assert first == {"gateway": gateway.url, "ok": True, "heartbeat_interval_s": 0.05}
    assert second["ok"] is False
    assert "connection refused" in second["error"]["message"]


async def test_deregistering_says_goodbye_and_needs_no_models(run_beside, gateway: FakeGateway):
    common = ("register", "--gateway", gateway.url, "--node-id", "box-1", "--deregister")
    done = await run_beside(*common)
    assert (done.code, done.out) == (0, f"box-1 deregistered from {gateway.url}\n")
    gateway.answer = lambda method, path: refusal(404, "unknown_node")
    done = await run_beside(*common)
    assert (done.code, done.out) == (0, f"box-1 was not registered with {gateway.url}\n")
    gateway.answer = lambda method, path: refusal(403, "not_allowed")
    assert (await run_beside(*common)).code == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "say what it serves"),
        (["--model", "a=b", "--role", "c"], "say what it serves"),
        (["--model", "no-role"], "is not MODEL_ID=ROLE"),
        (["--model", "a="], "is not MODEL_ID=ROLE"),
        (["--model", "a=b,,c"], "is not MODEL_ID=ROLE"),
        (["--role", "writer", "--meta", "x"], "is not KEY=VALUE"),
        (["--role", "writer", "--node-id", "a b"], "node_id"),
        (["--role", "writer", "--base-url", "ftp://x"], "http"),
        (["--role", "writer", "--base-url", "http://user:pw@x"], "credentials"),
        (["--role", "writer", "--interval", "0"], "--interval"),
        (["--role", "writer", "--interval", "nan"], "--interval"),
        (["--role", "writer", "--cert-key-file", "x"], "--cert-file"),
        (["--role", "writer", "--keep-alive", "--deregister"], "exclude"),
        (["--role", "writer", "--node-key-file", "/nowhere/key"], "/nowhere/key"),
    ],
)
def test_wrong_usage_exits_2_with_words(run, args: list[str], words: str):
    done = run("register", "--gateway", "http://127.0.0.1:1", *NODE, *args)
    assert done.code == 2
    assert words in done.err
    assert "pw" not in done.err


def test_a_key_with_a_line_end_inside_is_refused_unseen(run, tmp_path: Path):
    (tmp_path / "key").write_text("one\ntwo\n")
    args = ("--role", "writer", "--node-key-file", tmp_path / "key")
    done = run("register", "--gateway", "http://127.0.0.1:1", *NODE, *args)
    assert done.code == 2
    assert "two" not in done.err


def test_a_missing_ca_file_is_named(run):
    args = ("--role", "writer", "--ca-file", "/nowhere/ca.pem")
    done = run("register", "--gateway", "https://127.0.0.1:1", *NODE, *args)
    assert done.code == 2
    assert "/nowhere/ca.pem" in done.err


async def test_kept_alive_it_renews_until_a_signal_and_then_says_goodbye(gateway: FakeGateway):
    args = ("--gateway", gateway.url, *NODE, "--role", "writer", "--keep-alive")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rolemesh", "register", *args),
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    await gateway.until(lambda: gateway.steps()[1:3] == ["heartbeat", "heartbeat"])
    child.send_signal(signal.SIGHUP)
    await gateway.until(lambda: gateway.steps().count("register") == 2)
    child.send_signal(signal.SIGTERM)
    _, log = await asyncio.wait_for(child.communicate(), 15)
    assert child.returncode == 0
    assert gateway.steps()[-1] == "goodbye"
    assert f"deregistered from {gateway.url}".encode() in log
    assert b"Traceback" not in log


async def test_kept_alive_it_waits_for_a_gateway_that_is_not_there_and_can_be_stopped():
    args = ("--gateway", "http://127.0.0.1:1", *NODE, "--role", "writer", "--keep-alive")
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rolemesh", "register", *args),
        stderr=asyncio.subprocess.PIPE,
        env={},
    )
    assert child.stderr is not None
    line = await asyncio.wait_for(child.stderr.readline(), 15)
    assert b"not registered, trying again" in line
    child.send_signal(signal.SIGTERM)
    await asyncio.wait_for(child.communicate(), 15)
    assert child.returncode == 0
