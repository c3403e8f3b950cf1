"""The man pages: mandoc finds nothing to say, and they refer to pages that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

COMMANDS = ("rolemesh.1", "rolemesh-gateway.1", "rolemesh-node.1", "rolemesh-register.1")
PAGES = (*COMMANDS, "rolemesh.yaml.5", "rolemesh-node.yaml.5")
SECTIONS = ("NAME", "SYNOPSIS", "DESCRIPTION", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO")


@pytest.fixture
def man(root: Path) -> Path:
    return root / "man"


def test_there_is_no_page_that_is_not_tested(man: Path) -> None:
    assert sorted(PAGES) == sorted(path.name for path in man.iterdir())


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_finds_nothing_to_say(name: str, man: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    # In the pages' own directory, where it finds those that they refer to.
    command = ["mandoc", "-T", "lint", name]
    result = subprocess.run(
        command, cwd=man, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_refers_to_our_own_pages_only_and_they_exist(name: str, man: Path) -> None:
    text = (man / name).read_text()
    for title, section in re.findall(r"^\.Xr (\S+) (\d)", text, re.MULTILINE):
        assert f"{title}.{section}" in PAGES


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_page_has_every_section(name: str, man: Path) -> None:
    text = (man / name).read_text()
    assert [section for section in SECTIONS if f".Sh {section}\n" not in text] == []
