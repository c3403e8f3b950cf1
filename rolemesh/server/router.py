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
_NO_HANDLERS: Mapping[str, Handler] = {}


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
        wanted = "GET" if method == "HEAD" else method
        handlers = self._exact.get(path, _NO_HANDLERS)
        if wanted in handlers:
            return handlers[wanted], _NO_PARAMS
        known = set(handlers)
        # A node may be called as an exact path ends, so patterns are looked at behind it.
        for pattern, handlers in self._patterns:
            found = pattern.fullmatch(path)
            if found is not None and wanted in handlers:
                return handlers[wanted], found.groupdict()
            if found is not None:
                known |= handlers.keys()
        if not known:
            with_v1 = f"/v1{path}" in self._exact
            hint = "end the client's base URL with /v1" if with_v1 else "see the HTTP API's manual"
            raise NotFound(f"There is nothing at this path: {hint}.")
        allow = sorted(known | {"HEAD"} if "GET" in known else known)
        raise MethodNotAllowed("This path does not know that method.", allow=allow)


def _group(param: re.Match[str]) -> str:
    return f"(?P<{param[1]}>{'.+' if param[2] else '[^/]+'})"
