"""`rolemesh register`: tells gateways of a model server, once or for as long as it runs."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from typing import Any

import click
from attrs import frozen

from rolemesh.cli.credentials import URL, read_key, secret, with_missing_key
from rolemesh.cli.failure import EXIT_FAILED, complain
from rolemesh.core.types import BaseUrl, Registration, ServedModel
from rolemesh.errors import RequestError, RoleMeshError, UnknownNode
from rolemesh.register.client import Client, Gateway
from rolemesh.register.daemon import KeepRegistered
from rolemesh.server import life, logs
from rolemesh.wire.registration import parse_register, register_body

_KEY_OPTIONS = "--node-key-file or ROLE_MESH_NODE_KEY"


class _Seconds(click.FloatRange):
    """A number of seconds; click's own range lets `nan` through."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


@click.command()
@click.option(
    "--gateway",
    "gateways",
    type=URL,
    multiple=True,
    required=True,
    help="A gateway to register with; may be repeated.",
)
@click.option(
    "--node-id",
    required=True,
    metavar="ID",
    help="The server's name: 1 to 64 letters, digits, dots, underscores or hyphens.",
)
@click.option("--base-url", type=URL, help="How gateways reach the server.")
@click.option(
    "--model",
    "models",
    metavar="MODEL_ID=ROLE[,ROLE...]",
    multiple=True,
    help="A model it serves, and for which roles; may be repeated.",
)
@click.option(
    "--role",
    "roles",
    metavar="ROLE",
    multiple=True,
    help="Short for a model of the same name with this one role; may be repeated.",
)
@click.option(
    "--meta",
    metavar="KEY=VALUE",
    multiple=True,
    help="Something to show beside the node; may be repeated.",
)
@click.option(
    "--node-key-file", metavar="FILE", help="File that holds the node key. Else ROLE_MESH_NODE_KEY."
)
@click.option(
    "--access-token-file",
    metavar="FILE",
    help="File that holds the key which gateways present to the server.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    help="Authorities for the gateways' certificates, instead of the system's.",
)
@click.option("--cert-file", metavar="FILE", help="Certificate to show to gateways that ask.")
@click.option("--cert-key-file", metavar="FILE", help="Its private key.")
@click.option(
    "--keep-alive", is_flag=True, help="Renew until SIGTERM or SIGINT, and then deregister."
)
@click.option(
    "--interval",
    type=_Seconds(0.1, 86400),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Renew this often, where the gateway does not ask for more.",
)
@click.option("--deregister", is_flag=True, help="Say goodbye instead of registering.")
@click.option("--json", "as_json", is_flag=True, help="Print what the gateways answered as JSON.")
def register(**given: Any) -> int:
    """Tell gateways of a model server: where it is, what it serves, for which roles.

    Exits 0 when every gateway accepted, 1 when one did not (which, and why, on stderr).
    """
    gateways = _gateways(**given)
    if given["deregister"]:
        if given["keep_alive"]:
            raise click.UsageError("--deregister and --keep-alive exclude each other")
        registration = None
    else:
        registration = _registration(**given)
    if given["keep_alive"] and registration is not None:
        logs.setup("info", None)
        return life.run(lambda: KeepRegistered(gateways, registration, given["interval"]))
    answers = asyncio.run(_ask_all(gateways, given["node_id"], registration))
    return _report(answers, given["node_id"], as_json=given["as_json"])


@frozen
class _Answer:
    """`done` completes "the node ...". `interval_s`: what the gateway asks for, where it accepted
    a registration."""

    gateway: str
    done: str = ""
    interval_s: float | None = None
    error: RoleMeshError | None = None


def _gateways(
    gateways: Sequence[BaseUrl],
    node_key_file: str | None,
    ca_file: str | None,
    cert_file: str | None,
    cert_key_file: str | None,
    **_: object,
) -> list[Gateway]:
    if cert_key_file is not None and cert_file is None:
        raise click.UsageError("--cert-key-file needs --cert-file")
    key = read_key(node_key_file, "ROLE_MESH_NODE_KEY")
    urls = dict.fromkeys(gateways)
    return [Gateway(url, key, ca_file, cert_file, cert_key_file) for url in urls]


def _registration(
    node_id: str,
    base_url: BaseUrl | None,
    models: Sequence[str],
    roles: Sequence[str],
    meta: Sequence[str],
    access_token_file: str | None,
    **_: object,
) -> Registration:
    if base_url is None:
        raise click.UsageError("--base-url is missing: how do gateways reach the server?")
    if bool(models) == bool(roles):
        raise click.UsageError(
            "say what it serves: --model MODEL_ID=ROLE[,ROLE...], or --role ROLE"
        )
    served = [_served(model) for model in models] or [ServedModel(role, (role,)) for role in roles]
    token = secret(access_token_file) if access_token_file is not None else None
    pairs = dict(_pair(text) for text in meta)
    registration = Registration(node_id, base_url, tuple(served), pairs, token)
    try:
        # The gateway's own rules: what it would refuse is a usage error here.
        return parse_register(register_body(registration))
    except RequestError as error:
        raise click.UsageError(error.message) from error


def _served(text: str) -> ServedModel:
    """MODEL_ID=ROLE,...: the last "=" counts, for a model's name may have one."""
    model_id, equals, roles = text.rpartition("=")
    names = tuple(role.strip() for role in roles.split(","))
    if not equals or not model_id or not all(names):
        raise click.BadParameter(f"{text!r} is not MODEL_ID=ROLE[,ROLE...]", param_hint="--model")
    return ServedModel(model_id, tuple(dict.fromkeys(names)))


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--meta")
    return key, value


async def _ask_all(
    gateways: Sequence[Gateway], node_id: str, registration: Registration | None
) -> list[_Answer]:
    clients = [Client(gateway) for gateway in gateways]
    return await asyncio.gather(*(_ask(client, node_id, registration) for client in clients))


async def _ask(client: Client, node_id: str, registration: Registration | None) -> _Answer:
    """Register; or say goodbye where there is no registration."""
    url = str(client.gateway.url)
    async with client:
        try:
            if registration is not None:
                interval_s = await client.register(registration)
                return _Answer(url, f"registered with {url}{_until(client.lease_s)}", interval_s)
            await client.goodbye(node_id)
        except UnknownNode:  # what a goodbye is for
            return _Answer(url, f"was not registered with {url}")
        except RoleMeshError as error:
            sent = client.gateway.key is not None
            told = with_missing_key(error, key_sent=sent, options=_KEY_OPTIONS)
            return _Answer(url, error=told)
    return _Answer(url, f"deregistered from {url}")


def _until(lease_s: float | None) -> str:
    return "" if lease_s is None else f" for {lease_s:g} s; --keep-alive keeps it"


def _report(answers: Sequence[_Answer], node_id: str, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps([_as_json(answer) for answer in answers], indent=2))
    for answer in answers:
        if answer.error is not None:
            complain(f"not accepted: {answer.error.message}")
        elif not as_json:
            click.echo(f"{node_id} {answer.done}")
    return EXIT_FAILED if any(answer.error is not None for answer in answers) else 0


def _as_json(answer: _Answer) -> dict[str, object]:
    if answer.error is not None:
        error = {"code": answer.error.code, "message": answer.error.message}
        return {"gateway": answer.gateway, "ok": False, "error": error}
    asked = {} if answer.interval_s is None else {"heartbeat_interval_s": answer.interval_s}
    return {"gateway": answer.gateway, "ok": True, **asked}
