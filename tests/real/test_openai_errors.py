"""What goes wrong reaches users of the openai client as the class they expect, and never as an
answer: a stream that was cut must raise, however it was cut."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.dead_ports import RefusedPort
from tests.fake_backend import FakeBackend
from tests.gateway_process import GatewayProcess
from tests.llama import LlamaServer, Starter, hello, until
from tests.real.conftest import KEYS, StartGateway, proxy
from tests.real.test_openai_client import base_url
from tests.script import Answer, Chunk, Die, Head, LastChunk, Send, Stall, completion, event

openai = pytest.importorskip("openai", reason="pip install 'rolemesh[test]'")

MESSAGES: Any = hello()
MakeClient = Callable[..., Any]


@pytest.fixture
def client_of() -> Iterator[MakeClient]:
    """`client_of(gateway)`: a client without retries of its own, unless told."""
    made = []

    def make(gateway: GatewayProcess, key: str = KEYS["whole"], **fields: Any) -> Any:
        given = {"base_url": base_url(gateway), "api_key": key, "max_retries": 0, **fields}
        made.append(openai.OpenAI(**given))
        return made[-1]

    yield make
    for client in made:
        client.close()


def chat(client: Any, model: Any = "tiny", **fields: Any) -> Any:
    return client.chat.completions.create(
        model=model, messages=MESSAGES, **{"max_tokens": 3, **fields}
    )


async def read_all(stream: Any) -> None:
    async for _ in stream:
        pass


# What the gateway says


def test_a_wrong_key(front: GatewayProcess, client_of: MakeClient) -> None:
    for ask in (chat, lambda client: client.models.list(), lambda client: chat(client, "nope")):
        with pytest.raises(openai.AuthenticationError) as raised:
            ask(client_of(front, "sk-wrong"))
        assert (raised.value.code, raised.value.param) == ("invalid_api_key", None)
        assert raised.value.request_id


def test_an_alias_that_the_key_may_not_use(front: GatewayProcess, client_of: MakeClient) -> None:
    client = client_of(front, KEYS["limited"])
    said = set()
    for model in ("slow", "nope"):  # known and unknown: one answer
        with pytest.raises(openai.PermissionDeniedError) as raised:
            chat(client, model)
        assert raised.value.code == "model_not_allowed"
        said.add(str(raised.value.body))
    assert len(said) == 1
    chat(client, "tiny")


def test_an_unknown_model(front: GatewayProcess, client_of: MakeClient) -> None:
    client = client_of(front)
    for ask in (chat, lambda client, model: client.models.retrieve(model)):
        with pytest.raises(openai.NotFoundError) as raised:
            ask(client, "nope")
        assert raised.value.code == "model_not_found"
        assert "nope" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "param"), [({"model": 7}, "model"), ({"stream": "yes"}, "stream")]
)
def test_a_value_of_the_wrong_type(
    front: GatewayProcess, client_of: MakeClient, fields: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        chat(client_of(front), extra_body=fields)
    assert (raised.value.code, raised.value.param) == ("invalid_value", param)


def test_a_path_that_does_not_exist(front: GatewayProcess, client_of: MakeClient) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client_of(front).batches.list()
    assert raised.value.code == "not_found"


def test_a_body_that_is_too_large(start_gateway: StartGateway, client_of: MakeClient) -> None:
    gateway = start_gateway({"tiny": proxy("http://127.0.0.1:9")}, gateway={"max_body_bytes": 999})
    with pytest.raises(openai.APIStatusError) as raised:
        chat(client_of(gateway), extra_body={"filler": "x" * 500_000})
    assert (raised.value.status_code, raised.value.code) == (413, "request_too_large")


def test_nobody_there(start_gateway: StartGateway, client_of: MakeClient) -> None:
    port = RefusedPort()
    gateway = start_gateway({"tiny": proxy(port.url)})
    with pytest.raises(openai.InternalServerError) as raised:
        chat(client_of(gateway))
    assert (raised.value.status_code, raised.value.code) == (503, "no_available_backend")
    assert int(raised.value.response.headers["Retry-After"]) > 0
    with pytest.raises(openai.NotFoundError):
        client_of(gateway).models.retrieve("tiny")
    port.close()


# What the server says


def test_a_context_that_is_too_small(front: GatewayProcess, client_of: MakeClient) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client_of(front).completions.create(model="tiny", prompt="x " * 3000)
    assert raised.value.type == "exceed_context_size_error"
    assert raised.value.body["n_ctx"] == 2048


def test_what_the_server_cannot_do(front: GatewayProcess, client_of: MakeClient) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client_of(front).embeddings.create(model="tiny", input="x")
    assert raised.value.status_code == 501


@pytest.fixture(scope="module")
def scriptable(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[GatewayProcess, FakeBackend]]:
    """For what a real llama.cpp does not say on command."""
    with FakeBackend() as backend:
        config = {
            "models": {"tiny": proxy(backend.url)},
            "timeouts": {"first_byte_s": 0.5, "idle_s": 0.5},
        }
        with GatewayProcess(config, tmp_path_factory.mktemp("scriptable")) as gateway:
            yield gateway, backend


@pytest.fixture
def scripted(
    scriptable: tuple[GatewayProcess, FakeBackend], client_of: MakeClient
) -> tuple[Any, FakeBackend]:
    gateway, backend = scriptable
    return client_of(gateway), backend


def test_each_status_of_the_server_is_its_class(scripted: tuple[Any, FakeBackend]) -> None:
    client, backend = scripted
    classes = {
        400: openai.BadRequestError,
        404: openai.NotFoundError,
        409: openai.ConflictError,
        422: openai.UnprocessableEntityError,
        429: openai.RateLimitError,
        500: openai.InternalServerError,
        503: openai.InternalServerError,
    }
    for status, expected in classes.items():
        backend.script(Answer.error(status, "its own words"))
        with pytest.raises(expected) as raised:
            chat(client)
        assert raised.value.status_code == status
        assert raised.value.body["message"] == "its own words"


def test_a_server_that_breaks_or_stalls(scripted: tuple[Any, FakeBackend]) -> None:
    client, backend = scripted
    for step, status, code in (
        (Send(b"no HTTP at all\r\n\r\n"), 502, "upstream_error"),
        (Die(), 502, "upstream_error"),  # on a new connection: a kept one would be tried again
        (Stall(), 504, "upstream_timeout"),
    ):
        backend.script(step)
        with pytest.raises(openai.InternalServerError) as raised:
            chat(client)
        assert (raised.value.status_code, raised.value.code) == (status, code)


def test_when_to_come_back_is_passed_on(start_gateway: StartGateway, client_of: MakeClient) -> None:
    """The client waits as long as the server told it to, and no retry of ours comes between."""
    with FakeBackend() as backend:
        gateway = start_gateway({"tiny": proxy(backend.url)})
        backend.script(Answer.json({"error": {}}, 429, headers=[("Retry-After", "1")]))
        backend.script(Answer.json(completion("back")))
        begun = time.monotonic()
        answer = chat(client_of(gateway, max_retries=1))
        assert answer.choices[0].message.content == "back"
        assert time.monotonic() - begun >= 0.9
        assert len(backend.received) == 2


def test_the_clients_retries_bridge_the_loading_of_a_model(
    start_gateway: StartGateway, client_of: MakeClient, llama_server: Starter
) -> None:
    loading = llama_server(model="slow", ready=False)
    until(lambda: loading.health() is not None, "its port is bound")
    gateway = start_gateway({"tiny": proxy(loading)})
    assert chat(client_of(gateway, max_retries=9)).usage.completion_tokens == 3


def test_a_client_whose_patience_ends_frees_its_slot(
    front: GatewayProcess, client_of: MakeClient, slow_llama: LlamaServer
) -> None:
    client = client_of(front, timeout=0.4)
    with pytest.raises(openai.APITimeoutError):
        chat(client, "slow", max_tokens=60)
    front.wait_line(lambda line: line.get("alias") == "slow" and line["outcome"] == "client_abort")
    until(lambda: slow_llama.busy_slots() == 0, "the slot is free")


# Streams that are cut


def test_a_stream_of_a_killed_server_raises(
    start_gateway: StartGateway, client_of: MakeClient, llama_server: Starter
) -> None:
    server = llama_server(model="slow")
    client = client_of(start_gateway({"tiny": proxy(server)}))
    stream = chat(client, max_tokens=1000, stream=True)
    next(stream)
    server.kill()
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert raised.value.code == "upstream_error"


async def test_a_stream_of_a_killed_server_raises_asynchronously(
    start_gateway: StartGateway, llama_server: Starter
) -> None:
    server = llama_server(model="slow")
    gateway = start_gateway({"tiny": proxy(server)})
    async with openai.AsyncOpenAI(base_url=base_url(gateway), api_key="any") as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=1000, stream=True
        )
        await anext(aiter(stream))
        server.kill()
        with pytest.raises(openai.APIError):
            await read_all(stream)


@pytest.mark.parametrize("kind", ["completions", "responses"])
def test_streams_of_other_kinds_raise_too(
    start_gateway: StartGateway, client_of: MakeClient, llama_server: Starter, kind: str
) -> None:
    server = llama_server(model="slow")
    client = client_of(start_gateway({"tiny": proxy(server)}))
    asked = {
        "completions": {"prompt": "hello", "max_tokens": 1000},
        "responses": {"input": "hello", "max_output_tokens": 1000},
    }
    stream = getattr(client, kind).create(model="tiny", stream=True, **asked[kind])
    next(stream)
    server.kill()
    with pytest.raises(openai.APIError):
        list(stream)


def test_a_stream_of_a_gateway_that_stops_raises(
    start_gateway: StartGateway, client_of: MakeClient, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway({"tiny": proxy(slow_llama)}, gateway={"drain_timeout_s": 0.3})
    stream = chat(client_of(gateway), max_tokens=1000, stream=True)
    next(stream)
    gateway.signal(signal.SIGTERM)
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert raised.value.code == "shutting_down"
    assert gateway.wait_exit() == 0


def test_a_stream_of_a_killed_gateway_raises(
    start_gateway: StartGateway, client_of: MakeClient, slow_llama: LlamaServer
) -> None:
    gateway = start_gateway({"tiny": proxy(slow_llama)})
    stream = chat(client_of(gateway), max_tokens=1000, stream=True)
    next(stream)
    gateway.kill()
    with pytest.raises(openai.APIConnectionError):
        list(stream)


ENDINGS = {
    "the end of the body without [DONE]": [Chunk(event("a")), LastChunk()],
    "a closed connection": [Chunk(event("a")), Die()],
    "a reset connection": [Chunk(event("a")), Die(reset=True)],
    "half an event": [Chunk(event("a") + event("b")[:-9]), Die()],
    "half an event and a proper end": [Chunk(event("a") + event("b")[:-9]), LastChunk()],
    "half of [DONE]": [Chunk(event("a") + b"data: [DO"), Die()],
    "[DONE] without a blank line": [Chunk(event("a") + b"data: [DONE]"), Die()],
    "an error event of its own": [
        Chunk(event("a") + b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'),
        LastChunk(),
    ],
    "silence": [Chunk(event("a")), Stall()],
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_way_to_cut_a_stream_looks_like_success(
    scripted: tuple[Any, FakeBackend], ending: str
) -> None:
    client, backend = scripted
    backend.script(Head(), *ENDINGS[ending])
    stream = chat(client, stream=True)
    assert next(stream).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError):
        next(stream)


def test_an_answer_that_is_cut_raises(scripted: tuple[Any, FakeBackend]) -> None:
    client, backend = scripted
    head = Head(content_type="application/json", framing="Content-Length: 1000")
    backend.script(head, Send(b'{"id": "chatcmpl-1", "choices": ['), Die())
    with pytest.raises(openai.APIConnectionError):
        chat(client)


def test_every_one_of_many_streams_of_a_killed_server_raises(
    start_gateway: StartGateway, client_of: MakeClient, llama_server: Starter
) -> None:
    server = llama_server(model="slow", parallel=3)
    client = client_of(start_gateway({"tiny": proxy(server)}))

    def read(stream: Any) -> str:
        try:
            list(stream)
        except openai.APIError as error:
            return str(error.code)
        return "success"

    streams = [chat(client, max_tokens=1000, stream=True) for _ in range(3)]
    for stream in streams:
        next(stream)
    with ThreadPoolExecutor(3) as pool:
        ends = [pool.submit(read, stream) for stream in streams]
        server.kill()
        assert [end.result(10) for end in ends] == ["upstream_error"] * 3
