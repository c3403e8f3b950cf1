"""Which of a machine's devices a node uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rolemesh.core.devices import CPU, Device, named, select

ONE, TWO = Device("GPU-a1", 0, "Tesla P40"), Device("GPU-b2", 1, "RTX 4090")
SPLIT = Device("GPU-c3", 2, "A100", split=True)
BOTH = (ONE, TWO)


@pytest.mark.parametrize(
    ("gpus", "cpu", "found", "chosen"),
    [
        ("all", "auto", BOTH, BOTH),
        ("all", True, BOTH, (*BOTH, CPU)),
        ("all", "auto", (), (CPU,)),
        ("all", False, (), ()),
        ("none", "auto", BOTH, (CPU,)),
        ("none", False, BOTH, ()),
        ((), "auto", BOTH, (CPU,)),
        ((1,), "auto", BOTH, (TWO,)),
        (("GPU-a1",), True, BOTH, (ONE, CPU)),
        ((1, 0), "auto", BOTH, BOTH),
        ((0, "GPU-a1", 0), "auto", BOTH, (ONE,)),
    ],
)
def test_a_node_uses_what_it_was_told_to(
    gpus: Any, cpu: Any, found: Sequence[Device], chosen: tuple[Device, ...]
) -> None:
    assert select(gpus, cpu, found) == (chosen, ())


@pytest.mark.parametrize("cpu", ["auto", False])
def test_a_gpu_that_does_not_exist_is_named_and_not_stood_in_for(cpu: Any) -> None:
    assert select((7, "GPU-z9"), cpu, BOTH) == (
        (),
        ("GPU 7 does not exist.", "GPU-z9 does not exist."),
    )


def test_what_exists_is_used_beside_what_does_not() -> None:
    assert select((1, 7), "auto", BOTH) == ((TWO,), ("GPU 7 does not exist.",))
    assert select((7,), True, BOTH) == ((CPU,), ("GPU 7 does not exist.",))


def test_a_gpu_in_mig_mode_is_left_out_and_named() -> None:
    chosen, problems = select("all", "auto", (*BOTH, SPLIT))
    assert chosen == BOTH
    assert [problem.partition(",")[0] for problem in problems] == ["GPU 2 (GPU-c3) is in MIG mode"]
    assert select((0,), "auto", (*BOTH, SPLIT)) == ((ONE,), ())


def test_a_gpu_is_found_by_its_index_or_its_uuid() -> None:
    assert named(1, BOTH) == named("GPU-b2", BOTH) == TWO
    assert named("1", BOTH) is named("GPU-c3", BOTH) is None
    assert str(TWO) == "GPU 1 (GPU-b2)"
    assert str(CPU) == "cpu"
