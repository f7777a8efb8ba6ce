"""The HTTP protocol with bounds: connections that never say what they want cost descriptors that DICOM needs."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from router.dimse.certificate import shown_by

MOST_CONNECTIONS = 200
"""Open at once; further ones are closed as they come."""
REQUEST_SECONDS = 10.0
"""In which a TLS handshake must be over, and then a request's header be there; an idle connection is closed then at the
latest."""
READ_SECONDS = 20.0
"""In which a peer must take what waits to be sent, once that is more than a little; else he is dropped."""

DEAD_SECONDS = 30.0
"""In which a peer must confirm what it was sent: a computer that was put to sleep does not say that it is gone."""


class BoundedLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers wait no longer for a TLS handshake than for a request.

    In asyncio's own minute a few hundred connections that say nothing would keep everybody else out.
    """

    async def create_server(self, *arguments: Any, **named: Any) -> asyncio.Server:
        """As it does otherwise."""
        if named.get("ssl") is not None:
            named["ssl_handshake_timeout"] = REQUEST_SECONDS
        return await super().create_server(*arguments, **named)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; see above. A client's certificate is `request.state.shown`."""

    _patience: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _ending = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A peer has connected."""
        super().connection_made(transport)
        encrypted = transport.get_extra_info("ssl_object")
        if encrypted is not None:
            self.app_state = {**self.app_state, "shown": shown_by(encrypted)}
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_SECONDS * 1000))
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        for timer in (self._patience, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer does not read as fast as it is written."""
        super().pause_writing()
        self._unread = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """He has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _wait(self) -> None:
        self._patience = self.loop.call_later(REQUEST_SECONDS, self._look)

    def _look(self) -> None:
        cycle = getattr(self, "cycle", None)  # there is none before the first request
        if self._ending:  # since the last look, and the peer does not take the rest
            self.transport.abort()
            return
        if cycle is None or cycle.response_complete:
            self.transport.close()
        self._ending = self.transport.is_closing()
        self._wait()
