"""A llama-server that does what each request tells it: its field `do` says how it is answered.

    python -I -S obedient.py --port N --alias ID ...        (with OBEDIENT_DIR in its environment)

It knows its files by the model's id: while `ID.hold` is there it loads, and where `ID.fail` is it
then ends, exit code 1; where `ID.spoiled` is every request fails. Each request that it gets is a
line of `requests`, each client that left before its answer's end one of `left`. `do` may have:
`status` and `json`, for a plain answer; `events`, `times` over and with `gap_s` between them, for a
stream, and `then`: done, cut, stall or die. See `scripted`.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

DIR = Path(os.environ["OBEDIENT_DIR"])
KEY = os.environ.get("LLAMA_API_KEY", "")
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
NO_KEY = {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
_writing = threading.Lock()


def flag(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


ALIAS = flag("--alias")
HOLD, FAIL, SPOILED = (
    DIR / f"{quote(ALIAS, safe='')}.{kind}" for kind in ("hold", "fail", "spoiled")
)


def note(name: str, value: dict[str, Any]) -> None:
    with _writing, (DIR / name).open("a") as file:
        file.write(json.dumps({"model": ALIAS, "pid": os.getpid(), **value}) + "\n")


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece(text: str, reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    kind = "chat.completion.chunk"
    return {"choices": [choice], "model": ALIAS, "object": kind, "id": "chat-1", "usage": usage}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "llama.cpp"

    def log_message(self, *args: Any) -> None:
        """Nothing: what it prints is in the model's log."""

    def do_GET(self) -> None:
        if HOLD.exists() or FAIL.exists():
            self.plain(503, LOADING)
        elif self.path == "/health":
            self.plain(200, {"status": "ok"})
        elif self.path == "/metrics":
            self.text(200, b"llamacpp:n_decode_total 0\n")
        elif self.path == "/props":
            context = {"n_ctx": int(flag("--ctx-size"))}
            slots = int(flag("--parallel"))
            self.plain(200, {"total_slots": slots, "default_generation_settings": context})
        else:
            self.plain(404, {"error": {"message": "File Not Found", "code": 404}})

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        heads = [list(pair) for pair in self.headers.items()]
        note("requests", {"path": self.path, "headers": heads, "body": body, "bytes": len(raw)})
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.plain(401, NO_KEY)
            return
        do = body.get("do", {})
        if SPOILED.exists():
            do = {"status": 500, "json": {"error": {"code": 500, "message": "CUDA error"}}}
        if "json" in do:
            self.plain(do.get("status", 200), do["json"])
        elif body.get("stream"):
            self.stream(do)
        else:
            self.plain(200, {"object": "whatever", "model": ALIAS, "choices": []})

    def plain(self, status: int, value: Any) -> None:
        self.text(status, json.dumps(value).encode(), "application/json; charset=utf-8")

    def text(self, status: int, data: bytes, content_type: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, do: dict[str, Any]) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = do.get("events", [piece("Hel"), piece("lo.", "stop")])
        try:
            for value in events * do.get("times", 1):
                self.chunk(event(value))
                self.pause(do.get("gap_s", 0))
            self.end(do.get("then", "done"))
        except OSError:
            note("left", {})

    def end(self, how: str) -> None:
        if how == "die":
            os._exit(3)
        if how == "stall":
            self.pause(60)
        if how == "done":
            self.chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def pause(self, seconds: float) -> None:
        """Raises OSError when the client leaves."""
        readable, _, _ = select.select([self.connection], [], [], seconds)
        if readable:
            raise ConnectionResetError


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    print(f"loading {ALIAS}", flush=True)
    note("starts", {"argv": sys.argv[1:]})
    server = Server(("127.0.0.1", int(flag("--port"))), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while HOLD.exists():
        time.sleep(0.01)
    if FAIL.exists():
        print("error: there is not enough memory", flush=True)
        os._exit(1)
    threading.Event().wait()


if __name__ == "__main__":
    main()
