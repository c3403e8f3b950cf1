"""The peers: how they are run, what is said when one is missing, and the control itself."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
from attrs import evolve, frozen

from benchmarks.adapter import Gateway
from benchmarks.backend import backend
from benchmarks.gateways import GATEWAYS
from benchmarks.job import Job
from benchmarks.life import life
from benchmarks.meaning import says_as_expected
from benchmarks.measure import measure
from benchmarks.peers import ENVIRONMENTS, PEERS
from benchmarks.peers.control import PlainRelay
from benchmarks.peers.environment import (
    REQUIREMENTS,
    Environment,
    NodePackage,
    PythonPackage,
    how_to_install,
    install,
)
from benchmarks.peers.routers import ROUTERS
from benchmarks.script import Script, expected, request_body

WHOLE = Script(answer_bytes=920)
STREAM = Script(answer_bytes=230, events=3)


@frozen
class Made:
    """An environment that is made by commands of the test's own."""

    place: Path
    commands: list[list[str]]
    name: str = "made"

    def version(self) -> str | None:
        return "1" if (self.place / self.name).exists() else None

    def steps(self) -> list[list[str]]:
        return self.commands


def rewritten(body: bytes, **changes: object) -> bytes:
    """As a gateway sends it that reads JSON and writes its own."""
    return json.dumps({**json.loads(body), **changes}, indent=1).encode()


def rewritten_stream(*numbers: int, end: bytes = b"data: [DONE]\n\n") -> bytes:
    events = expected(STREAM).split(b"\n\n")[:3]
    made = [b"data: " + rewritten(events[each].removeprefix(b"data: ")) for each in numbers]
    last = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}'
    return b"".join(each.replace(b"\n", b" ") + b"\n\n" for each in [*made, last]) + end


def test_every_peer_has_a_name_of_its_own_and_may_fail() -> None:
    names = [each.name for each in GATEWAYS]
    assert len(set(names)) == len(names)
    assert all(each.may_fail for each in PEERS)
    assert [each.name for each in GATEWAYS if not each.may_fail] == ["nginx", "haproxy", "rolemesh"]


@pytest.mark.parametrize("peer", PEERS, ids=lambda each: each.name)
def test_every_peer_is_told_its_port_and_its_upstream(peer: Gateway, tmp_path: Path) -> None:
    launch = peer.prepare(tmp_path, 18_000, 18_001)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    told = f"{written} {' '.join(launch.argv)} {launch.headers}"
    assert "18000" in told
    assert "18001" in told


def test_routers_keep_their_metrics_to_loopback() -> None:
    for each in ROUTERS:
        argv = each.prepare(Path(), 18_000, 18_001).argv
        assert argv[argv.index("--prometheus-host") + 1] == "127.0.0.1"


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: each.name)
def test_requirements_name_one_version_exactly(environment: Environment) -> None:
    python, node = (REQUIREMENTS / f"{environment.name}{end}" for end in (".txt", ".json"))
    if node.exists():
        described = json.loads(node.read_text())
        pins = [*described["dependencies"].values(), *described["overrides"].values()]
        assert all(each.replace(".", "").isdigit() for each in pins)
    else:
        lines = [each for each in python.read_text().splitlines() if not each.startswith("#")]
        assert len(lines) == 1
        assert "==" in lines[0]


def test_a_package_that_is_not_there_has_no_version(tmp_path: Path) -> None:
    assert PythonPackage("sglang-router", tmp_path).version() is None
    assert NodePackage("portkey", "@portkey-ai/gateway", tmp_path).version() is None


def test_the_version_is_what_the_environment_has(tmp_path: Path) -> None:
    described = tmp_path / "vllm-router/lib/python3.11/site-packages/vllm_router-0.9.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-router\nVersion: 0.9\n")
    assert PythonPackage("vllm-router", tmp_path).version() == "0.9"
    assert PythonPackage("litellm", tmp_path).version() is None


def test_an_installation_that_works_leaves_no_reason(tmp_path: Path) -> None:
    made = Made(tmp_path / "peers", [["mkdir", str(tmp_path / "peers" / "made")]])
    assert install(made) is None
    assert made.version() == "1"
    assert how_to_install(made) == "make bench-peers"


def test_an_installation_that_fails_says_why_until_it_works(tmp_path: Path) -> None:
    said = "npm error 404 Not Found - GET http://127.0.0.1:1/x\\nnpm error see /root/_logs/x.log"
    script = f"import sys; sys.exit('npm warn old\\n{said}')"
    bad = Made(tmp_path, [[sys.executable, "-c", script], ["touch", str(tmp_path / "made")]])
    assert install(bad) == "npm error 404 Not Found - GET ..."
    assert how_to_install(bad) == "make bench-peers failed: npm error 404 Not Found - GET ..."
    assert bad.version() is None
    assert install(evolve(bad, commands=[])) is None
    assert how_to_install(bad) == "make bench-peers"


def test_an_installer_that_is_not_there_is_named(tmp_path: Path) -> None:
    reason = install(Made(tmp_path, [["no-such-npm", "install"]]))
    assert reason == "no-such-npm is not installed (Debian: apt install no-such-npm)"


def test_the_control_passes_everything_on(tmp_path: Path) -> None:
    with (
        backend(tmp_path) as upstream,
        life(PlainRelay(), upstream.port, tmp_path) as alive,  # which asks for both kinds
    ):
        job = Job(alive.port, STREAM, connections=2, prompt_bytes=65_536)
        outcome = measure(job, alive.process.pids, upstream.pids).outcome
    assert (outcome.answers, outcome.events, outcome.errors) == (2, 6, ())


def test_json_made_anew_is_compared_by_what_it_says() -> None:
    body = expected(WHOLE)
    assert says_as_expected(rewritten(body, id="another", more={"x": [1]}), WHOLE)
    assert not says_as_expected(body.replace(b"word", b"w0rd", 1), WHOLE)
    assert not says_as_expected(body[:-1], WHOLE)
    assert not says_as_expected(b"[]", WHOLE)


def test_a_stream_made_anew_has_the_same_events_in_order() -> None:
    assert says_as_expected(expected(STREAM), STREAM)
    assert says_as_expected(rewritten_stream(0, 1, 2), STREAM)


@pytest.mark.parametrize(
    "body",
    [
        rewritten_stream(0, 2),
        rewritten_stream(0, 2, 1),
        rewritten_stream(0, 1, 1, 2),
        rewritten_stream(0, 1, 2, end=b""),
        rewritten_stream(0, 1, 2) + b"data: {}\n\n",
        rewritten_stream(0, 1, 2).replace(b"data: ", b"date: ", 1),
        rewritten_stream(0, 1, 2).replace(b'"choices"', b'"chances"', 1),
        b"",
    ],
    ids=["lost", "moved", "doubled", "no end", "more", "field", "shape", "nothing"],
)
def test_a_stream_made_anew_that_says_something_else_is_seen(body: bytes) -> None:
    assert not says_as_expected(body, STREAM)


def test_the_upstream_gives_a_router_the_prompts_tokens(tmp_path: Path) -> None:
    with (
        backend(tmp_path) as upstream,
        closing(HTTPConnection("127.0.0.1", upstream.port, timeout=10)) as connection,
    ):
        body = request_body(WHOLE, 1024)
        connection.request("POST", "/v1/chat/completions/render", body)
        answer = json.loads(connection.getresponse().read())
    assert len(answer["token_ids"]) == 200
