"""One step at a time to a node, for `doctor`: name, TCP, TLS, association with chosen contexts, C-ECHO.

Nothing is kept open between two steps, so that one association to the node stands at a time.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from router.dimse.association import Association, Limits
from router.dimse.certificate import Validity, ends, validity
from router.dimse.echo import verify
from router.dimse.identifier import TRANSFER_SYNTAXES
from router.dimse.pdu import AssociateRequest, ProposedContext
from router.dimse.pool import describe
from router.dimse.reasons import connection_failure
from router.dimse.tls import TlsTransport
from router.dimse.tls_files import requestor_context
from router.dimse.transport import connect
from router.domain.checkup import Reached, Secured
from router.domain.dicom import VERIFICATION_SOP_CLASS
from router.domain.rule import Node
from router.errors import ConnectionFailed, TlsError, TlsFileError, WireError

_MAXIMUM_LENGTH = 16384
_CAPACITY = 1 << 16
_RELEASE_SECONDS = 5.0
_REFUSAL_SECONDS = 0.5
_MAXIMUM_PEM = 1 << 20


class Probing:
    """Steps to nodes. Each has deadlines from the node's `timeouts` and raises only WireError. Thread-safe."""

    def __init__(self, calling_ae_title: str) -> None:
        self._calling = calling_ae_title

    def resolve(self, node: Node) -> list[str]:
        """The addresses of the node's host. Raises ConnectionFailed (`name-unresolved`)."""
        answer: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                found = socket.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
                answer.put(list(dict.fromkeys(str(one[4][0]) for one in found)))
            except OSError as error:
                answer.put(error)
            except UnicodeError:
                answer.put(socket.gaierror())

        # The system's resolver knows no deadline; a thread that it holds ends with it.
        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            result = answer.get(timeout=node.timeouts.connect)
        except queue.Empty:
            raise ConnectionFailed(
                f"The name server did not answer for {node.host} within {node.timeouts.connect:g} s.", "name-unresolved"
            ) from None
        if isinstance(result, OSError):
            raise ConnectionFailed(f"{node.host} is no name that this machine can resolve.", "name-unresolved")
        return result

    def connect(self, node: Node) -> Reached:
        """A TCP connection, closed again. Raises ConnectionFailed."""
        started = time.monotonic()
        with self._connection(node) as connection:
            seconds = time.monotonic() - started
            return Reached(seconds=seconds, own_address=str(connection.getsockname()[0]))

    def secure(self, node: Node) -> Secured:
        """A TLS handshake with the node's settings. Raises TlsError, DeadlineExceeded, ConnectionLost."""
        assert node.tls is not None
        try:
            context = requestor_context(node.tls)
        except TlsFileError as fault:
            raise TlsError(str(fault), "tls-files") from fault
        with self._shaken(node, context) as (transport, deadline):
            # With TLS 1.3 a refusal of this side's certificate comes only after the handshake.
            transport.wait(min(deadline, time.monotonic() + _REFUSAL_SECONDS))
            valid = _validity(transport.certificate)
            return Secured(version=transport.version, expires_at=valid.last if valid is not None else None)

    def certificate(self, node: Node) -> Validity | None:
        """When the certificate that the node shows is valid, whoever issued it; None where it shows none."""
        with contextlib.suppress(WireError), self._shaken(node, _unverified(node)) as (transport, _):
            return _validity(transport.certificate)
        return None

    def speaks_tls(self, node: Node) -> bool:
        """Whether something at the node's port answers a TLS handshake as TLS does, even if it then refuses."""
        try:
            with self._shaken(node, _unverified(node)):
                return True
        except TlsError as error:
            return error.reason != "tls-not-spoken"
        except WireError:
            return False

    def echo(self, node: Node) -> None:
        """An association for Verification alone, and a C-ECHO on it. Raises WireError."""
        with self._association(node, (VERIFICATION_SOP_CLASS,)) as association:
            verify(node, association)

    def accepted(self, node: Node, sop_classes: Sequence[str]) -> Collection[str]:
        """Those of these SOP classes that the node accepts presentation contexts for. Raises WireError."""
        with self._association(node, sop_classes) as association:
            return {context.abstract_syntax for context in association.contexts.values()}

    @contextmanager
    def _association(self, node: Node, sop_classes: Sequence[str]) -> Iterator[Association]:
        contexts = tuple(
            ProposedContext(2 * number + 1, uid, TRANSFER_SYNTAXES) for number, uid in enumerate(sop_classes)
        )
        limits = Limits(node.timeouts.connect, node.timeouts.negotiation, node.timeouts.negotiation)
        try:
            tls = requestor_context(node.tls) if node.tls is not None else None
        except TlsFileError as fault:
            raise TlsError(str(fault), "tls-files") from fault
        association = Association.request(
            node.host,
            node.port,
            AssociateRequest(node.ae_title, self._calling, contexts, _MAXIMUM_LENGTH),
            peer=describe(node),
            limits=limits,
            tls=tls,
            certificate_names=node.certificate_names,
        )
        try:
            yield association
        finally:
            if association.established:
                with contextlib.suppress(WireError):
                    association.release(_RELEASE_SECONDS)
            association.close()

    @contextmanager
    def _connection(self, node: Node) -> Iterator[socket.socket]:
        try:
            connection = connect(node.host, node.port, node.timeouts.connect)
        except OSError as error:
            raise connection_failure(describe(node), node.timeouts.connect, error) from error
        with connection:
            yield connection

    @contextmanager
    def _shaken(self, node: Node, context: ssl.SSLContext) -> Iterator[tuple[TlsTransport, float]]:
        deadline = time.monotonic() + node.timeouts.connect
        with self._connection(node) as connection:
            transport = TlsTransport(connection, describe(node), _CAPACITY, context, node.host)
            try:
                transport.handshake(deadline)
                if context.verify_mode is ssl.CERT_REQUIRED:
                    transport.require(node.certificate_names)
                yield transport, deadline
            finally:
                transport.close()


def port_problem(host: str, port: int) -> str:
    """Why nothing can listen there: `in-use`, `not-allowed`, `no-such-address`, `unusable`; empty where it can."""
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return _PORT_PROBLEMS.get(error.errno or 0, "unusable")
    return ""


_PORT_PROBLEMS = {
    errno.EADDRINUSE: "in-use",
    errno.EACCES: "not-allowed",
    errno.EPERM: "not-allowed",
    errno.EADDRNOTAVAIL: "no-such-address",
    socket.EAI_NONAME: "no-such-address",
}


def certificate_end(path: str) -> Validity | None:
    """When the first certificate of a PEM file is valid; None where it cannot be read."""
    return validity(_pem(path))


def first_end(path: str) -> datetime | None:
    """When the first of all certificates in a PEM file ends; None where they cannot be read."""
    return ends(_pem(path))


def _pem(path: str) -> str:
    """What a file holds, as far as it can be of use."""
    try:
        with Path(path).open(encoding="ascii", errors="replace") as file:
            return file.read(_MAXIMUM_PEM)
    except OSError:
        return ""


def _unverified(node: Node) -> ssl.SSLContext:
    """To look at a certificate, whatever is wrong with it; nothing is sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if node.tls is not None:
        with contextlib.suppress(TlsFileError):  # a peer that wants a certificate shows its own only to who has one
            context = requestor_context(node.tls)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _validity(certificate: bytes | None) -> Validity | None:
    return validity(ssl.DER_cert_to_PEM_cert(certificate)) if certificate else None
