"""The rules between keys, and what an override may not do."""

from __future__ import annotations

import pytest

from rolemesh.config.hosts import is_loopback
from tests.config.conftest import Load, Problems

A = "{proxy_url: 'http://a'}"
X = "{proxy_url: 'http://a', openai_model_name: x}"
ABC_HASH = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    ("models", "path", "says"),
    [
        (f"a: {A}\n  b: {{proxy_url: 'http://b', openai_model_name: a}}", "b", "is an alias"),
        (f"b: {{proxy_url: 'http://b', openai_model_name: a}}\n  a: {A}", "b", "is an alias"),
        (f"a: {X}\n  b: {X}", "b", "is the openai_model_name of a"),
    ],
)
def test_names_overlap(problems: Problems, models: str, path: str, says: str) -> None:
    (problem,) = problems(f"models:\n  {models}")
    assert f"models.{path}.openai_model_name: {says} already" in problem


def test_an_alias_may_be_its_own_openai_model_name(load: Load) -> None:
    load("models: {a: {proxy_url: 'http://a', openai_model_name: a}}")


def test_the_metrics_word_for_unknown_aliases_is_no_alias(problems: Problems) -> None:
    (problem,) = problems(f"models: {{_other: {A}}}")
    assert problem.startswith("0.yaml:1: models._other: ")


@pytest.mark.parametrize("keys", ["client_api_keys", "node_api_keys", "admin_api_keys"])
@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("{h u n t e r: 1}", "unknown key; known here: name, key, key_file, key_hash"),
        ("{hunter: {hunter: [1]}}", "unknown key; known here: name, key, key_file, key_hash"),
        ("{hunter: 1, hunter: 2, key: a}", "is written twice in one mapping"),
        ("{hunter: !hunter x, key: a}", "YAML tags are not supported here"),
        ("{kez: a}", "unknown key; the nearest is key"),
    ],
)
def test_a_secret_in_a_keys_place_is_not_told(
    problems: Problems, keys: str, item: str, says: str
) -> None:
    found = problems(f"auth: {{{keys}: [ok, {item}]}}")
    assert any(line.startswith(f"0.yaml:1: auth.{keys}[1]: {says}") for line in found)
    assert "hunter" not in "".join(found).replace(" ", "")
    assert "kez" not in "".join(found)


def test_a_secret_in_place_of_a_list_of_keys_is_not_told(problems: Problems) -> None:
    found = problems("auth: {client_api_keys: {hunter: 1, hunter: 2}}")
    assert len(found) == 2
    assert "hunter" not in "".join(found)


def test_a_default_model_has_to_be_configured(problems: Problems) -> None:
    assert problems(f"default_model: planer\nmodels:\n  planner: {A}") == [
        "0.yaml:1: default_model: is not a configured model; the nearest is planner"
    ]


def test_a_default_model_may_be_an_openai_model_name(load: Load) -> None:
    load("default_model: x\nmodels: {a: {proxy_url: 'http://a', openai_model_name: x}}")


@pytest.mark.parametrize(
    ("host", "url", "itself"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", True),
        ("127.0.0.1", "http://127.0.0.1:8000/v1", True),
        ("127.0.0.1", "http://localhost:8000", True),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]:8000", True),
        ("127.0.0.1", "http://0.0.0.0:8000", True),
        ("localhost", "http://[::1]:8000", True),
        ("LocalHost", "https://localhost:8000", True),
        ("0.0.0.0", "http://127.0.0.1:8000", True),
        ("0.0.0.0", "http://127.3.2.1:8000", True),
        ("::", "http://[::1]:8000", True),
        ("::", "http://0.0.0.0:8000", True),
        ("10.0.0.1", "http://10.0.0.1:8000", True),
        ("gw.example", "http://GW.example:8000", True),
        ("127.0.0.1", "http://127.0.0.1:8001", False),
        ("127.0.0.1", "http://127.0.0.2:8000", False),
        ("127.0.0.1", "http://10.0.0.1:8000", False),
        ("10.0.0.1", "http://127.0.0.1:8000", False),
        ("0.0.0.0", "http://10.0.0.1:8000", False),
    ],
)
@pytest.mark.parametrize("key", ["proxy_url: '{}'", "backends: [{{base_url: '{}'}}]"])
def test_the_gateway_is_no_backend_of_itself(
    load: Load, problems: Problems, host: str, url: str, itself: bool, key: str
) -> None:
    text = (
        f"gateway: {{host: '{host}'}}\nauth: {{allow_anonymous: true}}\n"
        f"models: {{a: {{{key.format(url)}}}}}"
    )
    if itself:
        (problem,) = problems(text)
        assert problem.endswith("is this gateway itself")
    else:
        load(text)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("{type: proxy}", "models.a: needs proxy_url or backends"),
        (
            "{proxy_url: 'http://a', backends: [{base_url: 'http://b'}]}",
            "models.a.proxy_url: stands beside backends: write one of the two",
        ),
        (
            "{model_id: x, backends: [{base_url: 'http://b'}]}",
            "models.a: has keys of one server beside backends: write them in each backend",
        ),
        (
            "{backends: [{name: x, base_url: 'http://a'}, {name: x, base_url: 'http://b'}]}",
            "models.a.backends[1].name: is the name of another backend of this model",
        ),
        (
            "{backends: [{base_url: 'http://a'}, {base_url: 'http://a/x'}]}",
            (
                "models.a.backends[1].name: is the name of another backend of this model:"
                " a:80, taken from base_url; give each a name of its own with `name`"
            ),
        ),
        (
            "{proxy_url: 'http://a/v1/chat/completions'}",
            "models.a.proxy_url: ends in a path of the API: leave that out",
        ),
        (
            "{backends: [{base_url: 'http://a/completions'}]}",
            "models.a.backends[0].base_url: ends in a path of the API: leave that out",
        ),
    ],
)
def test_rules_of_a_proxy_model(problems: Problems, model: str, says: str) -> None:
    assert problems(f"models: {{a: {model}}}") == [f"0.yaml:1: {says}"]


def test_an_override_may_switch_from_one_server_to_several(load: Load) -> None:
    config = load(
        "models: {a: {proxy_url: 'http://a'}}",
        "models: {a: {proxy_url: null, backends: [{base_url: 'http://b'}]}}",
    ).config
    assert config.models["a"].proxy_url is None  # type: ignore[union-attr]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gw.example"])
def test_beyond_loopback_clients_need_keys(problems: Problems, load: Load, host: str) -> None:
    (problem,) = problems(f"gateway: {{host: '{host}'}}")
    assert "auth.client_api_keys: is empty" in problem
    load(f"gateway: {{host: '{host}'}}\nauth: {{allow_anonymous: true}}")
    load(f"gateway: {{host: '{host}'}}\nauth: {{client_api_keys: [abc]}}")


@pytest.mark.parametrize("kind", ["client", "node", "admin"])
@pytest.mark.parametrize("key", ["change-me", "change-me-client", "CHANGE-ME"])
def test_sample_keys_are_for_loopback(problems: Problems, load: Load, kind: str, key: str) -> None:
    auth = f"auth: {{allow_anonymous: true, {kind}_api_keys: [x, {{key: {key}}}]}}"
    load(auth)
    (problem,) = problems(f"{auth}\ngateway: {{host: 0.0.0.0}}")
    assert f"auth.{kind}_api_keys[1]: is the sample key" in problem
    assert key not in problem.removeprefix("0.yaml:1: ")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("[abc, abc]", "[1]: is the same key as [0]"),
        ("[abc, {key: abc, name: x}]", "[1]: is the same key as [0]"),
        (f"[abc, {{key_hash: '{ABC_HASH}'}}]", "[1]: is the same key as [0]"),
        ("[{name: x, key: a}, {name: x, key: b}]", "[1].name: is the name of another key"),
        ("[{name: x}]", "[0]: needs exactly one of key, key_file and key_hash"),
        (
            f"[{{key: a, key_hash: 'sha256:{'0' * 64}'}}]",
            "[0]: needs exactly one of key, key_file and key_hash",
        ),
        ("[{key: a, models: [b]}]", "[0].models[0]: is not a configured alias"),
    ],
)
def test_rules_of_keys(problems: Problems, keys: str, says: str) -> None:
    (problem,) = problems(f"auth:\n  client_api_keys: {keys}")
    assert problem.startswith(f"0.yaml:2: auth.client_api_keys{says}")


def test_a_list_with_a_bad_entry_keeps_the_numbers_of_the_others(problems: Problems) -> None:
    found = problems("auth:\n  client_api_keys:\n  - [x]\n  - {name: y}\n")
    assert [line.split(": ")[:2] for line in found] == [
        ["0.yaml:3", "auth.client_api_keys[0]"],
        ["0.yaml:4", "auth.client_api_keys[1]"],
    ]


def test_forgetting_comes_after_staleness(problems: Problems) -> None:
    (problem,) = problems("registry: {forget_after_s: 5}")
    assert "registry.forget_after_s: must not be less than registry.stale_after_s" in problem


@pytest.mark.parametrize("value", ["null", "~", "", "${X:-null}"])
@pytest.mark.parametrize("number", [0, 1])
def test_auth_null_is_always_an_error(problems: Problems, value: str, number: int) -> None:
    texts = ["auth: {client_api_keys: [abc]}", "auth: {client_api_keys: [abc]}"]
    texts[number] = f"version: 1\nauth: {value}"
    (problem,) = problems(*texts)
    assert problem.startswith(f"{number}.yaml:2: auth: is null")


@pytest.mark.parametrize("value", ["[]", "null", "${K:-[]}", "${K}"])
def test_an_override_does_not_empty_the_client_keys_by_accident(
    problems: Problems, load: Load, value: str
) -> None:
    base = "version: 1\nauth: {client_api_keys: [abc]}"
    over = (
        f'auth:\n  client_api_keys: "{value}"'
        if "$" in value
        else (f"auth:\n  client_api_keys: {value}")
    )
    env = {"K": "[]"}
    assert problems(base, over, env=env)[0].startswith(
        "1.yaml:2: auth.client_api_keys: takes away the keys of 0.yaml:2"
    )
    assert problems(base + "\n", over + "\n  allow_anonymous: false", env=env)
    assert load(base, over + "\n  allow_anonymous: true", env=env).config.auth.client_api_keys == ()


def test_what_the_base_allows_does_not_excuse_an_override(problems: Problems) -> None:
    base = "auth: {client_api_keys: [abc], allow_anonymous: true}"
    assert problems(base, "auth: {client_api_keys: []}")


def test_other_keys_than_the_clients_may_be_emptied(load: Load) -> None:
    load("auth: {node_api_keys: [abc]}", "auth: {node_api_keys: []}")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("x.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
