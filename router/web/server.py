"""The HTTP server: the application in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from functools import partial
from typing import Any

import uvicorn

from router.dimse.web_tls import RenewedContext
from router.domain.rule import HttpTls
from router.errors import RouterError
from router.observe import logs
from router.web.app import make_app
from router.web.bounded import BoundedProtocol
from router.web.needs import Configured, Watched
from router.web.stream import Stream

_START_SECONDS = 10.0
_STOP_SECONDS = 5.0


class HttpServer:
    """Serves the application in a thread."""

    def __init__(
        self, service: Watched, configuration: Configured, host: str, port: int, tls: HttpTls | None = None
    ) -> None:
        """Binds at once; port 0 takes a free one. With `tls` nothing else is spoken.

        Raises RouterError where the address is taken or not ours, or a file of TLS cannot be had.
        """
        told = partial(logs.trouble, "http")
        context = RenewedContext(tls, told) if tls is not None else None
        app = make_app(service, configuration)
        self._stream: Stream = app.state.stream
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=BoundedProtocol,
            loop="router.web.bounded:BoundedLoop",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,  # who connects is what counts, not what he says of himself
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            ssl_context_factory=(lambda *_: context) if context is not None else None,
        )
        try:
            self._sockets = asyncio.run(_bind(host, port))
        except OSError as error:
            # What asyncio says repeats the address; name resolution has numbers of its own.
            why = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
            raise RouterError(f"Cannot listen on {host}:{port} for HTTP ({why}); change router.http.") from None
        self.port: int = self._sockets[0].getsockname()[1]
        self._where = f"{host}:{port}"
        self.address = f"{'https://' if tls is not None else ''}{host}:{self.port}"
        """Where commands find it."""
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
        self._stream.close()
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
