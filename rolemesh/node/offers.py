"""What the node says of its models to gateways: state, room, context, and why one is out.

Values in, values out; read by `membership` for each registration and heartbeat.

- A model that can be loaded is told as STOPPED, whatever its child is just going through: requests
  for it may come. LOADING: it will be ready by itself.
- FATAL is told for as long as a request would be refused at once. After that it is STOPPED again,
  for a node that gets no requests could never find out that it has become well.
- A node that is drained says DRAINING of whatever could serve.
- A model that is not loaded has the slots that it will have: with none told, a gateway would send
  it all that waits, past other nodes that become free.
- `detail` is shown to clients: no paths, one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from attrs import frozen

from rolemesh.config.schema_node import ModelSection
from rolemesh.core.lifecycle import Child, State
from rolemesh.core.types import ModelState, ServedModel
from rolemesh.wire.registration import MAX_DETAIL_LENGTH

DRAINED = "the node is drained by an operator"

_STATES = {
    State.STOPPED: ModelState.STOPPED,
    State.STARTING: ModelState.LOADING,
    State.READY: ModelState.READY,
    State.DRAINING: ModelState.STOPPED,
    State.STOPPING: ModelState.STOPPED,
    State.BACKOFF: ModelState.LOADING,
    State.FATAL: ModelState.FATAL,
}
# A path that begins at the root, or at home; what follows "//" or a word is none.
_PATH = re.compile(r"(?<![\w/:.])~?(?:/[^/\s'\"`]+)*/(?P<name>[^/\s'\"`]+)")


@frozen
class Standing:
    """How things are with a model: `slots` and `max_context` of its child, where it is known, and
    how many requests it has."""

    section: ModelSection
    child: Child
    in_flight: int = 0
    slots: int | None = None
    max_context: int | None = None


def offers(standings: Iterable[Standing], now: float, *, drained: bool) -> tuple[ServedModel, ...]:
    return tuple(_offer(standing, now, drained=drained) for standing in standings)


def _offer(standing: Standing, now: float, *, drained: bool) -> ServedModel:
    section, child = standing.section, standing.child
    state = _state(child, now)
    detail = None if state is ModelState.READY else clients_words(child.reason, section.path)
    if drained and state is not ModelState.FATAL:
        state, detail = ModelState.DRAINING, DRAINED
    return ServedModel(
        model_id=section.model_id,
        roles=section.roles,
        meta=section.meta,
        state=state,
        slots=standing.slots or section.parallel,
        slots_busy=standing.in_flight,
        max_context=standing.max_context,
        detail=detail,
    )


def _state(child: Child, now: float) -> ModelState:
    if child.state is State.FATAL and child.may_retry(now):
        return ModelState.STOPPED
    if child.state is State.STOPPING and child.comes_back:
        return ModelState.LOADING
    return _STATES[child.state]


def clients_words(reason: str | None, path: str) -> str | None:
    """A reason in one line that clients may see: of a path its last part."""
    if not reason:
        return None
    text = reason.replace(path, os.path.basename(path))
    text = _PATH.sub(r"\g<name>", text)
    lines = (" ".join(line.split()) for line in text.splitlines())
    text = " | ".join(line for line in lines if line)
    text = "".join(each if each.isprintable() else "?" for each in text)
    if len(text) > MAX_DETAIL_LENGTH:
        text = f"{text[: MAX_DETAIL_LENGTH - 3]}..."
    return text or None
