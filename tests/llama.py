"""Real llama.cpp servers for tests, with models of random weights (rolemesh/builtin).

Fixtures, to be used by any test, blocking or not (conftest.py makes them known everywhere):

- `llama`: one fast server for the whole session, alias `tiny`, two slots. Leave it as it is found.
- `slow_llama`: the same with a model of 60 tokens a second, so that an answer can be interrupted.
- `llama_server`: starts more: `llama_server(alias="writer", model="slow", ready=False, parallel=1)`
  What it started is gone when the test ends; a test may `terminate()` or `kill()` it before.

Each is a `LlamaServer`: `url`, `key`, `alias`, `get`, `post`, `health`, `busy_slots`, `pid`.
Without the `[llama]` extra the tests that ask for one are skipped, and say so.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import define, field

from rolemesh.builtin import command

WAIT_S = 20.0
Model = Literal["tiny", "slow"]


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def until(condition: Callable[[], bool], what: str, within_s: float = WAIT_S) -> None:
    """Wait for a condition of another process; fail with what was waited for."""
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.01)


@define(eq=False)
class LlamaServer:
    """A running llama.cpp server. `key` is what it asks for (None: nothing)."""

    alias: str
    port: int
    key: str | None
    process: subprocess.Popen[bytes]
    log: Path
    exit_code: int | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def health(self) -> int | None:
        """The status of /health: 503 while loading, 200 then; None while refused."""
        with contextlib.suppress(OSError):
            return self.get("/health")[0]
        return None

    def wait_ready(self) -> None:
        # It answers a moment before it minds signals.
        until(lambda: self._says_ready() or self.process.poll() is not None, "llama.cpp is ready")
        if self.process.poll() is not None:
            raise AssertionError(f"llama.cpp ended: {self.log.read_text()[-2000:]}")

    def _says_ready(self) -> bool:
        said = "llama-server: ready" in self.log.read_text(errors="replace")
        return said and self.health() == 200

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body of a GET; the body as JSON where it is, else as text."""
        return self._exchange("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self._exchange("POST", path, json.dumps(body))

    def busy_slots(self) -> int:
        return sum(slot["is_processing"] for slot in self.get("/slots")[1])

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def open_stream(self, max_tokens: int = 1000) -> http.client.HTTPResponse:
        """A streamed chat whose head has come; closing it is leaving."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        body = {"stream": True, "max_tokens": max_tokens, "messages": hello()}
        # `Connection: close`: http.client leaves the socket to the response, so closes it with it.
        headers = {**self.headers(), "Connection": "close"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return connection.getresponse()

    def terminate(self) -> int:
        """SIGTERM, and the exit code (negative: the signal that ended it)."""
        self.process.terminate()
        return self.wait()

    def kill(self) -> int:
        self.process.kill()
        return self.wait()

    def wait(self) -> int:
        self.exit_code = self.process.wait(WAIT_S)
        return self.exit_code

    def _exchange(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request(method, path, body, self.headers())
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(text) if is_json else text


def hello() -> list[dict[str, str]]:
    """The messages of a chat that any model can answer."""
    return [{"role": "user", "content": "hello"}]


@define(eq=False)
class Starter:
    """Starts servers and ends them all. Models are written once, into `folder`."""

    folder: Path
    running: list[LlamaServer] = field(factory=list)

    def __call__(
        self,
        *,
        alias: str = "tiny",
        model: Model = "tiny",
        parallel: int = 1,
        key: str | None = None,
        ready: bool = True,
        args: tuple[str, ...] = (),
    ) -> LlamaServer:
        """Start one; `ready` False: return while it loads. More llama-server flags in `args`."""
        port = free_port()
        log = self.folder / f"{alias}-{port}.log"
        flags = ["--model", str(self.model(model)), "--alias", alias, "--port", str(port)]
        flags += ["--ctx-size", str(2048 * parallel), "--parallel", str(parallel)]
        flags += ["--threads", "1", "--cache-ram", "0", "--metrics", "--no-webui"]
        env = {**os.environ, "LLAMA_API_KEY": key or ""}
        with log.open("wb") as stderr:
            process = subprocess.Popen([*command(), *flags, *args], stderr=stderr, env=env)
        server = LlamaServer(alias, port, key, process, log)
        self.running.append(server)
        if ready:
            server.wait_ready()
        return server

    def model(self, model: Model) -> Path:
        path = self.folder / f"{model}.gguf"
        if not path.exists():
            # Imported here alone: without the extra this module must still load, to skip its tests.
            from rolemesh.builtin import tiny_model

            shape = tiny_model.SLOW if model == "slow" else tiny_model.TINY
            tiny_model.write(path, shape=shape)
        return path

    def stop_all(self) -> None:
        for server in self.running:
            # Continued first: a stopped process would not hear of its end.
            with contextlib.suppress(ProcessLookupError):
                server.process.send_signal(signal.SIGCONT)
            server.kill()
        self.running.clear()


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models and the servers' logs are; skips where the extra is missing."""
    for name in ("xllamacpp", "gguf"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is missing: pip install '.[llama]'")
    return tmp_path_factory.mktemp("llama")


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Iterator[LlamaServer]:
    starter = Starter(llama_folder)
    yield starter(parallel=2)
    starter.stop_all()


@pytest.fixture(scope="session")
def slow_llama(llama_folder: Path) -> Iterator[LlamaServer]:
    starter = Starter(llama_folder)
    yield starter(alias="slow", model="slow", parallel=2)
    starter.stop_all()


@pytest.fixture
def llama_server(llama_folder: Path) -> Iterator[Starter]:
    starter = Starter(llama_folder)
    yield starter
    starter.stop_all()
