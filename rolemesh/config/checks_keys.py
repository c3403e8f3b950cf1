"""Rules for a list of keys, the same for every daemon that has one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rolemesh.config.compile import key_digest
from rolemesh.config.schema_auth import AdminKey, ClientKey, NodeKey
from rolemesh.config.tree import Path

AnyKey = ClientKey | NodeKey | AdminKey

_SAMPLE_KEY = "change-me"
_NEW_KEY = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"


def key_list(keys: Sequence[AnyKey], path: Path, *, exposed: bool) -> Iterator[tuple[Path, str]]:
    """What is wrong with the keys at `path`. `exposed`: other machines can try them."""
    names: set[str] = set()
    digests: dict[bytes, int] = {}
    for number, each in enumerate(keys):
        source, here = each.source, (*path, number)
        if (source.key is None) == (source.key_hash is None):
            yield here, "needs exactly one of key, key_file and key_hash"
            continue
        if source.key is not None and exposed and source.key.lower().startswith(_SAMPLE_KEY):
            yield here, f"is the sample key, which everybody knows; make one: {_NEW_KEY}"
        if source.name is not None and source.name in names:
            yield (*here, "name"), "is the name of another key in this list"
        names.add(source.name or "")
        first = digests.setdefault(key_digest(source), number)
        if first != number:
            yield here, f"is the same key as [{first}]"
