"""A llama-server out of the llama.cpp wheel, and tiny models for it to serve.

Run as a child process: `command()` followed by llama-server's flags (flags.py lists those it
takes). The wheel is an extra: nothing here is imported by the gateway, and `check_installed` says
what to install before a child is started in vain.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from rolemesh.errors import RunError

_PACKAGES = ("xllamacpp", "gguf", "numpy")


def command() -> list[str]:
    """The start of an argv that runs the built-in llama-server; its flags come after."""
    return [sys.executable, *_isolated(), "-m", "rolemesh.builtin"]


def check_installed() -> None:
    """Raise RunError, with what to install, where the `[llama]` extra is missing."""
    missing = [name for name in _PACKAGES if not _found(name)]
    if missing:
        raise RunError(
            f"the built-in llama.cpp is not installed ({', '.join(missing)} missing); "
            "it is the extra rolemesh[llama]; in a clone: pip install '.[llama]'"
        )


def _isolated() -> list[str]:
    """Keeps modules that happen to lie in the working folder out of the child; but not where this
    package itself is one of them (`python -m rolemesh` in a clone)."""
    return [] if str(Path(__file__).parents[2]) in sys.path[:1] else ["-P"]


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # present in sys.modules without a spec, or barred there with None
        return False
