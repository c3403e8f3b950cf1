"""What gateways are told of models, for every state of a child."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from rolemesh.config.schema_node import ModelSection
from rolemesh.core.lifecycle import Child, State
from rolemesh.core.types import ModelState, Registration, ServedModel
from rolemesh.node.offers import DRAINED, Standing, offers
from rolemesh.wire.registration import MAX_DETAIL_LENGTH, parse_register, register_body
from rolemesh.wire.url import parse_url

SECTION = ModelSection(
    model_id="qwen", path="/srv/my models/qwen.gguf", roles=("critic",), parallel=3, meta={"a": 1}
)


def offered(state: State, *, drained: bool = False, now: float = 0.0, **more: Any) -> ServedModel:
    child = evolve(Child(), state=state, **more)
    (model,) = offers([Standing(SECTION, child)], now, drained=drained)
    return model


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (State.STOPPED, ModelState.STOPPED),
        (State.STARTING, ModelState.LOADING),
        (State.READY, ModelState.READY),
        (State.DRAINING, ModelState.STOPPED),
        (State.STOPPING, ModelState.STOPPED),
        (State.BACKOFF, ModelState.LOADING),
        (State.FATAL, ModelState.FATAL),
    ],
)
def test_a_model_that_can_be_loaded_may_be_asked_for(state: State, told: ModelState) -> None:
    assert offered(state, until=30.0).state is told


def test_a_child_that_is_recycled_will_be_back_by_itself() -> None:
    assert offered(State.STOPPING, comes_back=True).state is ModelState.LOADING


def test_what_failed_may_be_asked_for_again_after_its_pause() -> None:
    failed: dict[str, Any] = {"until": 30.0, "reason": "exit code 1"}
    assert offered(State.FATAL, now=29.9, **failed).state is ModelState.FATAL
    again = offered(State.FATAL, now=30.0, **failed)
    assert (again.state, again.detail) == (ModelState.STOPPED, "exit code 1")


def test_a_drained_node_offers_nothing_and_a_failed_model_keeps_its_reason() -> None:
    for state in set(State) - {State.FATAL}:
        model = offered(state, drained=True)
        assert (model.state, model.detail) == (ModelState.DRAINING, DRAINED)
    failed = offered(State.FATAL, drained=True, until=30.0, reason="exit code 1")
    assert (failed.state, failed.detail) == (ModelState.FATAL, "exit code 1")


def test_room_is_what_the_child_has_or_else_what_it_will_have() -> None:
    cold = Standing(SECTION, Child())
    warm = Standing(SECTION, evolve(Child(), state=State.READY), 1, slots=2, max_context=4096)
    told = offers([cold, warm], 0.0, drained=False)
    assert [(each.slots, each.slots_busy, each.max_context) for each in told] == [
        (3, 0, None),
        (2, 1, 4096),
    ]
    assert told[0].roles == ("critic",)
    assert told[0].meta == {"a": 1}


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        (None, None),
        ("", None),
        ("exit code 1", "exit code 1"),
        ("exit code 1:\n  line one\n\n  line\ttwo\n", "exit code 1: | line one | line two"),
        ("/srv/my models/qwen.gguf cannot be read", "qwen.gguf cannot be read"),
        ("cannot open '/home/me/models/x.gguf': no", "cannot open 'x.gguf': no"),
        ("cannot run ~/bin/llama-server or /llama", "cannot run llama-server or llama"),
        (
            "GET http://127.0.0.1:80/health: 3 tokens/s",
            "GET http://127.0.0.1:80/health: 3 tokens/s",
        ),
        ("bell \x07 and \u202e", "bell ? and ?"),
    ],
)
def test_a_reason_is_told_in_a_line_without_paths(reason: str | None, detail: str | None) -> None:
    assert offered(State.FATAL, until=30.0, reason=reason).detail == detail


def test_a_ready_model_needs_no_reason() -> None:
    assert offered(State.READY, reason="exit code 1").detail is None


@pytest.mark.parametrize("reason", ["x" * 9999, "\x00" * 9999, "\ud800", " \n ", "/", "/a/" * 400])
def test_whatever_the_reason_gateways_take_it(reason: str) -> None:
    model = offered(State.FATAL, until=30.0, reason=reason)
    assert model.detail is None or len(model.detail) <= MAX_DETAIL_LENGTH
    registration = Registration("n", parse_url("http://h"), (model,))
    assert parse_register(register_body(registration)) == registration
