"""Tells who is refused: requests that were answered with 401, 403 or 429, wherever that was decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.domain.events_people import CallerRefused

REFUSED = frozenset({401, 403, 429})
OTHER = "other"
"""Stands for a method or path that this router does not know."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Refusals:
    """Tells `observe` of each request that is refused, before it is answered."""

    def __init__(self, app: ASGIApp, observe: Callable[[CallerRefused], None], routes: Sequence[Route]) -> None:
        self._app = app
        self._observe = observe
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in REFUSED:
                # The audit writes a file, the event loop has others to answer.
                await run_in_threadpool(self._observe, self._event(scope, message["status"]))
            await send(message)

        await self._app(scope, receive, telling if scope["type"] == "http" else send)

    def _event(self, scope: Scope, code: int) -> CallerRefused:
        client = scope.get("client")
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        known = (route.path for route in self._routes if route.path_regex.match(scope["path"]))
        return CallerRefused(
            request=f"{method} {next(known, OTHER)}", http_status=code, ip_address=client[0] if client else ""
        )
