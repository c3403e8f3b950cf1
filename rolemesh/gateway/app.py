"""The gateway as a daemon: wires the rooms, opens the listener, reloads, drains, shuts down.

`run` is what `rolemesh gateway` calls. Everything that lives as long as the process is made here
once; what a reload changes is one `Live` value.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any

from rolemesh.config.assemble import Loaded
from rolemesh.config.compile import state_path
from rolemesh.config.diff import changed
from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.core.health import Health
from rolemesh.core.registry import Registry
from rolemesh.errors import RoleMeshError
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
from rolemesh.server.limits import probes_at_once
from rolemesh.server.metrics import Metrics
from rolemesh.server.router import Router
from rolemesh.server.service import Service, tls_of
from rolemesh.store.file import StateFile
from rolemesh.wire.openai import MODEL_PATHS

log = logging.getLogger("rolemesh.gateway")


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
        self._stored_version = 0
        registry = self._live.config.registry
        self._registry = Registry(registry.stale_after_s, registry.forget_after_s)
        self._health = Health()
        self._pools = Pools(self._loop)
        self._slots = Slots()
        self._metrics = Metrics()
        self._service = Service(log, writer, self._metrics)
        self._store: StateFile | None = None

    def live(self) -> Live:
        return self._live

    # Life

    async def startup(self) -> None:
        self._open_store(self._live.config.gateway.state_path)
        self._serve()
        self._service.start()

    async def reload(self) -> None:
        try:
            loaded = await asyncio.to_thread(load_gateway, self._sources, self._env)
            live = await asyncio.to_thread(live_of, loaded.config)
            context = tls_of(live.config.gateway)
        except RoleMeshError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", error.message)
            self._service.note_reload(success=False)
            return
        old, self._live = self._live.config, live
        self._apply(live.config, context)
        changes = changed(old, live.config)
        log.info("configuration reloaded", extra={"changed": sorted(changes.paths)})
        for path in changed(self._started_with, live.config).needs_restart:
            log.warning("%s has changed; it takes effect at the next start", path)
        self._service.note_reload(success=True)

    async def drain(self) -> None:
        await self._service.drain(self._live.config.gateway)

    async def shutdown(self) -> None:
        self._service.stop_listening()
        await self._service.end_requests("The gateway is shutting down.")
        await self._service.close()
        self._pools.close()
        if self._store is not None:
            await self._store.close(self._snapshot)

    def status(self) -> str:
        nodes = len(self._registry.leases(self._loop.time()))
        return f"{self._service.in_flight} requests in flight, {nodes} nodes"

    # Inside

    def _serve(self) -> None:
        router = Router()
        forward = Forward(
            self.live, self._registry, self._health, self._pools, self._slots, self._metrics
        )
        service = self._service
        prober = Prober(
            self._pools, self._health, forward.via, probes_at_once(service.descriptor_limit)
        )
        truth = Availability(self._registry, self._health, prober)
        models = Models(self.live, truth, forward.refuse_loop, lambda: service.last_reload)
        nodes = Nodes(self.live, truth, self._slots, self._nodes_changed)
        figures = Figures(self._metrics, self.live, truth)
        add_routes(router, forward, models, nodes, figures)
        service.serve(
            router, self._live.config.gateway, self._metrics.settle, MODEL_PATHS, "gateway"
        )

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
        self._service.apply(config.gateway, context)
        self._registry.retime(config.registry.stale_after_s, config.registry.forget_after_s)
        self._registry.revoke(self._live.nodes.by_key_id)
        self._nodes_changed()
        self._slots.look_again()
        self._pools.forget_contexts()
        leases = self._registry.leases(self._loop.time())
        self._health.keep(frozenset(self._live.labels_with(leases)))
