"""This machine as `doctor` finds it: directories, limits, clock, time zone data, the HTTP of a running service.

Nothing here raises: what cannot be found out is reported as such.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import http.client
import importlib
import os
import resource
import secrets
import time
import urllib.error
import urllib.request
import zoneinfo
from datetime import datetime
from pathlib import Path
from typing import Protocol

from router.config.secrets import read_secret
from router.dimse.certificate import Validity
from router.dimse.probing import certificate_end, first_end, port_problem
from router.dimse.web_tls import own_context
from router.domain.rule import GUARDED, RouterSettings
from router.engine.doctor_port import Directory
from router.errors import ConfigurationError, TlsFileError

_ASK_SECONDS = 5.0
_MAXIMUM_BODY = 32 << 20
_PART = 1 << 16
_TIME_ERROR, _STA_UNSYNC = 5, 0x0040
_FIRST_LINE = 200
_TLS = "https://"
"""Before the address of a service whose HTTP speaks TLS."""


class _Timex(ctypes.Structure):
    """The beginning of Linux's `struct timex`; the rest is room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_byte * 256),
    )


class _Readable(Protocol):
    def read1(self, n: int = -1, /) -> bytes:
        """What is there, at most so many bytes; waits for the first of them only."""


class ThisMachine:
    """`engine.doctor_port.Machine`."""

    def __init__(self, router: RouterSettings | None = None) -> None:
        """`router` says how a service of this configuration is asked over HTTP."""
        self._router = router or RouterSettings()

    def directory(self, path: str) -> Directory:
        """Try a directory, or the one above it that exists: write a file, sync it, rename it, remove it."""
        wanted = Path(path)
        tried = wanted
        while not tried.exists() and tried != tried.parent:
            tried = tried.parent
        problem = _problem(tried)
        exists = wanted.exists()
        try:
            free = os.statvfs(tried)
        except OSError:
            return Directory(path=path, exists=exists, problem=problem)
        return Directory(
            path=path,
            exists=exists,
            problem=problem,
            free=free.f_bavail * free.f_frsize,
            inodes=free.f_files,
            inodes_free=free.f_favail,
        )

    def port_problem(self, host: str, port: int) -> str:
        """Why nothing can listen there: `in-use`, `not-allowed`, `no-such-address`, `unusable`; empty where it can."""
        return port_problem(host, port)

    def open_files(self) -> int:
        """Files that a process started here may have open at once."""
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return soft if soft != resource.RLIM_INFINITY else 1 << 30

    def zone_loads(self, name: str) -> bool:
        """Whether the time zone database has the zone."""
        try:
            zoneinfo.ZoneInfo.no_cache(name)
        except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
            return False
        except KeyError:
            return False
        return True

    def zone_version(self) -> str:
        """The release of the time zone database, as `2025b`; empty where it is not to be told."""
        for directory in zoneinfo.TZPATH:
            with contextlib.suppress(OSError), (Path(directory) / "tzdata.zi").open(encoding="ascii") as file:
                words = file.readline(_FIRST_LINE).split()
                if words[:2] == ["#", "version"] and len(words) > 2:
                    return words[2]
            if (Path(directory) / "UTC").exists():
                return ""  # this one is used, and does not say of when it is
        with contextlib.suppress(ImportError):
            return str(getattr(importlib.import_module("tzdata"), "IANA_VERSION", ""))
        return ""

    def clock_synchronised(self) -> bool | None:
        """Whether the kernel says that its clock is (adjtimex, which changes nothing with no mode set)."""
        state = _Timex()
        try:
            answer = ctypes.CDLL(ctypes.util.find_library("c") or None).adjtimex(ctypes.byref(state))
        except (OSError, AttributeError):
            return None
        if answer < 0:
            return None
        return answer != _TIME_ERROR and not state.status & _STA_UNSYNC

    def certificate(self, path: str) -> Validity | None:
        """When the first certificate of a PEM file is valid; None where it cannot be read."""
        return certificate_end(path)

    def first_end(self, path: str) -> datetime | None:
        """When the first of all certificates in a PEM file ends; None where they cannot be read."""
        return first_end(path)

    def ask(self, address: str, path: str) -> tuple[int, str] | None:
        """Status and body of an HTTP path of a running service; None where it does not answer in time."""
        encrypted = address.startswith(_TLS)
        host, _, port = address.removeprefix(_TLS).rpartition(":")
        here = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]"}.get(host, host)
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]  # ours is never behind a proxy
        try:
            if encrypted:
                tls = self._router.http_tls
                if tls is None:
                    return None  # it runs with another configuration: whose certificate would that be?
                handlers.append(urllib.request.HTTPSHandler(context=own_context(tls.files.certificate)))
            url = f"{_TLS if encrypted else 'http://'}{here}:{port}{path}"
            request = urllib.request.Request(url, headers=self._headers(path))
            opener = urllib.request.build_opener(*handlers)
            with opener.open(request, timeout=_ASK_SECONDS) as response:
                return int(response.status), _body(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _body(error)
        except (OSError, ValueError, http.client.HTTPException, TlsFileError):
            return None

    def _headers(self, path: str) -> dict[str, str]:
        """What opens a path that is guarded."""
        secret = self._router.token
        if path != "/metrics" or self._router.metrics != GUARDED or secret is None:
            return {}
        try:
            return {"Authorization": f"Bearer {read_secret(secret)}"}
        except ConfigurationError:
            return {}


def _body(response: _Readable) -> str:
    """What comes of a body within the time, however slowly. Raises OSError where a part does not come in time."""
    deadline = time.monotonic() + _ASK_SECONDS
    parts: list[bytes] = []
    size = 0
    while size < _MAXIMUM_BODY and time.monotonic() < deadline and (part := response.read1(_PART)):
        parts.append(part)
        size += len(part)
    return b"".join(parts).decode(errors="replace")


def _problem(directory: Path) -> str:
    """What cannot be done in a directory; empty where all can."""
    if not directory.is_dir():
        return f"{directory} is no directory"
    name = directory / f".doctor-{secrets.token_hex(8)}"
    renamed = name.with_name(f"{name.name}-renamed")
    step = "a file cannot be written"
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"\0")
            step = "fsync fails"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        step = "a file cannot be renamed"
        name.rename(renamed)
        step = "the directory cannot be synced"
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        return f"{step} in {directory} ({error.strerror})"
    finally:
        for left in (name, renamed):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
    return ""
