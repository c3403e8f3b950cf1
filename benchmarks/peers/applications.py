"""The two gateways that are applications: LiteLLM (Python) and Portkey (Node.js)."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import frozen

from benchmarks.adapter import Launch
from benchmarks.peers.environment import NodePackage, PythonPackage, how_to_install
from benchmarks.script import MODEL

LITELLM_KEY = "sk-made-up-for-the-benchmark-0123456789"  # it refuses to start with a short one
LITELLM_START_S = 90.0

LITELLM = PythonPackage("litellm")
PORTKEY = NodePackage("portkey", package="@portkey-ai/gateway")


@frozen
class LiteLLM:
    """It reads each answer into objects and writes JSON of its own."""

    name: str = "litellm"
    headers: tuple[tuple[str, str], ...] = (("Authorization", f"Bearer {LITELLM_KEY}"),)
    setting: str = (
        "as it comes: one master key, one model, one uvicorn worker, its access log; it takes each"
        " event apart, and fails at those of 20 bytes, which are no chunks of the API"
    )
    may_fail: bool = True
    environment: PythonPackage = LITELLM

    @property
    def install(self) -> str:
        return how_to_install(self.environment)

    def version(self) -> str | None:
        return self.environment.version()

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        backend = {
            "model": f"openai/{MODEL}",
            "api_base": f"http://127.0.0.1:{upstream_port}/v1",
            "api_key": "none",
        }
        config = {
            "model_list": [{"model_name": MODEL, "litellm_params": backend}],
            "general_settings": {"master_key": LITELLM_KEY},
        }
        path = directory / "litellm.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        listen = ("--host", "127.0.0.1", "--port", str(port))
        return Launch(
            (self.environment.program("litellm"), "--config", str(path), *listen),
            {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # else it fetches its prices when it starts
            rewrites=True,
            start_s=LITELLM_START_S,
        )


@frozen
class Portkey:
    """Its configuration is in the requests' headers. Its requirements hold back one library to the
    version in its own lock file: with later ones every stream is answered with status 500."""

    name: str = "portkey"
    headers: tuple[tuple[str, str], ...] = (
        ("Authorization", "Bearer none"),
        ("x-portkey-provider", "openai"),
    )
    setting: str = "as it comes, without its console; no keys, no log; the provider in the headers"
    may_fail: bool = True
    environment: NodePackage = PORTKEY

    @property
    def install(self) -> str:
        return how_to_install(self.environment)

    def version(self) -> str | None:
        return self.environment.version()

    def prepare(self, directory: Path, port: int, upstream_port: int) -> Launch:
        program = self.environment.file("build/start-server.js")
        return Launch(
            ("node", program, "--headless", f"--port={port}"),
            headers=(("x-portkey-custom-host", f"http://127.0.0.1:{upstream_port}/v1"),),
        )
