"""What stands before and behind the keys in the configurations' manual pages."""

from __future__ import annotations

from attrs import frozen


@frozen
class ManualWords:
    """In mdoc; the keys come between."""

    head: str
    tail: str


GATEWAY = ManualWords(
    r"""
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
""",
    r"""
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
.Xr rolemesh-gateway 1 ,
.Xr rolemesh-node.yaml 5
""",
)

NODE = ManualWords(
    r"""
.\" Made by `python -m rolemesh.config.reference` from the program's own schema.
.Dd November 21, 2026
.Dt ROLEMESH-NODE.YAML 5
.Os
.Sh NAME
.Nm rolemesh-node.yaml
.Nd configuration of a RoleMesh node
.Sh DESCRIPTION
.Nm
is the configuration of
.Xr rolemesh-node 1 .
It is read by the same rules as the gateway's: overrides, variables, and secrets
in files of their own are told in
.Xr rolemesh.yaml 5 .
A null in an override also removes an entry of
.Ic meta
or
.Ic env .
.Pp
A GPU is named by its index, in the order of the PCI bus as
.Ql nvidia-smi
shows it, or better by its uuid, which stays when cards are moved:
.Ql nvidia-smi -L
lists both.
.Sh KEYS
""",
    r"""
.Sh ENVIRONMENT
.Bl -tag -width Ds
.It Ev ROLE_MESH_NODE_CONFIG
The configuration, if
.Fl Fl config
is not given.
.It Ev ROLE_MESH_NODE_CONFIG_OVERRIDE
The overrides, if
.Fl Fl config-override
is not given.
.El
.Sh FILES
Without
.Fl Fl config
and
.Ev ROLE_MESH_NODE_CONFIG ,
the first of these that exists is taken, if the caller or root owns it:
.Pp
.Bl -tag -width Ds -compact
.It Pa etc/node.yaml
.It Pa /etc/rolemesh/node.yaml
.El
.Sh EXAMPLES
.Bd -literal
version: 1
node:
  node_id: gpu-box-1
  host: 0.0.0.0
  advertise_url: http://10.0.0.12:8091
gateways:
  - {url: "http://10.0.0.1:8000", node_key_file: /etc/rolemesh/node.key}
models:
  - model_id: qwen3-8b
    path: /models/Qwen3-8B-Q5_K_M.gguf
    roles: [planner, writer]
    device: GPU-8932f937-d72c-4106-c12f-20bd9faed9f6
    ctx_size: 16384
    parallel: 2
    preload: true
.Ed
.Sh SEE ALSO
.Xr rolemesh 1 ,
.Xr rolemesh-node 1 ,
.Xr rolemesh.yaml 5
""",
)
