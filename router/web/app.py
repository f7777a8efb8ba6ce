"""The HTTP endpoints. Shows what the service says of itself; decides nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from router.config import Reload, Standing
from router.errors import ConfigurationError, RouterError
from router.observe import logs
from router.web import guard, status
from router.web.bounded import BoundedProtocol

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0
_RELOADS_WAITING = 16
"""Requests to reload that may wait for one that is under way; further ones are told to come again."""
_NO_STORE = {"cache-control": "no-store"}


class Watched(Protocol):
    """What the endpoints need of the service."""

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type."""

    def health(self) -> dict[str, str]:
        """What is wrong by part; empty when the process works."""

    def readiness(self) -> dict[str, str]:
        """What is not ready by part; empty when work can be taken."""


class Configured(Protocol):
    """What the endpoints need of the configuration's coordinator."""

    @property
    def standing(self) -> Standing:
        """How things stand."""

    def reload(self) -> Reload:
        """Load the configuration again; takes as long as that takes."""

    def token(self) -> str | None:
        """The secret to be shown; None: there is none. Raises ConfigurationError where it is not to be had."""


class _Turns:
    """One after the other; knows how many there are."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.waiting = 0
        """Whose turn it is, included."""

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self.waiting -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self.waiting -= 1
        self._lock.release()


def make_app(service: Watched, configuration: Configured) -> Starlette:
    """The application."""
    began = time.monotonic()
    reloads = _Turns()

    def metrics(request: Request) -> Response:
        body, content_type = service.render_metrics(", ".join(request.headers.getlist("accept")))
        return Response(body, headers={"content-type": content_type, **_NO_STORE})

    def state(problems: dict[str, str]) -> Response:
        return JSONResponse(
            {"status": "ok" if not problems else "failing", "problems": problems},
            status_code=503 if problems else 200,
            headers=_NO_STORE,
        )

    def overview() -> dict[str, Any]:
        uptime = time.monotonic() - began
        return status.overview(configuration.standing, service.health(), service.readiness(), uptime)

    async def reload(request: Request) -> Response:
        refusal = await run_in_threadpool(_refusal, request, configuration)
        if refusal:
            return JSONResponse({"error": refusal}, status_code=403, headers=_NO_STORE)
        if reloads.waiting >= _RELOADS_WAITING:
            sentence = "Too many requests wait for a reload; try again in a moment."
            return JSONResponse({"error": sentence}, status_code=503, headers={"retry-after": "2", **_NO_STORE})
        async with reloads:  # who waits here takes no thread from those who ask for health or metrics
            done = await run_in_threadpool(configuration.reload)
        answer = status.reload_answer(configuration.standing, done)
        return JSONResponse(answer, status_code=200 if done.accepted else 422, headers=_NO_STORE)

    def failed(request: Request, error: Exception) -> Response:
        logs.trouble("http", error)
        return PlainTextResponse("The router failed to answer; see its log.\n", status_code=500)

    return Starlette(
        routes=[
            Route("/", lambda request: HTMLResponse(status.page(overview()), headers=status.HEADERS)),
            Route("/api/v1/configuration", lambda request: JSONResponse(overview(), headers=_NO_STORE)),
            Route("/-/reload", reload, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/healthz", lambda request: state(service.health())),
            Route("/readyz", lambda request: state(service.readiness())),
        ],
        exception_handlers={Exception: failed},
    )


def _refusal(request: Request, configuration: Configured) -> str:
    """Why the caller may change nothing, as a sentence; empty where he may."""
    try:
        token = configuration.token()
    except ConfigurationError as error:
        return f"The token that router.token names is not to be had, so nobody may do this: {error}."
    if token is None:
        return guard.without_token(request.headers, request.client.host if request.client else "")
    return guard.with_token(request.headers, token)


class HttpServer:
    """Serves the application in a thread."""

    def __init__(self, service: Watched, configuration: Configured, host: str, port: int) -> None:
        """Binds at once; port 0 takes a free one. Raises RouterError where the address is taken or not ours."""
        config = uvicorn.Config(
            make_app(service, configuration),
            host=host,
            port=port,
            http=BoundedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # who connects is what counts, not what he says of himself
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
        try:
            self._sockets = asyncio.run(_bind(host, port))
        except OSError as error:
            # What asyncio says repeats the address; name resolution has numbers of its own.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise RouterError(f"Cannot listen on {host}:{port} for HTTP ({why}); change router.http.") from None
        self.port: int = self._sockets[0].getsockname()[1]
        self._where = f"{host}:{port}"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": self._sockets}, name="http", daemon=True
        )

    def start(self) -> None:
        """Serve. Raises RouterError where that does not come about."""
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RouterError(f"The HTTP server on {self._where} did not start; change router.http.")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop serving; requests under way have two seconds to end."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(_STOP_SECONDS)
        for each in self._sockets:
            each.close()


async def _bind(host: str, port: int) -> list[Any]:
    """Sockets bound to every address of the host; uvicorn, asked to do it, ends the process where it cannot."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    sockets = [bound.dup() for bound in server.sockets]
    server.close()
    return sockets
