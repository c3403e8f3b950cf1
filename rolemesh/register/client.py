"""One gateway, spoken to as a node or an operator: register, heartbeat, goodbye, and reading.

Used by `rolemesh register`, `rolemesh status` and the node. No redirects, no cookies, no proxy of
the environment; TLS verified; every exchange bounded in time and size. Failures become
RoleMeshError here, in words that name the gateway.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import aiohttp
import msgspec
from attrs import field, frozen

from rolemesh import __version__
from rolemesh.core.types import BaseUrl, Heartbeat, Registration
from rolemesh.errors import (
    InvalidApiKey,
    NotAllowed,
    RequestError,
    RoleMeshError,
    RunError,
    UnknownNode,
)
from rolemesh.server.logformat import escaped
from rolemesh.server.tls import client_context
from rolemesh.wire.registration import asked_interval, heartbeat_body, lease_length, register_body

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 32 * 2**20
DEFAULT_INTERVAL_S = 10.0


@frozen
class Gateway:
    """Where a gateway is and how to be let in. `key` is a node's or an admin's."""

    url: BaseUrl
    key: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    cert_key_file: str | None = None


class Client:
    """An async context manager: `async with Client(gateway) as client`, or `open` and `close`.
    Raises ConfigError when a TLS file cannot be used; the methods raise RoleMeshError."""

    def __init__(self, gateway: Gateway, timeout_s: float = TIMEOUT_S) -> None:
        self.gateway = gateway
        files = (gateway.ca_file, gateway.cert_file, gateway.cert_key_file)
        self._tls = client_context(*files) if gateway.url.tls else None
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None
        self.lease_s: float | None = None  # how long the last registration holds, where it is said

    async def __aenter__(self) -> Client:
        self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def open(self) -> None:
        """Within a running event loop."""
        headers = {"User-Agent": f"rolemesh/{__version__}"}
        if self.gateway.key is not None:
            headers["Authorization"] = f"Bearer {self.gateway.key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls if self._tls is not None else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=self._timeout,
            trust_env=False,
            max_line_size=16384,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def register(self, registration: Registration) -> float:
        """The heartbeat interval that the gateway asks for, in seconds."""
        answer = await self._call("POST", "/v1/nodes/register", register_body(registration))
        self.lease_s = lease_length(answer)
        return asked_interval(answer) or DEFAULT_INTERVAL_S

    async def heartbeat(self, beat: Heartbeat) -> float:
        """The same. Raises UnknownNode when the gateway wants a registration first."""
        answer = await self._call("POST", "/v1/nodes/heartbeat", heartbeat_body(beat))
        return asked_interval(answer) or DEFAULT_INTERVAL_S

    async def goodbye(self, node_id: str) -> None:
        """Raises UnknownNode when there is nothing to take back."""
        await self._call("DELETE", f"/v1/nodes/{node_id}")

    async def get(self, path: str) -> dict[str, Any]:
        """A JSON object of the gateway's, such as /v1/models."""
        answer: dict[str, Any] = msgspec.json.decode(await self._call("GET", path))
        return answer

    async def _call(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer's body: a JSON object."""
        if self._session is None:
            raise RuntimeError("the client is used outside `async with`")
        headers = {"Content-Type": "application/json"} if body is not None else {}
        url = f"{self.gateway.url}{path}"
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                return self._judge(response.status, await _read(response))
        except TimeoutError as error:
            raise self._error(f"no answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._error(_words(error)) from error

    def _judge(self, status: int, data: bytes) -> bytes:
        try:
            answer = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._error(f"answered {status}, and not as a RoleMesh gateway does")
        if 200 <= status < 300:
            return data
        details = answer.get("error")
        if not isinstance(details, dict):
            raise self._error(f"answered {status}, and not as a RoleMesh gateway does")
        code, message = str(details.get("code")), str(details.get("message"))
        kind = _kind(status, code)
        keyless = kind is InvalidApiKey and self.gateway.key is None
        hint = "; no key was sent" if keyless else ""
        raise kind(f"{self.gateway.url}: {_shown(message)} ({status} {_shown(code)}){hint}")

    def _error(self, message: str) -> RunError:
        return RunError(f"{self.gateway.url}: {message}")


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = await response.content.read(MAX_ANSWER_BYTES)
    while chunk := await response.content.read(MAX_ANSWER_BYTES - len(data) + 1):
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise ValueError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return data


def _kind(status: int, code: str) -> type[RoleMeshError]:
    if code == UnknownNode.code:
        return UnknownNode
    if status == 401:
        return InvalidApiKey
    if status == 403:
        return NotAllowed
    return RequestError if 400 <= status < 500 else RunError


def _words(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is not trusted: {error.certificate_error}"
        case aiohttp.ClientConnectorDNSError():
            return "the name does not resolve to an address"
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return "connection refused: is a gateway running there?"
        case aiohttp.ServerDisconnectedError():
            return "the connection was closed before an answer came"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {error.os_error.strerror or error.os_error}"
    return _shown(str(error) or type(error).__name__)


def _shown(text: str) -> str:
    """What a peer sent, for a terminal or a log: one printable line of bounded length."""
    return escaped(text[:500])
