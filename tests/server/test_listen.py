"""Sockets and TLS contexts, and the words for those that cannot be had."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from rolemesh.errors import ConfigError, RunError
from rolemesh.server.listen import listening_sockets, server_context


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key, ca = (str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return cert, key, ca


def test_port_0_takes_one_free_port_for_every_address():
    opened = listening_sockets("localhost", 0)
    assert len({one.getsockname()[1] for one in opened}) == 1
    for one in opened:
        with socket.create_connection(one.getsockname()[:2], timeout=2):
            pass
        one.close()


@pytest.mark.parametrize("host", ["*", "::", ""])
def test_a_wildcard_is_reached_over_ipv4_and_ipv6(host: str):
    opened = listening_sockets(host, 0)
    port = opened[0].getsockname()[1]
    for address in ["127.0.0.1", "::1"] if has_ipv6() else ["127.0.0.1"]:
        with socket.create_connection((address, port), timeout=2):
            pass
    for one in opened:
        one.close()


def test_a_port_in_use_is_named_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError) as caught:
            listening_sockets("127.0.0.1", port)
    assert f"127.0.0.1:{port}: the port is in use" in caught.value.message


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.1", "this host has no such address"),
        ("no-such-name.invalid", "does not resolve"),
        ("a" * 70 + ".example", "does not resolve"),
    ],
)
def test_an_address_that_cannot_be_had_is_named(host: str, words: str):
    with pytest.raises(RunError) as caught:
        listening_sockets(host, 0)
    assert host in caught.value.message
    assert words in caught.value.message


def test_a_context_asks_for_tls_1_2_at_least(files: tuple[str, str, str]):
    cert, key, ca = files
    context = server_context(cert, key, None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert server_context(cert, key, ca).verify_mode is ssl.CERT_REQUIRED


def test_a_missing_file_is_named(files: tuple[str, str, str]):
    cert, key, _ = files
    with pytest.raises(ConfigError, match=r"cert_file /nowhere/cert\.pem cannot be read"):
        server_context("/nowhere/cert.pem", key, None)
    with pytest.raises(ConfigError, match=r"key_file /nowhere/key\.pem cannot be read"):
        server_context(cert, "/nowhere/key.pem", None)
    with pytest.raises(ConfigError, match=r"client_ca_file /nowhere/ca\.pem cannot be read"):
        server_context(cert, key, "/nowhere/ca.pem")


def test_swapped_encrypted_and_foreign_files_are_errors_and_ask_nothing(
    files: tuple[str, str, str], tmp_path: Path
):
    cert, key, _ = files
    encrypted = str(tmp_path / "encrypted.pem")
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-aes128", "-passout", "pass:secret", "-out", encrypted],
        check=True,
    )
    foreign = str(tmp_path / "foreign.pem")
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(foreign)
    for one, other in ((key, cert), (cert, encrypted), (cert, foreign), (os.devnull, key)):
        with pytest.raises(ConfigError, match="cannot be used"):
            server_context(one, other, None)
    with pytest.raises(ConfigError, match="holds no certificate"):
        server_context(cert, key, key)
