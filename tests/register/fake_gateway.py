"""A gateway's node routes, scriptable: what a real one does not do on command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


class FakeGateway:
    """`calls` are (method, path, body, headers). `answer` decides on each call; None: accept.
    Nothing is answered while `answering` is cleared."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any, Any]] = []
        self.answer: Callable[[str, str], web.Response | None] = lambda method, path: None
        self.answering = asyncio.Event()
        self.answering.set()
        self.interval_s: object = 0.05
        self.url = ""
        self.server = TestServer(self._app())
        self._came = asyncio.Condition()

    async def __aenter__(self) -> FakeGateway:
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.close()

    def steps(self) -> list[str]:
        """The calls as words: register, heartbeat, goodbye."""
        words = {"/v1/nodes/register": "register", "/v1/nodes/heartbeat": "heartbeat"}
        return [words.get(path, "goodbye") for _, path, _, _ in self.calls]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self._came:
            await self._came.wait_for(true)

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        return app

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        async with self._came:
            self.calls.append((request.method, request.path, body, request.headers))
            self._came.notify_all()
        await self.answering.wait()
        answer = self.answer(request.method, request.path)
        if answer is not None:
            return answer
        node_id = (body or {}).get("node_id")
        asked = {"heartbeat_interval_s": self.interval_s, "stale_after_s": 30}
        return web.json_response({"status": "ok", "node_id": node_id, **asked})


def refusal(status: int, code: str, message: str = "no") -> web.Response:
    error = {"message": message, "type": "t", "param": None, "code": code}
    return web.json_response({"error": error}, status=status)
