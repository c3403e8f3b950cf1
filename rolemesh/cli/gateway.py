"""`rolemesh gateway`: runs the gateway, or checks its configuration."""

from __future__ import annotations

import os

import click

from rolemesh.cli.daemon import daemon_options
from rolemesh.config.files import Sources
from rolemesh.config.load import GATEWAY, load_gateway
from rolemesh.gateway.app import run


@click.command()
@daemon_options("gateway", GATEWAY.search)
def gateway(sources: Sources, check: bool) -> int:
    """Run the gateway.

    SIGTERM and SIGINT stop it gracefully, a second one at once; SIGHUP reloads the configuration.
    """
    if check:
        click.echo(load_gateway(sources, os.environ).render())
        return 0
    return run(sources, os.environ)
