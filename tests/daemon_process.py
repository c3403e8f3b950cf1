"""A real daemon in a process of its own, for tests that look at it from outside only.

Loopback, port 0, private state. `start` waits for the log's `listening` line; `stop` sends SIGTERM
and checks what must hold of every daemon: exit code 0, and no traceback or lost task in its log.
ROLE_MESH_TEST_OVERRIDES (with os.pathsep between them) are files without their ending: of `x`,
x.gateway.yaml is given to every gateway as `--config-override`, and x.node.yaml to every node, so
that the same tests can run with another setting.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.rawhttp import RawClient, Reply, request_bytes

ROOT = Path(__file__).parents[1]
START_S = 20.0
STOP_S = 20.0
UNCLEAN = (
    "Traceback",
    "Task exception",
    "never retrieved",
    "never awaited",
    "Unclosed",
    "Warning:",
)

Headers = Iterable[tuple[str, str]]
Line = Mapping[str, Any]


def chat_body(model: str | None = None, *, stream: bool | None = None, **fields: Any) -> bytes:
    """A small chat request."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi."}], **fields}
    if model is not None:
        body["model"] = model
    if stream is not None:
        body["stream"] = stream
    return json.dumps(body).encode()


class DaemonProcess:
    """`word`: its subcommand, and its section in the configuration. `otherwise`: what its
    configuration holds where a test does not say it."""

    word: ClassVar[str]
    otherwise: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        config: Mapping[str, Any],
        directory: Path,
        *,
        env: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        descriptors: int | None = None,
    ) -> None:
        self.directory = directory
        self.config_path = directory / f"{self.word}.yaml"
        self.state_path = directory / "state.json"
        self.tls = tls
        self.address = ("127.0.0.1", 0)
        self.lines: list[Line] = []
        self.odd_lines: list[str] = []  # what is no JSON, though the log should be
        self._texts: list[str] = []
        self._env = dict(env or {})
        self._descriptors = descriptors
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_end = False
        self._reader: threading.Thread | None = None
        self._news = threading.Condition()
        self.configure(config)

    # Configuration

    def configure(self, config: Mapping[str, Any]) -> None:
        """Write the file; it gets what keeps a test private, unless `config` says it."""
        private = {
            "host": "127.0.0.1",
            "port": 0,
            "state_path": str(self.state_path),
            "drain_timeout_s": 2,
        }
        whole = {
            "version": 1,
            "log": {"level": "info", "format": "json"},
            **self.otherwise,
            **config,
            self.word: {**private, **config.get(self.word, {})},
        }
        self.write_config(json.dumps(whole, indent=1))

    def write_config(self, text: str) -> None:
        """As an editor does it: whole or not at all."""
        draft = self.config_path.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self.config_path)

    # Life

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def launch(self, stderr: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
        """Start the process and do not wait for anything."""
        self._told_to_end = False
        command = [sys.executable, "-m", "rolemesh", self.word, "--config", str(self.config_path)]
        for path in filter(None, os.environ.get("ROLE_MESH_TEST_OVERRIDES", "").split(os.pathsep)):
            command += ["--config-override", f"{path}.{self.word}.yaml"]
        if self._descriptors is not None:
            prlimit = shutil.which("prlimit") or "prlimit"
            limit = f"--nofile={self._descriptors}:{self._descriptors}"
            command = [prlimit, limit, *command]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environment(), stdin=subprocess.DEVNULL, stderr=stderr
        )
        return self._process

    def start(self) -> Self:
        self.lines, self.odd_lines, self._texts = [], [], []
        process = self.launch()
        self._reader = threading.Thread(target=self._read_log, args=(process,), daemon=True)
        self._reader.start()
        try:
            line = self.wait_line(lambda line: line.get("message") == "listening", START_S)
        except AssertionError:
            self.kill()
            raise
        self.address = (str(line.get("host", "127.0.0.1")), int(line["port"]))
        return self

    def stop(self, number: signal.Signals | None = None, expect: int = 0) -> None:
        """End it as an operator does, and check that it ended well. Without `number`, SIGTERM is
        sent unless the daemon was told to end before: a second signal has a meaning of its own."""
        if self._process is None:
            return
        if number is not None or not self._told_to_end:
            self.signal(number or signal.SIGTERM)
        code = self._wait(STOP_S)
        if code != expect:
            raise AssertionError(f"exit code {code}, expected {expect}; the log:\n{self.text}")
        self.check_log()

    def kill(self) -> None:
        """End it without a word, as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._wait(STOP_S)

    def wait_exit(self, timeout_s: float = STOP_S) -> int:
        return self._wait(timeout_s)

    def check_log(self) -> None:
        for word in UNCLEAN:
            if word in self.text:
                raise AssertionError(f"{word!r} in the log:\n{self.text}")
        if self.odd_lines:
            raise AssertionError(f"no JSON: {self.odd_lines}")

    def signal(self, number: signal.Signals) -> None:
        self._told_to_end = self._told_to_end or number in (signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError(f"the {self.word} was not started")
        return self._process

    def _wait(self, timeout_s: float) -> int:
        process = self.process
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"not gone after {timeout_s} s; the log:\n{self.text}") from None
        if self._reader is not None:
            self._reader.join(timeout_s)
        if process.stderr is not None:
            process.stderr.close()
        self._process = None
        return code

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "ROLE_MESH" not in name}
        return {**kept, "PYTHONUNBUFFERED": "1", **self._env}

    # Its log

    def _read_log(self, process: subprocess.Popen[bytes]) -> None:
        if process.stderr is None:
            return
        for raw in process.stderr:
            text = raw.decode("utf-8", "backslashreplace")
            with self._news:
                self._texts.append(text)
                self._note(text)
                self._news.notify_all()

    @property
    def text(self) -> str:
        """The whole of standard error so far."""
        return "".join(self._texts)

    def _note(self, text: str) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            self.odd_lines.append(text)
        else:
            self.lines.append(line)

    def wait_line(self, wanted: Callable[[Line], object], timeout_s: float = 5.0) -> Line:
        """The first log line that `wanted` accepts, now or within `timeout_s`."""
        until = time.monotonic() + timeout_s
        with self._news:
            while True:
                for line in self.lines:
                    if wanted(line):
                        return line
                ended = self._process is not None and self._process.poll() is not None
                left = until - time.monotonic()
                if left <= 0 or (ended and not self._news.wait(0.3)):
                    raise AssertionError(f"no such line in the log:\n{self.text}")
                self._news.wait(min(left, 0.1))

    def request_line(self, reply: Reply) -> Line:
        """The log line of the request that got this reply."""
        wanted = reply.get("X-Request-ID")
        return self.wait_line(lambda line: line.get("request_id") == wanted)

    # Requests

    def connect(self, **options: Any) -> RawClient:
        return RawClient(self.address, tls=self.tls, **options)

    def call(
        self, method: str, target: str, headers: Headers = (), body: bytes | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        with self.connect() as wire:
            wire.send(request_bytes(method, target, headers, body))
            head = wire.head()
            return Reply(head, b"".join(wire.pieces(head, method)))

    def get(self, target: str, headers: Headers = ()) -> Reply:
        return self.call("GET", target, headers)

    def post(self, target: str, value: Any, headers: Headers = ()) -> Reply:
        """`value` is sent as it is when it is bytes, else as JSON."""
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.call("POST", target, [("Content-Type", "application/json"), *headers], body)

    def chat(self, model: str | None = None, headers: Headers = (), **fields: Any) -> Reply:
        return self.post("/v1/chat/completions", chat_body(model, **fields), headers)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of `rolemesh_<name>` that have these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == f"rolemesh_{name}" and all(
                f'{key}="{text}"' in sample for key, text in labels.items()
            ):
                total += float(value)
        return total

    # What the kernel says of it

    def resident_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def open_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def eventually(happens: Callable[[], object], timeout_s: float = 5.0) -> None:
    """Wait until `happens()` is true; fail when it never is."""
    until = time.monotonic() + timeout_s
    while not happens():
        if time.monotonic() > until:
            raise AssertionError(f"did not happen within {timeout_s} s")
        time.sleep(0.02)
