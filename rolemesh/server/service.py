"""What every daemon does with its HTTP server: listen, reload, drain, close, and tell of it.

Made by the wiring of gateway and node, which say what is served and what comes before and after.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rolemesh.config.schema_server import TlsSection
from rolemesh.errors import ShuttingDown
from rolemesh.server.accept import Listener
from rolemesh.server.http import HttpServer
from rolemesh.server.inbound import Inbound
from rolemesh.server.limits import Descriptors, raise_descriptor_limit
from rolemesh.server.listen import listening_sockets
from rolemesh.server.logs import LogWriter
from rolemesh.server.metrics import Metrics
from rolemesh.server.router import Router
from rolemesh.server.tls import server_context

GC_THRESHOLD = 20_000


class Section(Protocol):
    """The part of the configuration that is about listening."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def tls(self) -> TlsSection | None: ...

    @property
    def request_id_header(self) -> str: ...

    @property
    def fast_lane(self) -> bool: ...

    @property
    def drain_timeout_s(self) -> float: ...


class Service:
    """`last_reload`: what came of it, and when (Unix time); at first, of the start."""

    def __init__(self, log: logging.Logger, writer: LogWriter, metrics: Metrics) -> None:
        self.descriptor_limit = raise_descriptor_limit()
        self._log = log
        self._writer = writer
        self._metrics = metrics
        self._server: HttpServer | None = None
        self._listener: Listener | None = None
        self.last_reload: dict[str, Any] = {"result": "success", "at": int(time.time())}

    def serve(
        self,
        router: Router,
        section: Section,
        ended: Callable[[Inbound], None],
        lane_paths: Sequence[str],
        name: str,
    ) -> None:
        """Opens the sockets; nobody is let in before `start`. Raises RoleMeshError."""
        server = HttpServer(
            router, section.request_id_header, ended, lane_paths, self._writer.access, name
        )
        server.fast_lane = section.fast_lane
        context = tls_of(section)
        self._listener = Listener(
            listening_sockets(section.host, section.port),
            Descriptors(self.descriptor_limit),
            open_connections=lambda: server.open_connections,
            tls=context,
        )
        self._server = server
        self._read_at_scrape(server, self._listener)

    def start(self) -> None:
        server, listener = self._server, self._listener
        if server is None or listener is None:
            return
        # What is here now stays: no collection needs to look at it again. Requests leave no cycles
        # behind but for those that fail, so it is enough to look for them now and then.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        listener.start(server.new_connection)
        for host, port in listener.addresses:
            self._log.info("listening", extra={"host": host, "port": port})

    @property
    def port(self) -> int | None:
        """The one that is listened on."""
        return None if self._listener is None else self._listener.addresses[0][1]

    @property
    def in_flight(self) -> int:
        return 0 if self._server is None else self._server.in_flight

    # Reload

    def apply(self, section: Section, context: ssl.SSLContext | None) -> None:
        """`context`: of `tls_of`. Host, port, and whether there is TLS, stay as they were."""
        if self._server is not None:
            self._server.request_id_header = section.request_id_header
            self._server.fast_lane = section.fast_lane
        if self._listener is not None and self._listener.tls is not None and context is not None:
            self._listener.tls = context

    def note_reload(self, *, success: bool) -> None:
        self._metrics.reloaded(success)
        result = "success" if success else "failure"
        self.last_reload = {"result": result, "at": int(time.time())}

    # The end

    async def drain(self, section: Section) -> None:
        """No new connection, no new work; what is in flight may finish, within bounds."""
        self.stop_listening()
        server = self._server
        if server is None:
            return
        drain_s = section.drain_timeout_s
        if server.in_flight:
            self._log.info("%d requests may finish, within %g s", server.in_flight, drain_s)
        try:
            async with asyncio.timeout(drain_s):
                await server.drain()
        except TimeoutError:
            self._log.warning("%d requests are still in flight and end now", server.in_flight)

    async def end_requests(self, message: str) -> None:
        if self._server is not None:
            await self._server.end_requests(ShuttingDown(message, retry_after_s=5))

    def stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        if self._server is not None:
            await self._server.close()

    def _read_at_scrape(self, server: HttpServer, listener: Listener) -> None:
        read = self._metrics.read_at_scrape
        read("connections", lambda: [((), server.open_connections)])
        read("connections_shed_total", lambda: [((), listener.shed)])
        read("log_lines_dropped_total", lambda: [((), self._writer.dropped)])
        read("config_last_reload_success", lambda: [((), self.last_reload["result"] == "success")])
        read(
            "config_last_reload_timestamp_seconds",
            lambda: [((), self.last_reload["at"])],
        )


def tls_of(section: Section) -> ssl.SSLContext | None:
    """Raises RoleMeshError."""
    tls = section.tls
    return None if tls is None else server_context(tls.cert_file, tls.key_file, tls.client_ca_file)
