"""How the built-in server is started: this very package, and nothing of the working folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rolemesh
from rolemesh.builtin import command

ROOT = str(Path(rolemesh.__file__).parents[1])


def test_an_installed_one_finds_no_module_in_the_working_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", ["/usr/bin", *sys.path[1:], ROOT])
    assert command()[:3] == [sys.executable, "-P", "-m"]


def test_in_a_clone_the_working_folder_is_where_it_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [ROOT, *sys.path])
    assert command() == [sys.executable, "-m", "rolemesh.builtin"]
