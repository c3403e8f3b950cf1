"""Register and heartbeat: what is taken, and that a refusal names the field and never its value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rolemesh.core.types import BaseUrl, Heartbeat, ModelState, Registration, ServedModel
from rolemesh.errors import InvalidJson, InvalidValue, RequestError, RequestTooLarge
from rolemesh.wire.registration import (
    MAX_MESSAGE_BYTES,
    accepted,
    asked_interval,
    heartbeat_body,
    parse_heartbeat,
    parse_register,
    register_body,
)

FULL: dict[str, Any] = {
    "node_id": "gpu-box-1",
    "base_url": "http://10.0.0.12:8014",
    "served_models": [
        {"model_id": "qwen3-8b", "roles": ["reviewer", "planner"], "meta": {"quant": "Q5_K_M"}}
    ],
    "meta": {"gpu": "Tesla P40"},
}


def encoded(changes: dict[str, Any]) -> bytes:
    return json.dumps({**FULL, **changes}).encode()


def with_model(**changes: Any) -> bytes:
    return encoded(
        {
            "served_models": [
                {"model_id": "m", "roles": ["r"]},
                {"model_id": "n", "roles": [], **changes},
            ]
        }
    )


def refused(data: bytes) -> InvalidValue:
    with pytest.raises(InvalidValue) as caught:
        parse_register(data)
    assert "secret" not in caught.value.message
    assert caught.value.param is not None
    assert caught.value.message.startswith(caught.value.param)
    return caught.value


def test_a_registration_is_read() -> None:
    assert parse_register(encoded({})) == Registration(
        node_id="gpu-box-1",
        url=BaseUrl("http", "10.0.0.12", 8014),
        served_models=(ServedModel("qwen3-8b", ("reviewer", "planner"), {"quant": "Q5_K_M"}),),
        meta={"gpu": "Tesla P40"},
    )


def test_everything_optional_is_read() -> None:
    data = with_model(state="LOADING", slots=4, slots_busy=1, max_context=8192, meta={"a": [1]})
    assert parse_register(data).served_models[1] == ServedModel(
        "n", (), {"a": [1]}, ModelState.LOADING, slots=4, slots_busy=1, max_context=8192
    )
    registration = parse_register(encoded({"access_token": "t 0~"}))
    assert registration.access_token == "t 0~"
    assert "t 0~" not in repr(registration)


def test_a_models_detail_is_a_line_of_bounded_length() -> None:
    model = parse_register(with_model(state="FATAL", detail="exit code 1")).served_models[1]
    assert model.detail == "exit code 1"
    assert parse_register(with_model(detail="")).served_models[1].detail is None
    assert parse_register(with_model(detail="x" * 500)).served_models[1].detail == "x" * 500
    for wrong in ("x" * 501, "two\nlines", "\x1b[31m", 1, ["text"]):
        with pytest.raises(InvalidValue) as refused:
            parse_register(with_model(detail=wrong))
        assert refused.value.param == "served_models[1].detail"


def test_the_flat_form_is_one_model_per_role() -> None:
    data = b'{"node_id":"n","base_url":"http://h/v1/","roles":["writer","critic","writer"]}'
    assert parse_register(data) == Registration(
        "n",
        BaseUrl("http", "h", 80),
        (ServedModel("writer", ("writer",)), ServedModel("critic", ("critic",))),
    )


def test_served_models_win_over_the_flat_form() -> None:
    assert parse_register(encoded({"roles": ["x"]})) == parse_register(encoded({}))


def test_a_node_may_serve_nothing_for_now() -> None:
    assert parse_register(encoded({"served_models": []})).served_models == ()


def test_unknown_fields_are_ignored() -> None:
    assert parse_register(encoded({"color": {"a": ["\ud800"]}})) == parse_register(encoded({}))
    assert parse_register(with_model(color=1)).served_models[1] == ServedModel("n", ())


def test_null_is_as_good_as_absent() -> None:
    nulls = {"access_token": None, "meta": None, "roles": None}
    assert parse_register(encoded(nulls)).meta == {}
    assert (
        parse_register(with_model(state=None, slots=None, meta=None)).served_models[1].slots is None
    )


def test_an_empty_token_is_none() -> None:
    assert parse_register(encoded({"access_token": ""})).access_token is None


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a":"\xff"}', b'{"node_id":"a","node_id":"b"}']
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    for read in (parse_register, parse_heartbeat):
        with pytest.raises(InvalidJson):
            read(data)


def test_an_endless_message_is_refused() -> None:
    with pytest.raises(RequestTooLarge):
        parse_register(b" " * MAX_MESSAGE_BYTES + b"{}")


@pytest.mark.parametrize("name", ["node_id", "base_url", "served_models"])
def test_a_missing_field_is_named(name: str) -> None:
    data = json.dumps({key: value for key, value in FULL.items() if key != name}).encode()
    assert refused(data).param == name
    assert refused(encoded({name: None})).param == name


@pytest.mark.parametrize(
    "value", [1, True, [], {}, "", "a" * 65, "secret!", "a b", "é", "a\n", "a/b"]
)
def test_an_odd_node_id_is_refused(value: object) -> None:
    assert refused(encoded({"node_id": value})).param == "node_id"


@pytest.mark.parametrize(
    "value",
    [
        1, [], {}, "", "secret", "ftp://secret", "http://u:secret@h", "http://h/#secret",
        "http://h/?secret", "http://h/\n", "http://h:99999", "http://\ud800",
    ],
)  # fmt: skip
def test_an_odd_base_url_is_refused(value: object) -> None:
    assert refused(encoded({"base_url": value})).param == "base_url"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"served_models": "secret"}, "served_models"),
        ({"served_models": {"secret": 1}}, "served_models"),
        ({"served_models": ["secret"]}, "served_models[0]"),
        (
            {"served_models": [{"model_id": str(i), "roles": []} for i in range(257)]},
            "served_models",
        ),
        ({"served_models": [{"roles": ["r"]}]}, "served_models[0].model_id"),
        ({"served_models": [{"model_id": "secret"}]}, "served_models[0].roles"),
        ({"roles": "secret"}, "roles"),
        ({"roles": ["a", 1]}, "roles[1]"),
        ({"meta": "secret"}, "meta"),
        ({"meta": ["secret"]}, "meta"),
        ({"meta": {"secret": "x" * 16384}}, "meta"),
        ({"access_token": 1}, "access_token"),
        ({"access_token": "secret\n"}, "access_token"),
        ({"access_token": "secrét"}, "access_token"),
        ({"access_token": " secret"}, "access_token"),
        ({"access_token": "s" * 5000}, "access_token"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], param: str) -> None:
    assert refused(encoded(changes)).param == param


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("model_id", 1, "model_id"),
        ("model_id", "", "model_id"),
        ("model_id", "  ", "model_id"),
        ("model_id", "x" * 257, "model_id"),
        ("model_id", "secret\n", "model_id"),
        ("model_id", "m", "model_id"),
        ("roles", "secret", "roles"),
        ("roles", {"secret": 1}, "roles"),
        ("roles", ["a", 1], "roles[1]"),
        ("roles", ["a", None], "roles[1]"),
        ("roles", ["a", ""], "roles[1]"),
        ("roles", ["a", "x" * 129], "roles[1]"),
        ("roles", ["a", "secret\x00"], "roles[1]"),
        ("roles", [str(i) for i in range(65)], "roles"),
        ("meta", "secret", "meta"),
        ("state", "secret", "state"),
        ("state", "ready", "state"),
        ("state", 1, "state"),
        ("state", ["READY"], "state"),
        ("slots", "4", "slots"),
        ("slots", -1, "slots"),
        ("slots", 1.0, "slots"),
        ("slots", True, "slots"),
        ("slots", 2**60, "slots"),
        ("slots_busy", [], "slots_busy"),
        ("max_context", {}, "max_context"),
    ],
)
def test_a_wrong_field_of_a_model_is_named(name: str, value: object, param: str) -> None:
    assert refused(with_model(**{name: value})).param == f"served_models[1].{param}"


def test_meta_is_counted_over_the_node_and_all_its_models() -> None:
    models = [{"model_id": str(i), "roles": [], "meta": {"a": "x" * 5000}} for i in range(4)]
    assert parse_register(encoded({"served_models": models[:3]}))
    assert refused(encoded({"served_models": models})).param == "served_models[3].meta"
    more = encoded({"served_models": models[:3], "meta": {"a": "x" * 5000}})
    assert refused(more).param == "served_models[2].meta"


def test_deep_meta_is_refused() -> None:
    deep: Any = 1
    for _ in range(16):
        deep = [deep]
    assert refused(encoded({"meta": {"a": deep}})).param == "meta"
    assert parse_register(encoded({"meta": {"a": deep[0]}}))


def test_what_cannot_be_read_is_refused_by_its_field() -> None:
    assert refused(encoded({"meta": {"a": "\ud800"}})).param == "meta"
    assert refused(encoded({}).replace(b'"Tesla P40"', b"1e999")).param == "meta"


def test_a_heartbeat_is_read() -> None:
    assert parse_heartbeat(b'{"node_id":"n"}') == Heartbeat("n")
    data = b'{"node_id":"n","served_models":[{"model_id":"m","roles":["r"],"state":"DRAINING"}]}'
    model = ServedModel("m", ("r",), state=ModelState.DRAINING)
    assert parse_heartbeat(data) == Heartbeat("n", (model,))
    assert parse_heartbeat(b'{"node_id":"n","served_models":[]}').served_models == ()


def test_a_heartbeats_models_are_checked_as_well() -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_heartbeat(b'{"node_id":"n","served_models":[{"model_id":"m","roles":[1]}]}')
    assert caught.value.param == "served_models[0].roles[0]"


METRICS: dict[str, Any] = {
    "devices": [
        {
            "id": "GPU-1",
            "name": "Tesla P40",
            "memory_used_bytes": 1,
            "memory_total_bytes": 2,
            "utilization_ratio": 0.5,
            "temperature_celsius": -3,
            "power_watts": 50.5,
        }
    ],
    "host": {"load1": 0.25, "memory_used_bytes": 3, "memory_total_bytes": 4},
}


def heartbeat(metrics: object) -> bytes:
    return json.dumps({"node_id": "n", "metrics": metrics}).encode()


def test_metrics_are_read() -> None:
    assert parse_heartbeat(heartbeat(METRICS)).metrics == METRICS


def test_what_is_unknown_or_not_told_in_metrics_is_left_out() -> None:
    metrics = {
        "devices": [{"id": 0, "name": None, "power_watts": None, "fans": 2}],
        "host": {"load5": 1},
        "color": "red",
    }
    told = {"devices": [{"id": "0"}], "host": {}}
    assert parse_heartbeat(heartbeat(metrics)).metrics == told
    assert parse_heartbeat(heartbeat({})).metrics == {"devices": [], "host": {}}


@pytest.mark.parametrize(
    ("metrics", "param"),
    [
        ("secret", "metrics"),
        ([], "metrics"),
        ({"devices": "secret"}, "metrics.devices"),
        ({"devices": False}, "metrics.devices"),
        ({"devices": ["secret"]}, "metrics.devices[0]"),
        ({"devices": [{}]}, "metrics.devices[0].id"),
        ({"devices": [{"id": []}]}, "metrics.devices[0].id"),
        ({"devices": [{"id": "a\n"}]}, "metrics.devices[0].id"),
        ({"devices": [{"id": "a"}, {"id": "a"}]}, "metrics.devices[1].id"),
        ({"devices": [{"id": str(i)} for i in range(65)]}, "metrics.devices"),
        ({"devices": [{"id": "a", "name": 1}]}, "metrics.devices[0].name"),
        ({"devices": [{"id": "a", "power_watts": "1"}]}, "metrics.devices[0].power_watts"),
        ({"devices": [{"id": "a", "power_watts": True}]}, "metrics.devices[0].power_watts"),
        (
            {"devices": [{"id": "a", "memory_used_bytes": -1}]},
            "metrics.devices[0].memory_used_bytes",
        ),
        (
            {"devices": [{"id": "a", "memory_used_bytes": 10**400}]},
            "metrics.devices[0].memory_used_bytes",
        ),
        ({"devices": [{"id": "a", "power_watts": 1e300}]}, "metrics.devices[0].power_watts"),
        ({"host": []}, "metrics.host"),
        ({"host": {"load1": -0.1}}, "metrics.host.load1"),
    ],
)
def test_a_wrong_metric_is_named(metrics: object, param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_heartbeat(heartbeat(metrics))
    assert caught.value.param == param
    assert "secret" not in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ["node_id", "base_url", "served_models", "roles", "meta", "access_token", "metrics"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_is_read_or_refused(changes: dict[str, Any]) -> None:
    for read in (parse_register, parse_heartbeat):
        try:
            read(encoded(changes))
        except RequestError as error:
            assert error.status == 400  # noqa: PT017


def test_what_a_node_writes_the_gateway_reads() -> None:
    models = (
        ServedModel("m", ("r",), {"a": 1}, ModelState.READY, slots=0, slots_busy=0, max_context=1),
        ServedModel("f", ("r",), state=ModelState.FATAL, detail="exit code 1: no such file"),
        ServedModel("n", ()),
    )
    registration = Registration("n", BaseUrl("https", "::1", 8443, "/x"), models, {"b": 2}, "token")
    assert parse_register(register_body(registration)) == registration
    beat = Heartbeat("n", models, METRICS)
    assert parse_heartbeat(heartbeat_body(beat)) == beat
    assert parse_heartbeat(heartbeat_body(Heartbeat("n"))) == Heartbeat("n")


def test_the_answer_asks_for_the_smaller_of_ten_seconds_and_a_third() -> None:
    assert json.dumps(accepted("n", 30.0)) == (
        '{"status": "ok", "node_id": "n", "heartbeat_interval_s": 10, "stale_after_s": 30}'
    )
    assert accepted("n", 300.0)["heartbeat_interval_s"] == 10
    assert accepted("n", 1.5)["heartbeat_interval_s"] == 0.5


@pytest.mark.parametrize(
    ("answer", "interval"),
    [
        (b'{"status":"ok","heartbeat_interval_s":10,"stale_after_s":30}', 10.0),
        (b'{"heartbeat_interval_s":0.5}', 0.5),
        (b'{"heartbeat_interval_s":"10"}', None),
        (b'{"heartbeat_interval_s":0}', None),
        (b'{"heartbeat_interval_s":-1}', None),
        (b'{"heartbeat_interval_s":1e300}', None),
        (b"{}", None),
        (b"<html>", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_asked_interval_is_read_with_caution(answer: bytes, interval: float | None) -> None:
    assert asked_interval(answer) == interval
