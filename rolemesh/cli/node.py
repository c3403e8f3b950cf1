"""`rolemesh node`: runs the node, or checks its configuration and what it names on this machine."""

from __future__ import annotations

import os
import threading
import time

import click

from rolemesh.cli.daemon import daemon_options
from rolemesh.config.assemble import Loaded, all_problems
from rolemesh.config.files import Sources
from rolemesh.config.load import NODE, load_node
from rolemesh.config.schema_node import NodeFile
from rolemesh.config.shape import section_of
from rolemesh.config.tree import Problem, nearest_origin
from rolemesh.core.devices import select
from rolemesh.node.app import run
from rolemesh.node.check import problems
from rolemesh.node.nvml import Nvml, Reading

_NVML_WITHIN_S = 10.0


@click.command()
@daemon_options("node", NODE.search)
def node(sources: Sources, check: bool) -> int:
    """Run this machine's models for gateways.

    SIGTERM and SIGINT stop it gracefully, a second one at once; SIGHUP reloads the configuration.
    """
    if not check:
        return run(sources, os.environ)
    loaded = load_node(sources, os.environ)
    found = _problems(loaded)
    if found:
        raise all_problems(found, section_of(NodeFile), loaded.files)
    click.echo(loaded.render())
    return 0


def _problems(loaded: Loaded[NodeFile]) -> list[Problem]:
    """What this machine lacks of what the configuration names."""
    config, gpus = loaded.config, _gpus()
    devices, missing = select(config.gpus, config.cpu, gpus.devices)
    place = nearest_origin(loaded.tree, ("gpus",))
    found = [Problem(place, ("gpus",), says.removesuffix(".")) for says in missing]
    found += problems(loaded, devices)
    if gpus.problem is not None and any({"gpus", "device"} & set(each.path) for each in found):
        found.append(Problem(place, ("gpus",), f"could not be read: {gpus.problem}"))
    return found


def _gpus() -> Reading:
    """The machine's, from a thread: a driver can hang for ever."""
    readings: list[Reading] = []
    thread = threading.Thread(
        target=lambda: readings.append(Nvml(_NVML_WITHIN_S).read(time.monotonic())), daemon=True
    )
    thread.start()
    thread.join(_NVML_WITHIN_S)
    return readings[0] if readings else Reading(problem="NVML does not answer")
