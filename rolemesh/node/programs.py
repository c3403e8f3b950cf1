"""The program that serves models: where it is, and what it says of itself with --help.

Asked by `command` and `check`. A program is asked once, as long as its file stays the same; what it
says is bounded in time and size, and whatever it has started by then is killed. Blocks: not for the
event loop. What cannot be had of `--help` is assumed (wire/llama_help), for a wrapper script need
not mind it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping

from attrs import frozen

from rolemesh import builtin
from rolemesh.builtin import flags as builtin_flags
from rolemesh.errors import RunError
from rolemesh.wire.llama_help import ASSUMED, Help, read_help

BUILTIN = "builtin"
WHAT = "the program of llama_server.path"  # no path: clients may read it
WITHIN_S = 10.0
MOST_BYTES = 1024 * 1024

_Kept = tuple[str, int, int]  # path, time of change, size

_lock = threading.Lock()
_asked: dict[_Kept, Help] = {}


@frozen
class Program:
    """`argv`: what runs it, with an absolute path; flags come behind. `known`: its flags."""

    argv: tuple[str, ...]
    known: Help


def find(path: str, env: Mapping[str, str]) -> Program:
    """The program `llama_server.path`; `env` is what a child gets. Raises RunError."""
    if path == BUILTIN:
        builtin.check_installed()
        return Program(tuple(builtin.command()), read_help(builtin_flags.listing()))
    found = shutil.which(path, path=env.get("PATH", os.defpath))
    if found is None:
        raise RunError(f"{WHAT} {_absence(path)}")
    program = os.path.abspath(found)
    return Program((program,), _known(program, env))


def _absence(path: str) -> str:
    if "/" not in path:
        return "is not to be found in $PATH"
    if os.path.isdir(path):
        return "is a directory"
    return "is not executable" if os.path.exists(path) else "does not exist"


def _known(program: str, env: Mapping[str, str]) -> Help:
    try:
        state = os.stat(program)
    except OSError:  # gone meanwhile: to start it will fail with the reason
        return ASSUMED
    kept = program, state.st_mtime_ns, state.st_size
    with _lock:  # several models that start at once ask once
        if kept not in _asked:
            said = _ask([program, "--help"], env)
            _asked[kept] = read_help(said.decode("utf-8", "replace"))
        return _asked[kept]


def _ask(argv: list[str], env: Mapping[str, str]) -> bytes:
    """What it prints, as far as the bounds allow; nothing where it cannot be started."""
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, no shell: the operator's own program
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError):
        return b""
    try:
        return _read(process)
    finally:
        # Also what it left behind: until it has been waited for, its number is the group's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read(process: subprocess.Popen[bytes]) -> bytes:
    said = bytearray()
    until = time.monotonic() + WITHIN_S
    with selectors.DefaultSelector() as selector:
        if process.stdout is None:
            return b""
        selector.register(process.stdout, selectors.EVENT_READ)
        while len(said) < MOST_BYTES and selector.select(until - time.monotonic()):
            piece = os.read(process.stdout.fileno(), 65536)
            if not piece:
                break
            said += piece
    return bytes(said)
