"""What the tests against real parts share: one gateway before real llama.cpp servers, and more.

`front` is for tests that only ask: aliases `tiny`, `slow` and `embed`, each on a server of its own,
and the keys in `KEYS`. Tests that end servers or gateways start their own: `start_gateway`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.gateway_process import GatewayProcess
from tests.llama import LlamaServer, Starter, hello
from tests.rawhttp import Head, RawClient, request_bytes

KEYS = {"whole": "sk-for-everything", "limited": "sk-for-tiny-only"}
CHAT = "/v1/chat/completions"
StartGateway = Callable[..., GatewayProcess]


def proxy(*servers: LlamaServer | str, **fields: Any) -> dict[str, Any]:
    """An alias with these backends, in this order, named first, second and so on."""
    names = ("first", "second", "third")
    backends = [
        {"name": name, "base_url": server if isinstance(server, str) else server.url}
        for name, server in zip(names, servers, strict=False)
    ]
    return {"type": "proxy", "backends": backends, **fields}


@pytest.fixture(scope="package")
def embedder(llama_folder: Path) -> Iterator[LlamaServer]:
    """A server with an embedding for each input; their sizes make large bodies both ways."""
    starter = Starter(llama_folder)
    yield starter(alias="embedder", args=("--embeddings",))
    starter.stop_all()


@pytest.fixture(scope="package")
def front(
    llama: LlamaServer,
    slow_llama: LlamaServer,
    embedder: LlamaServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    keys = [
        {"name": "whole", "key": KEYS["whole"]},
        {"name": "limited", "key": KEYS["limited"], "models": ["tiny"]},
    ]
    servers = {"tiny": llama, "slow": slow_llama, "embed": embedder}
    config = {
        "default_model": "tiny",
        "auth": {"client_api_keys": keys},
        "models": {alias: proxy(server) for alias, server in servers.items()},
    }
    with GatewayProcess(config, tmp_path_factory.mktemp("front")) as process:
        yield process


@pytest.fixture
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """`start_gateway({"alias": proxy(server)}, registry={...})`: gone when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(models: dict[str, Any], **config: Any) -> GatewayProcess:
            folder = tmp_path_factory.mktemp("gateway")
            return stack.enter_context(GatewayProcess({"models": models, **config}, folder))

        yield start


def bearer(key: str = KEYS["whole"]) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@frozen
class Stream:
    """A streamed answer whose head and first event have come."""

    wire: RawClient
    head: Head
    first: bytes
    pieces: Iterator[bytes]

    def rest(self) -> bytes:
        """All that comes until the stream ends by itself."""
        return b"".join(self.pieces)


@contextlib.contextmanager
def streaming(
    gateway: GatewayProcess,
    model: str,
    path: str = CHAT,
    headers: list[tuple[str, str]] | None = None,
    **fields: Any,
) -> Iterator[Stream]:
    """Ask for a stream and leave it when the block ends. Far longer than any test unless told."""
    length = {"/v1/responses": "max_output_tokens"}.get(path, "max_tokens")
    subject = {"/v1/completions": ("prompt", "hello"), "/v1/responses": ("input", "hello")}
    name, value = subject.get(path, ("messages", hello()))
    body = {"model": model, name: value, "stream": True, length: 1000, **fields}
    given = [("Content-Type", "application/json"), *(bearer() if headers is None else headers)]
    with gateway.connect(timeout_s=20.0) as wire:
        wire.send(request_bytes("POST", path, given, as_json(body)))
        head = wire.head()
        pieces = wire.pieces(head)
        yield Stream(wire, head, wire.until(pieces, b"\n\n"), pieces)
