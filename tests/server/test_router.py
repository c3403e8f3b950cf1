from __future__ import annotations

import pytest

from rolemesh.errors import MethodNotAllowed, NotFound
from rolemesh.server.inbound import Answer, Inbound
from rolemesh.server.router import Handler, Router


def handler() -> Handler:
    async def handle(inbound: Inbound) -> Answer:
        return Answer()

    return handle


LIST, REGISTER, SHOW, GOODBYE, DRAIN, MODELS, MODEL = (handler() for _ in range(7))


@pytest.fixture
def router() -> Router:
    router = Router()
    router.add("GET", "/v1/nodes", LIST)
    router.add("POST", "/v1/nodes/register", REGISTER)
    router.add("GET", "/v1/nodes/{node_id}", SHOW)
    router.add("DELETE", "/v1/nodes/{node_id}", GOODBYE)
    router.add("POST", "/v1/nodes/{node_id}/drain", DRAIN)
    router.add("GET", "/v1/models", MODELS)
    router.add("GET", "/v1/models/{id:path}", MODEL)
    return router


@pytest.mark.parametrize(
    ("method", "path", "handler", "params"),
    [
        ("GET", "/v1/nodes", LIST, {}),
        ("HEAD", "/v1/nodes", LIST, {}),
        ("POST", "/v1/nodes/register", REGISTER, {}),
        ("DELETE", "/v1/nodes/gpu-1", GOODBYE, {"node_id": "gpu-1"}),
        ("HEAD", "/v1/nodes/gpu-1", SHOW, {"node_id": "gpu-1"}),
        ("POST", "/v1/nodes/gpu-1/drain", DRAIN, {"node_id": "gpu-1"}),
        ("GET", "/v1/models/qwen3", MODEL, {"id": "qwen3"}),
        ("GET", "/v1/models/org/qwen3:8b", MODEL, {"id": "org/qwen3:8b"}),
        # A node may be called like another route.
        ("DELETE", "/v1/nodes/register", GOODBYE, {"node_id": "register"}),
        ("POST", "/v1/nodes/register/drain", DRAIN, {"node_id": "register"}),
        ("HEAD", "/v1/nodes/register", SHOW, {"node_id": "register"}),
    ],
)
def test_a_path_leads_to_its_handler(
    router: Router, method: str, path: str, handler: Handler, params: dict[str, str]
) -> None:
    assert router.resolve(method, path) == (handler, params)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/v1", "/v1/nodes/", "/v1/nodes/a/b", "/v1/models/", "/v1/nodesX", "/V1/nodes", "*"],
)
def test_what_leads_nowhere_is_not_found(router: Router, path: str) -> None:
    with pytest.raises(NotFound) as raised:
        router.resolve("GET", path)
    assert "nodes" not in raised.value.message


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/nodes", ("GET", "HEAD")),
        ("get", "/v1/nodes", ("GET", "HEAD")),
        ("GET", "/v1/nodes/gpu-1/drain", ("POST",)),
        ("PUT", "/v1/nodes/gpu-1", ("DELETE", "GET", "HEAD")),
        ("PUT", "/v1/nodes/register", ("DELETE", "GET", "HEAD", "POST")),
        ("OPTIONS", "/v1/models/a/b", ("GET", "HEAD")),
    ],
)
def test_a_method_that_a_path_does_not_know_is_told_those_that_it_does(
    router: Router, method: str, path: str, allow: tuple[str, ...]
) -> None:
    with pytest.raises(MethodNotAllowed) as raised:
        router.resolve(method, path)
    assert raised.value.allow == allow


def test_every_route_is_listed_in_its_order(router: Router) -> None:
    assert router.routes[:2] == [("GET", "/v1/nodes"), ("POST", "/v1/nodes/register")]
    assert len(router.routes) == 7
