"""What a node's configuration may say: every key with its kind, default and documentation.

Read by `structure` (files into these values) and `reference` (these texts into the manual). Rules
between keys are in `checks_node`; what follows from them (a name, a path, keys) is made by
`compile_node`. Whether the model files, the binary and the GPUs are there is the node's to find
out: a configuration that names a missing one is good, and everything else keeps serving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from rolemesh.config.kinds import (
    FilePath,
    Host,
    IdHeaderName,
    Key,
    Line,
    Port,
    ReadableFile,
    Seconds,
    Size,
    Url,
    Version,
    Wait,
)
from rolemesh.config.kinds_node import (
    Argument,
    Context,
    CpuDevice,
    DeviceChoice,
    EnvName,
    GpuChoice,
    Layers,
    ModelId,
    ModelPath,
    NodeId,
    Program,
    Role,
    Slots,
)
from rolemesh.config.schema_auth import AdminKey
from rolemesh.config.schema_server import LogSection, TlsSection
from rolemesh.config.shape import about


@frozen(kw_only=True)
class NodeSection:
    node_id: NodeId | None = field(
        default=None,
        metadata=about(
            "What gateways call this node. Two nodes of one gateway need two names.",
            unset="the host name",
        ),
    )
    host: Host = field(default="127.0.0.1", metadata=about("Address to listen on."))
    port: Port = field(default=8091, metadata=about("Port to listen on; 0 takes any free one."))
    advertise_url: Url | None = field(
        default=None,
        metadata=about(
            "How gateways reach this node. Needed where host does not say it: a wildcard, or"
            " loopback while a gateway is on another machine.",
            unset="http or https, with host and port",
        ),
    )
    api_keys: tuple[AdminKey, ...] = field(
        default=(),
        metadata=about(
            "Keys of this node's operators: text, or mappings as below. They may ask its models"
            " and control it. Without any, direct requests from this machine may; gateways come in"
            " with a token that the node gives them."
        ),
    )
    heartbeat_interval_s: Seconds = field(
        default=10.0,
        metadata=about(
            "How often gateways are told that the node is alive; a gateway may ask for more."
        ),
    )
    state_path: FilePath | None = field(
        default=None,
        metadata=about(
            "File for what must survive a restart (the token for gateways, a drain, the children)."
            " It is locked: a second node on it is refused.",
            unset="node-<node_id>.json in $STATE_DIRECTORY, else in $XDG_STATE_HOME/rolemesh",
        ),
    )
    log_dir: FilePath | None = field(
        default=None,
        metadata=about(
            "Folder for what children print: a file per model, bounded in size.",
            unset="beside state_path, under its name: node-<node_id>-logs",
        ),
    )
    drain_timeout_s: Wait = field(
        default=30.0,
        metadata=about(
            "How long requests in flight may go on after SIGTERM or SIGINT; streams that are left"
            " then end with an error event."
        ),
    )
    max_body_bytes: Size = field(
        default=33_554_432, metadata=about("Largest request body; 413 beyond it.")
    )
    request_id_header: IdHeaderName = field(
        default="X-Request-ID",
        metadata=about("Header that carries a request's id, from the gateway and back to it."),
    )
    fast_lane: bool = field(
        default=True,
        metadata=about(
            "Serve ordinary model requests by the short way. Off, all go through aiohttp: slower,"
            " and the same in all that a client can see."
        ),
    )
    tls: TlsSection | None = field(
        default=None, metadata=about("Serve HTTPS with this certificate.")
    )


@frozen(kw_only=True)
class NodeTimeouts:
    connect_s: Seconds = field(default=5.0, metadata=about("To connect to a child."))
    first_byte_s: Seconds = field(
        default=600.0,
        metadata=about(
            "From the request sent to a child that is ready to the first byte of its answer:"
            " reading the prompt happens here."
        ),
    )
    idle_s: Seconds = field(default=300.0, metadata=about("Between two chunks of an answer."))
    queue_s: Wait = field(
        default=600.0,
        metadata=about(
            "How long a request may wait for its model: for the device's turn, and for the load."
        ),
    )


@frozen(kw_only=True)
class GatewayTarget:
    """A gateway to register with."""

    url: Url = field(metadata=about("Where the gateway is; a trailing /v1 is dropped."))
    node_key: Key | None = field(
        default=None,
        repr=False,
        metadata=about(
            "One of the gateway's node_api_keys. A gateway on this machine may do without."
        ),
    )
    node_key_file: FilePath | None = field(
        default=None, metadata=about("File that holds the key; one trailing newline is cut.")
    )
    ca_file: ReadableFile | None = field(
        default=None,
        metadata=about(
            "Certificate authorities in PEM for this gateway alone.",
            unset="the system's authorities",
        ),
    )
    cert_file: ReadableFile | None = field(
        default=None,
        metadata=about("Certificate chain in PEM to show to a gateway that asks for one."),
    )
    cert_key_file: ReadableFile | None = field(
        default=None,
        metadata=about(
            "The certificate's private key in PEM.", unset="it is in cert_file, or none is shown"
        ),
    )


@frozen(kw_only=True)
class LlamaServerSection:
    path: Program = field(
        default="llama-server",
        metadata=about(
            "The program that serves a model: a path, a name to be found in $PATH, or builtin, the"
            " llama.cpp of the [llama] extra (on the CPU only)."
        ),
    )
    args: tuple[Argument, ...] = field(
        default=(),
        metadata=about(
            "Arguments for every child. Those that the node sets itself are refused, such as"
            " --host, --port, --api-key, -m and --alias."
        ),
    )
    env: Mapping[EnvName, Argument] = field(
        factory=dict,
        metadata=about(
            "Environment variables for every child, beside the node's own. Those that stand for an"
            " argument (LLAMA_ARG_...) are refused, and kept from children."
        ),
    )
    load_timeout_s: Seconds = field(
        default=600.0,
        metadata=about("A load is given up when nothing has moved for this long."),
    )
    stop_timeout_s: Seconds = field(
        default=10.0,
        metadata=about("From SIGTERM to SIGKILL, for a child that does not end by itself."),
    )


@frozen(kw_only=True)
class ModelSection:
    """A model that this node offers: one file, served by one child at most."""

    model_id: ModelId = field(
        metadata=about("The model's name: what gateways send in `model`, and what metrics show.")
    )
    path: ModelPath = field(metadata=about("The GGUF file; of one in parts, the first part."))
    roles: tuple[Role, ...] = field(
        metadata=about(
            "Roles for which gateways may choose it; with an empty list none does, and it is"
            " served to callers of the node alone."
        )
    )
    device: DeviceChoice = field(
        default="auto",
        metadata=about(
            "Where it runs: any device, the CPU, one GPU, or a list of GPUs that one server spans"
            " and holds."
        ),
    )
    n_gpu_layers: Layers = field(
        default=999,
        metadata=about("How many of the model's layers a GPU holds; on the CPU, none."),
    )
    ctx_size: Context = field(
        default=0,
        metadata=about("Tokens of context, shared by its slots. 0: what the model was made for."),
    )
    parallel: Slots = field(
        default=1, metadata=about("Slots: how many requests it answers at once.")
    )
    args: tuple[Argument, ...] = field(
        default=(),
        metadata=about("Arguments for this model's child, after those of llama_server.args."),
    )
    preload: bool = field(
        default=False, metadata=about("Load it when the node starts, not at the first request.")
    )
    pinned: bool = field(
        default=False, metadata=about("Once loaded it stays: no other model takes its device.")
    )
    idle_unload_s: Seconds | None = field(
        default=None,
        metadata=about("Unload it after this long without a request.", unset="never"),
    )
    meta: Mapping[Line, Any] = field(
        factory=dict, metadata=about("What to show beside it in a gateway's /v1/nodes.")
    )


@frozen(kw_only=True)
class NodeFile:
    version: Version = field(default=1, metadata=about("Version of this format."))
    node: NodeSection = field(
        default=NodeSection(), metadata=about("Who the node is, and where and how it listens.")
    )
    log: LogSection = field(
        default=LogSection(), metadata=about("What is logged to standard error.")
    )
    timeouts: NodeTimeouts = field(
        default=NodeTimeouts(), metadata=about("No request can hang for ever.")
    )
    gateways: tuple[GatewayTarget, ...] = field(
        default=(), metadata=about("The gateways to register with; any number of them.")
    )
    llama_server: LlamaServerSection = field(
        default=LlamaServerSection(), metadata=about("How children are started and stopped.")
    )
    gpus: GpuChoice = field(
        default="all", metadata=about("Which of the machine's GPUs this node uses.")
    )
    cpu: CpuDevice = field(
        default="auto",
        metadata=about("Whether there is a CPU device besides; auto: only where there is no GPU."),
    )
    models: tuple[ModelSection, ...] = field(default=(), metadata=about("What the node serves."))
