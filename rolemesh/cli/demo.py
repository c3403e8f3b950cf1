"""`rolemesh demo`: a gateway, a node with two models for its one device, and an answer from each.

Everything is this command's own (ports, keys, state, models) and gone when it ends: by itself, by
an error, by Ctrl-C or SIGTERM. A second signal ends the processes at once; so does its guardian,
should it be killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import aiohttp
import click

from rolemesh.builtin import check_installed
from rolemesh.cli.demo_setup import ROLES, Setup, prepare
from rolemesh.cli.demo_stage import Stage
from rolemesh.errors import RunError

_QUESTIONS = {
    "planner": "Plan a day at the sea.",
    "writer": "Write a line about the sea.",
}
_MAX_TOKENS = 72
_WHAT_HAPPENED = """
The node's one device, the CPU, holds one model at a time: it loaded the planner's when that was
asked for, and put the writer's in its place for the second question."""


@click.command()
@click.option("--once", is_flag=True, help="Stop after the two answers.")
def demo(once: bool) -> int:
    """A gateway, and a node that runs two real models for it; an answer from each.

    Keeps running until Ctrl-C, for the curl lines that it shows. Needs the [llama] extra.
    """
    check_installed()
    return asyncio.run(_run(once))


async def _run(once: bool) -> int:
    """The exit code: 0, also after a signal; 130 after a second one."""
    with tempfile.TemporaryDirectory(prefix="rolemesh-demo-") as folder:
        async with Stage.opened(Path(folder)) as stage:
            story = asyncio.create_task(_tell(prepare(Path(folder)), stage, once))
            signals = _Signals(story.cancel, stage.kill)
            try:
                await story
            except asyncio.CancelledError:
                click.echo("\nStopping ...")
    return 130 if signals.seen > 1 else 0


class _Signals:
    """The first one ends the story, and the processes with it; a second kills those at once."""

    def __init__(self, first: Callable[[], object], second: Callable[[], None]) -> None:
        self.seen = 0
        self._first = first
        self._second = second
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # ignored by wish: nohup
                loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        self.seen += 1
        if self.seen == 1:
            self._first()
        else:
            self._second()


async def _tell(setup: Setup, stage: Stage, once: bool) -> None:
    click.echo("RoleMesh demo: a gateway and a node, on this machine only.\n")
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await _start(setup, stage, session)
        for alias, question in _QUESTIONS.items():
            try:
                await _ask(setup, session, alias, question)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise RunError(f"no answer from {alias}: {error!r}") from error
    click.echo(_WHAT_HAPPENED)
    if not once:
        click.echo(_what_to_try(setup))
        await stage.watch()


async def _start(setup: Setup, stage: Stage, session: aiohttp.ClientSession) -> None:
    await stage.start("gateway", setup.gateway())
    with _step("models", "two, of random numbers, 0.4 MB each"):
        setup.write_models()
    await stage.start("node", setup.node())
    with _step("gateway", setup.url):
        await stage.until(partial(_healthy, session, setup), "the gateway")
    with _step("node", f"{setup.node_url}, registers with the gateway"):
        await stage.until(partial(_all_listed, session, setup), "the node")


@contextlib.contextmanager
def _step(name: str, what: str) -> Iterator[None]:
    """A line that says what is being started, and when it has been: how long it took."""
    begun = time.monotonic()
    click.echo(f"  {click.style(f'{name:<8}', bold=True)} {what} ... ", nl=False)
    outcome = "failed"
    try:
        yield
        outcome = f"{time.monotonic() - begun:.1f} s"
    finally:
        click.echo(outcome)


async def _healthy(session: aiohttp.ClientSession, setup: Setup) -> bool:
    try:
        async with session.get(f"{setup.url}/health") as response:
            return response.status == 200
    except aiohttp.ClientError:  # not there yet
        return False


async def _all_listed(session: aiohttp.ClientSession, setup: Setup) -> bool:
    try:
        async with session.get(f"{setup.url}/v1/models", headers=_headers(setup)) as response:
            if response.status != 200:
                return False
            listed = {model["id"] for model in (await response.json())["data"]}
    except aiohttp.ClientError:  # not there yet
        return False
    return listed >= set(ROLES)


async def _ask(setup: Setup, session: aiohttp.ClientSession, alias: str, question: str) -> None:
    click.echo(f"\n{click.style('you to ' + alias, bold=True)}: {question}")
    click.echo(f"{click.style(alias, bold=True)}: ", nl=False)
    url = f"{setup.url}/v1/chat/completions"
    asked_at, waited_s = time.monotonic(), 0.0
    async with session.post(url, json=_chat(alias, question), headers=_headers(setup)) as response:
        if response.status != 200:
            raise RunError(f"{alias} answered {response.status}: {(await response.text())[:500]}")
        async for piece in _pieces(response):
            waited_s = waited_s or time.monotonic() - asked_at
            click.echo(piece, nl=False)
        model = response.headers.get("X-RoleMesh-Model")
    click.echo(f"\n  ({model} was loaded for it: {waited_s:.1f} s to the first word)")


async def _pieces(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The texts of a streamed chat. Raises RunError when it breaks off."""
    async for line in response.content:
        data = line.removeprefix(b"data:").strip()
        if not line.startswith(b"data:"):
            continue
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise RunError(f"the answer broke off: {event['error'].get('message')}")
        for choice in event["choices"]:
            if piece := choice["delta"].get("content"):
                yield piece
    raise RunError("the answer ended before its end mark")


def _chat(alias: str, question: str) -> dict[str, object]:
    messages = [{"role": "user", "content": question}]
    return {"model": alias, "stream": True, "max_tokens": _MAX_TOKENS, "messages": messages}


def _headers(setup: Setup) -> dict[str, str]:
    return {"Authorization": f"Bearer {setup.key}"}


def _what_to_try(setup: Setup) -> str:
    key = f"-H 'Authorization: Bearer {setup.key}'"
    body = json.dumps(_chat("writer", "hello"))
    return f"""
The words mean nothing, for the models are random; the way they came is real. Try it yourself (kill
a model's process, too: the node starts it again):

  curl {setup.url}/v1/models {key}
  curl -N {setup.url}/v1/chat/completions {key} \\
    -H 'Content-Type: application/json' -d '{body}'
  curl {setup.url}/ready
  curl {setup.url}/metrics
  curl {setup.node_url}/v1/node -H 'Authorization: Bearer {setup.admin_key}'
  ROLE_MESH_ADMIN_KEY={setup.admin_key} \\
    {_this_program()} status --gateway {setup.url}

Running until Ctrl-C."""


def _this_program() -> str:
    """How it was called, so that the line to try works without the environment's bin on PATH."""
    return sys.argv[0] if Path(sys.argv[0]).name == "rolemesh" else f"{sys.executable} -m rolemesh"
