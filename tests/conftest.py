"""What holds for every test: where nothing may be skipped, a skip is a failure.

A test that needs a program which may be missing on a user's machine skips there, loudly. With
ROLE_MESH_NO_SKIP=1 (continuous integration) the same skip fails; tests marked `gpu` are exempt.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from tests.llama import llama, llama_folder, llama_server, slow_llama

__all__ = ["llama", "llama_folder", "llama_server", "slow_llama"]  # fixtures, for every test

NO_SKIP = os.environ.get("ROLE_MESH_NO_SKIP", "") not in ("", "0")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    expected_failure = hasattr(report, "wasxfail")
    if NO_SKIP and report.skipped and not expected_failure and "gpu" not in item.keywords:
        _turn_into_failure(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A module that skips itself as a whole (importorskip) never reaches the hook above."""
    report = yield
    if NO_SKIP and report.skipped:
        _turn_into_failure(report)
    return report


def _turn_into_failure(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"ROLE_MESH_NO_SKIP is set, and this was skipped: {reason}"
