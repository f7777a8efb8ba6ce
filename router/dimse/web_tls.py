"""TLS for this router's HTTP: for its server, and for commands on this machine that ask it."""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from router.dimse.tls import failure
from router.dimse.tls_files import Renewed, server_context
from router.domain.rule import HttpTls
from router.errors import TlsError, TlsFileError

_MOST = 400
"""Connections at once, those in the handshake included; the server bounds those that have finished it."""
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class _Reporting(ssl.SSLObject):
    """A connection whose handshake tells of its failure: the server above it just closes."""

    refused: Callable[[TlsError], object] = staticmethod(lambda error: None)

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLEOFError, ssl.SSLZeroReturnError):  # the last two: it was given up
            raise
        except ssl.SSLError as error:
            self.refused(failure(error, "A peer of HTTP", requestor=False))
            raise


class RenewedContext(ssl.SSLContext):
    """A context for servers that gives each connection the files as they are then."""

    _renewed: Renewed
    _connections: weakref.WeakSet[ssl.SSLObject]
    _refused: Callable[[TlsError], object]

    def __new__(cls, settings: HttpTls, refused: Callable[[TlsError], object] = lambda error: None) -> RenewedContext:
        """Loads the files; `refused` is told why a handshake failed, on the server's thread. Raises TlsFileError."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        # A client without a certificate may read what is open.
        asked = ssl.CERT_OPTIONAL if settings.clients else ssl.CERT_NONE
        context._renewed = Renewed(partial(server_context, verify_mode=asked), settings.files)
        context._connections = weakref.WeakSet()
        context._refused = refused
        context._renewed.get()
        return context

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:
        """As the context of this moment does. Raises SSLError where there are too many connections."""
        if len(self._connections) >= _MOST:
            raise ssl.SSLError("there are too many connections")
        context = self._renewed.get()
        context.sslobject_class = _Reporting
        connection = context.wrap_bio(*arguments, **named)
        connection.refused = self._refused  # type: ignore[attr-defined]
        self._connections.add(connection)
        return connection


def replica_context(certificate: str) -> ssl.SSLContext:
    """To call the HTTP of another replica: trusts every certificate of this router's own PEM file, under any name.

    That is the same certificate, or one of an authority whose certificate stands in the file as well. Raises
    TlsFileError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=_certificates(Path(certificate).read_text("ascii", "replace")))
    except (OSError, ValueError):  # SSLError is an OSError
        raise TlsFileError("certificate", f"{certificate} holds no certificate that can be read.") from None
    return context


def _certificates(text: str) -> str:
    """The certificates of a PEM file, without the key that may stand beside them."""
    found = [f"{_BEGIN}{part.partition(_END)[0]}{_END}\n" for part in text.split(_BEGIN)[1:] if _END in part]
    return "".join(found)


def own_context(certificate: str) -> ssl.SSLContext:
    """To call this router's own HTTP: trusts the first certificate of a PEM file, under whatever name it is called.

    Raises TlsFileError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        text = Path(certificate).read_text("ascii", "replace")
        context.load_verify_locations(cadata=text[text.index(_BEGIN) : text.index(_END) + len(_END)])
    except (OSError, ValueError):  # SSLError is an OSError
        raise TlsFileError("certificate", f"{certificate} holds no certificate that can be read.") from None
    return context
