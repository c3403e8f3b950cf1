"""Every route of the gateway, and nothing else."""

from __future__ import annotations

from rolemesh.gateway.figures import Figures
from rolemesh.gateway.forward import Forward
from rolemesh.gateway.models import Models
from rolemesh.gateway.nodes import Nodes
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.router import Router
from rolemesh.wire.openai import MODEL_PATHS


def add_routes(
    router: Router, forward: Forward, models: Models, nodes: Nodes, figures: Figures
) -> None:
    router.add("GET", "/health", health)
    router.add("GET", "/ready", models.ready)
    router.add("GET", "/metrics", figures.handle)
    router.add("GET", "/v1/models", models.every)
    router.add("GET", "/v1/models/{id:path}", models.one)
    for path in MODEL_PATHS:
        router.add("POST", path, forward.serve)
    router.add("POST", "/v1/nodes/register", nodes.register)
    router.add("POST", "/v1/nodes/heartbeat", nodes.heartbeat)
    router.add("GET", "/v1/nodes", nodes.every)
    router.add("DELETE", "/v1/nodes/{node_id}", nodes.goodbye)
    router.add("POST", "/v1/nodes/{node_id}/drain", nodes.drain)
    router.add("POST", "/v1/nodes/{node_id}/resume", nodes.resume)


async def health(inbound: Inbound) -> Answer:
    """The process is alive; nothing is probed."""
    return Answer.json({"status": "ok"})
