"""TLS contexts, and which file is at fault when there is none."""

from __future__ import annotations

import os
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from rolemesh.errors import ConfigError
from rolemesh.server.tls import client_context, server_context


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    cert, key, ca = (str(tmp_path / name) for name in ("cert.pem", "key.pem", "ca.pem"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return cert, key, ca


def test_a_context_asks_for_tls_1_2_at_least(files: tuple[str, str, str]):
    cert, key, ca = files
    context = server_context(cert, key, None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert server_context(cert, key, ca).verify_mode is ssl.CERT_REQUIRED


def test_a_missing_file_is_named(files: tuple[str, str, str]):
    cert, key, _ = files
    with pytest.raises(ConfigError, match=r"certificate file /nowhere/cert\.pem cannot be read"):
        server_context("/nowhere/cert.pem", key, None)
    with pytest.raises(ConfigError, match=r"key file /nowhere/key\.pem cannot be read"):
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


def test_a_client_trusts_the_given_authority_alone(files: tuple[str, str, str]):
    cert, key, ca = files
    context = client_context(ca, cert, key)
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(ConfigError, match=r"ca_file /nowhere/ca\.pem cannot be read"):
        client_context("/nowhere/ca.pem", None, None)
