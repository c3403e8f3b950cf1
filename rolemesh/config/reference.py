"""The configuration's reference, generated from the schema: a Markdown page and a manual page.

`python -m rolemesh.config.reference` writes both into the working copy; a test says when they are
stale. The words about keys come from the schema alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rolemesh.config.manual import manual
from rolemesh.config.pages import Page, pages
from rolemesh.config.schema_gateway import GatewayFile

MARKDOWN = Path("docs/configuration-reference.md")
MANUAL = Path("man/rolemesh.yaml.5")

_INTRODUCTION = """\
# Configuration reference

Every key of a gateway's configuration. How files, overrides and variables become one configuration
is told in [configuration.md](configuration.md). An unknown key is an error, and so is a value of
another kind. `null` is as if the key was not written.

This page is made by `python -m rolemesh.config.reference` from the program's own schema.
"""


def markdown(content: list[Page]) -> str:
    return "\n".join([_INTRODUCTION, *(line for page in content for line in _section(page))])


def _section(page: Page) -> Iterator[str]:
    title = f"`{page.path}`" if page.path else "Top level"
    yield f"## {title}" + (f" with `{page.case}`" if page.case else "")
    yield ""
    if page.doc:
        yield page.doc
        yield ""
    yield "| key | takes | without it | |"
    yield "|---|---|---|---|"
    for row in page.rows:
        cells = (f"`{row.name}`", row.takes, row.default, row.doc)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def documents() -> dict[Path, str]:
    """Path in the working copy -> what belongs there."""
    content = pages(GatewayFile)
    return {MARKDOWN: markdown(content), MANUAL: manual(content)}


def main() -> None:
    for path, text in documents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
