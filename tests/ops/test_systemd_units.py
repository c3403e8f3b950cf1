"""The units in contrib/systemd: systemd accepts them, and lets them do little."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

UNITS = ("rolemesh-gateway.service", "rolemesh-gateway@.service", "rolemesh-register@.service")
GATEWAY_UNITS = UNITS[:2]
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
    text = re.sub(r"/opt/rolemesh/bin/rolemesh(-gateway)?\b", sys.executable, text)
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


def test_instances_share_neither_configuration_nor_state_nor_keys(unit: Path) -> None:
    own = ("ExecStart=", "StateDirectory=", "LoadCredential=")
    lines = [line for line in settings(unit / "rolemesh-gateway@.service") if line.startswith(own)]
    assert len(lines) >= len(own)
    assert [line for line in lines if "%i" not in line] == []


def test_both_gateway_units_are_hardened_alike(unit: Path) -> None:
    plain, instance = (settings(unit / name) for name in GATEWAY_UNITS)
    start = plain.index("DynamicUser=yes")
    assert plain[start:] == instance[instance.index("DynamicUser=yes") :]
