"""The HTTP endpoints. Shows what the service says of itself; decides nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from router.errors import RouterError
from router.observe import logs

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0


class Watched(Protocol):
    """What the endpoints need of the service."""

    def render_metrics(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type."""

    def health(self) -> dict[str, str]:
        """What is wrong by part; empty when the process works."""

    def readiness(self) -> dict[str, str]:
        """What is not ready by part; empty when work can be taken."""


def make_app(service: Watched) -> Starlette:
    """The application."""

    def metrics(request: Request) -> Response:
        body, content_type = service.render_metrics(", ".join(request.headers.getlist("accept")))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})

    def state(problems: dict[str, str]) -> Response:
        return JSONResponse(
            {"status": "ok" if not problems else "failing", "problems": problems},
            status_code=503 if problems else 200,
            headers={"cache-control": "no-store"},
        )

    def failed(request: Request, error: Exception) -> Response:
        logs.trouble("http", error)
        return PlainTextResponse("The router failed to answer; see its log.\n", status_code=500)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", lambda request: state(service.health())),
            Route("/readyz", lambda request: state(service.readiness())),
        ],
        exception_handlers={Exception: failed},
    )


class HttpServer:
    """Serves the application in a thread."""

    def __init__(self, service: Watched, host: str, port: int) -> None:
        """Binds at once; port 0 takes a free one. Raises RouterError where the address is taken or not ours."""
        config = uvicorn.Config(
            make_app(service),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
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
