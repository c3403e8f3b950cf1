"""Where failure is turned into words and an exit code: the only place of the command line.

0 fine, 1 failed at run time, 2 usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import click

from rolemesh.errors import RoleMeshError
from rolemesh.server.limits import claim_standard_descriptors

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def run(command: click.Command, args: Sequence[str] | None, name: str) -> int:
    """Run a command to its end and return the exit code. A traceback means a bug of ours."""
    claim_standard_descriptors()
    try:
        result = command.main(
            None if args is None else list(args), prog_name=name, standalone_mode=False
        )
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    except RoleMeshError as error:
        complain(f"{name}: {error.message}")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has enough. Python must not try to flush it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        complain(f"{name}: {error.filename or 'input or output'}: {error.strerror or error}")
        return EXIT_FAILED
    return result if isinstance(result, int) else 0


def complain(message: str) -> None:
    """One or several lines on stderr, whatever state that is in."""
    with contextlib.suppress(OSError):
        click.echo(message, err=True)
