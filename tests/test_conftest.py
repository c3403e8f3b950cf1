"""Where nothing may be skipped a skip is a failure; elsewhere it stays a skip that is shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

A_TEST = "import pytest\ndef test_a(): pytest.skip('no mandoc here')\n"
A_MODULE = "import pytest\npytest.importorskip('a_module_that_is_not_there')\n"
OF_A_GPU = "import pytest\n@pytest.mark.gpu\ndef test_a(): pytest.skip('no GPU here')\n"
EXPECTED_TO_FAIL = "import pytest\n@pytest.mark.xfail\ndef test_a(): raise ValueError\n"


def outcome(folder: Path, text: str, *, may_skip: bool) -> tuple[int, str]:
    """pytest's exit code and output for a module of this text, under our conftest."""
    module = folder / "test_it.py"
    module.write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", str(ROOT)]
    argv += ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", str(module)]
    env = {**os.environ, "ROLE_MESH_NO_SKIP": "" if may_skip else "1"}
    ended = subprocess.run(
        argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout


@pytest.mark.parametrize(("text", "reason"), [(A_TEST, "mandoc"), (A_MODULE, "not_there")])
def test_a_skip_fails_where_nothing_may_be_skipped(tmp_path: Path, text: str, reason: str) -> None:
    code, output = outcome(tmp_path, text, may_skip=False)
    assert code != 0
    assert "ROLE_MESH_NO_SKIP is set, and this was skipped" in output
    assert reason in output


def test_a_skip_is_shown_with_its_reason_elsewhere(tmp_path: Path) -> None:
    code, output = outcome(tmp_path, A_TEST, may_skip=True)
    assert code == 0
    assert "no mandoc here" in output


@pytest.mark.parametrize("text", [OF_A_GPU, EXPECTED_TO_FAIL])
def test_a_missing_gpu_and_an_expected_failure_are_let_pass(tmp_path: Path, text: str) -> None:
    assert outcome(tmp_path, text, may_skip=False)[0] == 0
