from __future__ import annotations

import pytest

from rolemesh.config.expand import substitute
from tests.config.conftest import Load, Problems

ENV = {"NAME": "value", "EMPTY": "", "PORT": "9001"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${NAME}", "value"),
        ("a-${NAME}-${PORT}-b", "a-value-9001-b"),
        ("${MISSING:-fallback}", "fallback"),
        ("${MISSING:-}", ""),
        ("${EMPTY:-fallback}", "fallback"),
        ("${EMPTY}", ""),
        ("${MISSING:-${NAME}}", "value"),
        ('${MISSING:-{"a": {"b": 1}}}', '{"a": {"b": 1}}'),
        ("${NAME:-fallback}", "value"),
        ("$${NAME}", "${NAME}"),
        ("$$${NAME}", "$${NAME}"),
        ("${NAME}$${", "value${"),
        ("$NAME and $ and }", "$NAME and $ and }"),
    ],
)
def test_variables_are_replaced(text: str, expected: str) -> None:
    assert substitute(text, ENV) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("${MISSING}", "MISSING, which is not set"),
        ("${NAME", "without its '}'"),
        ("${}", "without a variable's name"),
        ("${a b}", "without a variable's name"),
        ("${1A}", "without a variable's name"),
        ("${A:-" * 20 + "}" * 20, "too deep"),
    ],
)
def test_what_cannot_be_replaced_is_told(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        substitute(text, ENV)


def test_a_value_that_looks_like_a_variable_is_not_expanded_again() -> None:
    assert substitute("${A}", {"A": "${B}", "B": "no"}) == "${B}"


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_a_number_is_read_from_a_variable_quoted_or_not(load: Load, quote: str) -> None:
    loaded = load(
        f"gateway: {{port: 1}}\ntimeouts:\n  idle_s: {quote}${{IDLE}}{quote}", env={"IDLE": "1.5"}
    )
    assert loaded.config.timeouts.idle_s == 1.5


def test_a_boolean_is_read_from_a_variable(load: Load) -> None:
    text = "auth:\n  allow_anonymous: ${ANYONE}"
    assert load(text, env={"ANYONE": "true"}).config.auth.allow_anonymous is True
    assert load(text, env={"ANYONE": "no"}).config.auth.allow_anonymous is False


@pytest.mark.parametrize("keys", ['["a1", "b2"]', "[a1, b2]", "- a1\n- b2", '\t["a1",\t"b2"]'])
def test_a_list_is_read_as_json_or_yaml(load: Load, keys: str) -> None:
    loaded = load("auth:\n  client_api_keys: ${KEYS}", env={"KEYS": keys})
    assert [each.source.key for each in loaded.config.auth.client_api_keys] == ["a1", "b2"]


def test_a_mapping_is_read_from_a_variable_and_merged(load: Load) -> None:
    model = "models: {m: {type: proxy, proxy_url: 'http://a', defaults: "
    loaded = load(model + '"${D}"}}', model + "{top_p: 1}}}", env={"D": '{"temperature": 0.5}'})
    assert loaded.config.models["m"].offer.defaults == {"temperature": 0.5, "top_p": 1}


def test_text_is_taken_as_it_is_where_text_is_wanted(load: Load) -> None:
    env = {"KEY": "0123", "NAME": "[x]", "ID": "true"}
    loaded = load(
        'auth: {client_api_keys: ["${KEY}", {key: "${NAME}"}]}\n'
        'models: {m: {type: proxy, proxy_url: "http://a", model_id: "${ID}"}}',
        env=env,
    )
    assert [each.source.key for each in loaded.config.auth.client_api_keys] == ["0123", "[x]"]
    assert loaded.config.models["m"].upstream.model_id == "true"  # type: ignore[union-attr]


def test_where_anything_goes_a_variable_alone_says_what_it_is(load: Load) -> None:
    loaded = load(
        'models: {m: {proxy_url: "http://a", defaults: '
        '{t: "${T}", model: "${M}", stop: "### ${T}", n: "${N}", odd: "${ODD}", two: "${T}${T}"}}}',
        env={"T": "0.5", "M": "qwen3:8b", "N": "[1]", "ODD": "[x"},
    )
    assert loaded.config.models["m"].offer.defaults == {
        "t": 0.5,
        "model": "qwen3:8b",
        "stop": "### 0.5",
        "n": [1],
        "odd": "[x",
        "two": "0.50.5",
    }


def test_an_unset_variable_is_no_problem_where_a_later_file_replaces_it(load: Load) -> None:
    loaded = load("gateway: {host: '${UNSET}'}", "gateway: {host: '::1'}")
    assert loaded.config.gateway.host == "::1"


def test_an_unset_variable_is_told_with_its_place(problems: Problems) -> None:
    assert problems("gateway:\n  port: ${UNSET}") == [
        "0.yaml:2: gateway.port: needs the environment variable UNSET, which is not set"
    ]


@pytest.mark.parametrize("value", ["", " ", "abc", "[1", "{a: 1", "nan", "1e999", "!x 1", "# 1"])
def test_a_bad_variable_is_a_problem_that_does_not_repeat_it(
    problems: Problems, value: str
) -> None:
    assert problems("timeouts:\n  idle_s: ${SECRET}", env={"SECRET": value}) == [
        "0.yaml:2: timeouts.idle_s: must be a number of seconds, more than 0 and at most 31536000"
    ]


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "", "0", "86401", "true", "1e999"])
def test_a_bad_stale_after_variable_is_named_with_its_range(problems: Problems, value: str) -> None:
    (problem,) = problems("version: 1", env={"ROLE_MESH_NODE_STALE_AFTER_S": value})
    assert problem.startswith("ROLE_MESH_NODE_STALE_AFTER_S: registry.stale_after_s: must be ")
    assert problem.endswith("a number of seconds, more than 0 and at most 86400")


def test_the_stale_after_variable_wins_over_the_files(load: Load) -> None:
    loaded = load("registry: {stale_after_s: 5}", env={"ROLE_MESH_NODE_STALE_AFTER_S": "7.5"})
    assert loaded.config.registry.stale_after_s == 7.5
