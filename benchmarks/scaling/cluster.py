"""A cluster by its size: the gateway's configuration, and what each of its nodes says.

Pure but for the one file that the gateway reads. Each node serves three models of two roles each,
so that a role of a big cluster has a few nodes. In a `wide` one the first role, that of the alias
which most of the load asks for, is served by every node: where the number of nodes can cost most.
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from benchmarks.adapter import Launch
from benchmarks.gateways import CLIENT_KEY, rolemesh
from benchmarks.script import MODEL
from rolemesh.core.types import Heartbeat, ModelState, Registration, ServedModel
from rolemesh.wire.registration import heartbeat_body, register_body
from rolemesh.wire.url import parse_url

NODE_KEY = "benchmark-node-key"  # made up; the gateway listens on loopback
MODELS = 3  # of a node
ROLES = 2  # of a model
SLOTS = 64  # of a model: no request has to wait for one
BEATS = 2  # different heartbeats of a node, in turn: hardly two of a real one are the same
GIB = 2**30


@frozen
class Size:
    aliases: int
    nodes: int
    wide: bool = False

    @property
    def name(self) -> str:
        return f"{self.aliases}x{self.nodes}" + " wide" * self.wide

    @property
    def models(self) -> tuple[str, ...]:
        """Every alias. All but the first are named so that a request's size stays the same."""
        return (MODEL, *(f"r{number:04d}" for number in range(1, self.aliases)))


SMALL, BIG, WIDE = Size(1, 1), Size(1000, 500), Size(1000, 500, wide=True)


def launch(size: Size, directory: Path, port: int) -> Launch:
    auth = {"client_api_keys": [CLIENT_KEY], "node_api_keys": [NODE_KEY]}
    return rolemesh(directory, port, auth, {name: {"type": "discovered"} for name in size.models})


def address(node: int) -> str:
    """Each node has its own: all of 127.0.0.0/8 is this machine."""
    return f"127.1.{node // 250}.{node % 250 + 1}"


def node_id(node: int) -> str:
    return f"node-{node:04d}"


def registration(size: Size, node: int, port: int) -> bytes:
    url = parse_url(f"http://{address(node)}:{port}")
    meta = {"gpu": "NVIDIA RTX A6000", "rack": f"r{node // 20}"}
    return register_body(Registration(node_id(node), url, _served(size, node, 0), meta))


def beat(size: Size, node: int, number: int) -> bytes:
    """What changes from one to the next: slots in use, and the figures of two cards and a host."""
    busy = number % BEATS
    devices = [
        {
            "id": f"GPU-{node:04d}-{card}",
            "name": "NVIDIA RTX A6000",
            "memory_used_bytes": (40 + busy) * GIB,
            "memory_total_bytes": 48 * GIB,
            "utilization_ratio": 0.5 + busy / 4,
            "temperature_celsius": 61 + busy,
            "power_watts": 250.5 + busy,
        }
        for card in range(2)
    ]
    host = {
        "load1": 3.25 + busy,
        "memory_used_bytes": (100 + busy) * GIB,
        "memory_total_bytes": 256 * GIB,
    }
    metrics = {"devices": devices, "host": host}
    return heartbeat_body(Heartbeat(node_id(node), _served(size, node, busy), metrics))


def _served(size: Size, node: int, busy: int) -> tuple[ServedModel, ...]:
    return tuple(
        ServedModel(
            model_id=f"model-{number}.Q5_K_M.gguf",
            roles=_roles(size, node, number),
            meta={"family": "Qwen3", "quant": "Q5_K_M"},
            state=ModelState.READY,
            slots=SLOTS,
            slots_busy=busy,
            max_context=32_768,
        )
        for number in range(MODELS)
    )


def _roles(size: Size, node: int, model: int) -> tuple[str, ...]:
    """They go round. The first role is every node's in a wide cluster, by its first model."""
    names = size.models
    first = (node * MODELS + model) * ROLES
    others = [names[(first + number) % len(names)] for number in range(ROLES)]
    return tuple(dict.fromkeys([MODEL, *others] if size.wide and model == 0 else others))
