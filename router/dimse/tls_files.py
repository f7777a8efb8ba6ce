"""Contexts for DICOM over TLS (PS3.15 annex B) from their files, for both roles; nothing here knows a connection.

The profile is B.12, BCP 195: TLS 1.2 or 1.3. Both sides show a certificate.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from router.dimse.certificate import validity
from router.domain.rule import TlsSettings
from router.errors import TlsFileError

_MAXIMUM_FILE = 1 << 24


def acceptor_context(settings: TlsSettings) -> ssl.SSLContext:
    """For connections that come in: who shows no certificate of `ca` is refused. Raises TlsFileError."""
    return server_context(settings, ssl.CERT_REQUIRED)


def server_context(settings: TlsSettings, verify_mode: ssl.VerifyMode) -> ssl.SSLContext:
    """The same, but `verify_mode` says whether others must, or may, show a certificate. Raises TlsFileError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = verify_mode
    # Nobody resumes a session: each association proves anew who is there.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return _filled(context, settings)


def requestor_context(settings: TlsSettings) -> ssl.SSLContext:
    """For connections to a node, which must show a certificate of `ca`. Raises TlsFileError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and host name
    context.check_hostname = settings.verify_hostname
    return _filled(context, settings)


def _filled(context: ssl.SSLContext, settings: TlsSettings) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # What stands in `ca` is trusted, also where it is an authority between or a peer's own certificate.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    load_authorities(context, settings.ca)
    _load_identity(context, settings.certificate, settings.key)
    return context


def faults(settings: TlsSettings) -> Iterator[TlsFileError]:
    """What is wrong with the files, found by loading them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        load_authorities(context, settings.ca)
    except TlsFileError as fault:
        yield fault
    # Where the certificate is not there, loading the pair would say nothing of the key.
    unreadable = []
    for setting in ("certificate", "key"):
        try:
            _require_readable(setting, getattr(settings, setting))
        except TlsFileError as fault:
            unreadable.append(fault)
    yield from unreadable
    if unreadable:
        return
    try:
        _load_identity(context, settings.certificate, settings.key)
    except TlsFileError as fault:
        yield fault


def lapse(path: str, now: datetime) -> str:
    """That the certificate in the file is not valid now, in a sentence; empty where it is, or nobody can say."""
    try:
        valid = validity(Path(path).read_text("ascii", "replace"))
    except (OSError, ValueError):
        return ""
    if valid is None or valid.first <= now <= valid.last:
        return ""
    if now > valid.last:
        return f"{path} has expired on {valid.last:%Y-%m-%d}; peers will refuse it."
    return f"{path} is not valid before {valid.first:%Y-%m-%d %H:%M} UTC; peers will refuse it."


def load_authorities(context: ssl.SSLContext, path: str) -> None:
    """Have a context trust the certificates in a PEM file. Raises TlsFileError."""
    _require_readable("ca", path)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError):
        raise TlsFileError("ca", f"{path} holds no certificate in PEM format.") from None


def _load_identity(context: ssl.SSLContext, certificate: str, key: str) -> None:
    _require_readable("certificate", certificate)
    _require_readable("key", key)

    def refuse() -> str:
        # Without this OpenSSL would ask for it on the terminal, and wait.
        raise TlsFileError("key", f"{key} is encrypted; the router needs it without a password.")

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFileError("key", f"{key} is not the key of the certificate {certificate}.") from None
        if error.reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}:
            raise TlsFileError("certificate", f"{certificate} is too weak: its key or its signature.") from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cafile=certificate)
        except (OSError, ValueError):
            raise TlsFileError("certificate", f"{certificate} holds no certificate in PEM format.") from None
        raise TlsFileError("key", f"{key} holds no private key in PEM format.") from None
    except (OSError, ValueError):
        raise TlsFileError("certificate", f"{certificate} or its key cannot be read.") from None


def _require_readable(setting: str, path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_size > _MAXIMUM_FILE:
                raise TlsFileError(setting, f"{path} is too large to be a PEM file.")
            file.read(1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file can be called so"
        raise TlsFileError(setting, f"{path!a} cannot be read: {reason}.") from None


class Renewed:
    """A context that is made anew when one of its files has changed: a renewed certificate needs no restart.

    What cannot be loaded, perhaps as only half of it is written yet, leaves the one before in force. Thread-safe.
    """

    def __init__(self, make: Callable[[TlsSettings], ssl.SSLContext], settings: TlsSettings) -> None:
        self._make = make
        self._settings = settings
        self._lock = threading.Lock()
        self._stamps: list[tuple[int, ...]] | None = None
        self._context: ssl.SSLContext | None = None

    def get(self) -> ssl.SSLContext:
        """The context. Raises TlsFileError where there is none yet."""
        with self._lock:
            stamps = [_stamp(path) for path in (self._settings.ca, self._settings.certificate, self._settings.key)]
            if self._context is None or stamps != self._stamps:
                try:
                    self._context = self._make(self._settings)
                    self._stamps = stamps
                except TlsFileError:  # half renewed, or not readable yet: the one in use serves until it is
                    if self._context is None:
                        raise
            return self._context


def _stamp(path: str) -> tuple[int, ...]:
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
