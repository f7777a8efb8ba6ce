"""Gives instances of the object store to who shows the token: other replicas fetch from here what they send on."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from io import FileIO

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from router.errors import NotThere
from router.web.callers import Callers
from router.web.needs import Watched
from router.web.table import PART10

MOST_AT_ONCE = 16
"""Instances that are given at a time; further ones are told to come again."""
_CHUNK = 1 << 18


class Given:
    """Answers with Part 10 files, in bounded memory; in the event loop."""

    def __init__(self, service: Watched, callers: Callers) -> None:
        self._service = service
        self._callers = callers
        self._under_way = 0

    async def answer(self, request: Request, study: str, series: str, instance: str) -> Response:
        """The file of an instance.

        Raises HTTPException: 401 or 403 for who has not shown the token, 404 where there is none, 503 where too many
        are given already. None of them names the instance.
        """
        await run_in_threadpool(self._callers.trusted, request)
        if self._under_way >= MOST_AT_ONCE:
            raise HTTPException(503, "Too many instances are given now; try again in a moment.", {"retry-after": "1"})
        self._under_way += 1
        try:
            descriptor, size = await run_in_threadpool(self._service.store.file, study, series, instance)
            file = FileIO(descriptor, closefd=True)  # closed at the latest when nobody knows it any more
        except NotThere as error:
            self._under_way -= 1
            raise HTTPException(404, str(error)) from None
        except BaseException:
            self._under_way -= 1
            raise
        if request.method == "HEAD":
            file.close()
            self._under_way -= 1
            return Response(media_type=PART10, headers={"content-length": str(size)})
        return _Answer(self._content(file, size), size, self._ended)

    def _ended(self) -> None:
        self._under_way -= 1

    async def _content(self, file: FileIO, size: int) -> AsyncIterator[bytes]:
        """The file as it is now: what a length was given for, however it grows."""
        position = 0
        with file:
            while position < size:
                chunk = await run_in_threadpool(os.pread, file.fileno(), min(_CHUNK, size - position), position)
                if not chunk:
                    return  # it was cut off meanwhile: the connection ends before the length that was promised
                position += len(chunk)
                yield chunk


class _Answer(StreamingResponse):
    """Says when it has ended, however it did."""

    def __init__(self, content: AsyncIterator[bytes], size: int, ended: Callable[[], None]) -> None:
        super().__init__(content, media_type=PART10, headers={"content-length": str(size)})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()
