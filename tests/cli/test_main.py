"""The command as a whole: help, version, and failure in words with the right exit code."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rolemesh import __version__
from rolemesh.cli import COMMANDS, failure, rolemesh
from rolemesh.errors import ConfigError, RunError


def raising(error: BaseException) -> click.Command:
    def fail() -> None:
        raise error

    return click.Command("fail", callback=fail)


def test_the_version_is_told(run):
    assert run("--version").out == f"rolemesh {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run, command: str):
    assert f"  {command} " in run("--help").out
    assert run(command, "--help").out.startswith(f"Usage: rolemesh {command}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_explains_itself(name: str):
    command = rolemesh.get_command(click.Context(rolemesh), name)
    assert command is not None
    for option in command.params:
        assert isinstance(option, click.Option)
        assert option.help, f"{command.name} {option.name}"


def test_a_gateway_does_not_load_the_node():
    loaded = "import sys, rolemesh.cli; rolemesh.cli._command('gateway'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert "rolemesh.gateway.app" in done.stdout
    assert "rolemesh.node" not in done.stdout


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("a: b"), 2, "rolemesh: a: b\n"),
        (RunError("the port is in use"), 1, "rolemesh: the port is in use\n"),
        (click.UsageError("no such thing"), 2, "no such thing\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "rolemesh: /x: Permission denied\n"),
    ],
)
def test_failure_becomes_words_and_an_exit_code(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
):
    assert failure.run(raising(error), [], "rolemesh") == code
    assert capsys.readouterr().err.endswith(words)


def test_a_bug_of_ours_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        failure.run(raising(ZeroDivisionError()), [], "rolemesh")


@pytest.mark.parametrize("args", [["no-such-command"], ["gateway", "--no-such-option"]])
def test_wrong_usage_exits_2(run, args: list[str]):
    done = run(*args)
    assert done.code == 2
    assert "No such" in done.err


def test_the_module_runs_like_the_executable():
    done = subprocess.run([sys.executable, "-m", "rolemesh", "--version"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_reader_that_leaves_early_gets_no_traceback():
    line = f"{sys.executable} -m rolemesh register --help | true"
    done = subprocess.run(["sh", "-c", line], capture_output=True)
    assert b"Traceback" not in done.stderr


def test_full_output_is_a_clear_error():
    line = f"{sys.executable} -m rolemesh --help >/dev/full"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_the_daemons_executables_are_their_commands():
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    lines = config["options.entry_points"]["console_scripts"].split("\n")
    executables = dict(line.split(" = ") for line in lines if line)
    assert sorted(executables) == ["rolemesh", "rolemesh-gateway", "rolemesh-node-agent"]
    for name, place in executables.items():
        code = f"from {place.replace(':', ' import ')} as main; main(['--help'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.startswith(f"Usage: {name} [OPTIONS]")
