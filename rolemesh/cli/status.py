"""`rolemesh status`: what a gateway serves, and why something is out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click
from attrs import frozen

from rolemesh.cli.credentials import URL, read_key, with_missing_key
from rolemesh.cli.failure import EXIT_FAILED, complain
from rolemesh.core.types import BaseUrl
from rolemesh.errors import InvalidApiKey, RoleMeshError
from rolemesh.register.client import Client, Gateway
from rolemesh.server.logformat import escaped

_KEY_OPTIONS = "--key-file or ROLE_MESH_ADMIN_KEY"
_GOOD = {"available", "fresh", "reachable", "READY"}
_GIB = 2**30
_SERVED = ("MODEL", "NODE", "ROLES", "STATE", "DETAIL", "IN FLIGHT", "CONTEXT")
_DEVICES = (
    *("DEVICE", "NODE", "NAME", "MEMORY USED", "MEMORY"),
    *("UTILIZATION", "TEMPERATURE", "POWER"),
)


@click.command()
@click.option(
    "--gateway", type=URL, default="http://127.0.0.1:8000", show_default=True,
    help="The gateway to ask.",
)  # fmt: skip
@click.option(
    "--key-file", metavar="FILE", help="File that holds an admin key. Else ROLE_MESH_ADMIN_KEY."
)
@click.option(
    "--ca-file",
    metavar="FILE",
    help="Authorities for the gateway's certificate, instead of the system's.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON for scripts, instead of tables.")
def status(gateway: BaseUrl, key_file: str | None, ca_file: str | None, as_json: bool) -> int:
    """Show a gateway's aliases, nodes and models, and why something is out.

    Exits 1 when the gateway cannot be asked, or shows a part only.
    """
    key = read_key(key_file, "ROLE_MESH_ADMIN_KEY")
    told = asyncio.run(_ask(Gateway(gateway, key, ca_file)))
    if as_json:
        answers = {"gateway": str(gateway), "models": told.models, "nodes": told.nodes}
        click.echo(json.dumps(answers, indent=2))
    else:
        click.echo("\n\n".join(_tables(told)))
    for what, error in told.refused.items():
        complain(f"{what} not shown{_needed(what, error)}: {error.message}")
    return EXIT_FAILED if told.refused else 0


@frozen
class _Told:
    """The answers to /v1/models and /v1/nodes; None where one was refused.

    `refused`: the errors, by what is not shown therefore.
    """

    models: Mapping[str, Any] | None
    nodes: Mapping[str, Any] | None
    refused: Mapping[str, RoleMeshError]


async def _ask(gateway: Gateway) -> _Told:
    """A key may open only one of the two doors. Raises when it opens neither."""
    async with Client(gateway) as client:
        models, nodes = await asyncio.gather(_get(client, "/v1/models"), _get(client, "/v1/nodes"))
    answers = {"aliases": models, "nodes": nodes}
    refused = {what: told for what, told in answers.items() if isinstance(told, RoleMeshError)}
    if len(refused) == len(answers):
        error = refused["aliases"]
        raise with_missing_key(error, key_sent=gateway.key is not None, options=_KEY_OPTIONS)
    return _Told(
        None if isinstance(models, RoleMeshError) else models,
        None if isinstance(nodes, RoleMeshError) else nodes,
        refused,
    )


async def _get(client: Client, path: str) -> dict[str, Any] | RoleMeshError:
    try:
        return await client.get(path)
    except RoleMeshError as error:
        return error


def _needed(what: str, error: RoleMeshError) -> str:
    if not isinstance(error, InvalidApiKey):
        return ""
    keys = "a client or admin key" if what == "aliases" else "an admin key"
    return f" (need {keys}: {_KEY_OPTIONS})"


def _tables(told: _Told) -> Iterator[str]:
    if told.models is not None:
        yield _table(("ALIAS", "MODEL", "TYPE", "STATE", "DETAIL"), _model_rows(told.models))
    if told.nodes is not None:
        backends = map(_backend_row, _entries(told.nodes, "backends"))
        yield _table(("BACKEND", "URL", "STATE", "DETAIL", "IN FLIGHT"), backends)
        nodes = list(_entries(told.nodes, "nodes"))
        yield _table(("NODE", "URL", "STATE", "DETAIL", "HEARD"), map(_node_row, nodes))
        for head, rows in ((_SERVED, _served_rows), (_DEVICES, _device_rows)):
            if found := [row for node in nodes for row in rows(node)]:
                yield _table(head, found)


def _model_rows(models: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    ours = models.get("rolemesh") or {}
    for entry in _entries(models, "data"):
        about = entry.get("rolemesh") or {}
        alias = _text(about.get("alias"))
        count = about.get("backends")
        detail = f"{count} backend{'' if count == 1 else 's'}"
        if alias == ours.get("default_model"):
            detail += ", the default"
        yield alias, _text(entry.get("id")), _text(about.get("type")), "available", detail
    for entry in _entries(ours, "unavailable_models"):
        words = [_text(entry.get(key)) for key in ("alias", "id", "type", "reason", "detail")]
        yield tuple(words)


def _backend_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    label = f"{_text(entry.get('alias'))}/{_text(entry.get('name'))}"
    return label, _text(entry.get("base_url")), *_state(entry), _busy(entry)


def _node_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    age = entry.get("age_s")
    heard = f"{age:.0f} s" if isinstance(age, (int, float)) else ""
    return _text(entry.get("node_id")), _text(entry.get("base_url")), *_state(entry), heard


def _served_rows(node: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A server that somebody registered tells no state, slots or context."""
    for model in _entries(node, "served_models"):
        roles = ",".join(map(_text, model.get("roles") or ()))
        told = {"in_flight": model.get("slots_busy"), "max_in_flight": model.get("slots")}
        busy = _busy(model if told["in_flight"] is None else told)
        context = _text(model.get("max_context"))
        names = _text(model.get("model_id")), _text(node.get("node_id"))
        yield *names, roles, *_state(model), busy, context


def _device_rows(node: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for device in _entries(node, "devices"):
        yield (
            _text(device.get("id")),
            _text(node.get("node_id")),
            _text(device.get("name")),
            _figure(device.get("memory_used_bytes"), "GiB", _GIB, digits=1),
            _figure(device.get("memory_total_bytes"), "GiB", _GIB, digits=1),
            _figure(device.get("utilization_ratio"), "%", 0.01),
            _figure(device.get("temperature_celsius"), "C"),
            _figure(device.get("power_watts"), "W"),
        )


def _figure(value: object, unit: str, unit_is: float = 1.0, digits: int = 0) -> str:
    if not isinstance(value, (int, float)):
        return ""
    return f"{value / unit_is:.{digits}f} {unit}"


def _busy(entry: Mapping[str, Any]) -> str:
    limit = entry.get("max_in_flight")
    return f"{_text(entry.get('in_flight'))}{'' if limit is None else f' of {_text(limit)}'}"


def _state(entry: Mapping[str, Any]) -> tuple[str, str]:
    """The state's word, or the reason's where there is one; and the detail."""
    return _text(entry.get("reason") or entry.get("state")), _text(entry.get("detail"))


def _entries(parent: Mapping[str, Any], key: str) -> Iterable[Mapping[str, Any]]:
    return (entry for entry in parent.get(key) or () if isinstance(entry, dict))


def _text(value: object) -> str:
    return "" if value is None else escaped(str(value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    state = head.index("STATE") if "STATE" in head else None
    lines = []
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        if number > 0 and state is not None:
            colour = "green" if row[state] in _GOOD else "yellow"
            cells[state] = click.style(cells[state], fg=colour)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) if len(table) > 1 else f"{lines[0]}\n(none)"
