"""Which model on which device, and what has to leave for it.

Fed by node/supervisor with how things stand: seats (every model, with the devices that its child
holds) and wants (models that requests wait for). What it decides, the supervisor does.

- A device holds one model at a time; a model whose `device` is a list holds all of them.
- Who has waited longest chooses first; what one has chosen, a later one waits behind.
- `auto` takes a free device, else the one whose model has been idle longest.
- A pinned model never leaves for another.
- The model of a device that is idle leaves at once. A busy one goes on being served, newcomers too,
  for `PATIENCE_S` from when the other began to wait, or from when it became ready itself; then it
  only finishes what it has begun. So nobody waits for ever, and two models in demand take turns of
  some seconds instead of a switch for each request.
- When all who waited have left, a model that was finishing its requests for them stays.
- Preloading takes free devices only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import field, frozen

from rolemesh.core.lifecycle import State

PATIENCE_S = 5.0

_WITHOUT_DEVICE = frozenset({State.STOPPED, State.FATAL})


@frozen
class Model:
    """What placement needs to know of a configured model. `devices`: the ids that it has to have;
    None: any one."""

    model_id: str
    devices: tuple[str, ...] | None = None
    pinned: bool = False
    idle_unload_s: float | None = None


@frozen
class Seat:
    """`devices`: what its child holds. `since`: when it came into its state. `leaving`: it does not
    come back from DRAINING, whoever wants it."""

    model: Model
    state: State = State.STOPPED
    devices: tuple[str, ...] = ()
    since: float = 0.0
    in_flight: int = 0
    last_used: float = 0.0
    leaving: bool = False


@frozen
class Want:
    """The first of those who wait for a model came at `since`."""

    model_id: str
    since: float


@frozen
class Decision:
    """`starts` says on which devices. `refused`: why a model can have no place. `look_again_at`:
    when time alone will change what is decided."""

    starts: Mapping[str, tuple[str, ...]] = field(factory=dict)
    stops: frozenset[str] = frozenset()
    resumes: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(factory=dict)
    look_again_at: float | None = None


def decide(
    seats: Mapping[str, Seat],
    wants: Iterable[Want],
    preloads: Iterable[str],
    devices: Sequence[str],
    now: float,
) -> Decision:
    """`devices`: those that `auto` may take, the best first."""
    round_ = _Round(seats, devices, now)
    for want in sorted(wants, key=lambda want: want.since):
        round_.serve(want)
    for model_id in preloads:
        round_.preload(model_id)
    round_.tidy()
    return Decision(
        round_.starts,
        frozenset(round_.stops),
        frozenset(round_.resumes),
        round_.refused,
        min(round_.times, default=None),
    )


class _Round:
    """One decision in the making."""

    def __init__(self, seats: Mapping[str, Seat], devices: Sequence[str], now: float) -> None:
        self.seats = seats
        self.devices = devices
        self.now = now
        self.holders = {device: seat for seat in seats.values() for device in seat.devices}
        self.claims: dict[str, str] = {}  # device -> the first model that wants it
        self.starts: dict[str, tuple[str, ...]] = {}
        self.stops: set[str] = set()
        self.resumes: set[str] = set()
        self.refused: dict[str, str] = {}
        self.times: list[float] = []

    def serve(self, want: Want) -> None:
        seat = self.seats[want.model_id]
        if seat.state not in _WITHOUT_DEVICE:  # it has its devices, or has yet to let go of them
            self._claim(seat.devices, want.model_id)
            return
        place = self._place(seat.model)
        if isinstance(place, str):
            self.refused[want.model_id] = place
            return
        is_first = self._claim(place, want.model_id)
        holders = {self.holders[device] for device in place if device in self.holders}
        if not holders and is_first:
            self.starts[want.model_id] = place
        for seat in holders:
            self._make_room(seat, want, is_first=is_first)

    def preload(self, model_id: str) -> None:
        seat = self.seats[model_id]
        if seat.state is not State.STOPPED or model_id in self.starts:
            return
        place = self._place(seat.model)
        if isinstance(place, str):
            self.refused[model_id] = place
        elif not any(device in self.holders or device in self.claims for device in place):
            self._claim(place, model_id)
            self.starts[model_id] = place

    def tidy(self) -> None:
        for model_id, seat in self.seats.items():
            if seat.state is State.DRAINING and not seat.leaving:
                wanted_by = {self.claims.get(device) for device in seat.devices}
                if wanted_by <= {None, model_id}:
                    self.resumes.add(model_id)
            elif seat.state is State.READY and not seat.in_flight:
                self._unload_idle(seat)

    def _unload_idle(self, seat: Seat) -> None:
        if seat.model.idle_unload_s is None:
            return
        over_at = max(seat.last_used, seat.since) + seat.model.idle_unload_s
        if self.now >= over_at:
            self.stops.add(seat.model.model_id)
        else:
            self.times.append(over_at)

    def _claim(self, devices: Sequence[str], model_id: str) -> bool:
        """Whether nobody wanted any of them before."""
        return all(self.claims.setdefault(device, model_id) == model_id for device in devices)

    def _place(self, model: Model) -> tuple[str, ...] | str:
        """The devices for it, or why there are none."""
        if model.devices is not None:
            pinned = self._pinned(model.devices)
            return f"its device is held by {pinned}, which is pinned" if pinned else model.devices
        if not self.devices:
            return "this node has no device for it"
        free = [device for device in self.devices if not self._pinned((device,))]
        if not free:
            return "every device is held by a pinned model"
        return (min(free, key=self._reluctance),)

    def _pinned(self, devices: Sequence[str]) -> str | None:
        for device in devices:
            holder = self.holders.get(device)
            if holder is not None and holder.model.pinned and not holder.leaving:
                return holder.model.model_id
        return None

    def _reluctance(self, device: str) -> tuple[bool, int, float]:
        """How bad a choice the device is."""
        holder = self.holders.get(device)
        claimed = device in self.claims
        if holder is None:
            return claimed, 0, 0.0
        idle = holder.state in (State.READY, State.BACKOFF) and not holder.in_flight
        return claimed, 1 if idle else 2, holder.last_used

    def _make_room(self, seat: Seat, want: Want, *, is_first: bool) -> None:
        """What holds a wanted device leaves, when its time has come. A back-off is not cut short
        for one that came behind those who wait for its end."""
        if seat.state is State.BACKOFF:
            if is_first:
                self.stops.add(seat.model.model_id)
        elif seat.state is State.READY and not seat.in_flight:
            self.stops.add(seat.model.model_id)
        elif seat.state is State.READY:
            over_at = max(want.since, seat.since) + PATIENCE_S
            if self.now >= over_at:
                self.stops.add(seat.model.model_id)
            else:
                self.times.append(over_at)
