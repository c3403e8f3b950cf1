"""Who is admin or node where no such key is configured: loopback peers, and only plainly so."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.blackbox import expect
from tests.blackbox.conftest import Config
from tests.gateway_process import GatewayProcess
from tests.rawhttp import RawClient, request_bytes

NODE = {"node_id": "n", "base_url": "http://127.0.0.1:9", "roles": ["r"]}


@pytest.fixture(scope="module")
def config() -> Config:
    return {"auth": {"client_api_keys": ["client-key"]}}


def own_address() -> str | None:
    """An address of this host beyond loopback. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith("127.") else address


def test_a_loopback_peer_is_admin(gateway: GatewayProcess) -> None:
    assert gateway.get("/v1/nodes").status == 200
    assert gateway.post("/v1/nodes/register", NODE).status == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]", "127.9.9.9"]
)
def test_any_loopback_name_may_be_in_host(gateway: GatewayProcess, host: str) -> None:
    with gateway.connect() as wire:
        wire.send(request_bytes("GET", "/v1/nodes", host=host))
        assert wire.reply().status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io"],
)
def test_another_host_is_refused(gateway: GatewayProcess, host: str) -> None:
    """A page that rebinds its name to 127.0.0.1 still says its own name in Host."""
    with gateway.connect() as wire:
        wire.send(request_bytes("GET", "/v1/nodes", host=host))
        expect.error(wire.reply(), 401, "invalid_api_key")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Forwarded", "for=127.0.0.1"),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-For", ""),
        ("X-Forwarded-Host", "localhost"),
        ("X-Forwarded-Proto", "http"),
        ("x-forwarded-anything", "1"),
        ("X-Real-IP", "127.0.0.1"),
        ("Via", "1.1 somebody"),
        ("Origin", "http://localhost"),
        ("Origin", "null"),
    ],
)
def test_a_request_that_came_through_something_is_refused(
    gateway: GatewayProcess, name: str, value: str
) -> None:
    expect.error(gateway.get("/v1/nodes", [(name, value)]), 401, "invalid_api_key")
    expect.error(gateway.post("/v1/nodes/register", NODE, [(name, value)]), 401, "invalid_api_key")
    drain = gateway.post("/v1/nodes/n/drain", {}, [(name, value)])
    expect.error(drain, 401, "invalid_api_key")


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> GatewayProcess:
    config = {
        "gateway": {"host": "0.0.0.0"},
        "auth": {"client_api_keys": ["a-long-client-key"], "allow_anonymous": False},
    }
    return GatewayProcess(config, tmp_path_factory.mktemp("everywhere"))


def test_a_peer_beyond_loopback_is_refused(everywhere: GatewayProcess) -> None:
    address = own_address()
    if address is None:
        pytest.skip("this host has no address beyond loopback")
    with everywhere as gateway, RawClient((address, gateway.address[1])) as wire:
        wire.send(request_bytes("GET", "/v1/nodes"))
        expect.error(wire.reply(), 401, "invalid_api_key")
        wire.send(request_bytes("POST", "/v1/nodes/register", body=b"{}"))
        expect.error(wire.reply(), 401, "invalid_api_key")


def test_behind_trusted_proxies_nobody_is_admin_without_a_key(
    tmp_path: Path,
) -> None:
    config = {"gateway": {"trusted_proxies": ["127.0.0.1"]}}
    with GatewayProcess(config, tmp_path) as gateway:
        expect.error(gateway.get("/v1/nodes"), 401, "invalid_api_key")
        expect.error(gateway.post("/v1/nodes/register", NODE), 401, "invalid_api_key")
