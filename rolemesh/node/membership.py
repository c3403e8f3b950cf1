"""The node's leases at its gateways: a keeper for each, told whenever a model's state changes.

What is said of the models is asked for at every message (`offers`), and so are the devices' figures
(`figures`): nothing of it is kept here. A gateway that is down is asked again and holds up no
other. Figures that no gateway would take are left out: they must not cost the lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import field, frozen

from rolemesh.config.schema_node import GatewayTarget
from rolemesh.core.types import BaseUrl, Heartbeat, Registration, ServedModel
from rolemesh.errors import InvalidValue
from rolemesh.register.client import Client, Gateway
from rolemesh.register.keep import LeaseKeeper
from rolemesh.wire.node_metrics import read_metrics

log = logging.getLogger("rolemesh.node")

AFTER_A_FAULT_S = 10.0


@frozen
class Identity:
    """What a node says of itself besides its models."""

    node_id: str
    url: BaseUrl
    access_token: str = field(repr=False)
    meta: Mapping[str, Any] = field(factory=dict)


@frozen(eq=False)
class _Member:
    """The node at one gateway. `stamp`: what the TLS files were when `client` read them."""

    gateway: Gateway
    stamp: object
    client: Client
    keeper: LeaseKeeper
    task: asyncio.Task[None]


class Membership:
    """`offers` and `figures` (a heartbeat's `metrics`) are called at every message."""

    def __init__(
        self,
        offers: Callable[[], tuple[ServedModel, ...]],
        figures: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self._offers = offers
        self._figures = figures
        self._said: Identity | None = None
        self._members: dict[BaseUrl, _Member] = {}
        self._figures_are_odd = False

    async def apply(
        self, identity: Identity, targets: Iterable[GatewayTarget], interval_s: float
    ) -> None:
        """Be a member of these gateways and of no others: at start, and after a reload. Only what
        changed is touched; one that is no longer listed gets its goodbye. Raises ConfigError when a
        TLS file cannot be used, and then nothing has changed."""
        wanted = {target.url: _gateway(target) for target in targets}
        new = [(each, _stamp(each)) for each in wanted.values() if self._is_new(each)]
        clients = [(Client(gateway), stamp) for gateway, stamp in new]
        gone = [member for url, member in self._members.items() if url not in wanted]
        replaced = [self._members[each.url] for each, _ in new if each.url in self._members]
        await _end(gone + replaced)
        for member in gone:
            del self._members[member.gateway.url]
        moved, self._said = self._said != identity, identity
        for member in self._members.values():
            member.keeper.interval_s = interval_s
            if moved:
                member.keeper.register_anew()
        for client, stamp in clients:
            self._join(client, stamp, interval_s)
        await _say_goodbye(gone)
        await _close(gone + replaced)

    def changed(self) -> None:
        """A model's state, or the node's: gateways are told at once, at most once a second."""
        for member in self._members.values():
            member.keeper.tell()

    async def goodbye(self) -> None:
        """Take the leases back, at all gateways at once, in a few seconds at most."""
        members = list(self._members.values())
        await _end(members)
        await _say_goodbye(members)

    async def close(self) -> None:
        members = list(self._members.values())
        await _end(members)
        await _close(members)
        self._members.clear()

    def view(self) -> list[dict[str, Any]]:
        """JSON values, for operators."""
        now = asyncio.get_running_loop().time()
        return [_shown(member, now) for member in self._members.values()]

    # What is told

    def _registration(self) -> Registration:
        said = self._identity
        return Registration(said.node_id, said.url, self._offers(), said.meta, said.access_token)

    def _heartbeat(self) -> Heartbeat:
        return Heartbeat(self._identity.node_id, self._offers(), self._readable_figures())

    @property
    def _identity(self) -> Identity:
        if self._said is None:
            raise RuntimeError("nothing is told before `apply`")
        return self._said

    def _readable_figures(self) -> Mapping[str, Any] | None:
        figures = self._figures()
        try:
            read_metrics(figures)
        except InvalidValue as error:
            if not self._figures_are_odd:
                log.warning("gateways are told no figures of devices: %s", error.message)
            self._figures_are_odd = True
            return None
        self._figures_are_odd = False
        return figures

    # Members

    def _is_new(self, gateway: Gateway) -> bool:
        member = self._members.get(gateway.url)
        return member is None or (member.gateway, member.stamp) != (gateway, _stamp(gateway))

    def _join(self, client: Client, stamp: object, interval_s: float) -> None:
        client.open()
        keeper = LeaseKeeper(client, self._registration, self._heartbeat, interval_s)
        task = asyncio.create_task(_keep(keeper), name=f"lease at {client.gateway.url}")
        self._members[client.gateway.url] = _Member(client.gateway, stamp, client, keeper, task)


async def _keep(keeper: LeaseKeeper) -> None:
    while True:
        try:
            await keeper.run()
        except Exception:  # the border of a task: a fault of ours must not cost the lease for good
            log.exception("a lease could not be kept, trying again")
            await asyncio.sleep(AFTER_A_FAULT_S)


async def _end(members: Iterable[_Member]) -> None:
    tasks = [member.task for member in members]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _say_goodbye(members: Iterable[_Member]) -> None:
    await asyncio.gather(*(member.keeper.goodbye() for member in members))


async def _close(members: Iterable[_Member]) -> None:
    for member in members:
        await member.client.close()


def _gateway(target: GatewayTarget) -> Gateway:
    return Gateway(
        target.url, target.node_key, target.ca_file, target.cert_file, target.cert_key_file
    )


def _stamp(gateway: Gateway) -> object:
    """Other for other contents: a certificate is renewed under the same name."""
    files = (gateway.ca_file, gateway.cert_file, gateway.cert_key_file)
    return tuple(None if file is None else _changed_at(file) for file in files)


def _changed_at(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _shown(member: _Member, now: float) -> dict[str, Any]:
    keeper = member.keeper
    trouble = keeper.trouble
    return {
        "url": str(member.gateway.url),
        "registered": keeper.registered,
        "since_s": None if keeper.since is None else round(now - keeper.since, 1),
        "last_error": None
        if trouble is None
        else {"message": trouble.message, "age_s": round(now - trouble.at, 1)},
    }
