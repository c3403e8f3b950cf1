"""The options that both daemons have, and the sources that they stand for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
from attrs import evolve

from rolemesh.config.files import Search, Sources, find

Body = Callable[[Sources, bool], int]


def daemon_options(section: str, search: Search) -> Callable[[Body], Callable[..., int]]:
    """Makes a command's body of one that takes the sources, and whether only to check them.

    `section`: the configuration's section that says where the daemon listens.
    """

    def decorate(body: Body) -> Callable[..., int]:
        def command(check: bool, **given: Any) -> int:
            return body(_sources(section, search, **given), check)

        command.__doc__ = body.__doc__
        command.__name__ = body.__name__
        for option in reversed(_options(section, search)):
            command = option(command)
        return command

    return decorate


def _sources(
    section: str,
    search: Search,
    config: str | None,
    overrides: tuple[str, ...],
    host: str | None,
    port: int | None,
    log_level: str | None,
    log_format: str | None,
) -> Sources:
    given = {
        (f"{section}.host", "--host"): host,
        (f"{section}.port", "--port"): None if port is None else str(port),
        ("log.level", "--log-level"): log_level,
        ("log.format", "--log-format"): log_format,
    }
    return evolve(
        find(search, config, overrides, os.environ),
        settings={place: text for place, text in given.items() if text is not None},
    )


def _options(section: str, search: Search) -> list[Callable[..., Any]]:
    return [
        click.option(
            "--config",
            metavar="FILE",
            help=f"Configuration file. Else {search.variable}, else the first that exists of"
            f" {', '.join(search.places)}.",
        ),
        click.option(
            "--config-override",
            "overrides",
            metavar="FILE",
            multiple=True,
            help="Merged over the configuration; may be repeated, later ones win."
            f" Else {search.override_variable}.",
        ),
        click.option(
            "--host", metavar="HOST", help=f"Listen on this address instead of {section}.host."
        ),
        click.option(
            "--port",
            metavar="PORT",
            type=click.IntRange(0, 65535),
            help=f"Listen on this port instead of {section}.port; 0 takes a free one.",
        ),
        click.option(
            "--check",
            is_flag=True,
            help="Print the merged configuration, with secrets masked and the file each value came"
            " from, and exit: 0 if it is good, 2 if not. Opens no socket.",
        ),
        click.option(
            "--log-level",
            type=click.Choice(["debug", "info", "warning", "error", "critical"]),
            help="Instead of log.level.",
        ),
        click.option(
            "--log-format", type=click.Choice(["json", "console"]), help="Instead of log.format."
        ),
    ]
