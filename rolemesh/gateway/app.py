"""The gateway as a daemon: wires the rooms, opens the listener, reloads, drains, shuts down.

`run` is what `rolemesh gateway` calls. Everything that lives as long as the process is made here
once; what a reload changes is one `Live` value.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
import time
from collections.abc import Mapping
from typing import Any

from rolemesh.config.assemble import Loaded
from rolemesh.config.compile import state_path
from rolemesh.config.diff import changed
from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_server import TlsSection
from rolemesh.core.health import Health
from rolemesh.core.registry import Registry
from rolemesh.errors import RoleMeshError, ShuttingDown
from rolemesh.gateway.figures import Figures
from rolemesh.gateway.forward import Forward
from rolemesh.gateway.live import Live, live_of
from rolemesh.gateway.models import Availability, Models
from rolemesh.gateway.nodes import Nodes
from rolemesh.gateway.probes import Prober
from rolemesh.gateway.routes import add_routes
from rolemesh.gateway.slots import Slots
from rolemesh.proxy.pool import Pools
from rolemesh.server import life, logs
from rolemesh.server.accept import Listener
from rolemesh.server.http import HttpServer
from rolemesh.server.limits import Descriptors, probes_at_once, raise_descriptor_limit
from rolemesh.server.listen import listening_sockets
from rolemesh.server.metrics import Metrics
from rolemesh.server.router import Router
from rolemesh.server.tls import server_context
from rolemesh.store.file import StateFile
from rolemesh.wire.openai import MODEL_PATHS

log = logging.getLogger("rolemesh.gateway")

GC_THRESHOLD = 20_000


def run(sources: Sources, env: Mapping[str, str]) -> int:
    """Run a gateway until it is told to stop; returns the exit code. Raises RoleMeshError."""
    loaded = load_gateway(sources, env)
    writer = logs.setup(loaded.config.log.level, loaded.config.log.format)
    try:
        log.info("configuration: %s", ", ".join(loaded.files))
        return life.run(lambda: Gateway(sources, env, loaded, writer), env)
    finally:
        writer.close()


class Gateway:
    """server.life.Daemon."""

    def __init__(
        self,
        sources: Sources,
        env: Mapping[str, str],
        loaded: Loaded[GatewayFile],
        writer: logs.LogWriter,
    ) -> None:
        self._sources = sources
        self._env = env
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._live = live_of(loaded.config)
        self._started_with = loaded.config
        self._last_reload: dict[str, Any] = {"result": "success", "at": int(time.time())}
        self._stored_version = 0
        registry = self._live.config.registry
        self._registry = Registry(registry.stale_after_s, registry.forget_after_s)
        self._health = Health()
        self._pools = Pools(self._loop)
        self._slots = Slots()
        self._metrics = Metrics()
        self._descriptor_limit = raise_descriptor_limit()
        self._server = self._wire()
        self._listener: Listener | None = None
        self._store: StateFile | None = None

    def _wire(self) -> HttpServer:
        router = Router()
        forward = Forward(
            self.live, self._registry, self._health, self._pools, self._slots, self._metrics
        )
        at_once = probes_at_once(self._descriptor_limit)
        prober = Prober(self._pools, self._health, forward.via, at_once)
        truth = Availability(self._registry, self._health, prober)
        models = Models(self.live, truth, forward.refuse_loop, lambda: self._last_reload)
        nodes = Nodes(self.live, truth, self._slots, self._nodes_changed)
        figures = Figures(self._metrics, self.live, truth, frozenset(MODEL_PATHS))
        add_routes(router, forward, models, nodes, figures)
        config = self._live.config.gateway
        server = HttpServer(router, config.request_id_header, figures.ended, MODEL_PATHS)
        server.fast_lane = config.fast_lane
        return server

    def live(self) -> Live:
        return self._live

    # Life

    async def startup(self) -> None:
        config = self._live.config.gateway
        self._open_store(config.state_path)
        tls = None if config.tls is None else _context(config.tls)
        sockets = listening_sockets(config.host, config.port)
        self._listener = Listener(
            sockets,
            Descriptors(self._descriptor_limit),
            open_connections=lambda: self._server.open_connections,
            tls=tls,
        )
        self._read_at_scrape(self._listener)
        # What is here now stays: no collection needs to look at it again. Requests leave no cycles
        # behind but for those that fail, so it is enough to look for them now and then.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        self._listener.start(self._server.new_connection)
        for host, port in self._listener.addresses:
            log.info("listening", extra={"host": host, "port": port})

    async def reload(self) -> None:
        try:
            loaded = await asyncio.to_thread(load_gateway, self._sources, self._env)
            live = await asyncio.to_thread(live_of, loaded.config)
            tls = live.config.gateway.tls
            context = None if tls is None else _context(tls)
        except RoleMeshError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", error.message)
            self._note_reload(success=False)
            return
        old, self._live = self._live.config, live
        self._apply(live.config, context)
        changes = changed(old, live.config)
        log.info("configuration reloaded", extra={"changed": sorted(changes.paths)})
        for path in changed(self._started_with, live.config).needs_restart:
            log.warning("%s has changed; it takes effect at the next start", path)
        self._note_reload(success=True)

    async def drain(self) -> None:
        if self._listener is not None:
            self._listener.close()
        drain_s = self._live.config.gateway.drain_timeout_s
        if self._server.in_flight:
            log.info("%d requests may finish, within %g s", self._server.in_flight, drain_s)
        try:
            async with asyncio.timeout(drain_s):
                await self._server.drain()
        except TimeoutError:
            log.warning("%d requests are still in flight and end now", self._server.in_flight)

    async def shutdown(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._server.end_requests(
            ShuttingDown("The gateway is shutting down.", retry_after_s=5)
        )
        await self._server.close()
        self._pools.close()
        if self._store is not None:
            await self._store.close(self._snapshot)

    def status(self) -> str:
        nodes = len(self._registry.leases(self._loop.time()))
        return f"{self._server.in_flight} requests in flight, {nodes} nodes"

    # Inside

    def _open_store(self, configured: str | None) -> None:
        store = StateFile(state_path(configured, "gateway.json", self._env))
        store.open()
        self._store = store
        data = store.read()
        if data is None:
            return
        try:
            self._registry.load(data, self._loop.time(), store.age_s)
        except ValueError as error:
            store.set_aside(str(error))
            return
        self._registry.revoke(self._live.nodes.by_key_id)
        self._stored_version = self._registry.version

    def _nodes_changed(self) -> None:
        if self._registry.version == self._stored_version:
            return
        self._stored_version = self._registry.version
        self._slots.look_again()
        if self._store is not None:
            self._store.schedule(self._snapshot)

    def _snapshot(self) -> dict[str, Any]:
        return self._registry.dump(self._loop.time())

    def _apply(self, config: GatewayFile, context: ssl.SSLContext | None) -> None:
        self._writer.change(config.log.level, config.log.format)
        self._server.request_id_header = config.gateway.request_id_header
        self._server.fast_lane = config.gateway.fast_lane
        self._registry.retime(config.registry.stale_after_s, config.registry.forget_after_s)
        self._registry.revoke(self._live.nodes.by_key_id)
        self._nodes_changed()
        self._slots.look_again()
        self._pools.forget_contexts()
        labels = {
            each.backend.label for alias in self._live.table.aliases for each in alias.backends
        }
        labels |= {lease.node_id for lease in self._registry.leases(self._loop.time())}
        self._health.keep(labels)
        if self._listener is not None and self._listener.tls is not None and context is not None:
            self._listener.tls = context

    def _note_reload(self, *, success: bool) -> None:
        self._metrics.reloaded(success)
        result = "success" if success else "failure"
        self._last_reload = {"result": result, "at": int(time.time())}

    def _read_at_scrape(self, listener: Listener) -> None:
        read = self._metrics.read_at_scrape
        read("connections", lambda: [((), self._server.open_connections)])
        read("connections_shed_total", lambda: [((), listener.shed)])
        read("log_lines_dropped_total", lambda: [((), self._writer.dropped)])
        read("config_last_reload_success", lambda: [((), self._last_reload["result"] == "success")])
        read("config_last_reload_timestamp_seconds", lambda: [((), self._last_reload["at"])])


def _context(tls: TlsSection) -> ssl.SSLContext:
    return server_context(tls.cert_file, tls.key_file, tls.client_ca_file)
