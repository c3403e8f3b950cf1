"""What of a child's last words tells why it failed."""

from __future__ import annotations

from rolemesh.node.run import telling


def test_the_last_lines_are_the_reason() -> None:
    assert telling(["one", "two", "", "three", "four", ""]) == ["two", "three", "four"]
    assert telling([]) == []


def test_errors_come_before_what_is_said_behind_them() -> None:
    said = [
        "0.00.042.123 I llama_model_loader: loaded meta data",
        "0.00.043.001 E llama_model_load: error loading model: tensor is not within the file",
        "0.00.043.002 W main: 1 E is in here, and it is no error",
        "0.00.043.003 I srv: cleaning up before exit",
    ]
    assert telling(said) == [said[1]]
