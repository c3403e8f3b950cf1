"""The documents say what the program is: what it has is documented, and what they show works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import click
import pytest
import trustme

from rolemesh import errors
from rolemesh.cli import rolemesh
from rolemesh.config.files import Sources
from rolemesh.config.load import load_gateway, load_node
from rolemesh.config.schema_gateway import GatewayFile
from rolemesh.config.schema_node import ModelSection, NodeFile
from rolemesh.config.shape import Choice, Items, Named, Section, Shape, section_of
from rolemesh.core import lifecycle, placement
from rolemesh.core.devices import CPU
from rolemesh.core.failover import Failure
from rolemesh.core.health import Reason
from rolemesh.core.types import ModelState
from rolemesh.gateway.routes import add_routes as add_gateway_routes
from rolemesh.node import figures, view
from rolemesh.node.app import CHECK_EVERY_S
from rolemesh.node.charge import Charge
from rolemesh.node.child_log import LIMIT_BYTES
from rolemesh.node.forward import COMMENT_S
from rolemesh.node.routes import add_routes as add_node_routes
from rolemesh.server.logformat import AccessLine
from rolemesh.server.metrics import SCRAPED, Metrics
from rolemesh.server.router import Router
from rolemesh.wire.openai import MODEL_PATHS

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_OF_A_NODE = re.compile(r"^(?:node|gateways|llama_server|gpus|cpu):|^  - .?model_id:", re.M)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block of code in a page."""

    where: str
    text: str


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            if match[1] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(f"{page.name}:{line}", match[2]))
    return found


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def doc(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def named(block: Block) -> str:
    return block.where


# Links


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in _LINK.findall(prose(page)):
            if "://" not in target:
                yield page, target


def anchors(page: Path) -> set[str]:
    """As the usual renderers make them out of headings."""
    titles = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for source, target in links():
        path, _, anchor = target.partition("#")
        goal = (source.parent / path).resolve() if path else source
        if source == page and not (goal.exists() and (not anchor or anchor in anchors(goal))):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    index = doc("README.md")
    pages = {page.name for page in PAGES} - {"README.md"}
    assert sorted(name for name in pages if f"({name})" not in index) == []


# Examples


@pytest.mark.parametrize("block", blocks("yaml"), ids=named)
def test_every_example_of_a_configuration_loads(block: Block, tmp_path: Path) -> None:
    """Laid over a base with keys, so that a fragment may leave out what it is not about."""
    text = block.text.replace("/etc/rolemesh/", f"{tmp_path}/")
    text = text.replace("_file: keys/", f"_file: {tmp_path}/")  # beside the file
    env = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "a-long-key-of-its-own")
    env["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    for number, name in enumerate(env):
        if name != "CREDENTIALS_DIRECTORY":
            env[name] += f"-{number}"
    text = text.replace("${CREDENTIALS_DIRECTORY}", str(tmp_path))
    for path in set(re.findall(rf"{re.escape(str(tmp_path))}/[\w.-]+\.(?:key|token|crt)", text)):
        Path(path).write_text(f"what-is-in-{Path(path).name}")
    base, over = tmp_path / "base.yaml", tmp_path / "block.yaml"
    base.write_text("version: 1\nauth: {client_api_keys: [a-key-of-the-base]}\n")
    over.write_text(text)
    if _OF_A_NODE.search(text):
        assert load_node(Sources((str(over),)), env).config.version == 1
        return
    loaded = load_gateway(Sources((str(base), str(over))), env)
    assert loaded.config.version == 1


@pytest.mark.parametrize("block", blocks("json"), ids=named)
def test_every_example_of_json_is_json(block: Block) -> None:
    assert json.loads(block.text)


@pytest.mark.parametrize("block", blocks("sh"), ids=named)
def test_every_example_for_the_shell_can_be_parsed(block: Block) -> None:
    shell = shutil.which("sh")
    if shell is None:
        pytest.skip("sh is not installed")
    result = subprocess.run(
        [shell, "-n"], input=block.text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("block", blocks("python"), ids=named)
def test_every_example_in_python_can_be_compiled(block: Block) -> None:
    compile(block.text, block.where, "exec")


# What there is, is documented


def keys(shape: Shape) -> Iterator[str]:
    match shape:
        case Section():
            for setting in shape.keys.values():
                yield setting.name
                if setting.secret and setting.twin in shape.keys:
                    yield setting.twin
                yield from keys(setting.shape)
        case Choice():
            for case in shape.cases.values():
                yield from keys(case)
        case Named():
            yield from keys(shape.entry)
        case Items():
            yield from keys(shape.item)


@pytest.mark.parametrize("key", sorted(set(keys(section_of(GatewayFile)))))
def test_every_configuration_key_is_documented(key: str) -> None:
    assert f"`{key}`" in doc("configuration-reference.md")
    assert key in (ROOT / "man/rolemesh.yaml.5").read_text()


@pytest.mark.parametrize("key", sorted(set(keys(section_of(NodeFile)))))
def test_every_key_of_a_nodes_configuration_is_documented(key: str) -> None:
    assert f"`{key}`" in doc("node-configuration-reference.md")
    assert key in (ROOT / "man/rolemesh-node.yaml.5").read_text()


def metrics() -> list[str]:
    """`name{label,...}`, as the document writes them; of gateway and node."""
    told = Metrics().registry.collect()
    scraped = dict.fromkeys((*SCRAPED, *figures.SCRAPED))
    shown = [f"rolemesh_{one.name}{{{','.join(one.labels)}}}" for one in scraped]
    shown += [one.name for one in told if one.name.startswith("rolemesh_")]
    return [name.replace("{}", "") for name in shown]


@pytest.mark.parametrize("metric", metrics())
def test_every_metric_is_documented(metric: str) -> None:
    assert re.search(rf"`{re.escape(metric)}(_total)?[{{`]", doc("metrics.md") + "`") or (
        f"`{metric}`" in doc("metrics.md")
    )


def test_no_metric_is_documented_that_does_not_exist() -> None:
    existing = {metric.partition("{")[0].removesuffix("_total") for metric in metrics()}
    documented = re.findall(r"^\| `(rolemesh_\w+)", doc("metrics.md"), re.MULTILINE)
    unknown = [name for name in documented if name.removesuffix("_total") not in existing]
    assert unknown == []


@pytest.mark.parametrize("reason", Reason, ids=lambda reason: reason.value)
def test_every_reason_is_documented_with_its_meaning(reason: Reason) -> None:
    assert f"| `{reason.value}` | {reason.meaning} |" in doc("availability.md")


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
def test_every_way_in_which_an_attempt_fails_is_documented(failure: Failure) -> None:
    assert f"`{failure.value}`" in doc("metrics.md")


@pytest.mark.parametrize("field", AccessLine.__struct_fields__)
def test_every_field_of_the_access_log_is_documented(field: str) -> None:
    assert f"`{field}`" in doc("metrics.md")


def test_every_phase_in_which_a_client_may_leave_is_documented() -> None:
    source = "".join(path.read_text() for path in (ROOT / "rolemesh").rglob("*.py"))
    phases = set(re.findall(r"\.phase = \"(\w+)\"", source))
    assert phases
    assert {phase for phase in phases if f"`{phase}`" not in doc("metrics.md")} == set()


Route = tuple[str, str]


def routes() -> list[Route]:
    router = Router()
    add_gateway_routes(router, *(Mock() for _ in range(4)))
    return _shown(router)


def node_routes() -> list[Route]:
    router = Router()
    add_node_routes(router, Mock(), Mock(), Mock())
    return _shown(router)


def _shown(router: Router) -> list[Route]:
    return [(method, path.replace(":path}", "}")) for method, path in router.routes]


def documented_routes() -> tuple[set[Route], set[Route]]:
    """The gateway's, and the node's own table."""
    gateway, node = doc("http-api.md").split("## A node's HTTP")
    return _rows(gateway), _rows(node)


def _rows(text: str) -> set[Route]:
    return set(re.findall(r"^\| ([A-Z]+) `(/[^`]*)` \|", text, re.MULTILINE))


def test_every_route_is_documented_and_no_other() -> None:
    assert documented_routes()[0] == set(routes())


def test_every_route_of_a_node_is_documented_and_no_other() -> None:
    models = {("POST", path) for path in MODEL_PATHS}  # "every POST path of the gateway"
    assert models <= set(routes())
    assert documented_routes()[1] == set(node_routes()) - models


@pytest.mark.parametrize("state", lifecycle.State, ids=lambda state: state.value)
def test_every_state_of_a_model_is_documented(state: lifecycle.State) -> None:
    assert f"| `{state.value}` |" in doc("node.md")


@pytest.mark.parametrize(
    "told",
    [
        f"a pause of {lifecycle.FIRST_BACKOFF_S:g} s that doubles",
        f"doubles up to {lifecycle.LONGEST_BACKOFF_S:g} s",
        f"The first request after {lifecycle.FATAL_PAUSE_S:g} s tries it once more",
        f"it is looked at again every {CHECK_EVERY_S:g} s",
        f"for {placement.PATIENCE_S:g} s from when the other's first request came",
        f"a comment (`:`) every {COMMENT_S:g} s once {COMMENT_S:g} s have passed",
        f"of {LIMIT_BYTES >> 20} MiB, with the one before it as `.log.1`",
    ],
)
def test_what_the_node_counts_is_as_its_page_says(told: str) -> None:
    assert told in " ".join(doc("node.md").split())


@pytest.mark.parametrize("state", ModelState, ids=lambda state: state.value)
def test_every_state_that_gateways_are_told_is_documented(state: ModelState) -> None:
    assert f"`{state.value}`" in doc("http-api.md")


def test_every_figure_that_a_nodes_operators_see_is_documented() -> None:
    child = Charge(
        ModelSection(model_id="m", path="/m", roles=()), placement.Model("m"), lifecycle.Child()
    )
    gpus = Mock()
    gpus.figures.return_value = None
    seen = {*view.child(child, 0.0), *view.device(CPU, gpus, [])}
    assert {key for key in seen if f'"{key}": ' not in doc("http-api.md")} == set()


def classes(base: type[errors.RoleMeshError]) -> Iterator[type[errors.RoleMeshError]]:
    yield base
    for cls in base.__subclasses__():
        yield from classes(cls)


HTTP_ERRORS = {
    (cls.status, cls.code)
    for cls in classes(errors.RoleMeshError)
    if not issubclass(cls, errors.ConfigError | errors.RunError)
}


@pytest.mark.parametrize(("status", "code"), sorted(HTTP_ERRORS))
def test_every_error_code_is_documented_with_its_status(status: int, code: str) -> None:
    assert f"| {status} | `{code}` |" in doc("http-api.md")


def options(command: click.Command, path: str) -> Iterator[tuple[str, str]]:
    """(`rolemesh init gateway`, `--dir`) and so on, for every command below."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from options(inner, f"{path} {name}")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield from ((path, name) for name in parameter.opts if name.startswith("--"))


def page_of(command: str) -> Path:
    """The daemon and the registration have pages of their own."""
    own = ROOT / "man" / f"{'-'.join(command.split()[:2])}.1"
    return own if own.exists() else ROOT / "man/rolemesh.1"


@pytest.mark.parametrize(("command", "option"), sorted(options(rolemesh, "rolemesh")))
def test_every_option_is_in_the_manual(command: str, option: str) -> None:
    page = page_of(command).read_text()
    assert re.search(rf"\bFl Fl {re.escape(option[2:])}(?![\w-])", page)


def test_no_option_is_in_the_manual_that_does_not_exist() -> None:
    existing = {option for _, option in options(rolemesh, "rolemesh")} | {"--help", "--version"}
    for name in ("rolemesh.1", "rolemesh-gateway.1", "rolemesh-node.1", "rolemesh-register.1"):
        shown = re.findall(r"\bFl Fl ([\w-]+)", (ROOT / "man" / name).read_text())
        assert {f"--{option}" for option in shown} - existing == set()


@pytest.mark.parametrize("command", sorted({name for name, _ in options(rolemesh, "rolemesh")}))
def test_every_command_is_in_the_manual(command: str) -> None:
    for word in command.split()[1:]:
        assert re.search(rf"Cm {word}\b", page_of(command).read_text())


VARIABLES = sorted(
    {
        name
        for path in (ROOT / "rolemesh").rglob("*.py")
        for name in re.findall(r"\bROLE_MESH_[A-Z_]+\b", path.read_text())
    }
)


@pytest.mark.parametrize("variable", VARIABLES)
def test_every_environment_variable_is_in_the_manual(variable: str) -> None:
    pages = (ROOT / "man").glob("*.1")
    assert any(f".It Ev {variable}" in page.read_text() for page in pages)


def test_nginx_accepts_the_example(tmp_path: Path, tool) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("llm.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "llm.pem")
    (example,) = blocks("nginx")
    server = re.sub(r"/etc/ssl/llm\.example\.(crt|key)", str(tmp_path / "llm.pem"), example.text)
    config = tmp_path / "nginx.conf"
    config.write_text(
        f"error_log {tmp_path}/error; pid {tmp_path}/pid;\nevents {{}}\n"
        f"http {{ access_log off;\n{server}}}\n"
    )
    result = tool("nginx", "-t", "-c", config)
    assert result.returncode == 0, result.stderr
