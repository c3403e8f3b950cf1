"""A configuration in a few words, compiled as the gateway does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway
from rolemesh.gateway.live import Live, live_of

MODELS = {
    "writer": {"type": "proxy", "proxy_url": "http://127.0.0.1:8012"},
    "reviewer": {"type": "discovered"},
}


def live(folder: Path, **sections: Any) -> Live:
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump({"version": 1, "models": MODELS, **sections}, sort_keys=False))
    return live_of(load_gateway(Sources((str(path),)), {}).config)
