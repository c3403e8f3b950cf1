"""What becomes of children that die, hang or fail: a real node, real children and wrapped ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.scripted import GGUF, Obedient, obedient_node
from tests.node.wrapped import wrapped
from tests.node_process import NodeProcess, alive, error_of, eventually, model
from tests.rawhttp import Reply

BACK_WITHIN_S = 5.0  # what the node promises


@pytest.fixture(scope="module")
def node(tiny: Path, slow: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    models = [model("writer", tiny), model("slow", slow, parallel=2)]
    with NodeProcess({"models": models}, tmp_path_factory.mktemp("node")) as process:
        yield process


def reason(reply: Reply) -> str:
    """Why the model cannot be served."""
    assert reply.status == 503, reply
    return str(reply.json()["error"]["details"][0]["detail"])


def back(node: NodeProcess, old: dict[str, Any]) -> dict[str, Any]:
    """The model's next child, once it is ready."""
    model_id = old["model"]
    eventually(lambda: node.child(model_id)["pid"] not in (None, old["pid"]), BACK_WITHIN_S)
    return node.wait_state(model_id, "READY", BACK_WITHIN_S)


def test_a_child_killed_in_mid_stream_ends_it_with_an_error_and_comes_back(
    node: NodeProcess,
) -> None:
    old = node.load("slow")
    with (
        node.open_stream("slow", max_tokens=1000, ignore_eos=True) as one,
        node.open_stream("slow", max_tokens=1000, ignore_eos=True) as two,
    ):
        one.begun()
        two.begun()
        os.kill(old["pid"], signal.SIGKILL)
        killed_at = time.monotonic()
        for chat in (one, two):
            told = chat.rest()
            assert b"[DONE]" not in told
            assert error_of(told) is not None, told
    new = back(node, old)
    assert time.monotonic() - killed_at < BACK_WITHIN_S
    assert new["restarts"] == old["restarts"] + 1
    assert "killed by SIGKILL" in new["last_error"]
    assert node.metric("child_restarts_total", device="cpu") == new["restarts"]
    assert node.chat("slow", max_tokens=1).status == 200


def test_a_request_behind_the_death_of_the_child_waits_for_the_next_one(node: NodeProcess) -> None:
    old = node.load("writer")
    os.kill(old["pid"], signal.SIGKILL)
    eventually(lambda: not alive([old["pid"]]))
    assert node.chat("writer", max_tokens=1).status == 200
    assert node.child("writer")["pid"] != old["pid"]


def test_a_plain_answer_that_the_childs_death_cuts_is_an_error(node: NodeProcess) -> None:
    old = node.load("slow")
    with node.connect() as wire:
        body = {"model": "slow", "max_tokens": 1000, "ignore_eos": True, "messages": []}
        body["messages"] = [{"role": "user", "content": "Hi."}]
        headers = [("Content-Type", "application/json")]
        wire.request("POST", "/v1/chat/completions", headers, json.dumps(body).encode())
        eventually(lambda: node.child("slow")["in_flight"] == 1)
        os.kill(old["pid"], signal.SIGKILL)
        assert wire.reply().status in (502, 503)
    back(node, old)


def test_a_crash_in_a_loop_is_fatal_with_exit_code_and_last_words(tmp_path: Path) -> None:
    llama = wrapped(tmp_path / "llama", 'echo "CUDA error: no luck today"; exit 7')
    path = tmp_path / "some.gguf"
    path.write_bytes(GGUF)
    with NodeProcess({"llama_server": llama, "models": [model("writer", path)]}, tmp_path) as node:
        told = reason(node.chat("writer"))
        assert "exit code 7" in told
        assert "CUDA error: no luck today" in told
        child = node.child("writer")
        assert (child["state"], child["last_error"]) == ("FATAL", told)
        assert child["pid"] is None
        assert node.get("/v1/models/writer").status == 404
        assert node.get("/ready").status == 503
        # Behind it: no new try by a request, one by an operator.
        assert reason(node.chat("writer")) == told
        assert node.child("writer")["restarts"] == child["restarts"]
        assert "exit code 7" in reason(node.post("/v1/node/models/writer/load", {}))
        assert node.child("writer")["restarts"] == child["restarts"] + 1
        said = node.get("/v1/node/models/writer/log?tail=3").body.decode()
        assert "no luck today" in said


def test_a_load_in_which_nothing_moves_is_given_up_and_a_slow_one_is_not(
    tiny: Path, tmp_path: Path
) -> None:
    body = (
        'case "$*" in *hangs*) exec sleep 1000;; esac\n'
        "for i in 1 2 3 4 5; do echo loading $i; sleep 0.4; done\n"
        "exec $serve"
    )
    llama = wrapped(tmp_path / "llama", body, load_timeout_s=1.5)
    models = [model("slowly", tiny, preload=True), model("hangs", tiny)]
    with NodeProcess({"llama_server": llama, "models": models}, tmp_path) as node:
        # Longer than load_timeout_s, and without a restart.
        assert node.wait_state("slowly", "READY")["restarts"] == 0
        assert node.metric("model_load_seconds", model="slowly") > 1.9
        began = time.monotonic()
        with node.open_stream("hangs"):
            child = node.wait_state("hangs", "BACKOFF")
            assert child["last_error"] == "nothing moved for 1.5 s of loading"
            assert time.monotonic() - began >= 1.5
        node.unload("hangs")


FAILS = {"status": 500, "json": {"error": {"code": 500, "message": "CUDA error"}}}
REFUSES = {"status": 400, "json": {"error": {"code": 400, "message": "too long"}}}


def test_a_child_that_fails_request_after_request_is_started_anew(tmp_path: Path) -> None:
    with obedient_node(tmp_path, "writer") as (node, llama):
        old = node.load("writer")
        for _ in range(4):
            assert node.chat("writer", do=FAILS).status == 500
        assert node.chat("writer").status == 200  # so the next failure is the first of a row
        for _ in range(10):
            assert node.chat("writer", do=REFUSES).status == 400  # not the child's failure
        assert "/v1/completions" not in asked(llama)
        for _ in range(5):
            assert node.chat("writer", do=FAILS).status == 500
        # The node has asked, and was answered: it is the clients' requests that are odd.
        eventually(lambda: asked(llama).count("/v1/completions") == 1)
        assert node.chat("writer").status == 200
        assert node.child("writer")["pid"] == old["pid"]
        with llama.spoiled("writer"):
            for _ in range(5):
                assert node.chat("writer").status == 500
            eventually(lambda: node.child("writer")["last_error"])
        assert node.chat("writer").status == 200
        new = node.child("writer")
        assert new["pid"] != old["pid"]
        assert new["last_error"] == "5 requests in a row failed, and one of the node's own"


def asked(llama: Obedient) -> list[str]:
    """The paths of the writer's requests."""
    return [each["path"] for each in llama.noted("requests", "writer")]


def test_a_child_that_is_busy_without_a_token_is_started_anew(tmp_path: Path) -> None:
    with obedient_node(tmp_path, "writer", timeouts={"idle_s": 1.0}) as (node, _):
        old = node.load("writer")
        stalls = {"events": [], "then": "stall"}
        with node.open_stream("writer", do=stalls) as chat:
            assert chat.head.status in (502, 503, 504)
        new = node.wait_state("writer", "READY")
        assert new["pid"] != old["pid"]
        assert "without a token" in new["last_error"]


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with one model that works, among many that do not."""
    folder = tmp_path_factory.mktemp("broken")
    llama = Obedient(folder / "llama")
    (folder / "folder.gguf").mkdir()
    (folder / "text.gguf").write_text("no model at all")
    (folder / "good.gguf").write_bytes(GGUF)
    models = [
        llama.model("works", preload=True),
        model("lost", folder / "lost.gguf", preload=True),
        model("folder", folder / "folder.gguf"),
        model("text", folder / "text.gguf"),
        model("flag", folder / "good.gguf", args=["--no-such-flag"]),
        model("gpu", folder / "good.gguf", device=7),
        model("late", folder / "late.gguf"),
    ]
    devices = {"gpus": "all", "cpu": True}
    config = {"llama_server": llama.section(), "models": models, **devices}
    with NodeProcess(config, folder) as process:
        yield process


@pytest.mark.parametrize(
    ("model_id", "why"),
    [
        ("lost", "its file does not exist"),
        ("folder", "its file is a directory"),
        ("text", "its file is no GGUF"),
        ("flag", "--no-such-flag is no flag of this llama-server"),
        ("gpu", "GPU 7 is none of this node's devices"),
    ],
)
def test_what_cannot_work_says_why_and_the_rest_serves(
    broken: NodeProcess, model_id: str, why: str
) -> None:
    told = reason(broken.chat(model_id))
    assert why in told
    child = broken.child(model_id)
    assert (child["state"], child["last_error"]) == ("FATAL", told)
    assert why in reason(broken.post(f"/v1/node/models/{model_id}/load", {}))
    assert broken.child(model_id)["devices"] == []
    assert broken.chat("works").status == 200


def test_a_file_that_appears_can_be_loaded_at_once_by_an_operator(broken: NodeProcess) -> None:
    assert "does not exist" in reason(broken.chat("late"))
    (broken.directory / "late.gguf").write_bytes(GGUF)
    assert broken.load("late")["state"] == "READY"
    assert broken.chat("late").status == 200


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("plain", "is not executable"),
        ("garbage", "cannot be started"),
    ],
)
def test_a_program_that_cannot_run_is_named(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "plain").touch()
    (tmp_path / "garbage").write_bytes(b"\0garbage")
    (tmp_path / "garbage").chmod(0o755)
    (tmp_path / "some.gguf").write_bytes(GGUF)
    config: dict[str, Any] = {
        "llama_server": {"path": str(tmp_path / path)},
        "models": [model("writer", tmp_path / "some.gguf")],
    }
    with NodeProcess(config, tmp_path) as node:
        assert why in reason(node.chat("writer"))
        assert node.state("writer") == "FATAL"
        assert node.get("/health").status == 200


STRANGER = r"""
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        with open(sys.argv[2], "a") as file:
            file.write(f"{self.path} {dict(self.headers)}\n")
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    do_POST = do_GET
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_server_that_is_not_the_child_is_not_trusted_and_gets_no_key(
    tiny: Path, tmp_path: Path
) -> None:
    """Another program has the port before the child has bound it. It is started outside of the
    child's family by a test's own process, which the child only tells its port."""
    heard, port = tmp_path / "heard", tmp_path / "port"
    body = (
        f"[ -e {port} ] && exec $serve\n"
        'while [ "$1" != --port ]; do shift; done\n'
        f"echo $2 >{port}; exec sleep 1000"
    )
    config = {"llama_server": wrapped(tmp_path / "llama", body), "models": [model("writer", tiny)]}
    with NodeProcess(config, tmp_path) as node, node.open_stream("writer", max_tokens=1) as chat:
        eventually(lambda: port.exists() and port.read_text().strip())
        argv = [sys.executable, "-c", STRANGER, port.read_text().strip(), str(heard)]
        with subprocess.Popen(argv) as stranger:
            try:
                assert chat.head.status == 200  # by the next child, on a port of its own
                child = node.child("writer")
            finally:
                stranger.kill()
        assert child["port"] != int(port.read_text())
        assert child["restarts"] == 1
        assert "is held by another program" in child["last_error"]
    lines = heard.read_text().splitlines()
    assert lines
    assert all(line.startswith("/health ") and "Bearer" not in line for line in lines)


def test_a_flood_of_output_is_bounded_and_holds_nobody_up(tiny: Path, tmp_path: Path) -> None:
    body = (
        "head -c 20000000 /dev/zero\n"  # one line without end, and binary
        "yes flood | head -c 10000000\n"
        "(yes flood again | head -c 10000000) &\n"
        "exec $serve"
    )
    llama = wrapped(tmp_path / "llama", body)
    log_dir = tmp_path / "logs"
    config = {
        "llama_server": llama,
        "models": [model("writer", tiny)],
        "node": {"log_dir": str(log_dir)},
    }
    with NodeProcess(config, tmp_path) as node:
        before = node.resident_bytes()
        assert node.chat("writer", max_tokens=1).status == 200
        assert node.resident_bytes() - before < 30 * 2**20
        size = sum(path.stat().st_size for path in log_dir.iterdir())
        assert size < 64 * 2**20
        tail = node.get("/v1/node/models/writer/log?tail=5")
        assert tail.status == 200
        assert len(tail.body) < 100_000
