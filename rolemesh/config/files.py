"""Which files a configuration is read from, and reading them, with bounds.

`find` applies the search order (--config, a variable, well-known places). A file that was searched
for is taken only when the caller or root owns it, judged again whenever it is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence

from attrs import Factory, frozen

from rolemesh.errors import ConfigError

_MAX_FILE_BYTES = 8 * 2**20
_MAX_SECRET_BYTES = 64 * 2**10


@frozen
class Search:
    """Where one daemon's configuration is looked for. `first` is the command that writes one to
    begin with."""

    variable: str
    override_variable: str
    places: tuple[str, ...]
    first: str


@frozen
class Sources:
    """What to read, the base first; paths are absolute.

    `searched`: the base was found, not named. `settings` come from the command line and win over
    every file: ("gateway.port", "--port") -> text.
    """

    files: tuple[str, ...]
    searched: bool = False
    settings: Mapping[tuple[str, str], str] = Factory(dict)


def find(
    search: Search, config: str | None, overrides: Sequence[str], env: Mapping[str, str]
) -> Sources:
    """The files to read. Raises ConfigError when there is none, naming the places looked at."""
    named = config or env.get(search.variable)
    base = named or _first_place(search)
    if not overrides:
        overrides = env.get(search.override_variable, "").split(os.pathsep)
    files = [os.path.abspath(path) for path in (base, *overrides) if path]
    return Sources(tuple(files), searched=not named)


def _first_place(search: Search) -> str:
    looked: list[str] = []
    for place in search.places:
        path = os.path.abspath(place)
        try:
            owner = os.stat(path).st_uid
        except OSError:
            looked.append(f"  {path}: not there")
            continue
        if _trusted(owner):
            return path
        looked.append(f"  {path}: belongs to another user (uid {owner}), so it is not taken")
    raise ConfigError(
        f"no configuration: name a file with --config or {search.variable}, or have"
        f" `{search.first}` write a first one; looked at\n" + "\n".join(looked)
    )


def _trusted(owner: int) -> bool:
    return owner in (0, os.geteuid())


def read_config(path: str, *, owned: bool) -> str:
    """A configuration file's text. Raises ValueError with what is wrong."""
    try:
        return _read(path, _MAX_FILE_BYTES, owned=owned).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None


def read_secret(path: str) -> str:
    """A secret's file, less one trailing newline. Raises ValueError, whose message names the file.

    Odd bytes are kept as surrogates, as they are in a header's value.
    """
    try:
        text = _read(path, _MAX_SECRET_BYTES, owned=False).decode("utf-8", "surrogateescape")
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    return text.removesuffix("\n").removesuffix("\r")


def _open(path: str, flags: int) -> int:
    # Opening a pipe that nobody writes to would block, and hang a reload.
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: str, limit: int, *, owned: bool) -> bytes:
    try:
        with open(path, "rb", opener=_open) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ValueError("is not a regular file")
            if owned and not _trusted(facts.st_uid):
                raise ValueError("belongs to another user")
            data = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise ValueError(f"is larger than {limit} bytes")
    return data
