"""Owns the children: performs what core/lifecycle and core/placement decide, and tells them what
came of it.

A `Charge` is one configured model (node/charge). Requests come for one with
`acquire` and give it back with `release`; those that wait are told when it is ready or cannot be.
After whatever happened there is one turn (`_turn`), in which everything is decided anew; nothing
here waits for anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve

from rolemesh.config.schema_node import ModelSection
from rolemesh.core import placement
from rolemesh.core.devices import CPU, Device
from rolemesh.core.lifecycle import (
    Action,
    Child,
    Drained,
    Event,
    Impossible,
    Limits,
    Load,
    Possible,
    Resume,
    Start,
    State,
    Stop,
    Tick,
    step,
)
from rolemesh.core.placement import Decision, Want
from rolemesh.errors import ModelNotFound
from rolemesh.node import check
from rolemesh.node.charge import Charge, Waiter, Wishes, placed, process_part, server_part
from rolemesh.node.run import Equipment, Launch, Run

log = logging.getLogger("rolemesh.node")

KILLED_S = 5.0
SHORTEST_S = 0.001
VACATED_S = 10.0  # so long after a child has gone, a GPU's memory may be on its way back
GONE = "it is not configured any more"
_AT_REST = frozenset({State.STOPPED, State.FATAL})
_LOADED = frozenset({State.STARTING, State.READY, State.BACKOFF})  # or as good as


class Supervisor:
    """`changed` is called when a model's state has changed; `restarts` counts by device."""

    def __init__(self, equipment: Equipment, changed: Callable[[], None]) -> None:
        self.charges: dict[str, Charge] = {}
        self.restarts: dict[str, int] = {}
        self._equipment = equipment
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._wishes: Wishes | None = None
        self._preloads: list[str] = []
        self._began_at = self._loop.time()
        self._vacated: dict[str, float] = {}
        self._leaving: set[Charge] = set()  # no longer configured, not gone yet
        self._unloading: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._turn_due = False
        self._closed = False

    # The configuration

    def apply(self, wishes: Wishes) -> None:
        """Take over a configuration: what has not changed in it runs on."""
        before, self._wishes = self._wishes, wishes
        same_server = before is not None and server_part(before.llama) == server_part(wishes.llama)
        old, self.charges = self.charges, {}
        for section in wishes.models:
            charge = old.get(section.model_id)
            if charge is None:
                charge = self._new_charge(section)
                if section.preload:
                    self._preloads.append(section.model_id)
            else:
                del old[section.model_id]
                self._renew(charge, section, same_server=same_server)
            self.charges[section.model_id] = charge
        for charge in old.values():
            self._part_with(charge)
        known = {device.id for device in wishes.devices}
        for charge in self.charges.values():
            if not known.issuperset(charge.devices):
                self._replace(charge)
        if before is None:
            log.info("devices: %s", ", ".join(device.id for device in wishes.devices) or "none")
        self._soon()

    def found(self, flaws: Mapping[str, str]) -> None:
        """What is wrong with models, known before anybody asks for them; the others are in order,
        as far as can be seen."""
        for model_id, charge in self.charges.items():
            reason = flaws.get(model_id)
            if reason is None:
                self._feed(charge, Possible())
            elif charge.child.state is State.STOPPED:
                self._feed(charge, Impossible(reason))

    @property
    def has_impossible(self) -> bool:
        children = [charge.child for charge in self.charges.values()]
        return any(child.state is State.FATAL and child.until is None for child in children)

    # What requests do

    def find(self, model_id: str) -> Charge:
        """Raises ModelNotFound."""
        charge = self.charges.get(model_id)
        if charge is None:
            raise ModelNotFound("This node has no such model.", param="model")
        return charge

    def take(self, charge: Charge) -> bool:
        """Whether it is ready: then it is the caller's until `release`."""
        if not charge.is_ready:
            return False
        charge.in_flight += 1
        return True

    async def acquire(self, charge: Charge, wait_s: float) -> None:
        """Wait until it is ready; it is the caller's then, until `release`. Raises
        NoAvailableBackend when it cannot be, or not in time."""
        if self.take(charge):
            return
        await self._wait(charge, wait_s, forced=False)

    def release(self, charge: Charge, *, worked: bool | None) -> None:
        """`worked`: whether the child did its part; None: that was not seen."""
        charge.in_flight -= 1
        charge.last_used = self._loop.time()
        if worked is not None and charge.run is not None:
            charge.run.heard(worked=worked)
        if charge.in_flight:
            return
        if charge.child.state is State.DRAINING:
            self._feed(charge, Drained())
        elif charge.model.idle_unload_s is not None or self._somebody_waits:
            self._soon()

    # What operators do

    async def load(self, charge: Charge, wait_s: float) -> None:
        """Load it now and wait until it is ready. Raises NoAvailableBackend."""
        if self.take(charge):
            self.release(charge, worked=None)
            return
        await self._wait(charge, wait_s, forced=True)
        self.release(charge, worked=None)

    async def unload(self, charge: Charge) -> None:
        """Finish its requests, end its child, and wait for that; it ends though nobody waits any
        more. Requests that wait for it are not refused: it is loaded again for them."""
        unloading = asyncio.create_task(self._unload(charge), name=f"unload: {charge.model_id}")
        self._unloading.add(unloading)
        unloading.add_done_callback(self._unloading.discard)
        await asyncio.shield(unloading)

    async def _unload(self, charge: Charge) -> None:
        charge.leaving += 1
        try:
            self._stop(charge)
            if charge.run is not None:
                await charge.run.ended()
        finally:
            charge.leaving -= 1
            self._soon()

    async def close(self) -> None:
        """End every child, whatever it does, and wait for that."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for charge in self._everyone:
            charge.fail("the node is shutting down")
            if charge.child.state not in _AT_REST:
                self._feed(charge, Stop())
                self._feed(charge, Drained())
        if self._wishes is not None:
            await self._ended(self._wishes.llama.stop_timeout_s)
        await self.kill()

    async def kill(self) -> None:
        """What is left has had its time."""
        self._closed = True
        for charge in self._everyone:
            if charge.run is not None:
                charge.run.kill()
        await self._ended(KILLED_S)

    async def _ended(self, wait_s: float) -> None:
        runs = [charge.run.ended() for charge in self._everyone if charge.run is not None]
        if runs:
            await asyncio.wait([asyncio.create_task(ended) for ended in runs], timeout=wait_s)

    @property
    def _everyone(self) -> list[Charge]:
        return [*self.charges.values(), *self._leaving]

    # Inside: waiting

    async def _wait(self, charge: Charge, wait_s: float, *, forced: bool) -> None:
        now = self._loop.time()
        reason = self._hopeless(charge, now, forced=forced)
        if reason is not None:
            raise charge.unavailable(reason)
        waiter = Waiter(now, self._loop.create_future(), forced)
        charge.waiters.append(waiter)
        self._soon()
        granted = False
        try:
            async with asyncio.timeout(wait_s):
                await waiter.ready
            granted = True
        except TimeoutError:
            reason = f"it was not ready within {wait_s:g} s (it is {charge.child.state.value})"
            raise charge.unavailable(reason) from None
        finally:
            if waiter in charge.waiters:
                charge.waiters.remove(waiter)
                self._soon()
            elif not granted and waiter.is_granted:  # in the very moment it left
                self.release(charge, worked=None)
            del waiter  # it holds what it raised, and that this frame

    def _hopeless(self, charge: Charge, now: float, *, forced: bool) -> str | None:
        """Why there is no use in waiting."""
        if self._closed:
            return "the node is shutting down"
        if self.charges.get(charge.model_id) is not charge:
            return GONE
        if not forced and not charge.child.may_retry(now):
            return charge.child.reason or "it failed"
        return None

    # Inside: the turn

    @property
    def _somebody_waits(self) -> bool:
        return any(charge.waiters for charge in self.charges.values())

    def _soon(self) -> None:
        if not self._turn_due and not self._closed:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Everything that is due, and then the clock for what will be."""
        self._turn_due = False
        if self._closed or self._wishes is None:
            return
        now = self._loop.time()
        for charge in self._everyone:
            if charge.child.until is not None and now >= charge.child.until:
                self._feed(charge, Tick())
            if charge.child.state is State.BACKOFF and charge.is_forced:
                self._feed(charge, Load())
        decision = self._decide(now)
        for model_id, reason in decision.refused.items():
            self.charges[model_id].fail(reason)
        for model_id in decision.stops:
            self._stop(self.charges[model_id])
        for model_id in decision.resumes:
            self._feed(self.charges[model_id], Resume())
        for model_id, devices in decision.starts.items():
            self._start(self.charges[model_id], devices)
        self._set_clock(decision.look_again_at, now)

    def _set_clock(self, look_again_at: float | None, now: float) -> None:
        """FATAL's pause needs no clock: it is over when somebody asks."""
        moving = (charge.child for charge in self._everyone if charge.child.state not in _AT_REST)
        times = [look_again_at, *(child.until for child in moving)]
        due = min((time for time in times if time is not None), default=None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(max(due, now + SHORTEST_S), self._soon)

    def _decide(self, now: float) -> Decision:
        seats = {model_id: charge.seat for model_id, charge in self.charges.items()}
        # Those that leave still hold their devices.
        seats |= {f"\0{number}": charge.seat for number, charge in enumerate(self._leaving)}
        wants = [
            Want(model_id, charge.waits_since)
            for model_id, charge in self.charges.items()
            if charge.waiters
        ]
        self._preloads = [
            model_id
            for model_id in self._preloads
            if model_id in self.charges and self.charges[model_id].child.state not in _LOADED
        ]
        return placement.decide(seats, wants, self._preloads, self._auto_devices, now)

    @property
    def _auto_devices(self) -> list[str]:
        """`auto` means a GPU where there is one."""
        if self._wishes is None:
            return []
        devices = check.usable(self._wishes.llama, self._wishes.devices)
        return [each.id for each in devices if each != CPU] or [each.id for each in devices]

    def _start(self, charge: Charge, devices: tuple[str, ...]) -> None:
        charge.devices = devices
        self._feed(charge, Load() if charge.is_forced else Start())

    def _stop(self, charge: Charge) -> None:
        self._feed(charge, Stop(busy=charge.in_flight > 0))

    def _feed(self, charge: Charge, event: Event) -> None:
        before = charge.child
        charge.child, actions = step(before, event, self._loop.time())
        if charge.child.restarts > before.restarts:
            for device in charge.devices:
                self.restarts[device] = self.restarts.get(device, 0) + 1
        for action in actions:
            self._perform(charge, action)
        if charge.child.state is not before.state:
            self._entered(charge, before)
        elif charge.child.until != before.until:
            self._soon()

    def _perform(self, charge: Charge, action: Action) -> None:
        run = charge.run
        if action is Action.SPAWN:
            self._spawn(charge)
        elif run is not None:
            run.terminate() if action is Action.TERMINATE else run.kill()

    def _spawn(self, charge: Charge) -> None:
        wishes = self._wishes
        if wishes is None:
            return
        by_id = {device.id: device for device in wishes.devices}
        devices = tuple(by_id[device] for device in charge.devices if device in by_id)
        launch = Launch(
            charge.section, wishes.llama, devices, tuple(wishes.devices),
            self._just_vacated(devices), wishes.stuck_s,
        )  # fmt: skip
        charge.run = Run(
            launch, self._equipment, partial(self._heard, charge), lambda: charge.in_flight > 0
        )

    def _just_vacated(self, devices: Sequence[Device]) -> tuple[str, ...]:
        """Those GPUs; at the node's own start a former run's child may have had any of them."""
        since = self._loop.time() - VACATED_S
        gpus = (device.id for device in devices if device != CPU)
        return tuple(each for each in gpus if self._vacated.get(each, self._began_at) > since)

    def _heard(self, charge: Charge, run: Run, event: Event) -> None:
        """What a run tells when the child has got another one, or none, is not news."""
        if charge.run is not run:
            return
        self._feed(charge, event)
        if charge.is_ready:  # again: it was in doubt
            charge.grant()

    def _entered(self, charge: Charge, before: Child) -> None:
        child = charge.child
        self._log(charge, before)
        if child.state in _AT_REST or child.state is State.BACKOFF:
            charge.run = None
            self._vacated |= dict.fromkeys(charge.devices, child.since)
        if child.state in _AT_REST:
            charge.devices, charge.outdated = (), False
            self._leaving.discard(charge)
        if child.state is State.READY:
            if before.state is State.STARTING:
                charge.loaded_s = child.since - before.since
            charge.last_used = self._loop.time()
            charge.grant()
        elif child.state is State.FATAL:
            charge.fail(child.reason or "it failed")
        self._soon()
        self._changed()

    def _log(self, charge: Charge, before: Child) -> None:
        child = charge.child
        more: dict[str, Any] = {"model": charge.model_id, "device": ",".join(charge.devices)}
        if child.state in (State.BACKOFF, State.FATAL):
            level = logging.ERROR if child.state is State.FATAL else logging.WARNING
            log.log(level, "%s: %s", child.state.value, child.reason, extra=more)
        else:
            log.info("%s, was %s", child.state.value, before.state.value, extra=more)

    # Inside: the configuration

    def _new_charge(self, section: ModelSection) -> Charge:
        wishes = self._wishes
        if wishes is None:
            raise RuntimeError("there is no configuration yet")
        limits = Limits(wishes.llama.load_timeout_s, wishes.llama.stop_timeout_s)
        child = Child(limits, since=self._loop.time())
        return Charge(section, placed(section, wishes.devices), child)

    def _renew(self, charge: Charge, section: ModelSection, *, same_server: bool) -> None:
        """A model whose command line would be another one is started anew at its next request, one
        with `preload` at once."""
        fresh = self._new_charge(section)
        restarts = not same_server or process_part(charge.section) != process_part(section)
        if section.preload and (restarts or not charge.section.preload):
            self._preloads.append(section.model_id)
        charge.section, charge.model = section, fresh.model
        charge.child = evolve(charge.child, limits=fresh.child.limits)
        if restarts:
            self._replace(charge)

    def _part_with(self, charge: Charge) -> None:
        charge.fail(GONE)
        if charge.child.state not in _AT_REST:
            self._leaving.add(charge)
            self._replace(charge)

    def _replace(self, charge: Charge) -> None:
        """What runs has to end, once its requests have; what was FATAL may be tried again."""
        charge.outdated = charge.child.state not in _AT_REST
        self._stop(charge)
