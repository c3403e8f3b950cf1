"""The manual pages of the configurations in mdoc, from the pages of the reference.

rolemesh.yaml(5) is the gateway's and tells how files become a configuration; rolemesh-node.yaml(5)
refers to it. Clean under `mandoc -T lint`.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from rolemesh.config.manual_words import ManualWords
from rolemesh.config.pages import Page, Row

_WIDTH = 78
_SENTENCE_END = re.compile(r"(?<=[.:?!]) (?=[A-Z\"])")


def manual(content: list[Page], words: ManualWords) -> str:
    keys = "\n".join(line for page in content for line in _section(page))
    return f"{words.head.strip()}\n{keys}\n{words.tail.strip()}\n"


def _section(page: Page) -> Iterator[str]:
    title = page.path or "Top level"
    if title.endswith("[]"):
        title = "Each of " + title.removesuffix("[]")
    yield f".Ss {_escaped(title)}" + (f" ({page.case})" if page.case else "")
    if page.doc:
        yield from _prose(page.doc)
    yield ".Bl -tag -width Ds"
    for row in page.rows:
        yield f".It Ic {_escaped(row.name)}"
        yield from _prose(_description(row))
    yield ".El"


def _description(row: Row) -> str:
    takes = f"Takes {row.takes}."
    if row.default == "required":
        return f"{row.doc} {takes} Required."
    return f"{row.doc} {takes} Without it: {row.default}."


def _prose(text: str) -> Iterator[str]:
    """A line per sentence, as mdoc wants it, and none too long."""
    for sentence in _SENTENCE_END.split(" ".join(text.split())):
        for line in textwrap.wrap(sentence, _WIDTH, break_on_hyphens=False):
            escaped = _escaped(line)
            yield f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _escaped(text: str) -> str:
    return text.replace("\\", "\\e")
