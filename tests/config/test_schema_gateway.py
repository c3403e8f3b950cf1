"""What each key takes, what it refuses, and secrets with their twins."""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from tests.config.conftest import Load, Problems

GOOD = [
    ("gateway: {host: localhost}", "gateway.host"),
    ("gateway: {host: '::'}\nauth: {allow_anonymous: true}", "gateway.host"),
    ("gateway: {host: '[::1]'}", "gateway.host"),
    ("gateway: {port: 0}", "gateway.port"),
    ("gateway: {drain_timeout_s: 0}", "gateway.drain_timeout_s"),
    ("gateway: {trusted_proxies: [10.0.0.0/8, '::1', lb.example]}", "gateway.trusted_proxies"),
    ("log: {level: debug, format: console}", "log"),
    ("timeouts: {connect_s: 0.001, idle_s: 1e3}", "timeouts"),
]


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "keep-alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"),
        *("Proxy-Connection", "Content-Type", "content-encoding", "Host", "Date", "Server"),
        *("authorization", "X-API-Key", "Cookie", "Set-Cookie", "Cache-Control", "VIA", "Accept"),
        *("Accept-Encoding", "X-RoleMesh-Alias", "X-Accel-Buffering", "X-Forwarded-For"),
        *("Forwarded", "Origin", "Retry-After"),
    ],
)
def test_a_header_with_a_meaning_carries_no_request_ids(problems: Problems, name: str) -> None:
    (problem,) = problems(f"gateway: {{request_id_header: {name}}}")
    assert problem.startswith("0.yaml:1: gateway.request_id_header: is a header ")


@pytest.mark.parametrize("name", ["X-Request-ID", "X-Correlation-Id", "Request-Id"])
def test_any_other_header_may_carry_request_ids(load: Load, name: str) -> None:
    config = load(f"gateway: {{request_id_header: {name}}}").config
    assert config.gateway.request_id_header == name


@pytest.mark.parametrize(("text", "path"), GOOD)
def test_good_values_are_taken(load: Load, text: str, path: str) -> None:
    assert load(text).config is not None, path


BAD = [
    ("gateway: {host: 'a b'}", "gateway.host"),
    ("gateway: {host: '8000'}", "gateway.host"),
    ("gateway: {host: 300.1.1.1}", "gateway.host"),
    ("gateway: {host: ''}", "gateway.host"),
    ("gateway: {port: -1}", "gateway.port"),
    ("gateway: {port: 65536}", "gateway.port"),
    ("gateway: {port: 80.5}", "gateway.port"),
    ("gateway: {port: true}", "gateway.port"),
    ("gateway: {port: [1]}", "gateway.port"),
    ("gateway: {max_body_bytes: 0}", "gateway.max_body_bytes"),
    ("gateway: {drain_timeout_s: -1}", "gateway.drain_timeout_s"),
    ("gateway: {request_id_header: 'a b'}", "gateway.request_id_header"),
    ("gateway: {request_id_header: Content-Length}", "gateway.request_id_header"),
    ("gateway: {trusted_proxies: 10.0.0.0/8}", "gateway.trusted_proxies"),
    ("gateway: {trusted_proxies: [10.0.0.1/8]}", "gateway.trusted_proxies[0]"),
    ("gateway: {trusted_proxies: [a, null]}", "gateway.trusted_proxies[1]"),
    ("gateway: {tls: {cert_file: /dev/null}}", "gateway.tls"),
    ("gateway: {tls: yes}", "gateway.tls"),
    ("log: {level: loud}", "log.level"),
    ("log: {format: xml}", "log.format"),
    ("timeouts: {connect_s: 0}", "timeouts.connect_s"),
    ("timeouts: {idle_s: .inf}", "timeouts.idle_s"),
    ("timeouts: {idle_s: .nan}", "timeouts.idle_s"),
    ("timeouts: {idle_s: 1e300}", "timeouts.idle_s"),
    ("auth: {allow_anonymous: maybe}", "auth.allow_anonymous"),
    ("auth: {client_api_keys: text}", "auth.client_api_keys"),
    ("auth: {client_api_keys: ['']}", "auth.client_api_keys[0].key"),
    ("auth: {client_api_keys: ['a b']}", "auth.client_api_keys[0].key"),
    ('auth: {client_api_keys: ["a\\n"]}', "auth.client_api_keys[0].key"),
    ("auth: {client_api_keys: [{key_hash: abc}]}", "auth.client_api_keys[0].key_hash"),
    ("auth: {client_api_keys: [{key_hash: 'md5:00'}]}", "auth.client_api_keys[0].key_hash"),
    ("auth: {node_api_keys: [{key: a, networks: [nowhere]}]}", "auth.node_api_keys[0].networks[0]"),
    ("registry: {stale_after_s: 0}", "registry.stale_after_s"),
    ("models: {'a b': {proxy_url: 'http://a'}}", 'models."a b"'),
    ("models: {a: {proxy_url: 'ftp://a'}}", "models.a.proxy_url"),
    ("models: {a: {proxy_url: 'http://u:p@a'}}", "models.a.proxy_url"),
    ("models: {a: {type: other}}", "models.a.type"),
    ("models: {a: {type: discovered, strategy: best}}", "models.a.strategy"),
    ("models: {a: {type: discovered, queue_s: -1}}", "models.a.queue_s"),
    ("models: {a: {type: discovered, timeouts: {idle_s: 0}}}", "models.a.timeouts.idle_s"),
    ("models: {a: {proxy_url: 'http://a', max_in_flight: 0}}", "models.a.max_in_flight"),
    ("models: {a: {proxy_url: 'http://a', auth_header: 'a:b'}}", "models.a.auth_header"),
    ("models: {a: {proxy_url: 'http://a', auth_scheme: 'a b'}}", "models.a.auth_scheme"),
    ('models: {a: {proxy_url: "http://a", auth_token: "a\\nb"}}', "models.a.auth_token"),
    ("models: {a: {proxy_url: 'http://a', ca_file: /none}}", "models.a.ca_file"),
    ("models: {a: {proxy_url: 'http://a', defaults: {model: 5}}}", "models.a.defaults.model"),
    ("models: {a: {backends: [{name: x}]}}", "models.a.backends[0]"),
    ("models: [a]", "models"),
    ("version: 2", "version"),
    ("version: one", "version"),
    ("default_model: [a]", "default_model"),
]


@pytest.mark.parametrize(("text", "path"), BAD)
def test_bad_values_are_told_with_their_key(problems: Problems, text: str, path: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(f"0.yaml:1: {path}: ")


def test_a_key_of_another_type_of_model_is_told(problems: Problems) -> None:
    assert problems("models: {a: {proxy_url: 'http://a', role: x}}") == [
        "0.yaml:1: models.a.role: belongs to type discovered only"
    ]


def test_an_unknown_key_far_from_any_lists_the_known_ones(problems: Problems) -> None:
    (problem,) = problems("log: {zzz: 1}")
    assert problem.endswith("log.zzz: unknown key; known here: level, format")


def test_a_network_with_bits_beyond_its_prefix_is_corrected(problems: Problems) -> None:
    (problem,) = problems("gateway: {trusted_proxies: [10.1.2.3/24]}")
    assert problem.endswith("has address bits beyond its prefix: write 10.1.2.0/24")


def test_keys_may_be_text_or_mappings(load: Load) -> None:
    config = load(
        "auth:\n  client_api_keys: [abc, 12345, {name: x, key: def, models: []}]\n"
        "  node_api_keys: [{key: n, node_ids: [a], roles: [r], networks: [10.0.0.0/8, '::1']}]\n"
    ).config
    assert [each.source.key for each in config.auth.client_api_keys] == ["abc", "12345", "def"]
    assert [each.models for each in config.auth.client_api_keys] == [None, None, ()]
    assert config.auth.node_api_keys[0].networks == (ip_network("10.0.0.0/8"), ip_network("::1"))


@pytest.mark.parametrize(
    ("content", "key"),
    [("abc", "abc"), ("abc\n", "abc"), ("abc\r\n", "abc"), ("a\xe4c\n", "a\xe4c")],
)
def test_a_secret_is_read_from_its_file_less_one_newline(
    load: Load, tmp_path: Path, content: str, key: str
) -> None:
    (tmp_path / "k").write_text(content)
    text = "auth: {client_api_keys: [{key_file: k}]}"
    assert load(text).config.auth.client_api_keys[0].source.key == key


@pytest.mark.parametrize("content", ["", "\n", "abc\n\n", "a b\n", "a\0b"])
def test_a_file_that_holds_no_key_is_told(problems: Problems, tmp_path: Path, content: str) -> None:
    (tmp_path / "k").write_text(content)
    (problem,) = problems("auth: {client_api_keys: [{key_file: k}]}")
    assert problem.startswith("0.yaml:1: auth.client_api_keys[0].key_file: the file's text ")


def test_a_relative_path_is_relative_to_the_file_that_names_it(load: Load, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    (below / "token").write_text("t")
    base = "models: {a: {proxy_url: 'http://a', auth_token_file: below/token}}"
    model = load(base).config.models["a"]
    assert model.upstream.auth_token == "t"  # type: ignore[union-attr]


@pytest.mark.parametrize("written", ["$CREDENTIALS_DIRECTORY/k", "${CREDENTIALS_DIRECTORY}/k"])
def test_paths_may_begin_with_a_variable(load: Load, tmp_path: Path, written: str) -> None:
    (tmp_path / "k").write_text("abc")
    loaded = load(
        f"auth: {{client_api_keys: [{{key_file: '{written}'}}]}}",
        env={"CREDENTIALS_DIRECTORY": str(tmp_path)},
    )
    assert loaded.config.auth.client_api_keys[0].source.key == "abc"


def test_a_path_with_an_unset_variable_is_told(problems: Problems) -> None:
    (problem,) = problems("auth: {client_api_keys: [{key_file: $CREDENTIALS_DIRECTORY/k}]}")
    assert "needs the environment variable CREDENTIALS_DIRECTORY" in problem


def test_a_secret_and_its_twin_exclude_each_other(problems: Problems, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("t")
    assert problems(
        "models:\n  a:\n    proxy_url: http://a\n    auth_token: x\n    auth_token_file: t\n"
    ) == ["0.yaml:5: models.a.auth_token_file: stands beside auth_token: write one of the two"]


@pytest.mark.parametrize("name", ["missing", "folder", "pipe"])
def test_a_secrets_file_that_cannot_be_read_is_told(
    problems: Problems, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (problem,) = problems(f"auth: {{client_api_keys: [{{key_file: {name}}}]}}")
    assert problem.startswith(f"0.yaml:1: auth.client_api_keys[0].key_file: {name} ")


SECRET = "hunter2hunter2"

LEAKS = [
    f"auth: {{client_api_keys: {SECRET}}}",
    f"auth: {{client_api_keys: ['{SECRET} x', [{SECRET}], {{key_hash: {SECRET}}}]}}",
    f"auth: {{client_api_keys: [{SECRET}, {SECRET}]}}",
    f"gateway: {{host: '{SECRET}!', port: {SECRET}}}\nlog: {SECRET}",
    f"models: {{a: {{proxy_url: 'http://x:{SECRET}@a'}}}}",
    f'models: {{a: {{proxy_url: "http://a", auth_token: "{SECRET}\\n"}}}}',
    f"models: {{a: {{proxy_url: 'http://a', auth_token: {SECRET}, auth_token_file: x}}}}",
    f'auth: {{client_api_keys: ["{SECRET}\n  client: x',
    f"auth: {{client_api_keys: [*{SECRET}]}}",
    f"auth: {{client_api_keys: [!{SECRET} x]}}",
]


@pytest.mark.parametrize("text", LEAKS)
def test_no_problem_repeats_a_secret(problems: Problems, text: str) -> None:
    assert SECRET not in "".join(problems(text))


def test_no_repr_shows_a_secret(load: Load) -> None:
    loaded = load(
        f"auth: {{client_api_keys: [{SECRET}], node_api_keys: [{{key: {SECRET}}}]}}\n"
        f"models: {{a: {{backends: [{{base_url: 'http://a', auth_token: {SECRET}}}]}}}}"
    )
    assert SECRET not in repr(loaded)
    assert SECRET not in repr(loaded.config)
    assert SECRET not in repr(loaded.tree)
