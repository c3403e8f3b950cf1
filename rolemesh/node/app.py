"""The node as a daemon: wires the rooms, opens the listener, reloads, drains, shuts down.

`run` is what `rolemesh node` calls. Everything that lives as long as the process is made here once;
what a reload changes is one `Live` value, and what the supervisor and the gateways are told of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from rolemesh.config.assemble import Loaded
from rolemesh.config.compile_node import base_url, log_dir, node_id, node_state_path
from rolemesh.config.diff import changed
from rolemesh.config.files import Sources
from rolemesh.config.load import load_node
from rolemesh.config.schema_node import NodeFile
from rolemesh.core.devices import Device, select
from rolemesh.core.types import ServedModel
from rolemesh.errors import RoleMeshError
from rolemesh.node import check, leftovers
from rolemesh.node.ask import Asker
from rolemesh.node.charge import Wishes
from rolemesh.node.child_log import ChildLog
from rolemesh.node.figures import SCRAPED, Figures
from rolemesh.node.forward import Forward
from rolemesh.node.gpu import Gpus
from rolemesh.node.guardian import Guardian
from rolemesh.node.handlers import Handlers, Rooms
from rolemesh.node.host import read_host
from rolemesh.node.live import Live, live_of
from rolemesh.node.membership import Identity, Membership
from rolemesh.node.offers import Standing, offers
from rolemesh.node.routes import add_routes
from rolemesh.node.run import Equipment
from rolemesh.node.state import NodeState
from rolemesh.node.supervisor import Supervisor
from rolemesh.proxy.pool import Pools
from rolemesh.server import life, logs
from rolemesh.server.metrics import Metrics
from rolemesh.server.router import Router
from rolemesh.server.service import Service, tls_of
from rolemesh.wire.node_metrics import write_metrics
from rolemesh.wire.openai import MODEL_PATHS

log = logging.getLogger("rolemesh.node")

CHECK_EVERY_S = 30.0


def run(sources: Sources, env: Mapping[str, str]) -> int:
    """Run a node until it is told to stop; returns the exit code. Raises RoleMeshError."""
    loaded = load_node(sources, env)
    writer = logs.setup(loaded.config.log.level, loaded.config.log.format)
    try:
        log.info("configuration: %s", ", ".join(loaded.files))
        return life.run(lambda: Node(sources, env, loaded, writer), env)
    finally:
        writer.close()


class Node:
    """server.life.Daemon."""

    def __init__(
        self,
        sources: Sources,
        env: Mapping[str, str],
        loaded: Loaded[NodeFile],
        writer: logs.LogWriter,
    ) -> None:
        self._sources = sources
        self._env = env
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._started_with = config = loaded.config
        host_name = socket.gethostname()
        self._node_id = node_id(config, host_name)
        self._log_dir = log_dir(config, host_name, env)
        self._logs: dict[str, ChildLog] = {}
        self._state = NodeState(node_state_path(config, host_name, env))
        self._live = live_of(config, self._node_id, self._state.access_token)
        self._devices: tuple[Device, ...] = ()
        self._gpus = Gpus(self._gpus_changed)
        self._pools = Pools(self._loop)
        self._metrics = Metrics(SCRAPED)
        self._membership = Membership(self._offers, self._device_metrics)
        self._service = Service(log, writer, self._metrics)
        self._guardian: Guardian | None = None
        self._supervisor: Supervisor | None = None
        self._checking: asyncio.Task[None] | None = None
        self._adapting: set[asyncio.Task[None]] = set()
        self._applying = asyncio.Lock()  # one configuration, or set of devices, after the other

    # Life

    async def startup(self) -> None:
        config = self._live.config
        self._state.open()
        self._live = live_of(config, self._node_id, self._state.access_token)
        for told in await leftovers.end(self._state.children.values(), self._state.owner):
            log.warning("%s", told)
        await self._state.child_ended(*self._state.children)
        self._guardian = await Guardian.start(self._state.owner)
        if config.gpus != "none":
            await self._gpus.start()
        self._supervisor = Supervisor(self._equipment(self._guardian), self._membership.changed)
        self._serve(self._supervisor)
        async with self._applying:
            await self._apply()
            self._service.start()
            await self._join_gateways(config)
        if not config.models:
            log.warning("no models are configured: there is nothing to serve")
        if not config.gateways:
            log.info("no gateways are configured: only who knows this node's address will ask it")
        self._checking = asyncio.create_task(self._check_now_and_then(), name="node: checks")

    async def reload(self) -> None:
        async with self._applying:
            await self._reload()

    async def _reload(self) -> None:
        try:
            loaded = await asyncio.to_thread(load_node, self._sources, self._env)
            live = live_of(loaded.config, self._node_id, self._state.access_token)
            context = tls_of(live.config.node)
            await self._join_gateways(live.config)
        except RoleMeshError as error:
            log.error("the configuration was not reloaded, the old one stays: %s", error.message)
            self._service.note_reload(success=False)
            return
        old, self._live = self._live.config, live
        self._writer.change(live.config.log.level, live.config.log.format)
        self._service.apply(live.config.node, context)
        await self._apply()
        log.info(
            "configuration reloaded", extra={"changed": sorted(changed(old, live.config).paths)}
        )
        for path in changed(self._started_with, live.config).needs_restart:
            log.warning("%s has changed; it takes effect at the next start", path)
        self._service.note_reload(success=True)

    async def drain(self) -> None:
        """Gateways are told first, so that they send no more; then requests end, then children."""
        self._stop_working()
        drained = self._service.drain(self._live.config.node)
        await asyncio.gather(self._membership.goodbye(), drained)
        await self._end_requests()
        if self._supervisor is not None:
            await self._supervisor.close()

    async def shutdown(self) -> None:
        self._stop_working()
        await self._end_requests()
        await self._service.close()
        if self._supervisor is not None:
            await self._supervisor.kill()
        if self._guardian is not None:
            await self._guardian.close()
        await self._membership.close()
        self._pools.close()
        await self._state.close()
        self._gpus.close()

    def status(self) -> str:
        if self._supervisor is None:
            return "Starting"
        ready = [charge.model_id for charge in self._supervisor.charges.values() if charge.is_ready]
        models = ", ".join(ready) or "no model"
        return f"{models} ready, {self._service.in_flight} requests in flight"

    # Inside: wiring

    def _equipment(self, guardian: Guardian) -> Equipment:
        return Equipment(self._gpus, guardian, self._state, Asker(self._pools), self._log_of)

    def _serve(self, supervisor: Supervisor) -> None:
        router = Router()
        forward = Forward(
            self.live, supervisor, self._pools, self._metrics, lambda: self._state.drained
        )
        rooms = Rooms(
            supervisor, self._gpus, self._membership, self._state, self._log_of,
            lambda: self._devices, lambda: self._service.last_reload,
        )  # fmt: skip
        figures = Figures(
            self._metrics, supervisor, self._gpus, lambda: self._devices, self._read_registered
        )
        add_routes(router, forward, Handlers(self.live, rooms), figures)
        self._service.serve(
            router, self._live.config.node, self._metrics.settle, MODEL_PATHS, "node"
        )

    def live(self) -> Live:
        return self._live

    def _log_of(self, model_id: str) -> ChildLog:
        if model_id not in self._logs:
            self._logs[model_id] = ChildLog(self._log_dir, model_id)
        return self._logs[model_id]

    # Inside: the configuration, on this machine

    async def _apply(self) -> None:
        """Under the lock, as `_join_gateways`."""
        config = self._live.config
        if self._supervisor is None:
            return
        self._devices, problems = select(config.gpus, config.cpu, self._gpus.devices)
        for problem in problems:
            log.warning("%s %s", problem, self._gpus.problem or "")
        wishes = Wishes(config.models, config.llama_server, self._devices, config.timeouts.idle_s)
        flaws = await asyncio.to_thread(_flaws, config, self._devices)
        self._supervisor.apply(wishes)
        self._supervisor.found(flaws)

    async def _join_gateways(self, config: NodeFile) -> None:
        port = self._service.port or config.node.port
        identity = Identity(
            self._node_id, base_url(config.node, port), self._state.access_token, self._meta()
        )
        interval_s = config.node.heartbeat_interval_s
        await self._membership.apply(identity, config.gateways, interval_s)

    def _meta(self) -> dict[str, Any]:
        """What a gateway's operators see beside the node."""
        return {"devices": [device.name for device in self._devices]}

    def _gpus_changed(self) -> None:
        """A GPU has come or gone."""
        if self._supervisor is not None:
            adapting = asyncio.create_task(self._adapt(), name="node: devices")
            self._adapting.add(adapting)
            adapting.add_done_callback(self._adapting.discard)

    async def _adapt(self) -> None:
        async with self._applying:
            await self._apply()
            try:
                await self._join_gateways(self._live.config)
            except RoleMeshError as error:
                log.warning("gateways are not told of the devices: %s", error.message)

    async def _check_now_and_then(self) -> None:
        """What could not work may be mended: a file that was missing."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if self._supervisor is not None and self._supervisor.has_impossible:
                config = self._live.config
                self._supervisor.found(await asyncio.to_thread(_flaws, config, self._devices))

    # Inside: what gateways are told

    def _offers(self) -> tuple[ServedModel, ...]:
        return offers(self._standings(), self._loop.time(), drained=self._state.drained)

    def _standings(self) -> Iterator[Standing]:
        charges = {} if self._supervisor is None else self._supervisor.charges
        for charge in charges.values():
            facts = charge.facts
            yield Standing(
                charge.section, charge.child, charge.in_flight, facts.slots, facts.max_context
            )

    def _device_metrics(self) -> dict[str, Any]:
        read = [(device, self._gpus.figures(device.id)) for device in self._devices]
        return write_metrics(read, read_host())

    def _read_registered(self) -> Iterator[tuple[tuple[str], float]]:
        for gateway in self._membership.view():
            yield (gateway["url"],), float(gateway["registered"])

    # Inside: the end

    def _stop_working(self) -> None:
        self._service.stop_listening()
        for task in (self._checking, *self._adapting):
            if task is not None:
                task.cancel()

    async def _end_requests(self) -> None:
        await self._service.end_requests("The node is shutting down.")


def _flaws(config: NodeFile, devices: tuple[Device, ...]) -> dict[str, str]:
    """By model_id: why it cannot work here. Blocks."""
    llama = config.llama_server
    found = {
        section.model_id: check.device_flaw(section, llama, devices)
        or check.flaw(section, llama, check.held_devices(section, devices))
        for section in config.models
    }
    return {model_id: flaw for model_id, flaw in found.items() if flaw is not None}
