"""The simulated PACS itself: its archive, its destinations, and the services that peers may ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, DimseServiceType

from .archive import Archive, Instance
from .associations import Associations
from .behaviour import Behaviour
from .delivery import Delivery, Destination
from .encoding import Undecodable
from .find import answer, answer_worklist
from .get import serve_get
from .models import MODALITY_WORKLIST
from .move import Move, deliver_later
from .query import Finder, Query, Refusal, read_find, read_move, read_worklist, select
from .record import Operation, Record, now
from .session import SUCCESS, Counts, Session

_DATA_SET_MISMATCH = 0xA900
_CANNOT_UNDERSTAND = 0xC000


class SimulatedPacs:
    """A small PACS: Verification, Storage, C-FIND, C-MOVE and C-GET at all levels of Study Root and Patient Root.

    It is a modality worklist as well, if it is given one.

    It is honest unless its `behaviour` says otherwise, and independent of the router's own wire: pynetdicom's
    application entity carries it. Use it as a context manager, or call `start` and `stop`.

    Args:
        ae_title: Our AE title.
        studies: The instances to begin with; see `make_study`.
        worklist: The items of the modality worklist, with one scheduled step or several.
        destinations: AE title to (host, port), for C-MOVE.
        behaviour: The misbehaviour to begin with.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        timeout_seconds: How long a sub-operation waits for its destination.
    """

    def __init__(
        self,
        ae_title: str = "SIMPACS",
        *,
        studies: Iterable[Dataset] = (),
        worklist: Iterable[Dataset] = (),
        destinations: Mapping[str, tuple[str, int]] | None = None,
        behaviour: Behaviour | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout_seconds: float = 30.0,
    ) -> None:
        self.ae_title = ae_title
        self.host = host
        self._behaviour = behaviour or Behaviour()
        self._moves = 0
        self.record = Record()
        self.worklist: tuple[Dataset, ...] = (*worklist,)
        """The items of the modality worklist; set it while the PACS runs."""
        self._port = port
        self._timeout_seconds = timeout_seconds
        self._destinations = dict(destinations or {})
        self._archive = Archive()
        self._lock = threading.Lock()
        self._stored: list[Instance] = []
        self._deliveries: list[threading.Thread] = []
        self._associations: Associations | None = None
        self.add(studies)

    # -- Life --------------------------------------------------------------------------------------------------------

    def start(self) -> SimulatedPacs:
        """Listen for associations.

        Raises:
            OSError: the address cannot be bound.
        """
        associations = Associations(self.ae_title, lambda: self.behaviour, self._serve, self._on_cancel)
        self._port = associations.listen(self.host, self._port)
        self._associations = associations
        return self

    def stop(self) -> None:
        """End everything within a few seconds, whatever it is doing. What was recorded and stored stays."""
        if self._associations is None:
            return
        self._associations.stop()
        for thread in self._deliveries:
            thread.join(5.0)
        self._deliveries.clear()

    def __enter__(self) -> SimulatedPacs:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- How it behaves, what it holds, what it saw --------------------------------------------------------------------

    @property
    def behaviour(self) -> Behaviour:
        """The misbehaviour of the moment; set it while the PACS runs."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        with self._lock:
            self._behaviour = behaviour
            self._moves = 0

    @property
    def port(self) -> int:
        """The port it listens on; known once it has started."""
        return self._port

    @property
    def address(self) -> str:
        """`host:port`, as a node's `address` is written in the configuration."""
        return f"{self.host}:{self._port}"

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Everything it holds, whatever way it came in."""
        return self._archive.instances()

    @property
    def stored(self) -> tuple[Instance, ...]:
        """What it received by C-STORE and kept, in order, repetitions included."""
        with self._lock:
            return tuple(self._stored)

    @property
    def associations_total(self) -> int:
        """Associations accepted since the last start."""
        return self._associations.total if self._associations else 0

    @property
    def associations_peak(self) -> int:
        """The most associations that were open at once, since the last start."""
        return self._associations.peak if self._associations else 0

    @property
    def associations_peaks(self) -> dict[str, int]:
        """The most associations of each calling AE title that were open at once, since the last start."""
        return dict(self._associations.peaks) if self._associations else {}

    @property
    def associations_rejected(self) -> int:
        """Associations rejected since the last start."""
        return self._associations.rejected if self._associations else 0

    def add(self, datasets: Iterable[Dataset]) -> None:
        """Add instances to the archive."""
        self._archive.add([Instance.from_dataset(dataset) for dataset in datasets])

    def add_files(self, paths: Iterable[Path]) -> None:
        """Add the data sets of DICOM files, byte for byte."""
        self._archive.add([Instance.from_file(path) for path in paths])

    def remove(self, study_uid: str) -> None:
        """Remove a study from the archive."""
        self._archive.remove(study_uid)

    def set_destination(self, ae_title: str, host: str, port: int) -> None:
        """Make a destination known, or known under another address."""
        with self._lock:
            self._destinations[ae_title] = (host, port)

    def forget_destination(self, ae_title: str) -> None:
        """Make a destination unknown."""
        with self._lock:
            self._destinations.pop(ae_title, None)

    # -- Services, each in the thread of its association -----------------------------------------------------------

    @property
    def _running(self) -> Associations:
        if self._associations is None:
            raise RuntimeError("the simulated PACS has not been started")
        return self._associations

    def _serve(self, association: Association, message: DimseServiceType, context_id: int) -> None:
        if not isinstance(message, C_ECHO | C_STORE | C_FIND | C_GET | C_MOVE):
            association.abort(block=False)
            return
        number = self._running.number(association)
        session = Session(association, number, message, context_id, self._running.stopping, self.record)
        behaviour = self._behaviour_for(message)
        session.lose_early_cancel = behaviour.lose_early_cancel
        match message:
            case C_ECHO():
                self._serve_echo(session, behaviour)
            case C_STORE():
                self._serve_store(session, behaviour, message)
            case C_FIND():
                self._serve_find(session, behaviour)
            case C_GET():
                serve_get(session, self._archive, behaviour)
            case C_MOVE():
                self._serve_move(session, behaviour, str(message.MoveDestination or "").strip())

    def _behaviour_for(self, message: DimseServiceType) -> Behaviour:
        with self._lock:
            behaviour = self._behaviour
            if isinstance(message, C_GET | C_MOVE) and behaviour.faulty_moves is not None:
                self._moves += 1
                if self._moves > behaviour.faulty_moves:
                    return Behaviour()
            return behaviour

    def _on_cancel(self, association: Association, message_id: int) -> None:
        calling = str(association.requestor.ae_title).strip()
        number = self._running.number(association)
        self.record.begin(
            Operation(kind="cancel", at=now(), calling=calling, association=number, message_id=message_id)
        )

    def _serve_echo(self, session: Session, behaviour: Behaviour) -> None:
        session.note("echo")
        if session.wait(behaviour.response_delay_seconds):
            session.finish(behaviour.echo_status)

    def _serve_store(self, session: Session, behaviour: Behaviour, request: C_STORE) -> None:
        originator = str(request.MoveOriginatorApplicationEntityTitle or "").strip()
        session.note(
            "store",
            keys={"SOPInstanceUID": str(request.AffectedSOPInstanceUID)},
            originator=(originator, request.MoveOriginatorMessageID),
        )
        if not session.wait(behaviour.response_delay_seconds):
            return
        status = behaviour.store_status
        if status == SUCCESS or status >> 12 == 0xB:
            status = self._keep(session, behaviour, request) or status
        session.finish(status)

    def _keep(self, session: Session, behaviour: Behaviour, request: C_STORE) -> int:
        """Take an instance in; returns the status if that fails, else 0."""
        encoded = request.DataSet.getvalue() if request.DataSet is not None else b""
        try:
            instance = Instance.from_encoded(encoded, session.transfer_syntax)
        except Undecodable:
            return _CANNOT_UNDERSTAND
        if (instance.sop_class, instance.sop_instance) != (session.sop_class, request.AffectedSOPInstanceUID):
            return _DATA_SET_MISMATCH
        if not behaviour.forget_stored:
            self._archive.add([instance])
            with self._lock:
                self._stored.append(instance)
        return SUCCESS

    def _serve_find(self, session: Session, behaviour: Behaviour) -> None:
        worklist = session.sop_class == MODALITY_WORKLIST
        if worklist:
            query = read_worklist(session.identifier, session.transfer_syntax)
        else:
            query = read_find(session.identifier, session.transfer_syntax, session.sop_class, behaviour)
        session.note("find", query=query)
        if behaviour.hang_on_find:
            session.hang()
            return
        if not session.wait(behaviour.response_delay_seconds):
            return
        refusal = query.refusal
        if behaviour.refuse_find_status is not None:
            refusal = Refusal(behaviour.refuse_find_status)
        if refusal is not None:
            session.finish(*refusal)
        elif worklist:
            answer_worklist(session, self.worklist, query, behaviour)
        else:
            answer(session, Finder(self._archive, self.ae_title, behaviour), query)

    def _serve_move(self, session: Session, behaviour: Behaviour, ae_title: str) -> None:
        query = read_move(session.identifier, session.transfer_syntax, session.sop_class)
        session.note("move", query=query, destination=ae_title)
        if behaviour.hang_move_after == 0:
            session.hang()
            return
        if not session.wait(behaviour.response_delay_seconds):
            return
        with self._lock:
            known = self._destinations.get(ae_title)
        refusal = query.refusal
        if behaviour.refuse_move_status is not None:
            refusal = Refusal(behaviour.refuse_move_status)
        if refusal is not None:
            session.finish(*refusal)
        elif known is not None:
            self._move(session, behaviour, query, Destination(ae_title, *known))
        elif behaviour.abort_on_unknown_destination:
            session.abort()
        else:
            session.finish(behaviour.unknown_destination_status)

    def _move(self, session: Session, behaviour: Behaviour, query: Query, destination: Destination) -> None:
        instances = select(self._archive, query)
        originator = (session.calling, session.message_id)

        def new_delivery() -> Delivery:
            return Delivery(self._running, self.ae_title, destination, originator, behaviour, self._timeout_seconds)

        if behaviour.deliver_later_seconds is None and not behaviour.move_nothing:
            Move(session, instances, behaviour, new_delivery).run()
            return
        session.finish(SUCCESS, counts=Counts(None, 0, 0, 0) if behaviour.counters_in_final else None)
        if behaviour.move_nothing:
            return
        thread = deliver_later(instances, behaviour, new_delivery, self._running.stopping)
        with self._lock:
            self._deliveries = [one for one in self._deliveries if one.is_alive()]
            self._deliveries.append(thread)
