"""The command line: one file per subcommand, and failure turned into words in one (`failure`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from rolemesh import __version__
from rolemesh.cli import failure

COMMANDS = ("gateway", "node", "register", "status", "init", "demo")


class _Group(click.Group):
    """Loads a subcommand's file when it is asked for: a gateway has no use for the node's code,
    and keeps in memory what it loads."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _command(cmd_name) if cmd_name in COMMANDS else None


@click.command(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="rolemesh", message="%(prog)s %(version)s")
def rolemesh() -> None:
    """Several model servers behind one OpenAI-compatible API, routed by role.

    To see it work: rolemesh demo. To begin: rolemesh init gateway.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The executable `rolemesh`."""
    sys.exit(failure.run(rolemesh, args, "rolemesh"))


def gateway_main(args: Sequence[str] | None = None) -> NoReturn:
    """The executable `rolemesh-gateway`: the same as `rolemesh gateway`."""
    sys.exit(failure.run(_command("gateway"), args, "rolemesh-gateway"))


def node_main(args: Sequence[str] | None = None) -> NoReturn:
    """The executable `rolemesh-node-agent`: the same as `rolemesh node`."""
    sys.exit(failure.run(_command("node"), args, "rolemesh-node-agent"))


def _command(name: str) -> click.Command:
    command: click.Command = getattr(import_module(f"rolemesh.cli.{name}"), name)
    return command
