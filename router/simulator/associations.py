"""Associations of the simulated PACS: who may have one, how many there are, and how they all end.

The one module that reaches into pynetdicom's association objects; written against 3.0.4, which the project pins.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from ssl import SSLContext

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL, DimseServiceType
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ASSOCIATE, A_RELEASE
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket, ThreadedAssociationServer

from .behaviour import CALLED_NOT_RECOGNISED, CALLING_NOT_RECOGNISED, NO_REASON_GIVEN, Behaviour, Rejection
from .negotiation import VERIFICATION, supported, takes_too_much, write_titles

_POLL_SECONDS = 0.005

#: Linux only; the kernel forgets it after a while, so it is set again after every read and write.
_QUICK_ACKNOWLEDGEMENT: int | None = getattr(socket, "TCP_QUICKACK", None)

ServeRequest = Callable[[Association, DimseServiceType, int], None]


class StoppedError(Exception):
    """The simulated PACS is stopping; no association is opened any more."""


class _Server(ThreadedAssociationServer):
    """pynetdicom's server with a longer queue of waiting connections, and no garbage collection while it polls."""

    request_queue_size = 128

    def service_actions(self) -> None:
        """Nothing: the base class collects garbage here, which stops every thread for a while."""


class _Entity(ApplicationEntity):
    """An application entity whose requested associations are known to the registry before their thread starts."""

    def __init__(self, ae_title: str, associations: Associations, behaviour: Behaviour) -> None:
        super().__init__(ae_title=ae_title)
        self._registry = associations
        self._behaviour = behaviour

    def _create_socket(
        self, assoc: Association, address: AddressInformation, tls_args: tuple[SSLContext, str] | None
    ) -> AssociationSocket:
        wrapper = super()._create_socket(assoc, address, tls_args)
        if self._behaviour.titles != "spaces":
            write_titles(wrapper, self._behaviour)
        if self._behaviour.keep_tcp_open:
            self._registry.leave_open(wrapper)
        if not self._registry.keep(assoc, wrapper.socket):
            # It will never run, so nothing would ever end it.
            self._registry.forget(assoc)
            raise StoppedError
        return wrapper


class Associations:
    """All associations of one simulated PACS, accepted and requested.

    `serve` is called in the association's thread for each DIMSE request; `cancelled` for each C-CANCEL, in the thread
    that reads the socket. `behaviour` returns the behaviour of the moment.
    """

    def __init__(
        self,
        ae_title: str,
        behaviour: Callable[[], Behaviour],
        serve: ServeRequest,
        cancelled: Callable[[Association, int], None],
    ) -> None:
        self._ae_title = ae_title
        self._behaviour = behaviour
        self._serve = serve
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self._kept: dict[Association, socket.socket | None] = {}
        self._numbers: dict[Association, int] = {}
        self._open: dict[Association, str] = {}
        """The accepted ones, with who called."""
        self._left_open: set[socket.socket] = set()
        self._requests = 0
        self._server: ThreadedAssociationServer | None = None
        self._thread: threading.Thread | None = None
        self.stopping = threading.Event()
        self.total = 0
        self.peak = 0
        self.peaks: dict[str, int] = {}
        """By calling AE title."""
        self.rejected = 0

    # -- Life --------------------------------------------------------------------------------------------------------

    def listen(self, host: str, port: int) -> int:
        """Bind, listen and serve; returns the port.

        Raises:
            OSError: the address cannot be bound.
        """
        entity = self.entity(self._ae_title, Behaviour())
        # Our own limit counts: pynetdicom's is over all servers of an entity and rejects before we are asked.
        entity.maximum_associations = 10_000
        entity.maximum_pdu_size = 65536
        contexts = [PresentationContext()]
        contexts[0].abstract_syntax = VERIFICATION
        contexts[0].transfer_syntax = [ImplicitVRLittleEndian]
        server = entity.make_server(
            (host, port),
            contexts=contexts,
            server_class=_Server,
            evt_handlers=[
                (evt.EVT_CONN_OPEN, self._on_connection),
                (evt.EVT_DATA_RECV, _acknowledge),
                (evt.EVT_DATA_SENT, _acknowledge),
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_ACSE_SENT, self._on_acse_sent),
                (evt.EVT_CONN_CLOSE, self._on_closed),
                (evt.EVT_ABORTED, self._on_closed),
                (evt.EVT_DIMSE_RECV, self._on_message),
            ],
        )
        entity._servers.append(server)
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="simulator", daemon=True
        )
        self._thread.start()
        return int(server.server_address[1])

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Close every connection, whatever it is doing, and wait until the threads are gone."""
        deadline = time.monotonic() + timeout_seconds
        self.stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            self._thread = None
        while True:
            with self._lock:
                left = [one for one in self._kept if _runs(one)]
            if not left or time.monotonic() > deadline:
                break
            for association in left:
                _cut(association)
            for association in left:
                for thread in (association.dul, association):
                    if thread.is_alive():
                        thread.join(0.2)
        with self._lock:
            kept = [*self._kept]
            left_open, self._left_open = self._left_open, set()
        for association in kept:
            self.forget(association)
        for connection in left_open:
            connection.close()

    def entity(self, ae_title: str, behaviour: Behaviour) -> ApplicationEntity:
        """An application entity, to request associations with."""
        return _Entity(ae_title, self, behaviour)

    def leave_open(self, wrapper: AssociationSocket) -> None:
        """Have pynetdicom take the connection for closed when it closes it, while it stays open until `stop`."""

        def leave() -> None:
            if wrapper.socket is not None:
                with self._lock:
                    self._left_open.add(wrapper.socket)

        wrapper._shutdown_socket = leave  # type: ignore[method-assign]

    def keep(self, association: Association, connection: socket.socket | None) -> bool:
        """Remember an association that is about to start, and its socket, so that `stop` finds them.

        False if it is too late: then the association ends as soon as it has started.
        """
        # pynetdicom's reader thread would keep the interpreter from leaving as long as a peer keeps its connection.
        association.dul.daemon = True
        with self._lock:
            ended = [one for one in self._kept if not _runs(one)]
            self._kept[association] = connection
        for one in ended:
            self.forget(one)
        if self.stopping.is_set():
            _cut(association)
            return False
        return True

    def forget(self, association: Association) -> None:
        """Forget an association that is over; pynetdicom does not close every socket whose peer closed first."""
        with self._lock:
            connection = self._kept.pop(association, None)
            self._numbers.pop(association, None)
            self._open.pop(association, None)
            if connection in self._left_open:
                return
        if connection is not None:
            connection.close()

    def number(self, association: Association) -> int:
        """The number of an accepted association, from 1; 0 if it was not accepted."""
        with self._lock:
            return self._numbers.get(association, 0)

    # -- Events ------------------------------------------------------------------------------------------------------

    def _on_connection(self, event: Event) -> None:
        association = event.assoc
        no_delay(association)
        self.keep(association, association.dul.socket.socket if association.dul.socket else None)
        if association.dul.socket is not None and self._behaviour().keep_tcp_open:
            self.leave_open(association.dul.socket)
        # Every request comes to us instead of to pynetdicom's service classes, which always behave.
        association._serve_request = partial(self._serve_one, association)  # type: ignore[method-assign]

    def _on_requested(self, event: Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        if self.stopping.is_set() or not isinstance(request, A_ASSOCIATE):
            association.is_aborted = True
            association.kill()
            return
        behaviour = self._behaviour()
        if behaviour.hang_on_associate:
            while not self.stopping.is_set() and not has_left(association):
                time.sleep(_POLL_SECONDS)
            association.is_aborted = True
            association._kill = True
            association.dul.kill_dul()
            return
        rejection = self._admit(association, request, behaviour)
        if rejection is not None:
            association.acse.send_reject(*rejection)
            # Without it the socket is closed before the A-ASSOCIATE-RJ leaves.
            association.kill()
            return
        association.acceptor.supported_contexts = supported(request, behaviour)
        association.acceptor.maximum_length = behaviour.max_pdu_length

    def _admit(self, association: Association, request: A_ASSOCIATE, behaviour: Behaviour) -> Rejection | None:
        """Count the association in, or say how it is rejected."""
        calling = str(request.calling_ae_title).strip()
        called = str(request.called_ae_title).strip()
        with self._lock:
            self._requests += 1
            rejection = None
            if behaviour.reject is not None:
                rejection = behaviour.reject
            elif behaviour.accepted_callers is not None and calling not in behaviour.accepted_callers:
                rejection = CALLING_NOT_RECOGNISED
            elif behaviour.check_called_ae_title and called != self._ae_title:
                rejection = CALLED_NOT_RECOGNISED
            elif self._is_busy(behaviour):
                rejection = behaviour.excess_rejection
            elif takes_too_much(association.requestor.maximum_length, behaviour):
                rejection = NO_REASON_GIVEN
            if rejection is not None:
                self.rejected += 1
                return rejection
            self.total += 1
            self._numbers[association] = self.total
            self._open[association] = calling
            self.peak = max(self.peak, len(self._open))
            theirs = sum(caller == calling for caller in self._open.values())
            self.peaks[calling] = max(self.peaks.get(calling, 0), theirs)
        return None

    def _is_busy(self, behaviour: Behaviour) -> bool:
        if behaviour.max_associations is not None and len(self._open) >= behaviour.max_associations:
            return True
        return behaviour.reject_every is not None and self._requests % behaviour.reject_every == 0

    def _on_acse_sent(self, event: Event) -> None:
        # Called before the A-RELEASE-RP is on the wire: a peer that opens its next association on receiving it must
        # not be counted twice.
        primitive: object = event.primitive  # type: ignore[attr-defined] # pynetdicom sets it for this event
        if isinstance(primitive, A_RELEASE) and primitive.result is not None:
            self._left(event.assoc)

    def _on_closed(self, event: Event) -> None:
        self._left(event.assoc)

    def _left(self, association: Association) -> None:
        with self._lock:
            self._open.pop(association, None)

    def _on_message(self, event: Event) -> None:
        if type(event.message).__name__ == "C_CANCEL_RQ":
            self._cancelled(event.assoc, int(event.message.command_set.MessageIDBeingRespondedTo))

    def _serve_one(self, association: Association, message: DimseServiceType, context_id: int) -> None:
        if isinstance(message, C_CANCEL) or not message.is_valid_request:
            return
        if context_id not in association._accepted_cx:
            association.abort(block=False)
            return
        association._is_paused = True
        try:
            self._serve(association, message, context_id)
        except BaseException:
            # The thread dies of it; the peer must not wait for ever.
            association.abort(block=False)
            raise
        finally:
            association._is_paused = False
            association.dimse.cancel_req.clear()


def no_delay(association: Association) -> None:
    """Switch Nagle's algorithm off, which would hold each data set back until its command set is acknowledged."""
    wrapper = association.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge(event: Event) -> None:
    """Acknowledge at once what is read: a peer with Nagle's algorithm on waits 40 ms for it before each data set."""
    wrapper = event.assoc.dul.socket
    if _QUICK_ACKNOWLEDGEMENT is not None and wrapper is not None and wrapper.socket is not None:
        with contextlib.suppress(OSError):
            wrapper.socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACKNOWLEDGEMENT, 1)


def has_left(association: Association) -> bool:
    """Whether the peer released, aborted or dropped the association; nothing is consumed."""
    return not association.dul.to_user_queue.empty() or not association.dul.is_alive()


def _runs(association: Association) -> bool:
    """Whether one of its two threads runs, or is about to."""
    return association.is_alive() or association.dul.is_alive() or not association._started_dul


def _cut(association: Association) -> None:
    """Make both threads of an association end, wherever they wait."""
    association._kill = True
    association.is_established = False
    association.dul.kill_dul()
    association._reactor_checkpoint.set()
    association.dimse.msg_queue.put((None, None))
    # What pynetdicom takes for a timeout of the wait for an ACSE primitive.
    association.dul.to_user_queue.put(None)
    wrapper = association.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        with contextlib.suppress(OSError):
            wrapper.socket.shutdown(socket.SHUT_RDWR)
        wrapper._ready.set()
