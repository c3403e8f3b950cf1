"""The rules between a node's keys, which no single value can break alone.

`check` yields (key path, message); `load` adds file and line. Values that could not be read are
defaults here, and what is said of them is dropped by `load`. What only the machine can tell (model
files, flags that a binary knows, GPUs) is judged in the node's room.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rolemesh.config.checks_keys import key_list
from rolemesh.config.compile_node import offered
from rolemesh.config.hosts import is_loopback, is_wildcard, leads_to
from rolemesh.config.schema_node import ModelSection, NodeFile
from rolemesh.config.tree import Map, Path, shown_key
from rolemesh.core.devices import GpuName
from rolemesh.core.llama_flags import refused_argument, refused_variable
from rolemesh.core.types import BaseUrl, Registration, ServedModel
from rolemesh.errors import InvalidValue
from rolemesh.wire.registration import MAX_MODELS, parse_register, register_body

Flaw = tuple[Path, str]

_ANY_URL = BaseUrl("http", "localhost", 80)
_PLACE = re.compile(r"served_models\[(\d+)\]\.(\w+)")  # of a field in a registration


def check(config: NodeFile) -> Iterator[Flaw]:
    exposed = not is_loopback(config.node.host)
    yield from key_list(config.node.api_keys, ("node", "api_keys"), exposed=exposed)
    yield from _advertised(config)
    yield from _gateways(config)
    yield from _arguments(config.llama_server.args, ("llama_server", "args"))
    for name in config.llama_server.env:
        if reason := refused_variable(name):
            yield ("llama_server", "env", name), reason
    yield from _devices(config)
    yield from _models(config)
    yield from _registrable(config)


def guard(base: Map | None, over: Map) -> Iterator[Flaw]:
    """Nothing here is opened by an empty list of keys: without any, only direct requests from this
    machine come in."""
    yield from ()


def _advertised(config: NodeFile) -> Iterator[Flaw]:
    """Gateways must be told a URL that leads here from where they are."""
    node, here = config.node, ("node", "advertise_url")
    if node.advertise_url is not None:
        if is_wildcard(node.advertise_url.host):
            yield here, "is no address of this machine: name one that gateways can reach"
    elif config.gateways and is_wildcard(node.host):
        yield here, "is needed: node.host stands for every address, so it tells gateways none"
    elif is_loopback(node.host) and not all(is_loopback(each.url.host) for each in config.gateways):
        yield here, "is needed: a gateway on another machine cannot reach node.host, a loopback"


def _gateways(config: NodeFile) -> Iterator[Flaw]:
    urls: set[BaseUrl] = set()
    for number, gateway in enumerate(config.gateways):
        here = ("gateways", number)
        if gateway.url in urls:
            yield (*here, "url"), "is that of another gateway in this list"
        urls.add(gateway.url)
        if leads_to(gateway.url, config.node.host, config.node.port):
            yield (*here, "url"), "is this node itself"
        if gateway.cert_key_file is not None and gateway.cert_file is None:
            yield (*here, "cert_key_file"), "needs cert_file: it is the key of a certificate"


def _arguments(args: Sequence[str], path: Path) -> Iterator[Flaw]:
    for number, arg in enumerate(args):
        if reason := refused_argument(arg):
            yield (*path, number), reason


def _devices(config: NodeFile) -> Iterator[Flaw]:
    if not isinstance(config.gpus, str):
        yield from _repeated(config.gpus, ("gpus",))
    if config.gpus in ("none", ()) and config.cpu is False:
        yield ("cpu",), "leaves the node without any device, for gpus is none"


def _repeated(gpus: Sequence[GpuName], path: Path) -> Iterator[Flaw]:
    for number, gpu in enumerate(gpus):
        if gpu in gpus[:number]:
            yield (*path, number), "is listed twice"


def _models(config: NodeFile) -> Iterator[Flaw]:
    if len(config.models) > MAX_MODELS:
        yield ("models",), f"are too many: gateways take {MAX_MODELS} of a node"
    for number, model in enumerate(config.models):
        here, earlier = ("models", number), config.models[:number]
        if any(other.model_id == model.model_id for other in earlier):
            yield (*here, "model_id"), "is that of another model in this list"
        yield from _arguments(model.args, (*here, "args"))
        if model.pinned and model.idle_unload_s is not None:
            yield (*here, "idle_unload_s"), "stands beside pinned, which keeps the model loaded"
        yield from _device(config, model, (*here, "device"))
        yield from _rivals(model, earlier, (*here, "device"))


def _device(config: NodeFile, model: ModelSection, here: Path) -> Iterator[Flaw]:
    if model.device == "cpu" and config.cpu is False:
        yield here, "is not among the node's: cpu is false"
    if isinstance(model.device, str):
        return
    if not model.device:
        yield here, "is an empty list: name a GPU, or say auto"
    yield from _repeated(model.device, here)
    for gpu in model.device:
        if _excluded(gpu, config.gpus):
            yield here, f"is not among the node's: gpus does not list {gpu}"


def _excluded(gpu: GpuName, gpus: str | Sequence[GpuName]) -> bool:
    """Whether the node's own list leaves it out, as far as that can be told without the machine:
    an index and a uuid may be the same GPU."""
    if isinstance(gpus, str):
        return gpus == "none"
    return gpu not in gpus and all(isinstance(each, type(gpu)) for each in gpus)


def _rivals(model: ModelSection, others: Sequence[ModelSection], here: Path) -> Iterator[Flaw]:
    """A pinned model has its devices for itself: another one there would never be loaded."""
    for other in others:
        pinned = other if other.pinned else model
        if pinned.pinned and _named(model) & _named(other):
            yield here, f"is shared with {shown_key(other.model_id)}: {_never_leaves(pinned)}"


def _never_leaves(pinned: ModelSection) -> str:
    return f"{shown_key(pinned.model_id)} is pinned, and never makes room for the other"


def _named(model: ModelSection) -> frozenset[GpuName]:
    if isinstance(model.device, tuple):
        return frozenset(model.device)
    return frozenset({model.device}) - {"auto"}


def _registrable(config: NodeFile) -> Iterator[Flaw]:
    """What a gateway would refuse, by its own rules: of each model alone, then of all."""
    models = offered(config)
    alone = [flaw for number, model in enumerate(models) for flaw in _refusal((model,), number)]
    # Models that are named twice are told of already.
    together = [flaw for flaw in _refusal(models, 0) if flaw[0][-1] == "meta"]
    yield from alone or together


def _refusal(models: Sequence[ServedModel], number: int) -> Iterator[Flaw]:
    """`number`: which of the node's models the first of these is."""
    try:
        parse_register(register_body(Registration("node", _ANY_URL, tuple(models))))
    except InvalidValue as error:
        place = _PLACE.match(error.param or "")
        if place is not None:
            path: Path = ("models", number + int(place[1]), place[2])
            yield path, error.message.removeprefix(place[0]).strip(" .")
    except UnicodeEncodeError:  # bytes of the environment that are no text
        yield ("models", number), "has a text that is not UTF-8"
