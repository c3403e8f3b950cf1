"""The one tree of errors. Every failure that a user may see is one of these classes.

Raised anywhere; turned into words in two places only: the server's error writer (HTTP) and the
command line. A class says which HTTP status, OpenAI `type` and `code`, and exit code it stands for.
A message names the thing and says what to do; over HTTP it never repeats what the client sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class RoleMeshError(Exception):
    """Base of the tree. `details` is what only the caller may see of the reasons (JSON values)."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        details: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = details


class ConfigError(RoleMeshError):
    """Configuration or usage is wrong. The message lists every problem, a line each."""

    exit_code = 2


class RunError(RoleMeshError):
    """The process cannot do its work: a port in use, a state file locked, a missing program."""


class RequestError(RoleMeshError):
    """The client's request is at fault."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class InvalidJson(RequestError):
    code = "invalid_json"


class InvalidValue(RequestError):
    code = "invalid_value"


class InvalidApiKey(RequestError):
    """Missing and wrong keys get the same answer."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class ModelNotAllowed(RequestError):
    """A limited key asked for another alias, known or not: one identical answer."""

    status = 403
    type = "permission_error"
    code = "model_not_allowed"


class NotAllowed(RequestError):
    """A node key was used beyond its node_ids, roles or networks."""

    status = 403
    type = "permission_error"
    code = "not_allowed"


class NotFound(RequestError):
    status = 404
    type = "not_found_error"
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class UnknownNode(NotFound):
    code = "unknown_node"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.allow = tuple(allow)


class RequestTimeout(RequestError):
    """The client began a request and stopped sending it."""

    status = 408
    code = "request_timeout"


class RequestTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class UnsupportedMediaType(RequestError):
    status = 415
    code = "unsupported_media_type"


class RateLimitExceeded(RequestError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class HeadersTooLarge(RequestError):
    status = 431
    code = "headers_too_large"


class UpstreamError(RoleMeshError):
    """The upstream broke before its first byte and no other could serve."""

    status = 502
    type = "upstream_error"
    code = "upstream_error"


class NoAvailableBackend(RoleMeshError):
    """Nothing could be sent to any backend."""

    status = 503
    type = "service_unavailable_error"
    code = "no_available_backend"


class ShuttingDown(RoleMeshError):
    status = 503
    type = "service_unavailable_error"
    code = "shutting_down"


class UpstreamTimeout(RoleMeshError):
    status = 504
    type = "timeout_error"
    code = "upstream_timeout"


class LoopDetected(RoleMeshError):
    status = 508
    type = "upstream_error"
    code = "loop_detected"
