"""HTTPS both ways: the node verifies its gateway, the gateway its node."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme

from tests.mesh.conftest import KEY, ROLE, Mesh, told_of, url_of, wait_told
from tests.node_process import model


def test_gateway_and_node_speak_https_with_each_other(
    mesh: Mesh, tiny: Path, tmp_path: Path
) -> None:
    authority, other = trustme.CA(), trustme.CA()
    ca, others = tmp_path / "ca.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(str(ca))
    other.cert_pem.write_to_path(str(others))
    files = {name: str(tmp_path / f"{name}.pem") for name in ("cert_file", "key_file")}
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(files["key_file"])
    issued.cert_chain_pems[0].write_to_path(files["cert_file"])
    trusting = ssl.create_default_context(cafile=str(ca))
    # A gateway has the system's authorities for nodes.
    gateway = mesh.gateway(env={"SSL_CERT_FILE": str(ca)}, tls=trusting, gateway={"tls": files})
    target = {"url": url_of(gateway), "node_key": KEY}
    served = [model("m", tiny, roles=[ROLE])]
    box = mesh.node(
        "box", models=served, tls=trusting, node={"tls": files},
        gateways=[{**target, "ca_file": str(ca)}],
    )  # fmt: skip
    wait_told(gateway, "box", m="STOPPED")
    assert told_of(gateway, "box")["base_url"] == url_of(box)
    reply = gateway.chat(ROLE, stream=True, max_tokens=4)
    assert (reply.status, reply.get("X-RoleMesh-Node")) == (200, "box")
    assert reply.body.endswith(b"data: [DONE]\n\n")
    suspicious = mesh.node(
        "suspicious", models=served, gateways=[{**target, "ca_file": str(others)}]
    )
    suspicious.wait_line(lambda line: "not registered" in str(line.get("message")))
    assert "certificate" in suspicious.view()["gateways"][0]["last_error"]["message"]
