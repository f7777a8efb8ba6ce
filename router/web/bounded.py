"""The HTTP protocol with bounds: connections that never say what they want cost descriptors that DICOM needs."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 200
"""Open at once; further ones are closed as they come."""
REQUEST_SECONDS = 10.0
"""In which a request's header must be there; an idle connection is closed then at the latest."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; see above."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._patience = self.loop.call_later(REQUEST_SECONDS, self._look)

    def _look(self) -> None:
        cycle = getattr(self, "cycle", None)  # there is none before the first request
        if cycle is not None and not cycle.response_complete:
            self._wait()
        else:
            self.transport.close()
