"""The built-in llama-server with the real llama.cpp: loading, serving, leaving, signals."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rolemesh.builtin import command
from tests.llama import WAIT_S, LlamaServer, Starter, free_port, hello, until


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    argv = [*command(), *flags]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_chat_is_answered_under_the_alias(llama: LlamaServer) -> None:
    status, answer = llama.post("/v1/chat/completions", {"max_tokens": 12, "messages": hello()})
    assert status == 200
    assert answer["model"] == "tiny"
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["choices"][0]["message"]["content"].isprintable()


def test_a_stream_arrives_in_events_and_ends_with_done(llama: LlamaServer) -> None:
    with llama.open_stream(max_tokens=20) as response:
        assert response.headers["Transfer-Encoding"] == "chunked"
        events = [line[6:].strip() for line in response if line.startswith(b"data: ")]
    assert events[-1] == b"[DONE]"
    texts = [json.loads(event)["choices"][0]["delta"].get("content") for event in events[:-1]]
    assert len("".join(filter(None, texts))) >= 20


def test_the_number_of_slots_and_the_context_are_what_was_asked_for(llama: LlamaServer) -> None:
    props = llama.get("/props")[1]
    assert props["total_slots"] == 2
    assert props["default_generation_settings"]["n_ctx"] == 2048


def test_metrics_are_served_and_a_web_page_is_not(llama: LlamaServer) -> None:
    assert "llamacpp:tokens_predicted_total" in llama.get("/metrics")[1]
    assert llama.get("/")[0] == 404


def test_embeddings_are_served_only_on_request(llama: LlamaServer, llama_server: Starter) -> None:
    assert llama.post("/v1/embeddings", {"input": "x"})[0] == 501
    embedding = llama_server(args=("--embeddings",))
    status, answer = embedding.post("/v1/embeddings", {"input": "x"})
    assert status == 200
    assert len(answer["data"][0]["embedding"]) == 64


def test_reranking_is_served_on_request(llama_server: Starter) -> None:
    server = llama_server(args=("--reranking",))
    status, answer = server.post("/v1/rerank", {"query": "a", "documents": ["b", "c"]})
    assert status == 200
    assert {result["index"] for result in answer["results"]} == {0, 1}


def test_what_an_operator_sets_is_what_it_runs_with(llama_server: Starter) -> None:
    template = "{{ messages[0].content }}"
    server = llama_server(args=("--seed", "7", "--temp", "0.25", "--chat-template", template))
    props = server.get("/props")[1]
    assert props["default_generation_settings"]["params"]["seed"] == 7
    assert props["default_generation_settings"]["params"]["temperature"] == 0.25
    assert props["chat_template"] == template


def test_slots_are_shown_unless_told_otherwise(llama: LlamaServer, llama_server: Starter) -> None:
    assert [slot["is_processing"] for slot in llama.get("/slots")[1]] == [False, False]
    assert llama_server(args=("--no-slots",)).get("/slots")[0] == 501


def test_variables_that_stand_for_flags_are_ignored(
    llama_server: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_ARG_ALIAS", "other")
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "64")
    monkeypatch.setenv("LLAMA_ARG_PORT", "1")
    server = llama_server()
    assert server.get("/v1/models")[1]["data"][0]["id"] == "tiny"
    assert server.get("/props")[1]["default_generation_settings"]["n_ctx"] == 2048


def test_the_key_of_the_environment_is_asked_for_but_for_health(llama_server: Starter) -> None:
    server = llama_server(key="right")
    assert server.get("/v1/models")[1]["data"][0]["id"] == "tiny"
    server.key = "wrong"
    assert server.get("/v1/models")[0] == 401
    assert server.health() == 200
    assert "right" not in " ".join(server.process.args)  # type: ignore[arg-type]


def test_it_is_refused_then_loading_then_ready(llama_server: Starter) -> None:
    server = llama_server(model="slow", ready=False)
    seen = [None]
    while seen[-1] != 200:
        assert server.process.poll() is None, server.log.read_text()
        status = server.health()
        if status != seen[-1]:
            seen.append(status)
    assert seen == [None, 503, 200]


def test_a_client_that_leaves_frees_its_slot_at_once(slow_llama: LlamaServer) -> None:
    stream = slow_llama.open_stream()
    stream.readline()
    until(lambda: slow_llama.busy_slots() == 1, "the slot is busy")
    left = time.monotonic()
    stream.close()
    until(lambda: slow_llama.busy_slots() == 0, "the slot is free")
    assert time.monotonic() - left < 2  # the answer would have taken 16 s


def test_sigterm_ends_an_idle_server_with_0(llama_server: Starter) -> None:
    server = llama_server()
    begun = time.monotonic()
    assert server.terminate() == 0
    assert time.monotonic() - begun < 5
    assert server.health() is None


def test_sigint_ends_it_as_sigterm_does(llama_server: Starter) -> None:
    server = llama_server()
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 0


def test_sigterm_while_loading_ends_it_by_the_signal(llama_server: Starter) -> None:
    server = llama_server(model="slow", ready=False)
    until(lambda: server.health() == 503, "it is loading")
    assert server.terminate() == -signal.SIGTERM


def test_sigterm_breaks_a_stream_off_without_done(llama_server: Starter) -> None:
    server = llama_server(model="slow", args=("--sse-ping-interval", "1"))
    with server.open_stream() as stream:
        stream.readline()
        assert server.terminate() == 0
        with pytest.raises(http.client.IncompleteRead) as broken_off:
            stream.read()
    assert b"[DONE]" not in broken_off.value.partial


def test_a_second_signal_ends_it_at_once(llama_server: Starter) -> None:
    server = llama_server(model="slow")
    with server.open_stream() as stream:
        stream.readline()
        server.process.terminate()
        until(lambda: "stopping" in server.log.read_text(), "the first signal was heard")
        begun = time.monotonic()
        assert server.terminate() == -signal.SIGTERM
        assert time.monotonic() - begun < 5  # without it: up to 30 s, llama.cpp's comment interval


def test_a_model_that_does_not_load_is_exit_code_1() -> None:
    ended = run("--model", "/nowhere/model.gguf", "--port", "18080")
    assert ended.returncode == 1
    assert "error: " in ended.stderr


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all", b"GGUF" + bytes(64)])
def test_a_file_that_is_no_model_is_exit_code_1_with_a_reason(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    ended = run("--model", str(path), "--port", str(free_port()))
    assert ended.returncode == 1
    assert "error: " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_flag_that_it_does_not_know_is_exit_code_1_with_a_sentence() -> None:
    ended = run("--model", "m.gguf", "--api-key", "secret")
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: invalid argument: --api-key (this llama-server has no such flag)\n"
    )


def test_help_is_exit_code_0_and_the_list_of_flags() -> None:
    ended = run("--help")
    assert ended.returncode == 0
    assert "--flash-attn [on|off|auto]" in ended.stdout


def test_a_port_in_use_is_exit_code_1(llama_server: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--model", str(llama_server.model("tiny")), "--port", str(port))
    assert ended.returncode == 1
    assert "error: " in ended.stderr


def test_without_the_extra_it_says_what_to_install() -> None:
    barred = (
        "import runpy, sys; sys.modules['xllamacpp'] = None; sys.argv = ['x', '--model', 'm.gguf'];"
        "runpy.run_module('rolemesh.builtin', run_name='__main__', alter_sys=True)"
    )
    argv = [sys.executable, "-c", barred]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "xllamacpp missing" in ended.stderr
    assert "pip install '.[llama]'" in ended.stderr
    assert "Traceback" not in ended.stderr
