"""What can be told of a model from the first bytes of its file, and from the file's name.

Enough to say that a file is no model before a child is started for it. Whether all of it is there
and of a kind that the binary knows, only loading shows. Layout: the GGUF specification, little
endian: magic, version (32 bits), number of tensors and of metadata (64 bits each).
"""

from __future__ import annotations

import re

HEAD_BYTES = 64

_MAGIC = b"GGUF"
_FIXED_BYTES = 24
_LFS_POINTER = b"version https://git-lfs"
_PART = re.compile(r"(.*-)(\d{5})(-of-)(\d{5})(\.gguf)")


def flaw(head: bytes) -> str | None:
    """Why a file that begins with `head` (HEAD_BYTES of it) is no model; None where it may be."""
    if not head:
        return "is empty"
    if head.startswith(_LFS_POINTER):
        return "is a Git LFS pointer instead of the model: get the model with git lfs pull"
    if not head.startswith(_MAGIC[: len(head)]):
        return "is no GGUF file"
    if len(head) < _FIXED_BYTES:
        return "is cut off: there is only the beginning of a GGUF file"
    version = int.from_bytes(head[4:8], "little")
    if version & 0xFFFF == 0:  # llama.cpp's test
        return "is a GGUF file of another byte order" if version else "is no GGUF file"
    return None


def other_parts(name: str) -> tuple[str, ...]:
    """The other files of a model in parts whose first part this is; empty for a model in one file.
    Raises ValueError, with what is wrong, for a part that is not the first."""
    match = _PART.fullmatch(name)
    if match is None:
        return ()
    start, number, of, count, end = match.groups()
    if int(number) != 1:
        raise ValueError(f"is part {int(number)} of {int(count)}: name the first part")
    return tuple(f"{start}{part:05}{of}{count}{end}" for part in range(2, int(count) + 1))
