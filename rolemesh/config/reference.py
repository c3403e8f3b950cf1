"""The configurations' references, generated from the schemas: Markdown and manual pages.

`python -m rolemesh.config.reference` writes all into the working copy; a test says when they are
stale. The words about keys come from the schemas alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from rolemesh.config import manual_words
from rolemesh.config.manual import manual
from rolemesh.config.pages import Page, pages
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_node import NodeFile

_INTRODUCTION = """\
# {title}

Every key of a {daemon}'s configuration. How files, overrides and variables become one configuration
is told in [configuration.md](configuration.md). An unknown key is an error, and so is a value of
another kind. `null` is as if the key was not written.

This page is made by `python -m rolemesh.config.reference` from the program's own schema.
"""


def markdown(content: list[Page], title: str, daemon: str) -> str:
    introduction = _INTRODUCTION.format(title=title, daemon=daemon)
    return "\n".join([introduction, *(line for page in content for line in _section(page))])


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
    gateway, node = pages(GatewayFile), pages(NodeFile)
    docs, man = Path("docs"), Path("man")
    return {
        docs / "configuration-reference.md": markdown(
            gateway, "Configuration reference", "gateway"
        ),
        docs / "node-configuration-reference.md": markdown(
            node, "Node configuration reference", "node"
        ),
        man / "rolemesh.yaml.5": manual(gateway, manual_words.GATEWAY),
        man / "rolemesh-node.yaml.5": manual(node, manual_words.NODE),
    }


def main() -> None:
    for path, text in documents().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
