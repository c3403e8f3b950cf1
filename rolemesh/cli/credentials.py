"""Keys for commands that speak to a gateway: from a file or the environment, never from argv."""

from __future__ import annotations

import os

import click

from rolemesh.config.files import read_secret
from rolemesh.core.types import BaseUrl
from rolemesh.errors import ConfigError, InvalidApiKey, RoleMeshError
from rolemesh.wire.url import parse_url


def read_key(file: str | None, variable: str) -> str | None:
    """The key, or None where neither the file nor the variable is given. Raises ConfigError."""
    key = secret(file) if file is not None else os.environ.get(variable, "")
    if any(char <= " " or char == "\x7f" for char in key):
        raise ConfigError(
            f"{file or variable}: a key has no spaces, line ends or control characters"
        )
    if file is not None and not key:
        raise ConfigError(f"{file}: the file is empty, so there is no key in it")
    return key or None


def with_missing_key(error: RoleMeshError, *, key_sent: bool, options: str) -> RoleMeshError:
    """The same error; a 401 to a request without a key says what gives it one."""
    if key_sent or not isinstance(error, InvalidApiKey):
        return error
    return InvalidApiKey(f"{error.message}: give one with {options}")


def secret(file: str) -> str:
    """Raises ConfigError naming the file."""
    try:
        return read_secret(file)
    except ValueError as error:
        raise ConfigError(str(error)) from error


class UrlType(click.ParamType[BaseUrl]):
    """An option's base URL."""

    name = "URL"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> BaseUrl:
        if isinstance(value, BaseUrl):
            return value
        try:
            return parse_url(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


URL = UrlType()
