"""The GPUs of a stub library, on good days and bad ones; and those of this machine, if any."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from rolemesh.core.devices import Device, DeviceFigures
from rolemesh.node.gpu import Gpus
from tests.node.nvml import LIBRARY, Stub, loaded_stub, nvml_library, stub

__all__ = ["loaded_stub", "nvml_library", "stub"]  # fixtures

ROOT = Path(__file__).parents[2]
FIRST, SECOND = (f"GPU-00000000-0000-0000-0000-00000000000{number}" for number in (0, 1))
MIB, GIB = 1 << 20, 1 << 30
OFTEN_S = 0.05
WAIT_S = 20.0

NOT_SUPPORTED, DRIVER_NOT_LOADED, LOST = 3, 9, 15


@pytest.fixture
def changes() -> list[tuple[Device, ...]]:
    """What `devices` became."""
    return []


@pytest.fixture
async def gpus(loaded_stub: Stub, changes: list[tuple[Device, ...]]) -> AsyncIterator[Gpus]:
    """Not started."""
    made = Gpus(lambda: changes.append(made.devices), OFTEN_S)
    yield made
    made.close()
    loaded_stub.say(hang=None)
    for thread in threading.enumerate():
        if thread.name == "NVML":
            await asyncio.to_thread(thread.join, WAIT_S)
            assert not thread.is_alive()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - bounded, and told by nobody
            await asyncio.sleep(0.01)


def ids(gpus: Gpus) -> list[str]:
    return [device.id for device in gpus.devices]


def told(gpus: Gpus, ident: str = FIRST) -> DeviceFigures:
    figures = gpus.figures(ident)
    assert figures is not None
    return figures


async def test_gpus_are_listed_with_name_and_memory(gpus: Gpus) -> None:
    assert gpus.devices == ()
    await gpus.start()
    assert gpus.devices == (
        Device(FIRST, 0, "NVIDIA Stub 24GB", 24 * GIB),
        Device(SECOND, 1, "NVIDIA Stub 24GB", 24 * GIB),
    )
    assert gpus.problem is None


async def test_an_index_is_the_place_in_pci_order(loaded_stub: Stub, gpus: Gpus) -> None:
    loaded_stub.say(count=3, bus0=0x81, bus1=0x41, bus2="!3")
    await gpus.start()
    assert ids(gpus)[:2] == [SECOND, FIRST]
    assert [device.index for device in gpus.devices] == [0, 1, 2]


async def test_more_gpus_than_a_heartbeat_takes_are_all_there(
    loaded_stub: Stub, gpus: Gpus
) -> None:
    loaded_stub.say(count=70)
    await gpus.start()
    assert len(gpus.devices) == 70


@pytest.mark.parametrize(
    ("name", "shown"), [("Tesla P40", "Tesla P40"), ("\udcff\udcfe", "GPU"), ("!", "!")]
)
async def test_a_name_is_text_whatever_the_driver_says(
    loaded_stub: Stub, gpus: Gpus, name: str, shown: str
) -> None:
    loaded_stub.say(name0=name)
    await gpus.start()
    assert gpus.devices[0].name == shown


async def test_a_gpu_in_mig_mode_says_so(loaded_stub: Stub, gpus: Gpus) -> None:
    loaded_stub.say(mig0=1, mig1=0)
    await gpus.start()
    assert [device.split for device in gpus.devices] == [True, False]


async def test_figures_are_in_base_units(loaded_stub: Stub, gpus: Gpus) -> None:
    loaded_stub.say(used1=2048, util1=37, temp1=61, power1=187_500)
    await gpus.start()
    assert gpus.figures(SECOND) == DeviceFigures(2 * GIB, 24 * GIB, 0.37, 61, 187.5)
    assert gpus.figures("GPU-of-another-machine") is None


async def test_figures_are_read_again_and_again(loaded_stub: Stub, gpus: Gpus) -> None:
    await gpus.start()
    first = told(gpus)
    await until(lambda: told(gpus).utilization_ratio != first.utilization_ratio)
    loaded_stub.say(used0=5000)
    await until(lambda: told(gpus).memory_used_bytes == 5000 * MIB)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, 999])
@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("used", ["memory_used_bytes", "memory_total_bytes"]),
        ("util", ["utilization_ratio"]),
        ("temp", ["temperature_celsius"]),
        ("power", ["power_watts"]),
    ],
)
async def test_a_field_that_a_gpu_does_not_tell_is_left_open(
    loaded_stub: Stub, gpus: Gpus, field: str, names: list[str], code: int
) -> None:
    loaded_stub.say(**{f"{field}0": f"!{code}"})
    await gpus.start()
    open_fields = [name for name, value in attrs.asdict(told(gpus)).items() if value is None]
    assert open_fields == names
    assert gpus.problem is None


async def test_a_lost_gpu_has_no_figures_and_stays_known(loaded_stub: Stub, gpus: Gpus) -> None:
    await gpus.start()
    loaded_stub.say(code0=LOST)
    await until(lambda: gpus.figures(FIRST) is None)
    await until(lambda: gpus.problem == "GPU 0: GPU is lost")  # NVML was initialised again
    assert ids(gpus) == [FIRST, SECOND]
    assert told(gpus, SECOND).memory_used_bytes == 2048 * MIB
    loaded_stub.say(code0=None)
    await until(lambda: gpus.problem is None)
    assert told(gpus).memory_used_bytes == 1024 * MIB


async def test_a_driver_that_breaks_takes_the_figures_and_no_device(
    loaded_stub: Stub, gpus: Gpus
) -> None:
    await gpus.start()
    loaded_stub.say(fails_after=30, init=DRIVER_NOT_LOADED)
    await until(lambda: gpus.problem == "NVML: Driver Not Loaded")
    assert ids(gpus) == [FIRST, SECOND]
    assert gpus.figures(FIRST) is None
    loaded_stub.say(fails_after=None, init=None)
    await until(lambda: gpus.problem is None)
    assert told(gpus, SECOND).memory_used_bytes == 2048 * MIB


async def test_a_driver_that_fails_half_way_is_initialised_again(
    loaded_stub: Stub, gpus: Gpus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rolemesh.gpu")
    await gpus.start()
    loaded_stub.say(fails_after=60)  # after each initialisation
    await until(lambda: "can be read again" in caplog.text)
    assert f"GPU 0 ({FIRST}): Unknown Error" in caplog.text
    assert ids(gpus) == [FIRST, SECOND]


async def test_a_driver_may_come_late(
    loaded_stub: Stub, gpus: Gpus, changes: list[tuple[Device, ...]]
) -> None:
    loaded_stub.say(init=DRIVER_NOT_LOADED)
    await gpus.start()
    assert (gpus.devices, gpus.problem) == ((), "NVML: Driver Not Loaded")
    assert changes == []
    loaded_stub.say(init=None)
    await until(lambda: gpus.problem is None)
    assert ids(gpus) == [FIRST, SECOND]
    assert changes == [gpus.devices]


async def test_a_gpu_that_is_gone_leaves_its_index_to_nobody(loaded_stub: Stub, gpus: Gpus) -> None:
    await gpus.start()
    loaded_stub.say(code0=LOST)
    await until(lambda: gpus.problem is not None)
    # The next list has one GPU less; NVML counts from 0 all the same.
    loaded_stub.say(code0=None, count=1, uuid0=1)
    await until(lambda: ids(gpus) == [SECOND])
    assert gpus.devices[0].index == 1


async def test_a_driver_that_hangs_delays_only_its_figures(loaded_stub: Stub, gpus: Gpus) -> None:
    await gpus.start()
    loaded_stub.say(hang=1)
    await until(lambda: gpus.figures(FIRST) is None)
    assert gpus.problem == "NVML does not answer"
    assert ids(gpus) == [FIRST, SECOND]
    async with asyncio.timeout(WAIT_S):
        await gpus.memory_settled([FIRST], 0.05)
        await gpus.memory_settled([FIRST], 1e6)
    loaded_stub.say(hang=None)
    await until(lambda: gpus.problem is None)
    assert told(gpus).memory_used_bytes == 1024 * MIB


async def test_a_start_waits_for_a_driver_that_hangs_no_longer_than_its_bound(
    loaded_stub: Stub, gpus: Gpus
) -> None:
    loaded_stub.say(hang=1)
    async with asyncio.timeout(WAIT_S):
        await gpus.start()
    assert (gpus.devices, gpus.problem) == ((), "NVML does not answer")
    gpus.close()  # does not wait: the thread is still in the library
    assert "NVML" in [thread.name for thread in threading.enumerate()]


async def test_memory_has_settled_when_two_readings_agree(loaded_stub: Stub, gpus: Gpus) -> None:
    sizes = [20_000, 16_000, 12_000, 8_000, 4_000, 400]

    async def give_back() -> None:
        for size in sizes:
            loaded_stub.say(used0=size)
            await asyncio.sleep(OFTEN_S)

    await gpus.start()
    loaded_stub.say(used0=24_000)
    giving_back = asyncio.create_task(give_back())
    await gpus.memory_settled([FIRST], WAIT_S)
    assert giving_back.done()
    assert told(gpus).memory_used_bytes == sizes[-1] * MIB


async def test_memory_that_never_settles_is_waited_for_no_longer_than_the_bound(
    loaded_stub: Stub, gpus: Gpus
) -> None:
    async def waver() -> None:
        size = 0
        while True:
            size += 100
            loaded_stub.say(used0=size)
            await asyncio.sleep(0.01)

    await gpus.start()
    wavering = asyncio.create_task(waver())
    now = asyncio.get_running_loop().time
    began = now()
    async with asyncio.timeout(WAIT_S):
        await gpus.memory_settled([FIRST], 0.4)
    assert now() - began >= 0.4
    wavering.cancel()


async def test_nobody_waits_for_memory_that_cannot_be_read(loaded_stub: Stub, gpus: Gpus) -> None:
    for_ever = 1e6
    async with asyncio.timeout(WAIT_S):
        await gpus.memory_settled([FIRST], for_ever)  # not started
        await gpus.start()
        loaded_stub.say(fails_after=0, init=DRIVER_NOT_LOADED)
        await gpus.memory_settled([FIRST, SECOND], for_ever)
        await gpus.memory_settled(["cpu"], for_ever)
        await gpus.memory_settled([], for_ever)


def read_in_a_child(env: Mapping[str, str]) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.node.read_gpus"]
    ended = subprocess.run(
        argv, cwd=ROOT, env=os.environ | env, capture_output=True, timeout=60, check=True
    )
    result: dict[str, Any] = json.loads(ended.stdout)
    return result


def test_a_process_finds_the_library_by_its_name(stub: Stub) -> None:
    found = read_in_a_child(stub.env)
    assert [device["id"] for device in found["devices"]] == [FIRST, SECOND]


def test_a_process_ends_while_the_driver_hangs(stub: Stub) -> None:
    stub.say(hang=1)
    found = read_in_a_child(stub.env)
    assert found == {"devices": [], "figures": [], "problem": "NVML does not answer"}


def test_without_a_driver_there_are_no_gpus(tmp_path: Path) -> None:
    (tmp_path / LIBRARY).touch()  # no library, and before one that this machine may have
    found = read_in_a_child({"LD_LIBRARY_PATH": str(tmp_path)})
    problem = "NVML: NVML Shared Library Not Found"
    assert found == {"devices": [], "figures": [], "problem": problem}


@pytest.mark.gpu
def test_the_gpus_of_this_machine_are_read() -> None:
    found = read_in_a_child({})
    if not found["devices"]:
        pytest.skip(f"no GPU here: {found['problem']}")
    print(json.dumps(found))
    query = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [f"{each['index']}, {each['id']}, {each['name']}" for each in found["devices"]] == listed
    for device, figures in zip(found["devices"], found["figures"], strict=True):
        assert 0 <= figures["memory_used_bytes"] <= device["memory_total_bytes"]
        assert 0 <= (figures["utilization_ratio"] or 0) <= 1
        assert figures["temperature_celsius"] is None or 0 < figures["temperature_celsius"] < 120
        assert figures["power_watts"] is None or 0 < figures["power_watts"] < 3000
