"""One environment per peer: where it is, what is installed in it, and how it is made.

Nothing is installed outside build/peers. A failed installation leaves its last words there, so that
a later run can say why the peer is missing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Protocol

from attrs import field, frozen

REQUIREMENTS = Path(__file__).parent
PLACE = REQUIREMENTS.parent.parent / "build" / "peers"
INSTALL_S = 1800.0
HOW = "make bench-peers"
_LONGEST_REASON = 300
_ADDRESS = re.compile(r"https?://[^\s'\")]+|host='[^']*'")


class Environment(Protocol):
    """`name`: of the requirements' file, and of the directory below `place`."""

    @property
    def name(self) -> str: ...

    @property
    def place(self) -> Path: ...

    def version(self) -> str | None: ...

    def steps(self) -> list[list[str]]: ...


@frozen
class PythonPackage:
    """A virtual environment with one package and what it needs."""

    name: str
    place: Path = field(default=PLACE)

    def program(self, name: str) -> str:
        return str(self.place / self.name / "bin" / name)

    def version(self) -> str | None:
        libraries = (self.place / self.name).glob("lib/python*/site-packages")
        found = distributions(name=self.name, path=[str(each) for each in libraries])
        return next((each.version for each in found), None)

    def steps(self) -> list[list[str]]:
        """The commands that make it, in order."""
        home = self.place / self.name
        python = home / "bin" / "python"
        make = [] if python.exists() else [[sys.executable, "-m", "venv", str(home)]]
        quiet = ["--quiet", "--disable-pip-version-check"]
        wanted = str(REQUIREMENTS / f"{self.name}.txt")
        install = [str(python), "-m", "pip", "install", *quiet, "-r", wanted]
        return [*make, install]


@frozen
class NodePackage:
    """A directory with one package of npm's, `package`, and what it needs."""

    name: str
    package: str
    place: Path = field(default=PLACE)

    def file(self, path: str) -> str:
        return str(self.place / self.name / "node_modules" / self.package / path)

    def version(self) -> str | None:
        described = Path(self.file("package.json"))
        if not described.exists() or shutil.which("node") is None:
            return None
        return str(json.loads(described.read_text())["version"])

    def steps(self) -> list[list[str]]:
        home = self.place / self.name
        described = str(home / "package.json")
        options = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        return [
            ["install", "-D", "-m", "644", str(REQUIREMENTS / f"{self.name}.json"), described],
            ["npm", "install", *options, "--prefix", str(home)],
        ]


def install(environment: Environment) -> str | None:
    """None, or why it could not be made; that is kept for `how_to_install`."""
    environment.place.mkdir(parents=True, exist_ok=True)
    kept = _kept(environment)
    kept.unlink(missing_ok=True)
    for argv in environment.steps():
        reason = _run(argv)
        if reason is not None:
            kept.write_text(reason)
            return reason
    return None


def how_to_install(environment: Environment) -> str:
    """What would install it, or why that did not."""
    kept = _kept(environment)
    return f"{HOW} failed: {kept.read_text()}" if kept.exists() else HOW


def _run(argv: Sequence[str]) -> str | None:
    """None, or what it complained of."""
    if shutil.which(argv[0]) is None:
        return f"{argv[0]} is not installed (Debian: apt install {argv[0]})"
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{argv[0]} took longer than {INSTALL_S:.0f} s"
    if done.returncode == 0:
        return None
    said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
    return _reason(said)[:_LONGEST_REASON]


def _reason(said: str) -> str:
    """What pip and npm call an error, without addresses: they say nothing to a reader."""
    lines = [_ADDRESS.sub("...", each).strip() for each in said.splitlines()]
    errors = [each for each in lines if each.lower().startswith(("error", "npm error"))]
    return "; ".join(each for each in errors if "_logs" not in each) or lines[-1]


def _kept(environment: Environment) -> Path:
    return environment.place / f"{environment.name}.failed"
