"""What the rest of the program gets to work with."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from rolemesh.config.compile import aliases, default_alias, keyring, state_path, trusted
from rolemesh.core.types import Backend, Candidate, Strategy, Timeouts
from rolemesh.wire.url import parse_url
from tests.config.conftest import Load


def test_a_proxy_url_is_one_backend(load: Load) -> None:
    config = load(
        "models: {w: {proxy_url: 'http://127.0.0.1:8012/v1', model_id: m, auth_token: t,"
        " max_in_flight: 2, ca_file: /dev/null, defaults: {temperature: 0.6, stop: [a]}}}"
    ).config
    (alias,) = aliases(config)
    url = parse_url("http://127.0.0.1:8012")
    auth = ("Authorization", "Bearer t")
    backend = Backend("w/proxy", "proxy", url, auth, ca_file="/dev/null")
    assert alias.backends == (Candidate(backend, "m", "w/proxy", limit=2),)
    assert (alias.openai_model_name, alias.type, alias.strategy) == (
        "w",
        "proxy",
        Strategy.PRIORITY,
    )
    assert alias.defaults == {"temperature": b"0.6", "stop": b'["a"]'}


def test_backends_keep_their_order_and_get_names(load: Load) -> None:
    config = load(
        "models: {p: {backends: [{name: gpu, base_url: 'http://a:1'}, {base_url: 'https://b'}]}}"
    ).config
    (alias,) = aliases(config)
    assert [each.backend.label for each in alias.backends] == ["p/gpu", "p/b:443"]


@pytest.mark.parametrize(
    ("keys", "auth"),
    [
        ("", None),
        ("auth_token: ''", None),
        ("auth_token: t", ("Authorization", "Bearer t")),
        ("auth_token: t, auth_scheme: Basic", ("Authorization", "Basic t")),
        ("auth_token: t, auth_scheme: ''", ("Authorization", "t")),
        ("auth_token: t, auth_header: X-Api-Key", ("X-Api-Key", "t")),
        ("auth_token: t, auth_header: authorization", ("authorization", "Bearer t")),
    ],
)
def test_credentials(load: Load, keys: str, auth: tuple[str, str] | None) -> None:
    (alias,) = aliases(load(f"models: {{a: {{proxy_url: 'http://a', {keys}}}}}").config)
    assert alias.backends[0].backend.auth == auth


def test_a_discovered_model(load: Load) -> None:
    config = load(
        "timeouts: {idle_s: 7}\n"
        "models:\n"
        "  a: {type: discovered}\n"
        "  b: {type: discovered, role: r, strategy: random, prefer_ready: false, queue_s: 0,"
        " openai_model_name: x, timeouts: {connect_s: 1}}\n"
    ).config
    first, second = aliases(config)
    assert (first.role, first.strategy, first.prefer_ready) == ("a", Strategy.ROUND_ROBIN, True)
    assert (second.role, second.strategy, second.prefer_ready) == ("r", Strategy.RANDOM, False)
    assert (second.queue_s, second.openai_model_name, second.type) == (0, "x", "discovered")
    assert first.timeouts == Timeouts(idle_s=7.0)
    assert second.timeouts == Timeouts(connect_s=1.0, idle_s=7.0)


def test_the_default_model_is_told_as_an_alias(load: Load) -> None:
    models = "models: {a: {proxy_url: 'http://a', openai_model_name: x}}"
    assert default_alias(load(models).config) is None
    assert default_alias(load(f"default_model: a\n{models}").config) == "a"
    assert default_alias(load(f"default_model: x\n{models}").config) == "a"


def test_keys_find_their_callers(load: Load) -> None:
    auth = load(
        "auth:\n"
        "  client_api_keys: [abc, {name: bob, key: def, models: [a]}]\n"
        "  node_api_keys: [{key: n, node_ids: [i], roles: [r], networks: [10.0.0.0/8]}]\n"
        "  admin_api_keys: [{name: ops, key_hash: 'sha256:"
        "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD'}]\n"
        "models: {a: {type: discovered}}\n"
    ).config.auth
    clients, nodes, admins = map(
        keyring, (auth.client_api_keys, auth.node_api_keys, auth.admin_api_keys)
    )
    first, second = clients.find("abc"), clients.find("def")
    assert first is not None
    assert second is not None
    assert (first.name, first.models) == ("client-1", None)
    assert (second.name, second.models) == ("bob", {"a"})
    node = nodes.find("n")
    assert node is not None
    assert (node.name, node.node_ids, node.roles) == ("node-1", {"i"}, {"r"})
    assert node.networks == (ip_network("10.0.0.0/8"),)
    admin = admins.find("abc")
    assert admin is not None
    assert admin.name == "ops"
    assert clients.find("n") is None


def test_a_key_keeps_its_id_when_it_is_moved_renamed_or_hashed(load: Load) -> None:
    texts = ("[x, abc]", "[{name: n, key: abc}]")
    found = {
        getattr(
            keyring(load(f"auth: {{client_api_keys: {text}}}").config.auth.client_api_keys).find(
                "abc"
            ),
            "key_id",
            None,
        )
        for text in texts
    }
    assert len(found) == 1
    assert None not in found


def test_trusted_proxies_are_networks_and_names(load: Load) -> None:
    config = load("gateway: {trusted_proxies: [10.0.0.0/8, '::1', lb.example]}").config
    networks = (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert trusted(config) == (networks, ("lb.example",))


@pytest.mark.parametrize(
    ("configured", "env", "expected"),
    [
        ("/a/b.json", {"STATE_DIRECTORY": "/s"}, "/a/b.json"),
        (None, {"STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x"}, "/s/gateway.json"),
        (None, {"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/rolemesh/gateway.json"),
        (None, {"XDG_STATE_HOME": "x", "HOME": "/h"}, "/h/.local/state/rolemesh/gateway.json"),
        (None, {"HOME": "/h"}, "/h/.local/state/rolemesh/gateway.json"),
    ],
)
def test_where_state_is_kept(configured: str | None, env: dict[str, str], expected: str) -> None:
    assert state_path(configured, "gateway.json", env) == expected
