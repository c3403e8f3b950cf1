"""Every route of the node, and nothing else."""

from __future__ import annotations

from rolemesh.node.figures import Figures
from rolemesh.node.forward import Forward
from rolemesh.node.handlers import Handlers
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.router import Router
from rolemesh.wire.openai import MODEL_PATHS


def add_routes(router: Router, forward: Forward, handlers: Handlers, figures: Figures) -> None:
    router.add("GET", "/health", health)
    router.add("GET", "/ready", handlers.ready)
    router.add("GET", "/metrics", figures.handle)
    router.add("GET", "/v1/models", handlers.models)
    router.add("GET", "/v1/models/{id:path}", handlers.model)
    for path in MODEL_PATHS:
        router.add("POST", path, forward.serve)
    router.add("GET", "/v1/node", handlers.node)
    router.add("POST", "/v1/node/drain", handlers.drain)
    router.add("POST", "/v1/node/resume", handlers.resume)
    router.add("POST", "/v1/node/models/{id:path}/load", handlers.load)
    router.add("POST", "/v1/node/models/{id:path}/unload", handlers.unload)
    router.add("GET", "/v1/node/models/{id:path}/log", handlers.log)


async def health(inbound: Inbound) -> Answer:
    """The process is alive; no child is asked."""
    return Answer.json({"status": "ok"})
