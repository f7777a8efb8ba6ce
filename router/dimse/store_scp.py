"""The listening side: accepts connections, a thread each, and ends them in order when the router stops."""

from __future__ import annotations

import contextlib
import errno
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence

import msgspec

from router.dimse.association import Association, Limits, Refusal, Released
from router.dimse.commitment import REPORTER, OnAnswer
from router.dimse.held import FREE, Held
from router.dimse.pdu import AssociateRequest, ContextReply, agreed_roles
from router.dimse.pool import association_result
from router.dimse.services import Accepted as Accepted
from router.dimse.services import Caller, Session, negotiate
from router.dimse.services import ObjectSink as ObjectSink
from router.dimse.services import ObjectWriter as ObjectWriter
from router.dimse.services import Policy as Policy
from router.dimse.services import Rejected as Rejected
from router.dimse.tls_files import Renewed, acceptor_context
from router.domain.access import TOO_MANY, TOO_MANY_OF_NODE, Shown
from router.domain.events import AssociationEnded, AssociationsActive, Event, StoreRefusal
from router.domain.receipt import Receipt
from router.domain.rule import TlsSettings
from router.errors import ConfigurationError, DeadlineExceeded, TlsError, WireError

_LOCAL_LIMIT = Refusal(2, 3, 2)
_OTHER = "other"
_BACKLOG = 512
_TICK = 0.5
"""Seconds within which an idle association sees that the router stops."""
_PAUSE = 2.0
"""So long a sender may be silent between two instances of a study without being cut off when the router stops."""
_LAST_WAIT = 5.0
_LAST_REQUESTS = 1.0
"""So long a peer that connected before the stop may take to ask for its association."""
_AE_TITLE = 16
_log = logging.getLogger(__name__)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the Store SCP listens. Plain values, so that another process can be given them."""

    host: str = "0.0.0.0"
    port: int = 11112
    """0 takes a free one."""
    maximum_associations: int = 64
    maximum_waiting: int = 512
    """Connections that have not yet negotiated; above it the oldest is dropped."""
    reuse_port: bool = False
    """Several processes share the port."""
    claim: bool = False
    """Make sure first that nobody else has the port: who shares it could share it with a stranger."""
    negotiation: float = 30.0
    """Seconds for the TLS handshake, where there is one, and the association request together."""
    pdu: float = 30.0
    """Seconds for the rest of a PDU once its first byte came."""
    inactivity: float = 300.0
    """Seconds between two messages."""
    stall: float = 60.0
    """Seconds without progress in the middle of a message."""
    maximum_length: int = 131072
    tls: TlsSettings | None = None
    """With it only TLS is spoken (PS3.15 annex B)."""


class StoreServer:
    """A Store and Verification SCP. `observer` and `on_receipt` are called on the associations' threads.

    `on_receipt` is called before the sender gets its success; what it raises becomes a failure status.
    """

    def __init__(
        self,
        settings: ServerSettings,
        sink: ObjectSink,
        *,
        policy: Policy,
        on_receipt: Callable[[Receipt], None],
        observer: Callable[[Event], None],
        on_answer: OnAnswer | None = None,
        held: Held | None = None,
    ) -> None:
        """`on_answer` takes the storage commitment reports of configured nodes; without it there are none.

        `held` has as many places as there may be associations; other processes may count in it too.
        """
        self._settings = settings
        self._sink = sink
        self._policy = policy
        self._on_receipt = on_receipt
        self._observer = observer
        self._on_answer = on_answer
        self._limits = Limits(
            negotiation=settings.negotiation,
            pdu=settings.pdu,
            inactivity=settings.stall,
            maximum_length=settings.maximum_length,
        )
        self._tls = Renewed(acceptor_context, settings.tls) if settings.tls is not None else None
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[int, socket.socket] = {}
        self._established: dict[int, socket.socket] = {}
        most = settings.maximum_associations
        self._held = held or Held([FREE] * most, range(most))
        self._stopping = False
        self._listener: socket.socket | None = None
        self._wake: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._serial = 0
        self.port = settings.port
        """Where it listens; known after `start` if the settings say 0."""

    def start(self) -> None:
        """Listen. Raises ConfigurationError, with what to change, where the address or a file of TLS cannot be had."""
        if self._tls is not None:
            self._tls.get()
        self._listener = self._bind()
        self.port = self._listener.getsockname()[1]
        self._wake, sleeper = socket.socketpair()
        self._thread = threading.Thread(
            target=self._accept, args=(self._listener, sleeper), name="store-scp", daemon=True
        )
        self._thread.start()

    def stop(self, grace: float) -> None:
        """Accept no more, let stores under way end within `grace` seconds, then close everything.

        Who connected before that may still associate, if it asks at once: its sub-operations would fail otherwise,
        though another replica behind the same address would have taken them. A second call, on another thread, may
        leave less time than the first.
        """
        with self._lock:
            self._stopping = True
        if self._wake is not None:
            self._wake.close()
        if self._thread is not None:
            self._thread.join()
        begun = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, timeout=min(max(grace, 0.0), _LAST_REQUESTS))
            waiting = list(self._waiting.values())
        for connection in waiting:
            _shut(connection)
        self._wait_for_end(grace - (time.monotonic() - begun))
        with self._lock:
            late = [*self._established.values(), *self._waiting.values()]
        for connection in late:
            _shut(connection)
        self._wait_for_end(_LAST_WAIT)

    def _wait_for_end(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._established and not self._waiting, timeout=max(seconds, 0.0))

    def _bind(self) -> socket.socket:
        settings = self._settings
        where = f"{settings.host}:{settings.port}"
        listener: socket.socket | None = None
        try:
            family, kind, protocol, _name, address = socket.getaddrinfo(
                settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            if settings.claim:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if settings.reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except OSError as error:
            if listener is not None:
                listener.close()
            reason = {
                errno.EADDRINUSE: "another program uses the port; change router.listen or stop it",
                errno.EACCES: "ports below 1024 need a privilege; change router.listen",
                errno.EADDRNOTAVAIL: "this machine does not have that address; change router.listen",
            }.get(error.errno or 0, f"{error.strerror}; check router.listen")
            raise ConfigurationError(f"The Store SCP cannot listen on {where}: {reason}.") from error
        return listener

    # connections ------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, sleeper: socket.socket) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(sleeper, select.POLLIN)
        with listener, sleeper:
            while not self._stopping:
                poll.poll()
                self._take(listener)
            for _ in range(_BACKLOG):  # those that the system has connected already
                if not self._take(listener):
                    break

    def _take(self, listener: socket.socket) -> bool:
        """Accept the next connection, if one is there and can be had."""
        try:
            connection, address = listener.accept()
        except BlockingIOError:
            return False
        except OSError:
            # No file descriptor is left, or the peer is gone already; not to spin, wait a moment.
            time.sleep(0.05)
            return False
        self._admit(connection, address[0])
        return True

    def _admit(self, connection: socket.socket, ip_address: str) -> None:
        with self._lock:
            self._serial += 1
            serial = self._serial
            oldest = None
            if len(self._waiting) >= self._settings.maximum_waiting:
                # It no longer counts, however long its thread takes to end: the next one drops the one after it.
                oldest = self._waiting.pop(next(iter(self._waiting)))
            self._waiting[serial] = connection
        if oldest is not None:
            _shut(oldest)
        thread = threading.Thread(
            target=self._run, args=(serial, connection, ip_address), name=f"store-scp-{serial}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the system has no thread left
            self._forget(serial)
            connection.close()

    def _run(self, serial: int, connection: socket.socket, ip_address: str) -> None:
        visit = _Visit(self, serial, connection, ip_address)
        failure: WireError | None = None
        try:
            visit.run()
        except Released:
            pass
        except WireError as error:
            failure = error
            if isinstance(error, TlsError):
                self._observer(StoreRefusal(calling=visit.label, reason=error.reason, ip_address=ip_address))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the process; values stay out of the log
            failure = WireError()
            _log.error("An association ended by an internal fault: %s", type(error).__name__)
            visit.abandon()
        finally:
            self._forget(serial)
            connection.close()
            if visit.active:
                self._observer(AssociationsActive(node=visit.label, role="acceptor", change=-1))
            self._observer(AssociationEnded(node=visit.label, role="acceptor", result=association_result(failure)))

    def _establish(self, serial: int, caller: Accepted) -> str:
        """Count the connection as an association, if there is room; else why not, a label."""
        with self._lock:
            if len(self._established) >= self._settings.maximum_associations:
                return TOO_MANY
            connection = self._waiting.get(serial)
            if connection is None:  # dropped in this very moment
                return TOO_MANY
            if not self._held.take(serial, caller.label, caller.associations):
                return TOO_MANY_OF_NODE
            del self._waiting[serial]
            self._established[serial] = connection
            self._changed.notify_all()
            return ""

    def _forget(self, serial: int) -> None:
        with self._changed:
            self._waiting.pop(serial, None)
            self._established.pop(serial, None)
            self._held.leave(serial)
            self._changed.notify_all()


class _Visit:
    """One connection, on its own thread."""

    def __init__(self, server: StoreServer, serial: int, connection: socket.socket, ip_address: str) -> None:
        self._server = server
        self._serial = serial
        self._connection = connection
        self._ip_address = ip_address
        self._association: Association | None = None
        self._calling = ""
        self.label = _OTHER
        self.active = False

    def run(self) -> None:
        """Negotiate, then serve requests until the association ends. Raises WireError."""
        server = self._server
        association = Association.accept(
            self._connection,
            self._decide,
            peer=f"A peer at {self._ip_address}",
            limits=server._limits,
            tls=server._tls.get() if server._tls is not None else None,
            roles=REPORTER,
        )
        self._association = association
        self.active = True
        server._observer(AssociationsActive(node=self.label, role="acceptor", change=1))
        session = Session(
            association,
            Caller(self._calling, self.label),
            server._sink,
            server._on_receipt,
            server._observer,
            server._on_answer,
        )
        inactivity = server._settings.inactivity
        heard = time.monotonic()
        while True:
            moment = time.monotonic()
            message = association.receive(min(moment + _TICK, heard + inactivity))
            if message is not None:
                session.serve(message)
                heard = time.monotonic()
            elif server._stopping and moment > heard + _PAUSE:
                association.abort()
                return
            elif moment > heard + inactivity:
                association.abort()
                raise DeadlineExceeded(f"{association.peer} was silent for {inactivity:g} s.")

    def _decide(self, request: AssociateRequest, shown: Shown | None) -> Refusal | Sequence[ContextReply]:
        server = self._server
        self._calling = request.calling_ae_title
        verdict = server._policy(request.calling_ae_title, request.called_ae_title, self._ip_address, shown)
        self.label = verdict.label
        if isinstance(verdict, Rejected):
            self._refuse(request, verdict.cause, shown)
            return Refusal(verdict.result, verdict.source, verdict.reason)
        if too_many := server._establish(self._serial, verdict):
            self._refuse(request, too_many, shown)
            return _LOCAL_LIMIT
        known = server._on_answer is not None and self.label != _OTHER
        reporter = any(role.scp for role in agreed_roles(request.roles, REPORTER))
        return negotiate(request.contexts, reports=known and reporter)

    def _refuse(self, request: AssociateRequest, reason: str, shown: Shown | None) -> None:
        """Tell of a caller that is sent away."""
        self._server._observer(
            StoreRefusal(
                calling=self.label,
                reason=reason,
                calling_ae_title=_printable(request.calling_ae_title),
                called_ae_title=_printable(request.called_ae_title),
                ip_address=self._ip_address,
                certificate_name=shown.called if shown is not None else "",
            )
        )

    def abandon(self) -> None:
        """End it after a fault of this side."""
        if self._association is not None:
            self._association.abort()


def _printable(ae_title: str) -> str:
    """An AE title as a log may hold it, whatever a stranger sent."""
    return "".join(one if " " <= one <= "~" else "?" for one in ae_title[:_AE_TITLE])


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
