"""Which model goes where, as tables."""

from __future__ import annotations

from attrs import evolve

from rolemesh.core.lifecycle import State
from rolemesh.core.placement import PATIENCE_S, Decision, Model, Seat, Want, decide

A, B, C = Model("a"), Model("b"), Model("c")


def stopped(model: Model) -> Seat:
    return Seat(model)


def ready(model: Model, *devices: str, in_flight: int = 0, **more: float) -> Seat:
    return Seat(model, State.READY, devices, in_flight=in_flight, **more)  # type: ignore[arg-type]


def decided(
    *seats: Seat,
    wants: dict[str, float] | None = None,
    preloads: tuple[str, ...] = (),
    devices: tuple[str, ...] = ("g0",),
    now: float = 100.0,
) -> Decision:
    by_id = {seat.model.model_id: seat for seat in seats}
    wanted = [Want(model_id, since) for model_id, since in (wants or {}).items()]
    return decide(by_id, wanted, preloads, devices, now)


def test_a_wanted_model_starts_on_a_free_device() -> None:
    assert decided(stopped(A), wants={"a": 100}).starts == {"a": ("g0",)}


def test_nothing_is_decided_when_nobody_wants_anything() -> None:
    assert decided(stopped(A), ready(B, "g0")) == Decision()


def test_auto_takes_a_free_device_before_one_that_is_held() -> None:
    decision = decided(stopped(A), ready(B, "g0"), wants={"a": 100}, devices=("g0", "g1"))
    assert decision.starts == {"a": ("g1",)}
    assert not decision.stops


def test_auto_takes_the_device_whose_model_was_idle_longest() -> None:
    seats = (stopped(A), ready(B, "g0", last_used=50.0), ready(C, "g1", last_used=40.0))
    assert decided(*seats, wants={"a": 100}, devices=("g0", "g1")).stops == {"c"}


def test_an_idle_model_leaves_at_once() -> None:
    decision = decided(stopped(A), ready(B, "g0"), wants={"a": 100})
    assert decision.stops == {"b"}
    assert not decision.starts


def test_a_busy_model_goes_on_until_patience_is_over() -> None:
    busy = ready(B, "g0", in_flight=2)
    decision = decided(stopped(A), busy, wants={"a": 99.0})
    assert not decision.stops
    assert decision.look_again_at == 99.0 + PATIENCE_S
    assert decided(stopped(A), busy, wants={"a": 100 - PATIENCE_S}).stops == {"b"}


def test_a_model_that_has_just_become_ready_has_its_turn_first() -> None:
    busy = ready(B, "g0", in_flight=2, since=98.0)
    decision = decided(stopped(A), busy, wants={"a": 10.0})
    assert not decision.stops
    assert decision.look_again_at == 98.0 + PATIENCE_S


def test_who_has_waited_longest_goes_first_and_the_later_one_waits_behind() -> None:
    decision = decided(stopped(A), stopped(B), wants={"b": 98, "a": 99})
    assert decision.starts == {"b": ("g0",)}


def test_later_wants_go_to_other_devices_if_they_can() -> None:
    decision = decided(stopped(A), stopped(B), wants={"b": 98, "a": 99}, devices=("g0", "g1"))
    assert decision.starts == {"b": ("g0",), "a": ("g1",)}


def test_a_load_under_way_is_left_to_finish() -> None:
    loading = Seat(B, State.STARTING, ("g0",))
    assert decided(stopped(A), loading, wants={"a": 10}) == Decision()


def test_a_child_in_back_off_makes_room() -> None:
    assert decided(stopped(A), Seat(B, State.BACKOFF, ("g0",)), wants={"a": 100}).stops == {"b"}


def test_a_back_off_is_not_cut_short_for_one_that_came_later() -> None:
    back_off = Seat(B, State.BACKOFF, ("g0",))
    assert not decided(stopped(A), back_off, wants={"b": 90, "a": 91}).stops
    assert decided(stopped(A), back_off, wants={"b": 92, "a": 91}).stops == {"b"}


def test_a_pinned_model_never_leaves() -> None:
    pinned = ready(evolve(B, pinned=True), "g0")
    refused = decided(stopped(A), pinned, wants={"a": 100}).refused
    assert refused == {"a": "every device is held by a pinned model"}
    explicit = evolve(A, devices=("g0",))
    refused = decided(stopped(explicit), pinned, wants={"a": 100}).refused
    assert refused == {"a": "its device is held by b, which is pinned"}


def test_a_pinned_model_that_an_operator_unloads_is_waited_for() -> None:
    leaving = evolve(ready(evolve(B, pinned=True), "g0"), state=State.STOPPING, leaving=True)
    assert decided(stopped(A), leaving, wants={"a": 100}) == Decision()


def test_a_node_without_devices_says_so() -> None:
    assert "a" in decided(stopped(A), wants={"a": 100}, devices=()).refused


def test_a_model_over_several_devices_needs_them_all() -> None:
    wide = evolve(A, devices=("g0", "g1"))
    seats = (stopped(wide), ready(B, "g0"), ready(C, "g1", in_flight=1))
    decision = decided(*seats, wants={"a": 99}, devices=("g0", "g1"))
    assert decision.stops == {"b"}
    assert not decision.starts
    assert decision.look_again_at == 99 + PATIENCE_S


def test_a_model_over_several_devices_leaves_as_a_whole() -> None:
    wide = ready(evolve(B, devices=("g0", "g1")), "g0", "g1")
    narrow = evolve(A, devices=("g1",))
    assert decided(stopped(narrow), wide, wants={"a": 100}).stops == {"b"}


def test_what_an_earlier_one_waits_for_is_not_taken_by_a_later_one() -> None:
    wide = evolve(A, devices=("g0", "g1"))
    busy = ready(C, "g1", in_flight=1)
    narrow = stopped(evolve(B, devices=("g0",)))
    decision = decided(stopped(wide), busy, narrow, wants={"a": 98, "b": 99})
    assert not decision.starts  # g0 is free, and a's


def test_a_draining_model_stays_when_nobody_waits_for_its_place_any_more() -> None:
    draining = Seat(B, State.DRAINING, ("g0",), in_flight=1)
    assert decided(stopped(A), draining).resumes == {"b"}
    assert decided(stopped(A), draining, wants={"b": 100}).resumes == {"b"}
    assert not decided(stopped(A), draining, wants={"a": 99, "b": 100}).resumes
    assert decided(stopped(A), draining, wants={"a": 100, "b": 99}).resumes == {"b"}


def test_a_model_that_an_operator_wants_out_does_not_stay() -> None:
    draining = Seat(B, State.DRAINING, ("g0",), in_flight=1, leaving=True)
    assert not decided(draining, wants={"b": 100}).resumes


def test_who_leaves_for_good_is_waited_for_under_whatever_name() -> None:
    gone = Seat(B, State.DRAINING, ("g0",), in_flight=1, leaving=True)
    seats = {"a": stopped(A), "b (no longer configured)": gone}
    assert decide(seats, [Want("a", 99.0)], (), ("g0",), 100.0) == Decision()


def test_an_idle_model_is_unloaded_when_its_time_is_over() -> None:
    model = evolve(A, idle_unload_s=30.0)
    assert decided(ready(model, "g0", last_used=80.0)).look_again_at == 110.0
    assert decided(ready(model, "g0", last_used=70.0)).stops == {"a"}
    assert not decided(ready(model, "g0", last_used=70.0, since=90.0)).stops
    assert not decided(ready(model, "g0", last_used=0.0, in_flight=1)).stops


def test_preloading_takes_free_devices_only() -> None:
    decision = decided(stopped(A), stopped(B), preloads=("a", "b"), devices=("g0", "g1"))
    assert decision.starts == {"a": ("g0",), "b": ("g1",)}
    assert decided(stopped(A), stopped(B), preloads=("a", "b")).starts == {"a": ("g0",)}
    assert decided(stopped(A), ready(B, "g0"), preloads=("a",)) == Decision()
    assert decided(stopped(A), stopped(B), preloads=("a",), wants={"b": 1}).starts == {"b": ("g0",)}
