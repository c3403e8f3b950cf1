"""What the first bytes of a file, and its name, tell of a model."""

from __future__ import annotations

import pytest

from rolemesh.wire.gguf import flaw, other_parts

HEAD = b"GGUF" + (3).to_bytes(4, "little") + bytes(56)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_the_head_of_a_model_is_fine(version: int) -> None:
    assert flaw(b"GGUF" + version.to_bytes(4, "little") + bytes(16)) is None


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (b"", "is empty"),
        (b"GG", "is cut off"),
        (b"GGUF", "is cut off"),
        (HEAD[:23], "is cut off"),
        (b"<!DOCTYPE html>", "is no GGUF file"),
        (b"tjgg" + bytes(60), "is no GGUF file"),
        (bytes(64), "is no GGUF file"),
        (b"GGUF" + bytes(60), "is no GGUF file"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(56), "another byte order"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "git lfs pull"),
    ],
)
def test_another_head_is_told_apart(head: bytes, says: str) -> None:
    assert says in str(flaw(head))


def test_a_model_in_one_file_has_no_other_parts() -> None:
    assert other_parts("SomeModel.Q5_K_M.gguf") == ()
    assert other_parts("part-1-of-3.gguf") == ()


def test_the_first_part_names_the_others() -> None:
    assert other_parts("big-00001-of-00003.gguf") == (
        "big-00002-of-00003.gguf",
        "big-00003-of-00003.gguf",
    )
    assert other_parts("big-00001-of-00001.gguf") == ()


def test_another_part_than_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="is part 2 of 3: name the first part"):
        other_parts("big-00002-of-00003.gguf")
