"""HTTPS, mTLS, and TLS towards backends; the certificates are made on the spot."""

from __future__ import annotations

import signal
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.blackbox import expect
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess, chat_body, eventually
from tests.rawhttp import RawClient, Truncated
from tests.script import Chunk, Head, Stall, event


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    paths = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(paths["ca"])
    write_certificate(authority, paths)
    return paths


def write_certificate(authority: trustme.CA, paths: dict[str, str]) -> None:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(paths["key"])
    issued.cert_chain_pems[0].write_to_path(paths["cert"])


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving(files: dict[str, str], backend: FakeBackend, **tls: Any) -> dict[str, Any]:
    return {
        "gateway": {"tls": {"cert_file": files["cert"], "key_file": files["key"], **tls}},
        "models": {"writer": {"type": "proxy", "proxy_url": backend.url}},
    }


def test_https_serves_as_http_does(
    files: dict[str, str], authority: trustme.CA, backend: FakeBackend, tmp_path: Path
) -> None:
    with GatewayProcess(serving(files, backend), tmp_path, tls=trusting(authority)) as gateway:
        assert gateway.chat("writer").status == 200
        body = gateway.chat("writer", stream=True).body
        assert len(expect.whole_stream(body)) == 2
        assert gateway.chat("writer", x="x" * 5_000_000).status == 200
        backend.script(Head(), Chunk(event("a")), Stall())
        with gateway.connect() as wire:
            wire.request("POST", "/v1/chat/completions", body=chat_body("writer", stream=True))
            wire.until(wire.pieces(wire.head()), b"\n\n")
        assert backend.received[-1].closed_within(1)


def test_plain_http_on_the_https_port_is_refused(
    files: dict[str, str], authority: trustme.CA, backend: FakeBackend, tmp_path: Path
) -> None:
    with (
        GatewayProcess(serving(files, backend), tmp_path, tls=trusting(authority)) as gateway,
        RawClient(gateway.address) as wire,
    ):
        wire.request("GET", "/health")
        assert b"200" not in wire.rest()
        assert gateway.get("/health").status == 200


def test_half_a_handshake_does_not_hold_anything_up(
    files: dict[str, str], authority: trustme.CA, backend: FakeBackend, tmp_path: Path
) -> None:
    with (
        GatewayProcess(serving(files, backend), tmp_path, tls=trusting(authority)) as gateway,
        RawClient(gateway.address) as wire,
    ):
        wire.send(b"\x16\x03\x01\x02\x00\x01")
        assert gateway.get("/health").status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_versions_of_tls_are_spoken(
    files: dict[str, str],
    authority: trustme.CA,
    backend: FakeBackend,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    with GatewayProcess(serving(files, backend), tmp_path, tls=context) as gateway:
        assert gateway.get("/health").status == 200


def test_with_a_client_authority_a_certificate_is_asked_for(
    files: dict[str, str], authority: trustme.CA, backend: FakeBackend, tmp_path: Path
) -> None:
    config = serving(files, backend, client_ca_file=files["ca"])
    known, stranger = trusting(authority), trusting(authority)
    authority.issue_cert("client@rolemesh.example").configure_cert(known)
    trustme.CA().issue_cert("client@rolemesh.example").configure_cert(stranger)
    with GatewayProcess(config, tmp_path, tls=known) as gateway:
        assert gateway.chat("writer").status == 200
        for context in (trusting(authority), stranger):
            with pytest.raises((OSError, Truncated)):
                _ask(gateway, context)
        assert gateway.get("/health").status == 200


def _ask(gateway: GatewayProcess, context: ssl.SSLContext) -> None:
    with RawClient(gateway.address, tls=context) as wire:
        wire.request("GET", "/health")
        wire.reply()


def test_a_certificate_is_renewed_by_a_reload(
    files: dict[str, str], authority: trustme.CA, backend: FakeBackend, tmp_path: Path
) -> None:
    def serial() -> str:
        with RawClient(gateway.address, tls=trusting(authority)) as wire:
            assert isinstance(wire.socket, ssl.SSLSocket)
            certificate = wire.socket.getpeercert()
        return str((certificate or {})["serialNumber"])

    with GatewayProcess(serving(files, backend), tmp_path, tls=trusting(authority)) as gateway:
        before = serial()
        with gateway.connect() as kept:
            write_certificate(authority, files)
            gateway.signal(signal.SIGHUP)
            eventually(lambda: serial() != before)
            kept.request("GET", "/health")
            assert kept.reply().status == 200
        Path(files["cert"]).write_text("no certificate")
        renewed = serial()
        gateway.signal(signal.SIGHUP)
        eventually(lambda: gateway.metric("config_reloads_total", result="failure") == 1)
        assert serial() == renewed


def test_a_bad_certificate_ends_the_start(
    files: dict[str, str], backend: FakeBackend, tmp_path: Path
) -> None:
    Path(files["cert"]).write_text("no certificate")
    gateway = GatewayProcess(serving(files, backend), tmp_path)
    process = gateway.launch()
    _, told = process.communicate(timeout=20)
    assert process.returncode in (1, 2)
    assert b"cert" in told
    assert b"Traceback" not in told


# Towards backends


def test_a_backends_certificate_is_verified(
    files: dict[str, str], authority: trustme.CA, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    elsewhere = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(elsewhere)
    with FakeBackend(context) as backend, FakeBackend(elsewhere) as other:

        def model(url: str, **fields: Any) -> dict[str, Any]:
            return {"type": "proxy", "backends": [{"name": "a", "base_url": url, **fields}]}

        config = {
            "models": {
                "trusted": model(backend.url, ca_file=files["ca"]),
                "distrusted": model(backend.url),
                "wrong-name": model(other.url, ca_file=files["ca"]),
            }
        }
        with GatewayProcess(config, tmp_path) as gateway:
            assert gateway.chat("trusted").status == 200
            assert len(expect.whole_stream(gateway.chat("trusted", stream=True).body)) == 2
            for alias in ("distrusted", "wrong-name"):
                told = expect.error(gateway.chat(alias), 503, "no_available_backend")
                assert [entry["reason"] for entry in told["details"]] == ["tls_failed"]
            backend.script(Head(), Chunk(event("a")), Stall())
            with gateway.connect() as wire:
                body = chat_body("trusted", stream=True)
                wire.request("POST", "/v1/chat/completions", body=body)
                wire.until(wire.pieces(wire.head()), b"\n\n")
            began = time.monotonic()
            assert backend.received[-1].closed_within(2)
            assert time.monotonic() - began < 1.5
            assert not other.received
