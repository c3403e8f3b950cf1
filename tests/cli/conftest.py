"""The command line, called as its executable calls it, and what it printed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from attrs import frozen

from rolemesh.cli import failure, rolemesh


@frozen
class Done:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("CONFIG", "CONFIG_OVERRIDE", "NODE_CONFIG", "NODE_CONFIG_OVERRIDE")
    for name in (*files, "NODE_KEY", "ADMIN_KEY", "NODE_STALE_AFTER_S"):
        monkeypatch.delenv(f"ROLE_MESH_{name}", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def call(*args: object) -> Done:
        code = failure.run(rolemesh, [str(arg) for arg in args], "rolemesh")
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def run_beside(run: Callable[..., Done]) -> Callable[..., Awaitable[Done]]:
    """In a thread, beside the test's own event loop."""

    async def call(*args: object) -> Done:
        return await asyncio.to_thread(run, *args)

    return call
