from __future__ import annotations

import json
from ipaddress import ip_network
from typing import Any

import pytest
from attrs import evolve

from rolemesh.core.lease import Lease
from rolemesh.core.registry import MAX_NODES, Registry, heartbeat_interval
from rolemesh.core.types import (
    BaseUrl,
    Caller,
    Heartbeat,
    ModelState,
    Registration,
    ServedModel,
)
from rolemesh.errors import InvalidValue, NotAllowed, UnknownNode
from tests.core.steps import steps

URL = BaseUrl("http", "10.0.0.12", 8014)
ANYONE = Caller("loopback")
LAN = ip_network("10.0.0.0/8")


def _registry(stale_after_s: float = 30.0, forget_after_s: float = 86400.0) -> Registry:
    return Registry(stale_after_s, forget_after_s)


def _model(model_id: str, *roles: str, state: ModelState | None = None, **more: Any) -> ServedModel:
    return ServedModel(model_id, roles or ("reviewer",), state=state, **more)


def _registration(node_id: str = "gpu", *models: ServedModel, **more: Any) -> Registration:
    return Registration(node_id, more.pop("url", URL), models or (_model("qwen3"),), **more)


def _keys(lease: Lease, role: str = "reviewer") -> list[str]:
    return [candidate.key for candidate in lease.candidates(role)]


def _serving(registry: Registry, now: float, role: str = "reviewer") -> list[str]:
    return [candidate.key for candidate in registry.serving(role, now).candidates]


@pytest.mark.parametrize(("stale_after_s", "interval"), [(30, 10), (60, 10), (6, 2), (0.3, 0.1)])
def test_nodes_are_asked_for_three_heartbeats_before_they_turn_stale(
    stale_after_s: float, interval: float
) -> None:
    assert heartbeat_interval(stale_after_s) == pytest.approx(interval)


def test_a_lease_holds_what_routing_needs() -> None:
    networks = (LAN,)
    caller = Caller("key", key_id="k1", networks=networks)
    registration = _registration("gpu", _model("qwen3", slots=4), access_token="t0k")
    lease = _registry().register(registration, caller, 0.0)
    assert lease.backend.label == lease.backend.node_id == "gpu"
    assert lease.backend.auth == ("Authorization", "Bearer t0k")
    assert lease.backend.networks == networks
    (candidate,) = lease.candidates("reviewer")
    assert (candidate.key, candidate.model_id, candidate.limit) == ("gpu/qwen3", "qwen3", 4)
    assert candidate.ready
    assert lease.candidates("unheard-of") == ()
    assert "t0k" not in repr(lease)


def test_a_nodes_ready_models_come_first_and_failed_ones_not_at_all() -> None:
    states = ["STOPPED", "FATAL", "READY", "LOADING", "DRAINING"]
    models = [_model(state.lower(), state=ModelState(state)) for state in states]
    lease = _registry().register(_registration("gpu", *models, _model("silent")), ANYONE, 0.0)
    assert _keys(lease) == ["gpu/ready", "gpu/silent", "gpu/stopped", "gpu/loading"]
    assert [c.ready for c in lease.candidates("reviewer")] == [True, True, False, False]


def test_a_model_that_is_not_loaded_has_no_slots_to_count() -> None:
    lease = _registry().register(_registration("gpu", _model("qwen3", slots=0)), ANYONE, 0.0)
    assert lease.candidates("reviewer")[0].limit is None


def test_one_model_may_serve_several_roles_and_counts_once() -> None:
    lease = _registry().register(_registration("gpu", _model("qwen3", "a", "b", "a")), ANYONE, 0.0)
    assert _keys(lease, "a") == _keys(lease, "b") == ["gpu/qwen3"]
    assert list(lease.by_role) == ["a", "b"]


def test_a_node_leaves_routing_by_silence_and_comes_back_by_a_heartbeat() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    assert _serving(registry, 30.0) == ["gpu/qwen3"]
    assert _serving(registry, 30.1) == []
    (lease,) = registry.by_role("reviewer", 31.0)
    assert not registry.is_fresh(lease, 31.0)
    registry.heartbeat(Heartbeat("gpu"), ANYONE, 40.0)
    assert _serving(registry, 70.0) == ["gpu/qwen3"]
    assert _serving(registry, 70.1) == []


def test_one_node_going_stale_does_not_take_the_others_along() -> None:
    registry = _registry()
    registry.register(_registration("a"), ANYONE, 0.0)
    registry.register(_registration("b"), ANYONE, 20.0)
    assert _serving(registry, 20.0) == ["a/qwen3", "b/qwen3"]
    assert _serving(registry, 31.0) == ["b/qwen3"]
    registry.heartbeat(Heartbeat("b"), ANYONE, 40.0)
    registry.heartbeat(Heartbeat("a"), ANYONE, 41.0)
    assert _serving(registry, 60.0) == ["a/qwen3", "b/qwen3"]


def test_the_first_model_of_each_node_comes_before_the_second_of_any() -> None:
    registry = _registry()
    registry.register(_registration("a", _model("x"), _model("y")), ANYONE, 0.0)
    registry.register(_registration("b", _model("z")), ANYONE, 0.0)
    assert _serving(registry, 0.0) == ["a/x", "b/z", "a/y"]


def test_a_heartbeat_replaces_the_models_at_once() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    assert _serving(registry, 0.0) == ["gpu/qwen3"]
    registry.heartbeat(Heartbeat("gpu", (_model("gemma", "writer"),)), ANYONE, 1.0)
    assert _serving(registry, 1.0) == []
    assert registry.by_role("reviewer", 1.0) == []
    assert _serving(registry, 1.0, "writer") == ["gpu/gemma"]
    failed = _model("gemma", "writer", state=ModelState.FATAL)
    registry.heartbeat(Heartbeat("gpu", (failed,)), ANYONE, 2.0)
    assert _serving(registry, 2.0, "writer") == []
    assert len(registry.by_role("writer", 2.0)) == 1
    registry.heartbeat(Heartbeat("gpu", ()), ANYONE, 3.0)
    assert registry.by_role("writer", 3.0) == []


def test_metrics_stay_until_others_are_told() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    registry.heartbeat(Heartbeat("gpu", metrics={"host": {"load1": 1}}), ANYONE, 1.0)
    registry.heartbeat(Heartbeat("gpu"), ANYONE, 2.0)
    lease = registry.register(_registration(), ANYONE, 3.0)
    assert lease.metrics == {"host": {"load1": 1}}
    assert (lease.registered_at, lease.renewed_at) == (0.0, 3.0)


def test_an_unknown_node_is_told_to_register_again() -> None:
    registry = _registry()
    with pytest.raises(UnknownNode):
        registry.heartbeat(Heartbeat("gpu"), ANYONE, 0.0)
    for verb in (registry.goodbye, registry.drain, registry.resume):
        with pytest.raises(UnknownNode):
            verb("gpu")


def test_registering_again_with_another_address_moves_the_candidates() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    assert _serving(registry, 0.0) == ["gpu/qwen3"]
    moved = BaseUrl("https", "10.0.0.13", 443)
    registry.register(_registration("gpu", url=moved), ANYONE, 1.0)
    assert registry.serving("reviewer", 1.0).candidates[0].backend.url == moved


def test_a_drain_survives_registering_again_and_goodbye() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    assert registry.drain("gpu").draining
    assert _serving(registry, 0.0) == []
    assert registry.heartbeat(Heartbeat("gpu"), ANYONE, 1.0).draining
    assert registry.register(_registration(), ANYONE, 2.0).draining
    registry.goodbye("gpu")
    assert registry.drains == {"gpu"}
    assert registry.register(_registration(), ANYONE, 3.0).draining
    assert _serving(registry, 3.0) == []
    lease = registry.resume("gpu")
    assert lease is not None
    assert not lease.draining
    assert _serving(registry, 3.0) == ["gpu/qwen3"]


def test_a_drained_node_that_has_gone_can_be_resumed() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    registry.drain("gpu")
    registry.goodbye("gpu")
    assert registry.resume("gpu") is None
    assert not registry.register(_registration(), ANYONE, 1.0).draining


def test_a_stale_node_stays_visible_until_it_is_forgotten() -> None:
    registry = _registry(forget_after_s=100.0)
    registry.register(_registration(), ANYONE, 0.0)
    assert [lease.node_id for lease in registry.leases(100.0)] == ["gpu"]
    assert registry.by_role("reviewer", 100.1) == []
    assert registry.leases(100.1) == ()
    with pytest.raises(UnknownNode):
        registry.heartbeat(Heartbeat("gpu"), ANYONE, 100.2)


def test_there_are_at_most_a_thousand_nodes() -> None:
    registry = _registry(forget_after_s=100.0)
    for number in range(MAX_NODES):
        registry.register(_registration(f"n{number}"), ANYONE, 0.0)
    with pytest.raises(InvalidValue):
        registry.register(_registration("one-more"), ANYONE, 1.0)
    registry.register(_registration("n7"), ANYONE, 1.0)
    registry.goodbye("n8")
    registry.register(_registration("one-more"), ANYONE, 1.0)
    registry.register(_registration("later"), ANYONE, 100.5)
    assert len(registry.leases(100.5)) == 3


@pytest.mark.parametrize(
    "limits",
    [
        {"node_ids": frozenset({"cpu"})},
        {"roles": frozenset({"writer"})},
        {"networks": (ip_network("192.0.2.0/24"),)},
    ],
)
def test_a_limited_key_cannot_register_renew_or_end_what_is_not_its_own(
    limits: dict[str, Any],
) -> None:
    limited = Caller("limited", key_id="k2", **limits)
    registry = _registry()
    with pytest.raises(NotAllowed):
        registry.register(_registration(), limited, 0.0)
    lease = registry.register(_registration(), Caller("open", key_id="k1"), 0.0)
    with pytest.raises(NotAllowed):
        registry.heartbeat(Heartbeat("gpu"), limited, 1.0)
    with pytest.raises(NotAllowed):
        registry.goodbye("gpu", limited)
    assert registry.get("gpu") is lease
    registry.goodbye("gpu")


def test_a_limited_key_learns_nothing_of_other_nodes() -> None:
    limited = Caller("limited", node_ids=frozenset({"cpu"}))
    with pytest.raises(NotAllowed):
        _registry().heartbeat(Heartbeat("gpu"), limited, 0.0)
    with pytest.raises(NotAllowed):
        _registry().goodbye("gpu", limited)


def test_a_heartbeat_cannot_widen_the_roles() -> None:
    limited = Caller("limited", key_id="k", roles=frozenset({"reviewer"}))
    registry = _registry()
    registry.register(_registration(), limited, 0.0)
    with pytest.raises(NotAllowed):
        registry.heartbeat(Heartbeat("gpu", (_model("qwen3", "planner"),)), limited, 1.0)
    assert _serving(registry, 1.0) == ["gpu/qwen3"]
    assert registry.serving("planner", 1.0).candidates == ()


def test_a_limited_key_cannot_take_over_a_node_that_serves_other_roles() -> None:
    registry = _registry()
    registry.register(_registration(), Caller("open", key_id="k1"), 0.0)
    limited = Caller("limited", key_id="k2", roles=frozenset({"writer"}))
    with pytest.raises(NotAllowed):
        registry.register(_registration("gpu", _model("gemma", "writer")), limited, 1.0)


def test_a_heartbeat_brings_the_keys_new_networks() -> None:
    registry = _registry()
    by_name = _registration("gpu", url=BaseUrl("http", "box.example", 80))
    caller = Caller("key", key_id="k")
    registry.register(by_name, caller, 0.0)
    assert registry.serving("reviewer", 0.0).candidates[0].backend.networks is None
    registry.heartbeat(Heartbeat("gpu"), evolve(caller, networks=(LAN,)), 1.0)
    assert registry.serving("reviewer", 1.0).candidates[0].backend.networks == (LAN,)
    registry.heartbeat(Heartbeat("gpu"), Caller("other", key_id="k2"), 2.0)
    assert registry.serving("reviewer", 2.0).candidates[0].backend.networks == (LAN,)


@pytest.mark.parametrize(
    ("valid", "left"),
    [
        ({"k1", "k2"}, {"one", "two"}),
        ({"k2"}, {"two"}),
        ({"k3"}, set()),
        (set(), {"none"}),
    ],
)
def test_removing_a_key_ends_its_leases(valid: set[str], left: set[str]) -> None:
    registry = _registry()
    for node_id, key_id in [("one", "k1"), ("two", "k2"), ("none", None)]:
        registry.register(_registration(node_id), Caller(node_id, key_id=key_id), 0.0)
    _serving(registry, 0.0)
    registry.revoke({key_id: Caller(key_id, key_id=key_id) for key_id in valid})
    assert {lease.node_id for lease in registry.leases(0.0)} == left
    assert set(_serving(registry, 0.0)) == {f"{node_id}/qwen3" for node_id in left}


@pytest.mark.parametrize(
    ("limits", "ends"),
    [
        ({}, False),
        ({"node_ids": frozenset({"gpu"}), "roles": frozenset({"reviewer", "writer"})}, False),
        ({"networks": (LAN,)}, False),
        ({"node_ids": frozenset({"cpu"})}, True),
        ({"roles": frozenset({"writer"})}, True),
        ({"networks": (ip_network("192.0.2.0/24"),)}, True),
    ],
)
def test_narrowing_a_key_ends_the_leases_beyond_it(limits: dict[str, Any], ends: bool) -> None:
    registry = _registry()
    registry.register(_registration(), Caller("key", key_id="k1"), 0.0)
    _serving(registry, 0.0)
    registry.revoke({"k1": Caller("key", key_id="k1", **limits)})
    assert _serving(registry, 0.0) == ([] if ends else ["gpu/qwen3"])
    assert (registry.get("gpu") is None) is ends


def test_narrowed_networks_hold_for_a_node_with_a_name_at_once() -> None:
    registry = _registry()
    by_name = _registration("gpu", url=BaseUrl("http", "box.example", 80))
    registry.register(by_name, Caller("key", key_id="k1"), 0.0)
    assert registry.serving("reviewer", 0.0).candidates[0].backend.networks is None
    before = registry.version
    for _ in range(2):
        registry.revoke({"k1": Caller("key", key_id="k1", networks=(LAN,))})
        assert registry.serving("reviewer", 0.0).candidates[0].backend.networks == (LAN,)
        assert registry.version == before + 1


def test_a_heartbeat_that_replaces_the_models_makes_the_lease_its_keys() -> None:
    registry = _registry()
    old, new = Caller("old", key_id="k1"), Caller("new", key_id="k2", networks=(LAN,))
    registry.register(_registration(), old, 0.0)
    registry.heartbeat(Heartbeat("gpu"), new, 1.0)
    lease = registry.get("gpu")
    assert lease is not None
    assert (lease.key_id, lease.networks) == ("k1", None)
    lease = registry.heartbeat(Heartbeat("gpu", (_model("gemma"),)), new, 2.0)
    assert (lease.key_id, lease.networks, lease.backend.networks) == ("k2", (LAN,), (LAN,))
    registry.revoke({"k2": new})
    assert _serving(registry, 2.0) == ["gpu/gemma"]
    registry.revoke({"k1": old})
    assert _serving(registry, 2.0) == []


def test_a_limited_key_cannot_replace_models_of_other_roles_by_a_heartbeat() -> None:
    registry = _registry()
    registry.register(_registration(), Caller("open", key_id="k1"), 0.0)
    limited = Caller("limited", key_id="k2", roles=frozenset({"writer"}))
    with pytest.raises(NotAllowed):
        registry.heartbeat(Heartbeat("gpu", (_model("gemma", "writer"),)), limited, 1.0)
    assert _serving(registry, 1.0) == ["gpu/qwen3"]


def test_the_version_grows_only_when_there_is_something_to_store() -> None:
    registry = _registry()

    def grown(action: Any) -> bool:
        before = registry.version
        action()
        return registry.version > before

    def beat(*models: ServedModel) -> None:
        registry.heartbeat(Heartbeat("gpu", models, {"host": {"load1": 2}}), ANYONE, 5.0)

    assert grown(lambda: registry.register(_registration(), ANYONE, 0.0))
    assert not grown(lambda: registry.register(_registration(), ANYONE, 1.0))
    assert not grown(lambda: registry.heartbeat(Heartbeat("gpu"), ANYONE, 2.0))
    assert not grown(lambda: registry.heartbeat(Heartbeat("gpu"), ANYONE, 2000.0))
    assert not grown(lambda: beat(_model("qwen3", slots_busy=1)))
    assert not grown(lambda: beat(_model("qwen3", slots_busy=2)))
    assert grown(lambda: beat(_model("gemma")))
    assert grown(lambda: registry.register(_registration(access_token="new"), ANYONE, 6.0))
    assert grown(lambda: registry.drain("gpu"))
    assert not grown(lambda: registry.drain("gpu"))
    assert grown(lambda: registry.resume("gpu"))
    assert not grown(lambda: registry.resume("gpu"))
    assert grown(lambda: registry.goodbye("gpu"))


def _restarted(registry: Registry, dumped_at: float, now: float, elapsed_s: float) -> Registry:
    dumped = json.loads(json.dumps(registry.dump(dumped_at)))
    after = _registry()
    after.load(dumped, now, elapsed_s)
    return after


def test_everything_but_the_metrics_survives_a_restart() -> None:
    registry = _registry()
    model = _model("qwen3", "a", "b", state=ModelState.LOADING, slots=2, meta={"quant": "Q5"})
    registration = _registration("gpu", model, access_token="t0k", meta={"gpu": "P40"})
    caller = Caller("key", key_id="k1", networks=(LAN, ip_network("fd00::/8")))
    before = registry.register(registration, caller, 100.0)
    registry.drain("gpu")
    after = _restarted(registry, dumped_at=110.0, now=5.0, elapsed_s=2.0).get("gpu")
    assert after is not None
    assert after == evolve(before, draining=True, registered_at=-7.0, renewed_at=-7.0)
    assert after.backend == before.backend
    assert after.by_role == before.by_role


@pytest.mark.parametrize(
    ("age_s", "elapsed_s", "fresh"),
    [(0, 0, True), (10, 20, True), (10, 21, False), (31, 0, False), (0, 31, False), (5, -99, True)],
)
def test_after_a_restart_a_node_is_fresh_if_it_was_heard_of_lately(
    age_s: float, elapsed_s: float, fresh: bool
) -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 1000.0)
    after = _restarted(registry, dumped_at=1000.0 + age_s, now=0.0, elapsed_s=elapsed_s)
    assert bool(_serving(after, 0.0)) is fresh
    assert len(after.leases(0.0)) == 1
    after.heartbeat(Heartbeat("gpu"), ANYONE, 1.0)
    assert _serving(after, 1.0) == ["gpu/qwen3"]


def test_a_drain_without_its_node_survives_a_restart() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    registry.drain("gpu")
    registry.goodbye("gpu")
    after = _restarted(registry, dumped_at=0.0, now=0.0, elapsed_s=0.0)
    assert after.register(_registration(), ANYONE, 1.0).draining


def _broken() -> list[tuple[str, Any]]:
    registry = _registry()
    registry.register(_registration(), Caller("k", networks=(LAN,)), 0.0)

    def with_node(**changes: Any) -> Any:
        dumped = registry.dump(0.0)
        dumped["nodes"][0].update(changes)
        return dumped

    return [
        ("a list", []),
        ("nothing", None),
        ("another version", {**registry.dump(0.0), "version": 2}),
        ("no nodes", {"version": 1, "drains": []}),
        ("drains of numbers", {**registry.dump(0.0), "drains": [1]}),
        ("nodes that are none", {**registry.dump(0.0), "nodes": [None]}),
        ("too many nodes", {**registry.dump(0.0), "nodes": registry.dump(0.0)["nodes"] * 1001}),
        ("a negative age", with_node(age_s=-1)),
        ("an age that is none", with_node(age_s=float("nan"))),
        ("a word for an age", with_node(age_s="1")),
        ("an odd state", with_node(served_models=[{"model_id": "m", "roles": [], "state": "?"}])),
        ("an odd network", with_node(networks=["10.0.0.0/99"])),
        ("an odd port", with_node(url={"scheme": "http", "host": "h", "port": 0})),
        ("an odd scheme", with_node(url={"scheme": "file", "host": "h", "port": 1})),
        ("no url", with_node(url=None)),
    ]


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in _broken()])
def test_nonsense_is_refused_whole(data: Any) -> None:
    registry = _registry()
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the module's own business
        registry.load(data, 0.0, 0.0)
    assert registry.leases(0.0) == ()
    assert registry.drains == frozenset()


def test_what_a_heartbeat_costs_does_not_grow_with_the_nodes() -> None:
    def beaten(nodes: int) -> int:
        registry = _registry()
        for number in range(nodes):
            registry.register(_registration(f"n{number}", _model("m", slots_busy=0)), ANYONE, 0.0)
        beat = Heartbeat("n1", (_model("m", slots_busy=1),), {"devices": []})
        return steps(lambda: registry.heartbeat(beat, ANYONE, 10.0))

    assert beaten(500) == beaten(5)


def test_nodes_that_are_not_due_are_not_looked_at_until_one_is() -> None:
    registry = _registry(forget_after_s=100.0)
    for number in range(50):
        registry.register(_registration(f"n{number}"), ANYONE, float(number))
    assert steps(lambda: registry.heartbeat(Heartbeat("n0"), ANYONE, 90.0)) < 1000
    assert len(registry.leases(100.0)) == 50  # the oldest is that of 1.0 by now
    assert len(registry.leases(101.5)) == 49
    assert steps(lambda: registry.heartbeat(Heartbeat("n2"), ANYONE, 101.9)) < 1000
    assert len(registry.leases(190.0)) == 2


def test_other_times_count_from_the_reload_on() -> None:
    registry = _registry()
    registry.register(_registration(), ANYONE, 0.0)
    assert _serving(registry, 20.0) == ["gpu/qwen3"]
    registry.retime(10.0, 86400.0)
    assert _serving(registry, 20.0) == []
    registry.retime(60.0, 86400.0)
    assert _serving(registry, 50.0) == ["gpu/qwen3"]
