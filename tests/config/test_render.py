"""What `--check` prints."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rolemesh.config.render import MASK, scalar
from tests.config.conftest import Load

BASE = """\
gateway: {port: 9000, tls: null}
auth:
  client_api_keys:
    - hunter2
    - {name: bob, key: hunter3, models: [writer]}
    - {key_file: k}
models:
  writer: {proxy_url: "http://a/v1", auth_token: hunter4, defaults: {stop: [a], n: 1}}
  "9/x y": null
  "no":
    backends:
      - {base_url: "http://b", model_id: "é: #"}
"""


def test_the_result_is_yaml_with_secrets_masked(load: Load, tmp_path: Any) -> None:
    (tmp_path / "k").write_text("hunter5")
    text = load(BASE, "registry:\n  stale_after_s: 7").render()
    assert "hunter" not in text
    result = yaml.safe_load(text)
    assert result["gateway"]["port"] == 9000
    assert result["auth"]["client_api_keys"] == [
        MASK,
        {"name": "bob", "key": MASK, "models": ["writer"]},
        {"key_file": str(tmp_path / "k")},
    ]
    assert result["models"]["writer"]["proxy_url"] == "http://a"
    assert result["models"]["writer"]["auth_token"] == MASK
    assert result["models"]["writer"]["defaults"] == {"stop": ["a"], "n": 1}
    assert result["models"]["no"]["backends"][0]["model_id"] == "é: #"
    assert result["registry"]["stale_after_s"] == 7


FREE = """\
models:
  w:
    proxy_url: http://a
    defaults:
      api_key: hunter1
      Authorization: Bearer hunter2
      password: 77777
      max_tokens: 100
      logprobs: true
      seed: 5
      user: me
      access_tokens: [hunter3, [hunter4]]
      extra: {x-auth: {a: hunter5, n: 77777}, list: [{secretKey: hunter6, ok: fine}]}
"""


def test_what_looks_like_a_secret_is_masked_where_any_key_may_stand(load: Load) -> None:
    text = load(FREE).render()
    assert "hunter" not in text
    assert "77777" not in text
    assert yaml.safe_load(text)["models"]["w"]["defaults"] == {
        "api_key": MASK,
        "Authorization": MASK,
        "password": MASK,
        "max_tokens": 100,
        "logprobs": True,
        "seed": 5,
        "user": "me",
        "access_tokens": [MASK, [MASK]],
        "extra": {"x-auth": {"a": MASK, "n": MASK}, "list": [{"secretKey": MASK, "ok": "fine"}]},
    }


def test_an_alias_that_looks_like_a_secret_is_shown(load: Load) -> None:
    assert 'proxy_url: "http://a"' in load("models: {my-key: {proxy_url: 'http://a'}}").render()


def test_every_value_has_its_place(load: Load, tmp_path: Any) -> None:
    (tmp_path / "k").write_text("hunter5")
    env = {"ROLE_MESH_NODE_STALE_AFTER_S": "9"}
    lines = load(BASE, "gateway:\n  host: '::1'", env=env).render().split("\n")
    assert f"  port: 9000  # {tmp_path}/0.yaml:1" in lines
    assert f'  host: "::1"  # {tmp_path}/1.yaml:2' in lines
    assert f"  tls: null  # {tmp_path}/0.yaml:1" in lines
    assert f'    - "***"  # {tmp_path}/0.yaml:4' in lines
    assert "  stale_after_s: 9  # ROLE_MESH_NODE_STALE_AFTER_S" in lines
    assert "  drain_timeout_s: 30  # default" in lines
    values = [line for line in lines if line and not line.endswith(":")]
    assert [line for line in values if "  # " not in line] == []


@pytest.mark.parametrize(
    "value",
    [
        *(
            "a",
            "a b",
            "yes",
            "No",
            "null",
            "~",
            "",
            "1",
            "a: b",
            "- a",
            "#",
            "é",
            "\x00\x7f",
            "a\nb",
        ),
        *(0, 1.5, 30.0, True, None, [1, "a"], {"a": None}),
    ],
)
def test_scalars_read_back_as_what_they_were(value: object) -> None:
    assert yaml.safe_load(scalar(value)) == value
