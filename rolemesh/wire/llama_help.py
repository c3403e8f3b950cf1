"""What a llama-server says of itself with --help: which flags it knows, and what they take.

Builds differ: `--flash-attn` takes a value or none, `--no-webui` became `--no-ui`, flags come and
go. So a binary is asked (node/programs), the node passes only what it knows (node/command), and the
operator's arguments are judged before a child is started with them (node/check).

A line of the list begins with the names and what stands for the values, and goes on with the
explanation behind two blanks or in the next line, far to the right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import field, frozen

from rolemesh.core.llama_flags import spelled

_LINE = re.compile(r" {0,2}(-\S.*)")
_NAME = re.compile(r"--?[A-Za-z][A-Za-z0-9._-]*")
_BRACKETS = re.compile(r"<[^>]*>|\{[^}]*\}|\[[^\]]*\]")
_SHOWN_CHARACTERS = 40


@frozen
class Help:
    """`values`: how many values each flag takes. `is_told`: by the binary; else it is assumed, and
    no argument is judged by it."""

    values: Mapping[str, int] = field(repr=False)
    is_told: bool = True

    def first_known(self, *names: str) -> str | None:
        """The first of a flag's names that the binary knows."""
        return next((name for name in names if name in self.values), None)

    def flaw(self, args: Sequence[str]) -> str | None:
        """Why the binary would not take these arguments, by the first that it would not. Nothing
        but flags is repeated: a value may be a secret."""
        if not self.is_told:
            return None
        rest = iter(args)
        before = ""
        for arg in rest:
            name = arg.replace("_", "-") if arg.startswith("--") else arg
            count = self.values.get(name)
            if count is None:
                return self._unknown(arg, before)
            if any(next(rest, None) is None for _ in range(count)):
                return f"{name} needs a value"
            before = f" behind {name}"
        return None

    def _unknown(self, arg: str, before: str) -> str:
        if not arg.startswith("-"):
            return f"there is a value{before} where this llama-server expects a flag"
        flag = spelled(arg)
        if flag in self.values:
            return f"{flag} takes its value as the next argument, not behind ="
        return f"{flag[:_SHOWN_CHARACTERS]} is no flag of this llama-server"


# For a binary that does not tell: a wrapper that minds no arguments, say.
ASSUMED = Help(
    values={
        **dict.fromkeys(("--model", "--alias", "--host", "--port", "--device"), 1),
        **dict.fromkeys(("--n-gpu-layers", "--ctx-size", "--parallel"), 1),
        **dict.fromkeys(("--metrics", "--slots", "--no-webui"), 0),
    },
    is_told=False,
)


def read_help(text: str) -> Help:
    """ASSUMED, where the text is no list of a llama-server's flags."""
    values = {name: count for names, count in _lines(text) for name in names}
    return Help(values) if {"--model", "--port"} <= values.keys() else ASSUMED


def _lines(text: str) -> Iterator[tuple[list[str], int]]:
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        # The first name is padded behind its comma: that is no end of the names.
        head = re.split(r"\s{2,}", re.sub(r",\s+", ", ", match[1].rstrip()))[0]
        pieces = [piece.split() for piece in _BRACKETS.sub("X", head).split(", ")]
        names = [words[0] for words in pieces if words and _NAME.fullmatch(words[0])]
        yield names, max(len(words) - 1 for words in pieces)
