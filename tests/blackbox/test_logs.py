"""The log: one line per request, nothing secret in it, and no way to block or forge it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.blackbox.conftest import Config, Pair, Solo
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import RawClient, request_bytes
from tests.script import Answer, Chunk, Die, Head, Stream, completion, event

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def config() -> Config:
    return {"auth": {"client_api_keys": [{"name": "alice", "key": "alices-secret-key"}]}}


KEY = [("Authorization", "Bearer alices-secret-key")]


def test_a_request_is_one_line_with_everything(gateway: GatewayProcess, pair: Pair) -> None:
    pair.first.script(Answer.error(503))
    reply = gateway.chat(pair.alias, [*KEY, ("X-Request-ID", "the-one")])
    line = gateway.request_line(reply)
    assert line["request_id"] == "the-one"
    assert line["caller"] == "alice"
    assert line["alias"] == pair.alias
    assert line["backend"] == f"{pair.alias}/second"
    assert line["model"] == pair.alias
    assert (line["status"], line["outcome"]) == (200, "ok")
    assert line["bytes_out"] == len(reply.body)
    assert 0 < line["first_byte_s"] <= line["duration_s"] < 5
    assert (line["prompt_tokens"], line["completion_tokens"]) == (7, 3)
    assert line["attempts"] == 2
    assert line["time"].endswith("Z")
    time.sleep(0.1)
    assert len([each for each in gateway.lines if each.get("request_id") == "the-one"]) == 1


def test_every_way_to_end_has_its_word(gateway: GatewayProcess, solo: Solo) -> None:
    def outcome(**fields: Any) -> tuple[int, str]:
        line = gateway.request_line(gateway.chat(solo.alias, KEY, **fields))
        return line["status"], line["outcome"]

    assert outcome() == (200, "ok")
    solo.backend.script(Answer.error(400))
    assert outcome()[0] == 400
    solo.backend.script(Head(), Chunk(event("a")), Die())
    assert outcome(stream=True) == (200, "truncated")
    solo.backend.script(Die())
    assert outcome() == (502, "upstream_error")
    rejected = gateway.request_line(gateway.chat("unknown", KEY))
    assert (rejected["status"], rejected["outcome"]) == (404, "rejected")
    assert rejected["code"] == "model_not_found"


def test_requests_that_never_became_any_are_logged_too(gateway: GatewayProcess) -> None:
    before = len(gateway.lines)
    with gateway.connect() as wire:
        wire.send(b"nonsense\r\n\r\n")
        wire.reply()
    eventually(lambda: len(gateway.lines) > before)
    line = gateway.wait_line(lambda line: line in gateway.lines[before:])
    assert (line["status"], line["outcome"]) == (400, "rejected")


def test_a_stream_tells_its_tokens(gateway: GatewayProcess, solo: Solo) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}\n\n'
    solo.backend.script(Stream((event("a"), usage)))
    line = gateway.request_line(gateway.chat(solo.alias, KEY, stream=True))
    assert (line["prompt_tokens"], line["completion_tokens"]) == (11, 5)


def test_nothing_secret_is_logged(gateway: GatewayProcess, solo: Solo) -> None:
    solo.backend.script(Answer.json(completion("SECRET-COMPLETION")))
    gateway.chat(solo.alias, KEY, user="SECRET-PROMPT")
    gateway.post(f"{PATH}?api_key=SECRET-QUERY", chat_body(solo.alias), KEY)
    gateway.get("/v1/models?key=SECRET-QUERY", KEY)
    gateway.get("/nowhere?key=SECRET-QUERY")
    gateway.chat(solo.alias, [("X-Api-Key", "SECRET-WRONG-KEY")])
    gateway.chat(solo.alias, [*KEY, ("Cookie", "SECRET-COOKIE")])
    gateway.post(PATH, b'{"SECRET-PROMPT', KEY)
    solo.backend.script(Die())
    gateway.chat(solo.alias, KEY, user="SECRET-PROMPT")
    time.sleep(0.1)
    assert "SECRET" not in gateway.text
    assert "alices-secret-key" not in gateway.text


@pytest.mark.parametrize(
    "path",
    [
        "/x%0a{%22level%22:%22forged%22}",
        "/x\x85forged",
        "/\xe2\x80\xa8forged",
        "/%1b[31mred",
    ],
)
def test_a_client_cannot_forge_a_line(gateway: GatewayProcess, path: str) -> None:
    before = len(gateway.lines)
    with gateway.connect() as wire:
        wire.send(request_bytes("GET", path, [("User-Agent", "a\x9b31m")]))
        wire.reply()
    eventually(lambda: len(gateway.lines) > before)
    for line in gateway.lines[before:]:
        assert line["level"] in ("debug", "info", "warning", "error")
    assert "\x1b" not in gateway.text
    assert all(text.startswith("{") for text in gateway.text.splitlines() if text)
    for text in gateway.text.splitlines():
        json.loads(text)


def test_the_model_a_client_names_is_escaped(gateway: GatewayProcess) -> None:
    gateway.chat("\x1b[31m\n\u202e{forged}", KEY)
    time.sleep(0.1)
    assert "\x1b" not in gateway.text
    assert "\u202e" not in gateway.text


# A log that nobody reads, or that cannot be written


def _launch(gateway: GatewayProcess, stderr: int, backend: FakeBackend) -> None:
    """Start it on a port that is known beforehand: its log will not tell."""
    with FakeBackend() as held:
        port = held.port
    gateway.configure(
        {
            "gateway": {"port": port},
            "models": {"writer": {"type": "proxy", "proxy_url": backend.url}},
        }
    )
    gateway.launch(stderr)
    gateway.address = ("127.0.0.1", port)
    eventually(lambda: _answers(gateway), 10)


def _answers(gateway: GatewayProcess) -> bool:
    try:
        RawClient(gateway.address).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_full_pipe_never_blocks(tmp_path: Path, backend: FakeBackend) -> None:
    gateway = GatewayProcess({}, tmp_path)
    reader, writer = os.pipe()
    try:
        _launch(gateway, writer, backend)
        began = time.monotonic()
        with gateway.connect() as wire:
            for _ in range(1500):  # a pipe holds 64 KiB: some 300 lines
                wire.request("GET", "/health")
                assert wire.reply().status == 200
        assert gateway.chat("writer").status == 200
        assert time.monotonic() - began < 15
        began = time.monotonic()
        gateway.stop()
        assert time.monotonic() - began < 5
    finally:
        gateway.kill()
        os.close(writer)
        os.close(reader)


def test_a_reader_that_left_never_hurts(tmp_path: Path, backend: FakeBackend) -> None:
    gateway = GatewayProcess({}, tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        _launch(gateway, writer, backend)
        for _ in range(5):
            assert gateway.chat("writer").status == 200
        gateway.stop()
    finally:
        gateway.kill()
        os.close(writer)


def test_a_full_disk_never_hurts(tmp_path: Path, backend: FakeBackend) -> None:
    gateway = GatewayProcess({}, tmp_path)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        _launch(gateway, full, backend)
        for _ in range(5):
            assert gateway.chat("writer").status == 200
        eventually(lambda: gateway.metric("log_lines_dropped_total") > 0)
        gateway.stop()
    finally:
        gateway.kill()
        os.close(full)
