"""`python -m rolemesh.builtin`: the built-in llama-server as a process."""

from __future__ import annotations

import os
import sys

from rolemesh.builtin import check_installed
from rolemesh.builtin.flags import UsageError, listing, parse
from rolemesh.builtin.server import run
from rolemesh.errors import RunError


def main(argv: list[str]) -> int:
    """The exit code, as llama-server's: 1 also for bad usage."""
    try:
        flags = parse(argv, os.environ)
        if flags.help:
            sys.stdout.write(listing())
            return 0
        check_installed()
    except (UsageError, RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return run(flags)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # llama.cpp's threads have joined; tearing the interpreter down around its library may crash.
    os._exit(code)
