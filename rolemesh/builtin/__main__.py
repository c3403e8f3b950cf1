"""`python -m rolemesh.builtin`: the built-in llama-server as a process."""

from __future__ import annotations

import os
import sys

from rolemesh.builtin import check_installed
from rolemesh.builtin.flags import parse
from rolemesh.builtin.server import run
from rolemesh.errors import RunError


def main() -> int:
    flags = parse(sys.argv[1:], os.environ)
    try:
        check_installed()
    except RunError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code
    return run(flags)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # llama.cpp's threads have joined; tearing the interpreter down around its library may crash.
    os._exit(code)
