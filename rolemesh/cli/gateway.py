"""`rolemesh gateway`: runs the gateway, or checks its configuration."""

from __future__ import annotations

import os

import click
from attrs import evolve

from rolemesh.config.load import find_gateway, load_gateway
from rolemesh.gateway.app import run


@click.command()
@click.option(
    "--config",
    metavar="FILE",
    help="Configuration file. Else ROLE_MESH_CONFIG, else the first that exists of"
    " etc/gateway.yaml, configs/models.yaml, /etc/rolemesh/gateway.yaml.",
)
@click.option(
    "--config-override",
    "overrides",
    metavar="FILE",
    multiple=True,
    help="Merged over the configuration; may be repeated, later ones win."
    " Else ROLE_MESH_CONFIG_OVERRIDE.",
)
@click.option("--host", metavar="HOST", help="Listen on this address instead of gateway.host.")
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    help="Listen on this port instead of gateway.port; 0 takes a free one.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Print the merged configuration, with secrets masked and the file each value came from,"
    " and exit: 0 if it is good, 2 if not. Opens no socket.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="Instead of log.level.",
)
@click.option("--log-format", type=click.Choice(["json", "console"]), help="Instead of log.format.")
def gateway(
    config: str | None,
    overrides: tuple[str, ...],
    host: str | None,
    port: int | None,
    check: bool,
    log_level: str | None,
    log_format: str | None,
) -> int:
    """Run the gateway.

    SIGTERM and SIGINT stop it gracefully, a second one at once; SIGHUP reloads the configuration.
    """
    given = {
        ("gateway.host", "--host"): host,
        ("gateway.port", "--port"): None if port is None else str(port),
        ("log.level", "--log-level"): log_level,
        ("log.format", "--log-format"): log_format,
    }
    sources = evolve(
        find_gateway(config, overrides, os.environ),
        settings={place: text for place, text in given.items() if text is not None},
    )
    if check:
        click.echo(load_gateway(sources, os.environ).render())
        return 0
    return run(sources, os.environ)
