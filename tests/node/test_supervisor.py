"""The supervisor in this process, where a test decides what comes between two of its steps."""

from __future__ import annotations

import asyncio
import errno
import gc
import subprocess
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from rolemesh.config.schema_node import LlamaServerSection, ModelSection
from rolemesh.core import lifecycle
from rolemesh.core.devices import CPU, Device
from rolemesh.core.lifecycle import Limits, State
from rolemesh.errors import NoAvailableBackend
from rolemesh.node.ask import Asker
from rolemesh.node.charge import Charge, Wishes
from rolemesh.node.child_log import ChildLog
from rolemesh.node.gpu import Gpus
from rolemesh.node.guardian import Guardian
from rolemesh.node.run import Equipment
from rolemesh.node.state import NodeState
from rolemesh.node.supervisor import Supervisor
from rolemesh.proxy.pool import Pools
from tests.node.scripted import GGUF, Obedient

WAIT_S = 20.0
GPU_0, GPU_1 = (Device(f"GPU-{number}", number, "GPU") for number in (0, 1))


class House:
    """A supervisor with all that it works with, on the CPU unless told otherwise."""

    def __init__(self, folder: Path, guardian: Guardian, state: NodeState, pools: Pools) -> None:
        self.llama = Obedient(folder / "llama")
        self.server = LlamaServerSection(
            path=str(self.llama.path), env={"OBEDIENT_DIR": str(self.llama.folder)}
        )
        self.file = folder / "some.gguf"
        self.file.write_bytes(GGUF)
        logs: dict[str, ChildLog] = {}

        def log_of(model_id: str) -> ChildLog:
            return logs.setdefault(model_id, ChildLog(folder / "logs", model_id))

        self.equipment = Equipment(Gpus(), guardian, state, Asker(pools), log_of)
        self.supervisor = Supervisor(self.equipment, lambda: self.on_change())
        self.on_change: Callable[[], object] = lambda: None

    def model(self, model_id: str, **fields: Any) -> ModelSection:
        fields = {"path": str(self.file), "roles": (), "ctx_size": 64, **fields}
        return ModelSection(model_id=model_id, **fields)

    def apply(self, *models: ModelSection, devices: tuple[Device, ...] = (CPU,)) -> None:
        self.supervisor.apply(Wishes(models, self.server, devices, 300.0))

    def charge(self, model_id: str) -> Charge:
        return self.supervisor.find(model_id)

    async def loaded(self, model_id: str) -> Charge:
        charge = self.charge(model_id)
        await self.supervisor.load(charge, WAIT_S)
        return charge


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    state = NodeState(tmp_path / "state.json")
    state.open()
    guardian = await Guardian.start(state.owner)
    pools = Pools(asyncio.get_running_loop())
    house = House(tmp_path, guardian, state, pools)
    yield house
    await house.supervisor.close()
    await guardian.close()
    pools.close()
    await state.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "run:" in task.get_name()]


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - bounded, and told by nobody
            await asyncio.sleep(0.005)


def state_of(charge: Charge) -> State:
    """Read anew, for a type checker that believes what it has seen."""
    return charge.child.state


async def test_one_that_leaves_in_the_moment_of_the_grant_gives_it_back(house: House) -> None:
    house.apply(house.model("a"))
    charge = house.charge("a")
    waiting = asyncio.create_task(house.supervisor.acquire(charge, WAIT_S))
    # It has it, and never hears of it.
    house.on_change = lambda: charge.in_flight and waiting.cancel()
    await until(waiting.done)
    assert waiting.cancelled()
    assert (state_of(charge), charge.in_flight) == (State.READY, 0)


async def test_many_that_leave_while_they_wait_leave_nothing(house: House) -> None:
    house.apply(house.model("a"))
    charge = house.charge("a")
    with house.llama.held("a"):
        waiting = [asyncio.create_task(house.supervisor.acquire(charge, WAIT_S)) for _ in range(50)]
        await until(lambda: len(charge.waiters) == 50)
        for task in waiting[1:]:
            task.cancel()
        await until(lambda: len(charge.waiters) == 1)
    await waiting[0]
    assert charge.in_flight == 1
    house.supervisor.release(charge, worked=True)


async def test_a_model_that_goes_while_a_request_is_read_is_not_waited_for(house: House) -> None:
    house.apply(house.model("a"))
    charge = house.charge("a")
    house.apply(house.model("b"))
    with pytest.raises(NoAvailableBackend) as raised:
        await house.supervisor.acquire(charge, WAIT_S)
    assert "not configured" in str(raised.value.details)


async def test_an_unload_ends_though_requests_want_the_model_again_and_again(house: House) -> None:
    house.apply(house.model("a"))
    charge = house.charge("a")
    house.llama.hold("a")
    waiting = asyncio.create_task(house.supervisor.acquire(charge, WAIT_S))
    await until(lambda: house.llama.noted("starts", "a"))
    async with asyncio.timeout(WAIT_S):
        await house.supervisor.unload(charge)
    house.llama.go_on("a")
    await waiting
    house.supervisor.release(charge, worked=True)
    assert len(house.llama.noted("starts", "a")) == 2


async def test_an_unload_goes_on_when_the_operator_has_left(house: House) -> None:
    house.apply(house.model("a"))
    charge = await house.loaded("a")
    assert house.supervisor.take(charge)
    unloading = asyncio.create_task(house.supervisor.unload(charge))
    await until(lambda: state_of(charge) is State.DRAINING)
    unloading.cancel()
    await asyncio.sleep(0.02)  # nothing takes it back
    assert state_of(charge) is State.DRAINING
    house.supervisor.release(charge, worked=True)
    await until(lambda: state_of(charge) is State.STOPPED)
    await until(lambda: not charge.leaving)


async def test_other_limits_are_no_other_server(house: House) -> None:
    house.apply(house.model("a"))
    charge = await house.loaded("a")
    house.server = evolve(house.server, load_timeout_s=500.0, stop_timeout_s=3.0)
    house.apply(house.model("a"))
    assert state_of(charge) is State.READY
    assert charge.child.limits == Limits(500.0, 3.0)
    house.server = evolve(house.server, args=("--no-mmap",))
    house.apply(house.model("a"))
    assert state_of(charge) is not State.READY


async def test_a_start_that_the_machine_refuses_for_now_is_tried_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen, failures = subprocess.Popen, [OSError(errno.EAGAIN, "Try again")]

    def start(*args: Any, **more: Any) -> Any:
        if more.get("stdin") == subprocess.DEVNULL and more.get("start_new_session") and failures:
            raise failures.pop()
        return popen(*args, **more)

    house.apply(house.model("a"))
    charge = await house.loaded("a")  # what is asked before a start is known from here on
    await house.supervisor.unload(charge)
    monkeypatch.setattr(subprocess, "Popen", start)
    await house.supervisor.acquire(charge, WAIT_S)
    assert (charge.child.restarts, failures) == (1, [])
    assert "Try again" in str(charge.child.reason)
    house.supervisor.release(charge, worked=True)
    assert house.equipment.ports == set()


async def test_a_load_during_an_unload_comes_behind_it(house: House) -> None:
    house.apply(house.model("a"))
    charge = await house.loaded("a")
    assert house.supervisor.take(charge)
    first = charge.run
    unloading = asyncio.create_task(house.supervisor.unload(charge))
    await until(lambda: state_of(charge) is State.DRAINING)
    loading = asyncio.create_task(house.supervisor.load(charge, WAIT_S))
    await until(lambda: charge.waiters)
    assert state_of(charge) is State.DRAINING
    house.supervisor.release(charge, worked=True)
    await unloading
    await loading
    assert charge.run is not first
    assert state_of(charge) is State.READY


async def test_an_operator_does_not_wait_for_a_back_off(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_BACKOFF_S", 2 * WAIT_S)
    monkeypatch.setattr(lifecycle, "LONGEST_BACKOFF_S", 2 * WAIT_S)
    house.apply(house.model("a"))
    charge = house.charge("a")
    house.llama.fail("a")
    waiting = asyncio.create_task(house.supervisor.acquire(charge, WAIT_S))
    await until(lambda: state_of(charge) is State.BACKOFF)
    house.llama.mend("a")
    await house.supervisor.load(charge, WAIT_S)
    assert charge.child.restarts == 1
    await waiting
    house.supervisor.release(charge, worked=True)


@pytest.mark.parametrize("looks", range(4))
async def test_a_node_that_closes_during_a_start_leaves_no_process(
    house: House, looks: int
) -> None:
    """After so many turns of the loop: before the file is looked at, and later."""
    house.apply(house.model("a", preload=True))
    for _ in range(3**looks):
        await asyncio.sleep(0)
    run = house.charge("a").run
    async with asyncio.timeout(WAIT_S):
        await house.supervisor.close()
    assert state_of(house.charge("a")) is State.STOPPED
    assert run is None or run.pid is None or not Path(f"/proc/{run.pid}").exists()
    with pytest.raises(NoAvailableBackend):
        await house.supervisor.load(house.charge("a"), WAIT_S)


async def test_a_gpu_that_vanishes_takes_its_model_along_when_it_is_done(house: House) -> None:
    two = (GPU_0, GPU_1)
    house.apply(house.model("a"), house.model("b", device=(1,)), devices=two)
    a = await house.loaded("a")
    b = await house.loaded("b")
    assert (a.devices, b.devices) == (("GPU-0",), ("GPU-1",))
    assert house.supervisor.take(a)
    house.apply(house.model("a"), house.model("b", device=(1,)), devices=(GPU_1,))
    await asyncio.sleep(0.05)  # nothing takes it back
    assert state_of(a) is State.DRAINING
    house.supervisor.release(a, worked=True)
    await house.supervisor.acquire(a, WAIT_S)
    assert a.devices == ("GPU-1",)
    house.supervisor.release(a, worked=True)
    house.apply(house.model("a"), house.model("b", device=(1,)), devices=())
    await until(lambda: state_of(a) is State.STOPPED)
    for charge in (a, b):
        with pytest.raises(NoAvailableBackend) as raised:
            await house.supervisor.acquire(charge, WAIT_S)
        assert "device" in str(raised.value.details)
    house.apply(house.model("a"), house.model("b", device=(1,)), devices=two)
    house.supervisor.found({})  # as the node looks again
    await house.loaded("b")


async def test_a_preloaded_model_whose_file_appears_is_loaded_without_a_request(
    house: House,
) -> None:
    house.apply(house.model("a", preload=True))
    house.supervisor.found({"a": "its file does not exist"})
    await asyncio.sleep(0.05)
    assert state_of(house.charge("a")) is State.FATAL
    assert house.supervisor.has_impossible
    house.supervisor.found({})
    await until(lambda: state_of(house.charge("a")) is State.READY)


async def test_a_run_that_has_ended_is_freed_without_the_collector_of_cycles(
    house: House,
) -> None:
    house.apply(house.model("a"))
    charge = await house.loaded("a")
    run = weakref.ref(charge.run)  # type: ignore[arg-type]
    gc.collect()
    gc.disable()
    try:
        await house.supervisor.unload(charge)
        await asyncio.sleep(0.05)
        assert run() is None
    finally:
        gc.enable()
