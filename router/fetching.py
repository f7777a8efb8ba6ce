"""Fetches instances from the store of another replica, by its HTTP: whole into a temporary file, or as it is read.

A temporary file has no name: what becomes of the process, nothing is left behind. Errors name the replica, no instance.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from router.config.secrets import read_secret
from router.dimse.web_tls import replica_context
from router.domain.exchange import StoredObject
from router.domain.rule import RouterSettings
from router.errors import ConfigurationError, StoreAway, StoreBusy, StoreError, TlsFileError

_NO_ROOM = "Another replica holds instances of it, and there is no room to fetch them: make room for the store."
SILENT_SECONDS = 10.0
"""How long the other replica may say nothing."""
TOTAL_SECONDS = 600.0
"""How long one instance may take."""
AT_ONCE = 8
"""Instances that are fetched, and temporary files that are written, at a time."""
MOST_HEADER = 16 << 20
"""Bytes of an instance that are read in search of its header."""
BUSY_TRIES = 12
"""How often a replica that gives too much already is asked for an instance: it says so while others have their turn."""
_BUSY_SECONDS = 1.0
"""The longest wait between two of these."""
_CHUNK = 1 << 18
_TLS = "https://"
_WAIT_SECONDS = 60.0
_UNNAMED = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
_NAMED = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Holder(NamedTuple):
    """A replica that has an object store."""

    replica: str
    address: str
    """Of its HTTP: `host:port`, after `https://` where it speaks TLS."""


class Fetcher:
    """Thread-safe. `directory` is for temporary files: on the own store's file system, whose room is looked at."""

    def __init__(
        self,
        directory: Path,
        settings: Callable[[], RouterSettings],
        check_space: Callable[[], None] = lambda: None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._check_space = check_space
        self._sleep = sleep
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def fetch(self, holder: Holder, stored: StoredObject, checksum: bytes | None = None) -> int:
        """A descriptor of a temporary Part 10 file with the instance, at its beginning; `checksum`: its SHA-256.

        Raises StoreAway where the replica does not give it now (StoreBusy: it gives too much already) or there is no
        room for it here, StoreError where it has it no more, or another.
        """
        with self._turn(holder), self._asked(holder, stored) as answer:
            try:
                self._check_space()
            except (StoreError, OSError):
                raise StoreAway(_NO_ROOM) from None
            descriptor = self._temporary()
            try:
                digest = self._copied(answer, descriptor, holder)
                if checksum is not None and digest != checksum:
                    raise StoreError(f"What the replica {holder.replica} holds is not what was received there.")
                os.lseek(descriptor, 0, os.SEEK_SET)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

    @contextlib.contextmanager
    def reading(self, holder: Holder, stored: StoredObject) -> Iterator[io.RawIOBase]:
        """The instance's Part 10 file as it comes: only as much is fetched as is read, and `MOST_HEADER` at most.

        Raises StoreAway, StoreError.
        """
        with self._turn(holder), self._asked(holder, stored) as answer:
            yield _Arriving(answer)

    # ------------------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self, holder: Holder) -> Iterator[None]:
        if not self._turns.acquire(timeout=_WAIT_SECONDS):
            raise StoreAway(f"Too much is fetched from other replicas already; {holder.replica} is asked later.")
        try:
            yield
        finally:
            self._turns.release()

    @contextlib.contextmanager
    def _asked(self, holder: Holder, stored: StoredObject) -> Iterator[http.client.HTTPResponse]:
        with contextlib.ExitStack() as opened:
            try:
                yield self._answer(holder, stored, opened)
            except (OSError, http.client.HTTPException) as error:
                raise StoreAway(_unreachable(holder, error)) from None

    def _answer(self, holder: Holder, stored: StoredObject, opened: contextlib.ExitStack) -> http.client.HTTPResponse:
        """The replica's answer, asked for again where it is too busy for one; to be closed with `opened`."""
        for left in reversed(range(BUSY_TRIES)):
            connection = self._connection(holder)
            opened.callback(connection.close)
            headers = {"Authorization": f"Bearer {self._token(holder)}"}
            connection.request("GET", f"/api/v1/objects/{stored.path.removesuffix('.dcm')}", headers=headers)
            # The answer has the socket to itself where the other side ends it.
            answer = opened.enter_context(connection.getresponse())
            if answer.status != http.client.SERVICE_UNAVAILABLE or not left:
                _accept(answer.status, holder)
                return answer
            opened.close()  # nothing is held while it waits
            self._sleep(random.uniform(0.2, _BUSY_SECONDS))
        raise AssertionError("the last answer is taken or refused")

    def _connection(self, holder: Holder) -> http.client.HTTPConnection:
        host, _, port = holder.address.removeprefix(_TLS).rpartition(":")
        host, number = host.strip("[]"), int(port)
        if not holder.address.startswith(_TLS):
            return http.client.HTTPConnection(host, number, timeout=SILENT_SECONDS)
        tls = self._settings().http_tls
        if tls is None:
            raise StoreAway(
                f"The replica {holder.replica} answers over TLS, this one has no router.http_tls: give all the same."
            )
        try:
            context = replica_context(tls.files.certificate)
        except TlsFileError as error:
            raise StoreAway(f"The replica {holder.replica} cannot be asked: {error}") from None
        return http.client.HTTPSConnection(host, number, timeout=SILENT_SECONDS, context=context)

    def _token(self, holder: Holder) -> str:
        token = self._settings().token
        if token is None:
            raise StoreAway(
                f"The replica {holder.replica} gives its instances to who shows router.token only, and the "
                "configuration has none: set the same one for all replicas, and restart them."
            )
        try:
            return read_secret(token)
        except ConfigurationError as error:
            raise StoreAway(
                f"The replica {holder.replica} cannot be asked: router.token is not to be had: {error}."
            ) from None

    def _temporary(self) -> int:
        """An open file without a name. Raises StoreAway."""
        try:
            try:
                return os.open(self._directory, _UNNAMED, 0o600)
            except OSError:  # the file system cannot do it
                name = self._directory / f"m-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}.part"
                descriptor = os.open(name, _NAMED, 0o600)
                name.unlink()
                return descriptor
        except OSError as error:
            raise StoreAway(f"No temporary file can be made in {self._directory}: {error.strerror}.") from None

    def _copied(self, answer: http.client.HTTPResponse, descriptor: int, holder: Holder) -> bytes:
        digest, deadline, size = hashlib.sha256(), time.monotonic() + TOTAL_SECONDS, 0
        expected = answer.length
        while chunk := answer.read1(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            try:
                part = memoryview(chunk)
                while part:
                    part = part[os.write(descriptor, part) :]
            except OSError as error:
                raise StoreAway(f"What is fetched cannot be written to {self._directory}: {error.strerror}.") from None
            if time.monotonic() > deadline:
                raise TimeoutError
        if expected is None or size != expected:
            raise StoreAway(f"The replica {holder.replica} broke off while it gave an instance; it is asked again.")
        return digest.digest()


class _Arriving(io.RawIOBase):
    """The beginning of an answer as a file: fetched as far as it is read, kept in memory."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self._answer = answer
        self._content = bytearray()
        self._position = 0
        self._deadline = time.monotonic() + SILENT_SECONDS * 3

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = MOST_HEADER if size < 0 else min(self._position + size, MOST_HEADER)
        while len(self._content) < end and time.monotonic() < self._deadline:
            chunk = self._answer.read1(min(_CHUNK, MOST_HEADER - len(self._content)))
            if not chunk:
                break
            self._content += chunk
        found = bytes(self._content[self._position : end])
        self._position += len(found)
        return found


def _accept(status: int, holder: Holder) -> None:
    if status == http.client.OK:
        return
    if status == http.client.NOT_FOUND:
        raise StoreError(f"The replica {holder.replica} does not hold an instance any more that it has received.")
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN, http.client.TOO_MANY_REQUESTS):
        raise StoreAway(
            f"The replica {holder.replica} does not accept this one's token ({status}): router.token is to be the same "
            "for all replicas."
        )
    error = StoreBusy if status == http.client.SERVICE_UNAVAILABLE else StoreAway
    raise error(f"The replica {holder.replica} cannot give instances now ({status}); it is asked again.")


def _unreachable(holder: Holder, error: Exception) -> str:
    why = "does not answer in time" if isinstance(error, TimeoutError) else "is not to be reached"
    if isinstance(error, http.client.HTTPException):
        why = "does not answer as it should"
    return f"The replica {holder.replica}, which holds instances of it, {why} at {holder.address}; it is asked again."
