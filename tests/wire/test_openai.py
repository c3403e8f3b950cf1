"""What answers look like."""

from __future__ import annotations

import json

import pytest

from rolemesh.core.types import Alias
from rolemesh.errors import InvalidValue, NoAvailableBackend, UpstreamError
from rolemesh.wire.openai import (
    ModelList,
    error_body,
    error_event,
    is_anthropic,
    model_entry,
    model_list,
    needs_done,
    node_entry,
    unavailable_entry,
)

WRITER = Alias("writer", "writer-model")
REVIEWER = Alias("reviewer", "reviewer", role="reviewer")


def test_an_error_has_its_four_fields() -> None:
    error = InvalidValue("model must be a string.", param="model")
    assert json.loads(error_body(error)) == {
        "error": {
            "message": "model must be a string.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "invalid_value",
        }
    }


def test_param_is_null_where_none_is_at_fault() -> None:
    assert json.loads(error_body(UpstreamError("It broke.")))["error"]["param"] is None


def test_the_reasons_are_told_in_details() -> None:
    details = [{"backend": "writer/gpu", "reason": "connection_refused", "detail": "é"}]
    error = NoAvailableBackend("No backend.", details=details)
    assert json.loads(error_body(error))["error"]["details"] == details


def test_anthropics_errors_say_so_beside_it() -> None:
    body = json.loads(error_body(UpstreamError("It broke."), anthropic=True))
    assert body["type"] == "error"
    assert body["error"]["code"] == "upstream_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_an_error_event_is_one_data_line(path: str) -> None:
    error = UpstreamError("It broke.\nTwice.")
    assert error_event(error, path) == b"data: " + error_body(error) + b"\n\n"
    assert error_event(error, path).count(b"\n") == 2


def test_clients_that_skip_unnamed_events_get_a_named_one() -> None:
    error = UpstreamError("It broke.")
    assert error_event(error, "/v1/responses") == (
        b"event: error\ndata: " + error_body(error) + b"\n\n"
    )
    assert error_event(error, "/v1/messages") == (
        b"event: error\ndata: " + error_body(error, anthropic=True) + b"\n\n"
    )


def test_only_chat_and_completion_streams_need_their_done() -> None:
    assert needs_done("/v1/chat/completions")
    assert needs_done("/v1/completions")
    assert not needs_done("/v1/responses")
    assert not needs_done("/v1/messages")


def test_anthropics_paths_are_known() -> None:
    assert is_anthropic("/v1/messages")
    assert is_anthropic("/v1/messages/count_tokens")
    assert not is_anthropic("/v1/messages2")


def test_a_model_list_is_the_contracts() -> None:
    told = ModelList(
        models=[model_entry(WRITER, backends=1, created=1764000000)],
        unavailable=[
            unavailable_entry(
                REVIEWER,
                reason="no_fresh_node",
                detail="gpu-box-1 stale for 42 s",
                since=1764000000,
            )
        ],
        default_model="planner",
        nodes=[node_entry("gpu-box-1", "stale", 42.7, ("reviewer",))],
    )
    assert model_list(told) == {
        "object": "list",
        "data": [
            {
                "id": "writer-model",
                "object": "model",
                "created": 1764000000,
                "owned_by": "rolemesh",
                "rolemesh": {"alias": "writer", "type": "proxy", "backends": 1},
            }
        ],
        "rolemesh": {
            "default_model": "planner",
            "unavailable_models": [
                {
                    "id": "reviewer",
                    "alias": "reviewer",
                    "type": "discovered",
                    "reason": "no_fresh_node",
                    "detail": "gpu-box-1 stale for 42 s",
                    "since": 1764000000,
                }
            ],
            "nodes": [
                {"node_id": "gpu-box-1", "state": "stale", "age_s": 42, "roles": ["reviewer"]}
            ],
        },
    }


def test_a_limited_key_sees_no_nodes() -> None:
    assert model_list(ModelList(models=[])) == {
        "object": "list",
        "data": [],
        "rolemesh": {"default_model": None, "unavailable_models": []},
    }
