"""What a gateway refuses to start with, and which code and words it leaves behind."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway_process import GatewayProcess

KEY = "a-long-and-private-key"


def ended(config: dict[str, Any], directory: Path, **env: str) -> tuple[int, str]:
    """Exit code and standard error of a gateway that does not come up."""
    process = GatewayProcess(config, directory, env=env).launch()
    try:
        _, told = process.communicate(timeout=20)
    finally:
        process.kill()
    assert b"Traceback" not in told
    return process.returncode, told.decode()


PROXY = {"type": "proxy", "proxy_url": "http://127.0.0.1:9"}
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "anonymous beyond loopback": ({"gateway": {"host": "0.0.0.0"}}, "allow_anonymous"),
    "a sample key beyond loopback": (
        {"gateway": {"host": "0.0.0.0"}, "auth": {"client_api_keys": ["change-me-please"]}},
        "client_api_keys",
    ),
    "no auth at all": ({"auth": None}, "auth"),
    "an unknown key": ({"gatway": {}}, "gateway"),
    "an unknown default": ({"default_model": "nobody", "models": {"a": PROXY}}, "default_model"),
    "names that overlap": (
        {"models": {"a": PROXY, "b": {**PROXY, "openai_model_name": "a"}}},
        "openai_model_name",
    ),
    "a backend that is the gateway": (
        {
            "gateway": {"port": 18999},
            "models": {"a": {"type": "proxy", "proxy_url": "http://localhost:18999/v1"}},
        },
        "models.a",
    ),
    "an unset variable": ({"models": {"a": {**PROXY, "auth_token": "${NOT_SET_HERE}"}}}, "NOT_SET"),
    "a file that is not there": (
        {"models": {"a": {**PROXY, "auth_token_file": "/nowhere/token"}}},
        "auth_token_file",
    ),
    "another version": ({"version": 2}, "version"),
}


@pytest.mark.parametrize(("config", "word"), WRONG.values(), ids=WRONG)
def test_a_wrong_configuration_ends_with_two_and_names_the_place(
    tmp_path: Path, config: dict[str, Any], word: str
) -> None:
    code, told = ended(config, tmp_path)
    assert code == 2, told
    assert word in told


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "inf", "0", "1e99"])
def test_an_environment_value_out_of_range_is_named(tmp_path: Path, value: str) -> None:
    code, told = ended({}, tmp_path, ROLE_MESH_NODE_STALE_AFTER_S=value)
    assert code == 2, told
    assert "ROLE_MESH_NODE_STALE_AFTER_S" in told


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def test_a_port_in_use_is_a_failure_of_the_moment(tmp_path: Path, taken: int) -> None:
    code, told = ended({"gateway": {"port": taken}}, tmp_path)
    assert code == 1, told
    assert str(taken) in told


def test_beyond_loopback_with_keys_or_by_consent(tmp_path: Path) -> None:
    for auth in ({"client_api_keys": [KEY]}, {"allow_anonymous": True}):
        config = {"gateway": {"host": "0.0.0.0"}, "auth": auth}
        gateway = GatewayProcess(config, tmp_path)
        with gateway:
            gateway.address = ("127.0.0.1", gateway.address[1])
            assert gateway.get("/health").status == 200


def test_the_address_of_ipv6_loopback_is_one(tmp_path: Path) -> None:
    if not Path("/proc/net/if_inet6").exists() or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this host has no IPv6")
    with GatewayProcess({"gateway": {"host": "::1"}}, tmp_path) as gateway:
        assert gateway.get("/v1/nodes").status == 200


def test_a_forwarded_address_is_believed_from_trusted_proxies_only(tmp_path: Path) -> None:
    headers = [("X-Forwarded-For", "198.51.100.9, 203.0.113.7")]
    gateway = GatewayProcess({"gateway": {"trusted_proxies": ["127.0.0.0/8"]}}, tmp_path)
    with gateway:
        line = gateway.request_line(gateway.get("/v1/models", headers))
        assert line["peer"] == "203.0.113.7"
        for odd in ("nonsense", "", "1.2.3.4:80", "[::1]", "::1, " * 500):
            assert gateway.get("/v1/models", [("X-Forwarded-For", odd)]).status in (200, 400)
    gateway.configure({})
    with gateway:
        line = gateway.request_line(gateway.get("/v1/models", headers))
        assert line["peer"] == "127.0.0.1"
