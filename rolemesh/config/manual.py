"""rolemesh.yaml(5) in mdoc, from the pages of the reference. Clean under `mandoc -T lint`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from rolemesh.config.pages import Page, Row

_WIDTH = 78
_SENTENCE_END = re.compile(r"(?<=[.:?!]) (?=[A-Z\"])")

_HEAD = r"""
.\" Made by `python -m rolemesh.config.reference` from the program's own schema.
.Dd November 21, 2026
.Dt ROLEMESH.YAML 5
.Os
.Sh NAME
.Nm rolemesh.yaml
.Nd configuration of the RoleMesh gateway
.Sh DESCRIPTION
.Nm
is the configuration of
.Xr rolemesh-gateway 1 .
It is one YAML mapping, with any number of overrides laid over it.
Every key may be left out unless it is said to be required.
An unknown key is an error, and so is a value of another kind; all problems of
all files are reported at once, each with file, line and key.
.Ss Overrides
Files given with
.Fl Fl config-override ,
or named in
.Ev ROLE_MESH_CONFIG_OVERRIDE
and separated by colons, are merged into the first one, in order.
Mappings merge recursively.
Lists and scalars are replaced.
A null restores the defaults of a section, or removes an entry of
.Ic models
or
.Ic defaults .
An override cannot switch authentication off by accident:
.Ql auth: null
is always an error, and emptying the list of client keys is one unless the same
file says
.Ql allow_anonymous: true .
.Ss Variables
.Ql ${NAME}
and
.Ql ${NAME:-fallback}
in a value are environment variables.
One that is not set and has no fallback is an error.
Where a key takes text, a variable is taken as it is; where it takes a number, a
boolean, a list or a mapping, it is read as YAML or JSON.
.Ql $${
is a literal
.Ql ${ .
.Ss Secrets
A secret can be kept in a file of its own, named by the key's twin in
.Ql _file ;
one trailing newline is cut.
.Ql $CREDENTIALS_DIRECTORY
works in paths.
Relative paths are relative to the file that they are written in.
.Sh KEYS
"""

_TAIL = r"""
.Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev ROLE_MESH_CONFIG
The configuration, if
.Fl Fl config
is not given.
.It Ev ROLE_MESH_CONFIG_OVERRIDE
The overrides, if
.Fl Fl config-override
is not given.
.It Ev ROLE_MESH_NODE_STALE_AFTER_S
Wins over
.Ic registry.stale_after_s .
.El
.Sh FILES
Without
.Fl Fl config
and
.Ev ROLE_MESH_CONFIG ,
the first of these that exists is taken, if the caller or root owns it:
.Pp
.Bl -tag -width Ds -compact
.It Pa etc/gateway.yaml
.It Pa configs/models.yaml
.It Pa /etc/rolemesh/gateway.yaml
.El
.Sh EXAMPLES
.Bd -literal
version: 1
default_model: planner
auth:
  client_api_keys:
    - {name: editor, key_file: /etc/rolemesh/editor.key}
models:
  planner:
    proxy_url: http://127.0.0.1:8011
  writer:
    backends:
      - {name: gpu, base_url: "http://10.0.0.12:8012"}
      - {name: cpu, base_url: "http://10.0.0.13:8012"}
  reviewer:
    type: discovered
.Ed
.Sh SEE ALSO
.Xr rolemesh 1 ,
.Xr rolemesh-gateway 1
"""


def manual(content: list[Page]) -> str:
    keys = "\n".join(line for page in content for line in _section(page))
    return f"{_HEAD.strip()}\n{keys}\n{_TAIL.strip()}\n"


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
