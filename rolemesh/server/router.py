"""Which handler a method and a path belong to. Exact paths by a look-up, patterns one by one."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from rolemesh.errors import MethodNotAllowed, NotFound
from rolemesh.server.inbound import Answer, Inbound

# A handler gives an answer, or None when it has written one itself.
Handler = Callable[[Inbound], Awaitable[Answer | None]]

_PARAM = re.compile(r"\{(\w+)(:path)?\}")
_NO_PARAMS: Mapping[str, str] = {}


class Router:
    """Patterns hold `{name}` (one segment) or `{name:path}` (the rest, slashes and all)."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, Handler]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Handler]]] = []
        self.routes: list[tuple[str, str]] = []

    def add(self, method: str, path: str, handler: Handler) -> None:
        self.routes.append((method, path))
        if "{" not in path:
            self._exact.setdefault(path, {})[method] = handler
            return
        pattern = re.compile(_PARAM.sub(_group, path))
        for known, handlers in self._patterns:
            if known == pattern:
                handlers[method] = handler
                return
        self._patterns.append((pattern, {method: handler}))

    def resolve(self, method: str, path: str) -> tuple[Handler, Mapping[str, str]]:
        """HEAD is answered as GET is, without the body. Raises NotFound, MethodNotAllowed."""
        handlers = self._exact.get(path)
        params = _NO_PARAMS
        if handlers is None:
            handlers, params = self._match(path)
        handler = handlers.get("GET" if method == "HEAD" else method)
        if handler is None:
            allow = sorted(handlers) + (["HEAD"] if "GET" in handlers else [])
            raise MethodNotAllowed("This path does not know that method.", allow=allow)
        return handler, params

    def _match(self, path: str) -> tuple[dict[str, Handler], Mapping[str, str]]:
        for pattern, handlers in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None:
                return handlers, found.groupdict()
        raise NotFound("There is nothing at this path: see the documentation of the HTTP API.")


def _group(param: re.Match[str]) -> str:
    return f"(?P<{param[1]}>{'.+' if param[2] else '[^/]+'})"
