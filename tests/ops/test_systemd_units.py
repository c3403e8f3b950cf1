"""The units in contrib/systemd: systemd accepts them, and lets them do little."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from rolemesh.config.schema_node import LlamaServerSection, NodeSection
from rolemesh.node.supervisor import KILLED_S

GATEWAY_UNITS = ("rolemesh-gateway.service", "rolemesh-gateway@.service")
NODE_UNITS = ("rolemesh-node.service", "rolemesh-node@.service")
UNITS = (*GATEWAY_UNITS, *NODE_UNITS, "rolemesh-register@.service")
MOST_EXPOSED = 2.0


@pytest.fixture
def unit(root: Path) -> Path:
    return root / "contrib" / "systemd"


def settings(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "["))]


def test_there_is_no_unit_that_is_not_tested(unit: Path) -> None:
    assert sorted(UNITS) == sorted(path.name for path in unit.iterdir())


@pytest.mark.parametrize("name", UNITS)
def test_systemd_accepts_the_unit(name: str, unit: Path, tmp_path: Path, tool) -> None:
    text = (unit / name).read_text()
    text = re.sub(r"/opt/rolemesh/bin/rolemesh(-gateway|-node-agent)?\b", sys.executable, text)
    installed = tmp_path / name.replace("@", "@lab")
    installed.write_text(text)
    result = tool("systemd-analyze", "verify", "--man=no", installed)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("name", UNITS)
def test_the_unit_is_hardly_exposed(name: str, unit: Path, tool) -> None:
    result = tool("systemd-analyze", "security", "--offline=true", "--no-pager", unit / name)
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", result.stdout)
    assert found is not None, result.stdout + result.stderr
    assert float(found[1]) <= MOST_EXPOSED


@pytest.mark.parametrize("name", UNITS)
def test_systemd_is_told_of_readiness_watches_and_can_reload(name: str, unit: Path) -> None:
    lines = settings(unit / name)
    assert "Type=notify" in lines
    assert "ExecReload=kill -HUP $MAINPID" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)


@pytest.mark.parametrize("name", ["rolemesh-gateway@.service", "rolemesh-node@.service"])
def test_instances_share_neither_configuration_nor_state_nor_keys(name: str, unit: Path) -> None:
    own = ("ExecStart=", "StateDirectory=", "LogsDirectory=", "CacheDirectory=", "LoadCredential=")
    lines = [line for line in settings(unit / name) if line.startswith((*own, "Environment="))]
    assert len(lines) >= len(own)
    assert [line for line in lines if "%i" not in line] == []


@pytest.mark.parametrize("pair", [GATEWAY_UNITS, NODE_UNITS], ids=lambda pair: pair[0])
def test_both_units_of_a_daemon_are_hardened_alike(pair: tuple[str, str], unit: Path) -> None:
    plain, instance = (
        [line for line in settings(unit / name) if "rolemesh" not in line.lower()] for name in pair
    )
    assert plain == instance


@pytest.mark.parametrize("name", NODE_UNITS)
def test_a_node_is_given_the_time_to_end_its_requests_and_then_its_children(
    name: str, unit: Path
) -> None:
    (line,) = (line for line in settings(unit / name) if line.startswith("TimeoutStopSec="))
    needed_s = NodeSection().drain_timeout_s + LlamaServerSection().stop_timeout_s + KILLED_S
    assert float(line.partition("=")[2]) > needed_s
    assert "KillMode=mixed" in settings(unit / name)


@pytest.mark.parametrize("name", NODE_UNITS)
def test_a_child_that_is_killed_for_memory_does_not_end_the_node(name: str, unit: Path) -> None:
    assert "OOMPolicy=continue" in settings(unit / name)


@pytest.mark.parametrize("name", NODE_UNITS)
def test_a_node_may_use_gpus_and_its_children_may_make_machine_code(name: str, unit: Path) -> None:
    lines = settings(unit / name)
    assert "DeviceAllow=char-nvidia* rwm" in lines
    assert "SupplementaryGroups=video render" in lines
    keys = {line.partition("=")[0] for line in lines}
    assert keys & {"PrivateDevices", "MemoryDenyWriteExecute", "ProcSubset"} == set()
