"""A child's command line and environment.

Values only: nothing is started here. The program is asked for its flags first (programs), and one
that the build does not know is left out, but for those without which there is no child. Everything
is one element of a list, for no shell: what is in a path or an id is never read as anything else.

The key is in the environment, where other users cannot see it. Whatever stands for a flag there, or
speaks to the node itself, is kept from children.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from rolemesh.config.schema_node import LlamaServerSection, ModelSection
from rolemesh.core.devices import CPU, Device
from rolemesh.core.llama_flags import is_flag_variable
from rolemesh.node.programs import Program
from rolemesh.wire.llama_help import Help

HOST = "127.0.0.1"

# To the node from its service manager, its configuration or a shell: none of a child's business.
_NODES_PREFIXES = ("ROLE_MESH_", "LISTEN_", "LLAMA_SERVER_")
_NODES = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"})


def argv(
    program: Program,
    section: ModelSection,
    llama: LlamaServerSection,
    devices: Sequence[Device],
    port: int,
) -> list[str]:
    """The node's own flags come first, then those of all children, then the model's: of what is
    said twice, llama-server takes the last."""
    own = [text for flag in _flags(section, devices, port, program.known) for text in flag]
    return [*program.argv, *own, *llama.args, *section.args]


def _flags(
    section: ModelSection, devices: Sequence[Device], port: int, known: Help
) -> Iterator[tuple[str, ...]]:
    on_cpu = CPU in devices
    yield "--model", section.path
    yield "--host", HOST
    yield "--port", str(port)
    layers = 0 if on_cpu else section.n_gpu_layers
    for names, value in (
        (("--alias",), section.model_id),
        (("--ctx-size",), str(section.ctx_size)),
        (("--parallel",), str(section.parallel)),
        (("--n-gpu-layers", "--gpu-layers"), str(layers)),
        # For builds that use GPUs by another way than CUDA, and mind none of its variables.
        (("--device",), "none" if on_cpu else None),
    ):
        name = known.first_known(*names)
        if name is not None and value is not None:
            yield name, value
    for names in (("--metrics",), ("--slots",), ("--no-ui", "--no-webui")):
        name = known.first_known(*names)
        if name is not None:
            yield (name,)


def environment(
    llama: LlamaServerSection,
    devices: Sequence[Device],
    key: str,
    base: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """What a child on these devices gets: the node's own environment, what is configured, its
    device and its key. Its marker is added where it is started (process)."""
    env = {name: value for name, value in base.items() if not _is_the_nodes(name)} | dict(llama.env)
    env = {name: value for name, value in env.items() if not is_flag_variable(name)}
    # NVML counts cards by their place on the bus, CUDA by their speed unless told otherwise.
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    env["CUDA_VISIBLE_DEVICES"] = ",".join(each.id for each in devices if each != CPU)
    env["LLAMA_API_KEY"] = key
    return env


def _is_the_nodes(name: str) -> bool:
    return name in _NODES or name.startswith(_NODES_PREFIXES)
