"""The control: a relay as one writes it with aiohttp in an afternoon, server and client.

`python -m benchmarks.peers.relay PORT UPSTREAM_PORT`. No keys, no aliases, no checks, no event loop
but asyncio's own. What RoleMesh costs less than this is what its own protocols give.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

LARGEST_REQUEST_BYTES = 32 * 2**20
_PASSED_ON = ("Content-Type", "Content-Length", "Cache-Control")
_SESSION = web.AppKey("session", ClientSession)
_UPSTREAM = web.AppKey("upstream", str)


async def forward(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    headers = {"Content-Type": request.content_type}
    url = request.app[_UPSTREAM] + request.path_qs
    session = request.app[_SESSION]
    async with session.request(request.method, url, data=body, headers=headers) as answer:
        kept = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=kept)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def _session(app: web.Application) -> AsyncIterator[None]:
    # aiohttp's own limit is 100 connections: the work has more streams than that.
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=None)) as session:
        app[_SESSION] = session
        yield


def relay(upstream: str) -> web.Application:
    app = web.Application(client_max_size=LARGEST_REQUEST_BYTES)
    app[_UPSTREAM] = upstream
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", forward)
    return app


if __name__ == "__main__":
    web.run_app(
        relay(f"http://127.0.0.1:{sys.argv[2]}"),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        backlog=8192,
        access_log=None,
        print=None,
    )
