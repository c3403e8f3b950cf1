"""Other gateways for models, each as its users would run it, in an environment of its own.

`python -m benchmarks.peers` (or `make bench-peers`) makes the environments below build/peers, from
the pinned requirements beside this file. What cannot be made is named in a run, with the reason.
Each has one worker process; the routers written in Rust have a thread per core, as their users
have it, and one thread where they are made lean. All of them may fail.
"""

from __future__ import annotations

from benchmarks.adapter import Gateway
from benchmarks.peers.applications import LITELLM, PORTKEY, LiteLLM, Portkey
from benchmarks.peers.control import PlainRelay
from benchmarks.peers.environment import Environment
from benchmarks.peers.routers import ROUTERS, SGLANG, VLLM

ENVIRONMENTS: tuple[Environment, ...] = (SGLANG, VLLM, PORTKEY, LITELLM)
PEERS: tuple[Gateway, ...] = (*ROUTERS, PlainRelay(), Portkey(), LiteLLM())
