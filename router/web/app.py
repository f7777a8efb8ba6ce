"""The HTTP endpoints. Shows what the service says of itself; decides nothing."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.errors import RouterError


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
        body, content_type = service.render_metrics(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    def state(problems: dict[str, str]) -> Response:
        return JSONResponse(
            {"status": "ok" if not problems else "failing", "problems": problems}, status_code=503 if problems else 200
        )

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", lambda request: state(service.health())),
            Route("/readyz", lambda request: state(service.readiness())),
        ]
    )


class HttpServer:
    """Serves the application in a thread."""

    def __init__(self, service: Watched, host: str, port: int) -> None:
        """Binds at once. Raises RouterError where the address is taken."""
        config = uvicorn.Config(
            make_app(service),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
        try:
            self._socket = config.bind_socket()
        except SystemExit:  # what uvicorn raises where the address is taken, or not ours
            raise RouterError(f"Cannot listen on {host}:{port} for HTTP; change router.http.") from None
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="http", daemon=True
        )

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()
