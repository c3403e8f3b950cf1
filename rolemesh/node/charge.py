"""A configured model with all that is known of its child, and those that wait for it.

Made and changed by the supervisor; requests, operators' views and metrics read it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from attrs import define, field

from rolemesh.config.schema_node import LlamaServerSection, ModelSection
from rolemesh.core import placement
from rolemesh.core.devices import Device
from rolemesh.core.lifecycle import Child, State
from rolemesh.core.placement import Seat
from rolemesh.errors import NoAvailableBackend
from rolemesh.node import check
from rolemesh.node.ask import Facts
from rolemesh.node.offers import clients_words
from rolemesh.node.run import Run


@define(eq=False)
class Waiter:
    """One that waits for a model. `forced`: an operator's word, which no pause holds up."""

    since: float
    ready: asyncio.Future[None]
    forced: bool = False

    @property
    def is_granted(self) -> bool:
        ready = self.ready
        return ready.done() and not ready.cancelled() and ready.exception() is None


@define(eq=False)
class Charge:
    """A configured model. `loaded_s`: what its last load took; `leaving`: how many operators want
    it out; `outdated`: what runs is not what is configured any more."""

    section: ModelSection
    model: placement.Model
    child: Child
    devices: tuple[str, ...] = ()
    run: Run | None = None
    in_flight: int = 0
    last_used: float = 0.0
    loaded_s: float | None = None
    leaving: int = 0
    outdated: bool = False
    waiters: list[Waiter] = field(factory=list)

    @property
    def model_id(self) -> str:
        return self.section.model_id

    @property
    def is_ready(self) -> bool:
        """Not when its process has just ended, either: what is left of it is on its way out. Nor
        while it is in doubt whether its port is its own."""
        run = self.run
        if self.child.state is not State.READY or run is None:
            return False
        return not run.has_exited and not run.in_doubt

    @property
    def facts(self) -> Facts:
        return Facts() if self.run is None else self.run.facts

    @property
    def seat(self) -> Seat:
        child = self.child
        return Seat(
            self.model, child.state, self.devices, child.since, self.in_flight, self.last_used,
            self.leaving > 0 or self.outdated,
        )  # fmt: skip

    @property
    def waits_since(self) -> float:
        """When the first of those who wait came. There has to be one."""
        return min(waiter.since for waiter in self.waiters)

    @property
    def is_forced(self) -> bool:
        """Whether an operator waits for it."""
        return any(waiter.forced for waiter in self.waiters)

    def grant(self) -> None:
        """It is theirs who wait for it, each until they release it."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.ready.done():
                self.in_flight += 1
                waiter.ready.set_result(None)

    def fail(self, reason: str) -> None:
        """They wait in vain."""
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            if not waiter.ready.done():
                waiter.ready.set_exception(self.unavailable(reason))

    def unavailable(self, reason: str) -> NoAvailableBackend:
        words = clients_words(reason, self.section.path)
        detail = {"model": self.model_id, "state": self.child.state.value, "detail": words}
        return NoAvailableBackend(
            "The model cannot be served now; error.details says why.",
            retry_after_s=5,
            details=[detail],
        )


@define(eq=False)
class Wishes:
    """What the configuration, on this machine, wants of the supervisor. `stuck_s`: how long busy
    slots may bring nothing forth."""

    models: Sequence[ModelSection]
    llama: LlamaServerSection
    devices: Sequence[Device]
    stuck_s: float


def process_part(section: ModelSection) -> object:
    """What the child's command line and place depend on."""
    return (
        section.path, section.device, section.n_gpu_layers, section.ctx_size, section.parallel,
        section.args,
    )  # fmt: skip


def server_part(llama: LlamaServerSection) -> object:
    """What every child's process depends on; the rest holds from now on for those that run."""
    return llama.path, llama.args, llama.env


def placed(section: ModelSection, devices: Sequence[Device]) -> placement.Model:
    """The model as placement sees it, on a node with these devices."""
    fixed = None
    if section.device != "auto":
        fixed = tuple(device.id for device in check.held_devices(section, devices))
    return placement.Model(section.model_id, fixed, section.pinned, section.idle_unload_s)
