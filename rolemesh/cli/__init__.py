"""The command line: one file per subcommand, and failure turned into words in one (`failure`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from rolemesh import __version__
from rolemesh.cli import failure
from rolemesh.cli.demo import demo
from rolemesh.cli.gateway import gateway
from rolemesh.cli.init import init
from rolemesh.cli.node import node
from rolemesh.cli.register import register
from rolemesh.cli.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rolemesh", message="%(prog)s %(version)s")
def rolemesh() -> None:
    """Several model servers behind one OpenAI-compatible API, routed by role.

    To see it work: rolemesh demo. To begin: rolemesh init gateway.
    """


for _command in (gateway, node, register, status, init, demo):
    rolemesh.add_command(_command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The executable `rolemesh`."""
    sys.exit(failure.run(rolemesh, args, "rolemesh"))


def gateway_main(args: Sequence[str] | None = None) -> NoReturn:
    """The executable `rolemesh-gateway`: the same as `rolemesh gateway`."""
    sys.exit(failure.run(gateway, args, "rolemesh-gateway"))


def node_main(args: Sequence[str] | None = None) -> NoReturn:
    """The executable `rolemesh-node-agent`: the same as `rolemesh node`."""
    sys.exit(failure.run(node, args, "rolemesh-node-agent"))
