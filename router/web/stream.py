"""Server-sent events: the board's sections as they change, made once a second for all who listen.

One task asks for the board, only while somebody listens; each listener keeps the newest of each section until it is
sent. Everything but `render` and `holds` happens in the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.engine.ports import Trouble
from router.web.callers import Caller
from router.web.table import EVENT_STREAM

MOST_LISTENERS = 32
HEARTBEAT_SECONDS = 10.0
"""After so long without news a comment says that the connection lives."""
EVERY_SECONDS = 1.0
_RETRY = b"retry: 3000\n\n"
"""Milliseconds after which a browser that lost the connection comes again."""
_HEARTBEAT = b": still here\nevent: heartbeat\ndata: {}\n\n"
"""A comment, and an event of no content: scripts of a page are not told of comments."""


class Variant(NamedTuple):
    """What listeners may see: all of the same kind get the same HTML."""

    logged_in: bool
    identifiers: bool


class Listener:
    """Somebody who listens."""

    def __init__(self, caller: Caller, variant: Variant) -> None:
        self.caller = caller
        self.variant = variant
        self.pending: dict[str, bytes] = {}
        """Section -> its newest HTML as JSON, as far as that was not sent."""
        self.news = asyncio.Event()
        """There is something to be sent, or it is over."""
        self.over = False

    def give(self, sections: Mapping[str, bytes]) -> None:
        """Sections that changed."""
        self.pending.update(sections)
        if self.pending:
            self.news.set()

    def end(self) -> None:
        """No more will come."""
        self.over = True
        self.news.set()


class Stream:
    """Tells listeners what changes on the board."""

    def __init__(
        self,
        render: Callable[[Variant], Mapping[str, str]],
        holds: Callable[[Caller], bool],
        trouble: Trouble,
    ) -> None:
        """`render`: the sections for a kind of listener; `holds`: whether a caller may still see. Both in a thread."""
        self._render = render
        self._holds = holds
        self._trouble = trouble
        self._listeners: list[Listener] = []
        self._shown: dict[Variant, Mapping[str, bytes]] = {}
        """Section -> its HTML as JSON: that is made once for all who get it."""
        self._producer: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self.number = 0
        """Of the latest event."""

    def join(self, caller: Caller, variant: Variant) -> Listener | None:
        """Somebody begins to listen; None where too many do already, or the service stops."""
        if self._closed or len(self._listeners) >= MOST_LISTENERS:
            return None
        listener = Listener(caller, variant)
        listener.give(self._shown.get(variant, {}))
        self._listeners.append(listener)
        if self._producer is None:
            self._loop = asyncio.get_running_loop()
            self._producer = self._loop.create_task(self._produce())
        return listener

    def leave(self, listener: Listener) -> None:
        """Somebody is gone."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def close(self) -> None:
        """End all of them; from any thread."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for listener in self._listeners:
            listener.end()

    async def _produce(self) -> None:
        while self._listeners and not self._closed:
            listeners = list(self._listeners)
            try:
                shown, gone = await run_in_threadpool(self._look, listeners)
            except Exception as error:  # noqa: BLE001  whatever it is: those who listen see the board before it
                self._trouble("events", error)
            else:
                self._tell(listeners, shown, gone)
            await asyncio.sleep(EVERY_SECONDS)
        self._producer, self._shown = None, {}

    def _look(self, listeners: list[Listener]) -> tuple[dict[Variant, Mapping[str, bytes]], list[Listener]]:
        gone = [one for one in listeners if not self._holds(one.caller)]
        variants = {one.variant for one in listeners if one not in gone}
        return {variant: self._encoded(variant) for variant in variants}, gone

    def _encoded(self, variant: Variant) -> Mapping[str, bytes]:
        return {name: msgspec.json.encode(html) for name, html in self._render(variant).items()}

    def _tell(self, listeners: list[Listener], shown: dict[Variant, Mapping[str, bytes]], gone: list[Listener]) -> None:
        for listener in listeners:
            if listener in gone:
                listener.end()
                continue
            sections, before = shown[listener.variant], self._shown.get(listener.variant, {})
            listener.give({name: text for name, text in sections.items() if before.get(name) != text})
        # One that came meanwhile was given what was shown before: it gets the difference now as well.
        for listener in self._listeners:
            if listener not in listeners and listener.variant in shown:
                listener.give(shown[listener.variant])
        self._shown = shown

    def event(self, sections: Mapping[str, bytes]) -> bytes:
        """An event as it is sent."""
        self.number += 1
        data = b", ".join(b'"%s": %s' % (name.encode(), text) for name, text in sections.items())
        return b"event: board\nid: %d\ndata: {%s}\n\n" % (self.number, data)


class Events(Response):
    """The answer to somebody who listens; it ends when he goes, or may not see any more."""

    media_type = EVENT_STREAM

    def __init__(self, stream: Stream, listener: Listener) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._stream = stream
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes."""
        gone = asyncio.create_task(self._until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            part = _RETRY
            while not gone.done():
                await send({"type": "http.response.body", "body": part, "more_body": not self._listener.over})
                if self._listener.over:
                    return
                part = await self._next()
        finally:
            gone.cancel()
            self._stream.leave(self._listener)

    async def _next(self) -> bytes:
        listener = self._listener
        try:
            async with asyncio.timeout(HEARTBEAT_SECONDS):
                await listener.news.wait()
        except TimeoutError:
            return _HEARTBEAT
        listener.news.clear()
        sections, listener.pending = listener.pending, {}
        return self._stream.event(sections) if sections and not listener.over else b""

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._listener.news.set()
