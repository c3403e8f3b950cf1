from __future__ import annotations

import pytest
from attrs import evolve

from rolemesh.core.health import Health, Probe, Reason
from rolemesh.core.registry import Registry
from rolemesh.core.routing import (
    Exclusion,
    Table,
    availability,
    exclusions,
    model_to_send,
    plan,
    summary,
)
from rolemesh.core.types import (
    Alias,
    Backend,
    BaseUrl,
    Caller,
    Candidate,
    Heartbeat,
    ModelState,
    Registration,
    ServedModel,
    Strategy,
)
from rolemesh.errors import InvalidValue, ModelNotAllowed, ModelNotFound, RoleMeshError
from tests.core.steps import steps

URL = BaseUrl("http", "10.0.0.1", 80)
ANYONE = Caller("anonymous")
REVIEWER = Alias("reviewer", "reviewer", role="reviewer", strategy=Strategy.ROUND_ROBIN)


def _proxy(name: str, *backends: str) -> Alias:
    candidates = [
        Candidate(Backend(f"{name}/{backend}", backend, URL), None, f"{name}/{backend}")
        for backend in backends
    ]
    return Alias(name, f"openai-{name}", tuple(candidates))


def _registry(**states: ModelState | None) -> Registry:
    registry = Registry(30.0, 86400.0)
    for node_id, state in states.items():
        model = ServedModel("m", ("reviewer",), state=state)
        registry.register(Registration(node_id, URL, (model,)), ANYONE, 0.0)
    return registry


def _order(
    alias: Alias,
    registry: Registry | None = None,
    health: Health | None = None,
    now: float = 0.0,
    turn: int = 0,
) -> list[str]:
    made = plan(
        alias, registry or _registry(), health or Health(), now, turn, lambda n: (turn + 1) % n
    )
    return [candidate.backend.name for candidate in made.candidates]


def test_a_client_may_send_the_alias_or_its_openai_name() -> None:
    writer, planner = _proxy("writer", "a"), _proxy("planner", "a")
    table = Table([writer, planner], default_model="planner")
    assert table.find("writer") is table.find("openai-writer") is writer
    assert table.find(None) is planner
    assert table.get("nobody") is None
    assert Table([writer], default_model="openai-writer").find(None) is writer


def test_a_model_that_is_nobodys_is_not_found_and_not_repeated() -> None:
    with pytest.raises(ModelNotFound) as raised:
        Table([_proxy("writer", "a")]).find("s3cr3t")
    assert "s3cr3t" not in raised.value.message


def test_no_model_and_no_default_is_an_invalid_value() -> None:
    with pytest.raises(InvalidValue) as raised:
        Table([]).find(None)
    assert raised.value.param == "model"


def test_a_limited_key_gets_one_answer_for_known_and_unknown_models() -> None:
    table = Table([_proxy("writer", "a"), _proxy("planner", "a")], default_model="planner")
    limited = Caller("ci", models=frozenset({"writer"}))
    assert table.find_for(limited, "openai-writer").name == "writer"
    answers = set()
    for model in ("planner", "openai-planner", "unknown", "", None):
        with pytest.raises(ModelNotAllowed) as raised:
            table.find_for(limited, model)
        answers.add((raised.value.message, raised.value.param, raised.value.code))
    assert len(answers) == 1
    with pytest.raises(ModelNotFound):
        table.find_for(ANYONE, "unknown")


@pytest.mark.parametrize(
    ("model_id", "default", "requested", "sent"),
    [
        ("qwen3-8b", b'"dolphin3"', "planner", "qwen3-8b"),
        (None, b'"dolphin3:latest"', "planner", "dolphin3:latest"),
        (None, b'"\\u00fc"', None, "ü"),
        (None, None, "planner", "planner"),
        (None, None, "openai-planner", "openai-planner"),
        (None, None, None, "openai-planner"),
    ],
)
def test_the_model_that_is_sent(
    model_id: str | None, default: bytes | None, requested: str | None, sent: str
) -> None:
    defaults = {} if default is None else {"model": default}
    alias = Alias("planner", "openai-planner", defaults=defaults)
    candidate = Candidate(Backend("planner/gpu", "gpu", URL), model_id, "planner/gpu")
    assert model_to_send(alias, candidate, requested) == sent


def test_backends_are_tried_in_the_listed_order_every_time() -> None:
    for turn in range(3):
        assert _order(_proxy("planner", "gpu", "cpu"), turn=turn) == ["gpu", "cpu"]


def test_what_failed_a_moment_ago_is_tried_last_and_never_dropped() -> None:
    health = Health()
    alias = _proxy("planner", "gpu", "cpu", "cloud")
    health.attempt_failed("planner/gpu", 0.0)
    assert _order(alias, health=health, now=1.0) == ["cpu", "cloud", "gpu"]
    health.attempt_failed("planner/cpu", 1.0)
    health.attempt_failed("planner/cloud", 1.0)
    assert _order(alias, health=health, now=1.5) == ["gpu", "cpu", "cloud"]
    assert _order(alias, health=health, now=2.5) == ["gpu", "cpu", "cloud"]
    assert _order(alias, health=health, now=3.5) == ["gpu", "cpu", "cloud"]
    assert not health.failing(0.0)


def test_nodes_take_turns() -> None:
    registry = _registry(a=None, b=None, c=None)
    assert ["".join(_order(REVIEWER, registry, turn=turn)) for turn in range(4)] == [
        "abc",
        "bca",
        "cab",
        "abc",
    ]


def test_nodes_that_would_have_to_load_the_model_come_last() -> None:
    registry = _registry(a=ModelState.STOPPED, b=None, c=ModelState.LOADING, d=ModelState.READY)
    assert ["".join(_order(REVIEWER, registry, turn=turn)) for turn in range(3)] == [
        "bdac",
        "dbca",
        "bdac",
    ]
    same = Alias("r", "r", role="reviewer", strategy=Strategy.ROUND_ROBIN, prefer_ready=False)
    assert "".join(_order(same, registry, turn=2)) == "cdab"


def test_of_one_nodes_models_the_ready_one_comes_first_and_then_as_listed() -> None:
    registry = Registry(30.0, 86400.0)
    states = {"a": ModelState.STOPPED, "b": ModelState.LOADING, "c": None, "d": ModelState.READY}
    models = tuple(ServedModel(name, ("reviewer",), state=state) for name, state in states.items())
    registry.register(Registration("one", URL, models), ANYONE, 0.0)
    registry.register(Registration("two", URL, models[:1]), ANYONE, 0.0)

    def asked(turn: int, *, prefer_ready: bool) -> str:
        alias = Alias("r", "r", (), "reviewer", Strategy.ROUND_ROBIN, prefer_ready)
        made = plan(alias, registry, Health(), 0.0, turn, lambda n: 0)
        assert len(made.candidates) == 5
        assert all(candidate in made.candidates for candidate in made.candidates)
        return " ".join(candidate.key for candidate in made.candidates)

    assert [asked(turn, prefer_ready=True) for turn in range(3)] == [
        "one/c one/d one/a two/a one/b",
        "one/c one/d two/a one/a one/b",
        "one/c one/d one/a two/a one/b",
    ]
    assert [asked(turn, prefer_ready=False) for turn in range(2)] == [
        "one/c two/a one/d one/a one/b",
        "two/a one/c one/d one/a one/b",
    ]


def test_random_keeps_ready_nodes_first_too() -> None:
    registry = _registry(a=ModelState.STOPPED, b=None, c=None)
    alias = Alias("r", "r", role="reviewer", strategy=Strategy.RANDOM)
    orders = {"".join(_order(alias, registry, turn=turn)) for turn in range(4)}
    assert orders == {"bca", "cba"}


def test_a_recently_failed_node_comes_after_those_that_must_load() -> None:
    registry = _registry(a=None, b=ModelState.STOPPED)
    health = Health()
    health.attempt_failed("a", 0.0)
    assert _order(REVIEWER, registry, health, now=1.0) == ["b", "a"]


def test_stale_drained_and_failed_nodes_are_no_candidates() -> None:
    registry = _registry(
        stale=None, drained=None, fatal=ModelState.FATAL, leaving=ModelState.DRAINING, good=None
    )
    registry.drain("drained")
    for node_id in ("drained", "fatal", "leaving", "good"):
        registry.heartbeat(Heartbeat(node_id), ANYONE, 20.0)
    assert _order(REVIEWER, registry, now=42.0) == ["good"]
    assert [(one.label, one.reason.value) for one in exclusions(REVIEWER, registry, 42.0)] == [
        ("stale", "node_stale"),
        ("drained", "node_draining"),
        ("fatal", "model_failed"),
        ("leaving", "node_draining"),
    ]


def test_a_failed_models_reason_is_told() -> None:
    registry = _registry()
    for node_id, state, detail in (
        ("a", ModelState.FATAL, "exit code 1"),
        ("b", ModelState.DRAINING, "an operator drains the node"),
        ("c", ModelState.FATAL, None),
    ):
        model = ServedModel("m", ("reviewer",), state=state, detail=detail)
        registry.register(Registration(node_id, URL, (model,)), ANYONE, 0.0)
    reasons = plan(REVIEWER, registry, Health(), 0.0, 0, lambda n: 0).reasons
    assert [one.detail for one in reasons] == [
        "m on a has failed: exit code 1",
        "m on b is draining: an operator drains the node",
        "m on c has failed",
    ]


def test_a_plan_without_candidates_says_why() -> None:
    made = plan(REVIEWER, _registry(), Health(), 0.0, 0, lambda n: 0)
    assert made.candidates == ()
    assert [one.reason for one in made.reasons] == [Reason.NO_NODE]
    made = plan(REVIEWER, _registry(gpu=None), Health(), 42.0, 0, lambda n: 0)
    assert made.reasons == (Exclusion("gpu", Reason.NODE_STALE, "gpu stale for 42 s", since=30.0),)


def test_a_plan_with_candidates_does_not_look_for_reasons() -> None:
    registry = _registry(a=None, b=ModelState.FATAL)
    assert plan(REVIEWER, registry, Health(), 0.0, 0, lambda n: 0).reasons == ()


def test_an_alias_is_available_while_one_probe_does_not_fail() -> None:
    alias, health = _proxy("planner", "gpu", "cpu"), Health()
    registry = _registry()
    assert len(availability(alias, registry, health, 0.0).candidates) == 2
    health.note("planner/gpu", Probe(Reason.CONNECTION_REFUSED, "refused", 1.0))
    found = availability(alias, registry, health, 1.0)
    assert [candidate.backend.name for candidate in found.candidates] == ["cpu"]
    assert found.reasons == (
        Exclusion("planner/gpu", Reason.CONNECTION_REFUSED, "planner/gpu: refused", 1.0),
    )
    health.note("planner/cpu", Probe(Reason.UNAUTHORIZED, "answered 401", 3.0))
    found = availability(alias, registry, health, 3.0)
    assert found.candidates == ()
    assert summary(alias, found.reasons) == Exclusion(
        "planner",
        Reason.CONNECTION_REFUSED,
        "planner/gpu: refused; planner/cpu: answered 401",
        3.0,
    )


def test_a_fresh_node_that_answers_no_probe_is_not_available() -> None:
    registry, health = _registry(gpu=None), Health()
    health.note("gpu", Probe(Reason.PROBE_TIMEOUT, "no answer in 2 s", 1.0))
    found = availability(REVIEWER, registry, health, 2.0)
    assert found.candidates == ()
    assert summary(REVIEWER, found.reasons).reason is Reason.PROBE_TIMEOUT


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], Reason.NO_NODE),
        ([Reason.NO_NODE], Reason.NO_NODE),
        ([Reason.NODE_STALE], Reason.NO_FRESH_NODE),
        ([Reason.NODE_STALE, Reason.NODE_STALE], Reason.NO_FRESH_NODE),
        ([Reason.NODE_STALE, Reason.NODE_DRAINING], Reason.NODE_DRAINING),
        ([Reason.MODEL_FAILED, Reason.NODE_DRAINING], Reason.MODEL_FAILED),
    ],
)
def test_one_word_sums_an_alias_up(reasons: list[Reason], expected: Reason) -> None:
    given = [Exclusion(f"n{i}", reason, f"n{i} is out") for i, reason in enumerate(reasons)]
    assert summary(REVIEWER, given).reason is expected


def test_a_summary_names_a_few_and_counts_the_rest() -> None:
    given = [Exclusion(f"n{i}", Reason.NODE_STALE, f"n{i} is out", float(i)) for i in range(5)]
    one = summary(REVIEWER, given)
    assert one.detail == "n0 is out; n1 is out; n2 is out; and 2 more"
    assert one.since == 4.0


def test_many_nodes_and_aliases_do_not_make_a_plan_longer_than_its_role() -> None:
    registry = Registry(30.0, 86400.0)
    for number in range(100):
        roles = tuple(f"role{(number + step) % 100}" for step in range(10))
        model = ServedModel("m", roles)
        registry.register(Registration(f"n{number}", URL, (model,)), ANYONE, 0.0)
    alias = Alias("a", "a", role="role7", strategy=Strategy.ROUND_ROBIN)
    assert len(_order(alias, registry)) == 10
    assert registry.serving("role7", 1.0) is registry.serving("role7", 2.0)


@pytest.mark.parametrize("strategy", [Strategy.ROUND_ROBIN, Strategy.RANDOM])
@pytest.mark.parametrize("failing", [(), ("n1", "n2")])
def test_what_a_request_costs_does_not_grow_with_the_nodes(
    strategy: Strategy, failing: tuple[str, ...]
) -> None:
    alias = evolve(REVIEWER, strategy=strategy)

    def planned(nodes: int) -> int:
        ready = {f"n{number}": None for number in range(nodes // 2)}
        loading = {f"m{number}": ModelState.LOADING for number in range(nodes // 2)}
        registry, health = _registry(**ready, **loading), Health()
        registry.serving("reviewer", 0.0)  # kept between requests
        for label in failing:
            health.attempt_failed(label, 0.0)
        chance = iter(range(3, 20))

        def first() -> Candidate:
            made = plan(alias, registry, health, 0.0, 3, lambda n: next(chance) % n)
            return next(iter(made.candidates))

        return steps(first)

    assert planned(500) == planned(40)


def test_a_default_that_is_no_alias_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(KeyError):
        Table([], default_model="nobody")


def test_errors_of_routing_are_of_the_one_tree() -> None:
    assert issubclass(ModelNotFound, RoleMeshError)
