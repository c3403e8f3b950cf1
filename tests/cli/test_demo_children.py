"""The demo's child processes, with real ones: they end with it, whatever happens."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from rolemesh.cli.demo_children import Child, Children
from rolemesh.errors import RunError

SLEEP = "import time; print('begun', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def python(text: str) -> list[str]:
    return [sys.executable, "-c", text]


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path)


async def never() -> bool:
    return False


async def test_stopping_ends_them_the_last_one_first(children: Children, tmp_path: Path) -> None:
    note = f"open({str(tmp_path / 'order')!r}, 'a').write"
    text = (
        "import signal, sys, time; "
        f"signal.signal(signal.SIGTERM, lambda *_: ({note}(sys.argv[1]), sys.exit())); "
        "print('begun', flush=True); time.sleep(60)"
    )
    for name in ("a", "b"):
        child = children.start(name, [*python(text), name], os.environ)
        await children.until(partial(begun, child), name, within_s=10)
    await children.stop()
    assert (tmp_path / "order").read_text() == "ba"


async def test_one_that_ends_by_itself_is_told_with_its_last_words(children: Children) -> None:
    children.start("gateway", python("print('the port is taken'); exit(3)"), os.environ)
    with pytest.raises(RunError, match=r"gateway ended with exit code 3\n  the port is taken"):
        await children.until(never, "the gateway", within_s=10)


async def test_waiting_is_bounded(children: Children) -> None:
    children.start("gateway", python(SLEEP), os.environ)
    with pytest.raises(RunError, match=r"the gateway: not within 0.1 s"):
        await children.until(never, "the gateway", within_s=0.1)
    await children.stop()


async def test_a_finished_one_is_no_failure(children: Children) -> None:
    await children.finish("model", python("pass"), os.environ)
    await children.until(always, "nothing", within_s=1)


async def test_a_failed_one_is(children: Children) -> None:
    with pytest.raises(RunError, match="model ended with exit code 1"):
        await children.finish("model", python("exit('disk full')"), os.environ)


async def test_kill_ends_one_that_does_not_listen(children: Children) -> None:
    child = children.start("deaf", python(DEAF), os.environ)
    await children.until(partial(begun, child), "it has begun", within_s=10)
    children.kill()
    assert child.process.returncode == -9
    await children.stop()


async def always() -> bool:
    return True


async def begun(child: Child) -> bool:
    return "begun" in child.log.read_text()
