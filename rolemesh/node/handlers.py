"""What a node answers besides model requests: about its models to callers, and to operators about
everything; theirs are load, unload, drain and resume, too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from rolemesh.core.devices import Device
from rolemesh.errors import InvalidValue, ModelNotFound, NoAvailableBackend
from rolemesh.node import doors, view
from rolemesh.node.charge import Charge
from rolemesh.node.child_log import MAX_LINES, ChildLog
from rolemesh.node.gpu import Gpus
from rolemesh.node.live import Live
from rolemesh.node.membership import Membership
from rolemesh.node.state import NodeState
from rolemesh.node.supervisor import Supervisor
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.wire import openai

TAIL_LINES = 100


@frozen(eq=False)
class Rooms:
    """What the handlers look into."""

    supervisor: Supervisor
    gpus: Gpus
    membership: Membership
    state: NodeState
    log_of: Callable[[str], ChildLog]
    devices: Callable[[], tuple[Device, ...]]
    reloads: Callable[[], Mapping[str, Any]]


class Handlers:
    def __init__(self, live: Callable[[], Live], rooms: Rooms) -> None:
        self._live = live
        self._rooms = rooms
        self._created = int(time.time())
        self._now = asyncio.get_running_loop().time

    # For callers

    async def models(self, inbound: Inbound) -> Answer:
        doors.caller(self._live(), inbound)
        told = openai.ModelList([self._entry(charge) for charge in self._usable()])
        return Answer.json({"object": "list", "data": told.models})

    async def model(self, inbound: Inbound) -> Answer:
        doors.caller(self._live(), inbound)
        charge = self._rooms.supervisor.find(inbound.params["id"])
        if charge not in self._usable():
            raise ModelNotFound("The model cannot be served now.", param="model")
        return Answer.json(self._entry(charge))

    async def ready(self, inbound: Inbound) -> Answer:
        """Anyone may ask, so there is a word and no detail."""
        body: dict[str, Any] = {"status": "ready", "last_reload": self._rooms.reloads()}
        if self._usable():
            return Answer.json(body)
        reason = "draining" if self._rooms.state.drained else "no_model"
        error = NoAvailableBackend("No model of this node can be served now.")
        body |= {"status": "unavailable", "reason": reason, **openai.error_envelope(error)}
        return Answer.json(body, error.status)

    # For operators

    async def node(self, inbound: Inbound) -> Answer:
        live, rooms = self._live(), self._rooms
        doors.operator(live, inbound)
        charges = list(rooms.supervisor.charges.values())
        now = self._now()
        return Answer.json(
            {
                "node_id": live.node_id,
                "state": "draining" if rooms.state.drained else "serving",
                "devices": [view.device(each, rooms.gpus, charges) for each in rooms.devices()],
                "gpus_problem": rooms.gpus.problem,
                "children": [view.child(charge, now) for charge in charges],
                "gateways": rooms.membership.view(),
                "last_reload": rooms.reloads(),
            }
        )

    async def load(self, inbound: Inbound) -> Answer:
        """Waits until the model is ready."""
        live = self._live()
        charge = self._operated(inbound)
        await self._rooms.supervisor.load(charge, live.config.timeouts.queue_s)
        return self._told(charge)

    async def unload(self, inbound: Inbound) -> Answer:
        """Lets its requests finish, and waits until its child has ended."""
        charge = self._operated(inbound)
        await self._rooms.supervisor.unload(charge)
        return self._told(charge)

    async def log(self, inbound: Inbound) -> Answer:
        charge = self._operated(inbound)
        count = _lines_asked(inbound.request.target)
        lines = await asyncio.to_thread(self._rooms.log_of(charge.model_id).tail, count)
        text = "".join(f"{line}\n" for line in lines)
        return Answer(body=text.encode(), content_type=b"text/plain; charset=utf-8")

    async def drain(self, inbound: Inbound) -> Answer:
        return await self._set_drained(inbound, drained=True)

    async def resume(self, inbound: Inbound) -> Answer:
        return await self._set_drained(inbound, drained=False)

    # Inside

    async def _set_drained(self, inbound: Inbound, *, drained: bool) -> Answer:
        live = self._live()
        doors.operator(live, inbound)
        await self._rooms.state.drain(drained)
        self._rooms.membership.changed()
        state = "draining" if drained else "serving"
        return Answer.json({"status": "ok", "node_id": live.node_id, "state": state})

    def _operated(self, inbound: Inbound) -> Charge:
        doors.operator(self._live(), inbound)
        return self._rooms.supervisor.find(inbound.params["id"])

    def _told(self, charge: Charge) -> Answer:
        return Answer.json(
            {"status": "ok", "model": charge.model_id, "state": charge.child.state.value}
        )

    def _usable(self) -> list[Charge]:
        if self._rooms.state.drained:
            return []
        now = self._now()
        charges = self._rooms.supervisor.charges.values()
        return [charge for charge in charges if view.is_usable(charge, now)]

    def _entry(self, charge: Charge) -> dict[str, Any]:
        return view.model(charge, self._created)


def _lines_asked(target: str) -> int:
    """`?tail=N`. Raises InvalidValue."""
    _, _, query = target.partition("?")
    asked = [value for key, _, value in (part.partition("=") for part in query.split("&"))
             if key == "tail"]  # fmt: skip
    if not asked:
        return TAIL_LINES
    if not (asked[-1].isascii() and asked[-1].isdigit() and len(asked[-1]) <= 6):
        raise InvalidValue(f"tail must be a number from 0 to {MAX_LINES}.", param="tail")
    return min(int(asked[-1]), MAX_LINES)
