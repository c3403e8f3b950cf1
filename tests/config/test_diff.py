from __future__ import annotations

import pytest

from rolemesh.config.diff import changed
from tests.config.conftest import Load, LoadNode

BASE = """\
gateway: {port: 9000}
auth: {client_api_keys: [abc]}
models:
  writer: {proxy_url: "http://a", auth_token: x}
  planner: {backends: [{name: a, base_url: "http://a"}]}
"""


@pytest.mark.parametrize(
    ("over", "paths"),
    [
        ("version: 1", set()),
        ("gateway: {port: 9000, drain_timeout_s: 30}", set()),
        ("gateway: {port: 9001}", {"gateway.port"}),
        ("models: {writer: {auth_token: y}}", {"models.writer.auth_token"}),
        ("models: {writer: {defaults: {a: 1}}}", {"models.writer.defaults.a"}),
        ("models: {writer: {timeouts: {idle_s: 1}}}", {"models.writer.timeouts.idle_s"}),
        ("models: {writer: null, new: {type: discovered}}", {"models.writer", "models.new"}),
        ("models: {planner: {backends: [{base_url: 'http://b'}]}}", {"models.planner.backends"}),
        ("models: {planner: {backends: null, type: discovered}}", {"models.planner"}),
        ("auth: {client_api_keys: [def]}", {"auth.client_api_keys"}),
        ("gateway: {host: '::1', state_path: /s}", {"gateway.host", "gateway.state_path"}),
    ],
)
def test_changes_are_key_paths(load: Load, over: str, paths: set[str]) -> None:
    assert changed(load(BASE).config, load(BASE, over).config).paths == paths


def test_some_changes_wait_for_the_next_start(load: Load) -> None:
    tls = "tls: {cert_file: /dev/null, key_file: /dev/null}"
    tls = f"gateway: {{host: '::1', drain_timeout_s: 1, {tls}}}"
    changes = changed(load("version: 1").config, load(tls).config)
    assert changes.needs_restart == ("gateway.host", "gateway.tls")
    assert "gateway.drain_timeout_s" in changes.paths


def test_a_node_keeps_its_name_and_places_until_the_next_start(node: LoadNode) -> None:
    base = "node: {node_id: a}\nmodels: [{model_id: a, path: /a, roles: [r]}]"
    over = (
        "node: {node_id: b, log_dir: /l, advertise_url: 'http://a'}\n"
        "models: [{model_id: a, path: /b, roles: [r]}]\n"
        "gpus: [0]\n"
    )
    changes = changed(node(base).config, node(base, over).config)
    assert changes.needs_restart == ("node.node_id", "node.log_dir")
    assert changes.paths - set(changes.needs_restart) == {"node.advertise_url", "models", "gpus"}


def test_other_certificates_do_not_wait(load: Load) -> None:
    tls = "gateway: {tls: {cert_file: /dev/null, key_file: /dev/null}}"
    other = "gateway: {tls: {client_ca_file: /dev/null}}"
    changes = changed(load(tls).config, load(tls, other).config)
    assert (changes.paths, changes.needs_restart) == ({"gateway.tls.client_ca_file"}, ())


def test_changes_can_be_asked_for_a_section(load: Load) -> None:
    changes = changed(load(BASE).config, load(BASE, "models: {writer: {queue_s: 1}}").config)
    assert changes
    assert changes.within("models")
    assert changes.within("models.writer")
    assert not changes.within("models.write")
    assert not changes.within("auth")
