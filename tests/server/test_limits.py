"""The rule for letting a connection in, and the process's limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rolemesh.server.limits import Descriptors, headroom, probes_at_once


def test_half_of_the_free_descriptors_are_for_clients_and_half_for_backends():
    descriptors = Descriptors(1000, used=20)
    assert descriptors.max_connections == (1000 - 20 - 32) // 2
    assert descriptors.admits(500, descriptors.max_connections - 1)
    assert not descriptors.admits(500, descriptors.max_connections)
    descriptors.close()


@pytest.mark.parametrize(
    ("limit", "kept_free", "probes"),
    [(16, 4, 2), (128, 32, 16), (1024, 32, 16), (4096, 128, 64), (65_536, 512, 256)],
)
def test_what_is_kept_free_grows_with_the_limit(limit: int, kept_free: int, probes: int):
    assert headroom(limit) == kept_free
    assert probes_at_once(limit) == probes


def test_a_number_near_the_limit_is_refused_however_few_connections_there_are():
    descriptors = Descriptors(1000, used=20)
    assert descriptors.admits(984, 0)
    assert not descriptors.admits(985, 0)
    descriptors.close()


def test_a_tiny_limit_still_admits_one_connection():
    descriptors = Descriptors(16, used=15)
    assert descriptors.admits(15, 0)
    assert not descriptors.admits(15, 1)
    descriptors.close()


def test_the_spare_descriptor_is_given_once_and_taken_again():
    descriptors = Descriptors(1000)
    assert descriptors.give_spare()
    assert not descriptors.give_spare()
    descriptors.take_spare()
    assert descriptors.give_spare()


def test_the_soft_limit_is_raised_to_the_hard_one():
    code = (
        "import resource as r\n"
        "from rolemesh.server.limits import raise_descriptor_limit\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (64, 512))\n"
        "print(raise_descriptor_limit(), r.getrlimit(r.RLIMIT_NOFILE))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "512 (512, 512)\n"
