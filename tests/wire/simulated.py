"""pynetdicom as the SCU of a simulated PACS: studies, associations, what a C-FIND and a C-MOVE brought."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ

from router.simulator import Rejection, SimulatedPacs, make_study

VERIFICATION = "1.2.840.10008.1.1"
PATIENT_FIND, PATIENT_MOVE = "1.2.840.10008.5.1.4.1.2.1.1", "1.2.840.10008.5.1.4.1.2.1.2"
STUDY_FIND, STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SUCCESS, WARNING, CANCELLED, PENDING = 0x0000, 0xB000, 0xFE00, 0xFF00

CT = make_study(
    seed="ct",
    description="CT Chest",
    patient_id="P1",
    patient_name="Fürst^Jürgen",
    study_date="20240110",
    study_time="081500",
    accession="A1",
    series=[("CT", "Lung", 6), ("SR", "Dose report", 1)],
    body_part="CHEST",
)
CT2 = make_study(seed="ct2", description="CT Head", patient_id="P1", patient_name="Fürst^Jürgen", study_date="20240112")
MR = make_study(seed="mr", modality="MR", description="MR Knee", patient_id="P2", study_date="20240115", accession="A3")
CT_UID, CT2_UID, MR_UID = (str(study[0].StudyInstanceUID) for study in (CT, CT2, MR))


class Found(list[Dataset]):
    """The matches of a C-FIND, and how it ended: a status, or None for abort and timeout."""

    status: int | None = None
    pending: set[int]
    undecodable = 0


@dataclasses.dataclass
class Moved:
    """The responses of a C-MOVE."""

    pending: list[Dataset]
    final: Dataset | None
    failed_list: list[str]

    @property
    def status(self) -> int | None:
        return None if self.final is None else int(self.final.Status)

    @property
    def counts(self) -> tuple[int | None, ...]:
        """Completed, failed, warning of the final response."""
        names = ("Completed", "Failed", "Warning")
        final = self.final or Dataset()
        return tuple(final.get(f"NumberOf{name}Suboperations") for name in names)


def keys(level: str, values: Mapping[str, object]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in values.items():
        setattr(identifier, keyword, value)
    return identifier


class Scu:
    """An established association as SCU."""

    def __init__(self, association: Association) -> None:
        self.association = association

    def find(self, level: str = "STUDY", model: str = STUDY_FIND, **values: object) -> Found:
        found = Found()
        found.pending = set()
        for status, identifier in self.association.send_c_find(keys(level, values), model):
            if not status:
                return found
            if status.Status in (0xFF00, 0xFF01):
                found.pending.add(status.Status)
                if identifier is None:
                    found.undecodable += 1
                else:
                    found.append(identifier)
            else:
                found.status = status.Status
        return found

    def move(
        self,
        destination: str = "DEST",
        level: str = "STUDY",
        model: str = STUDY_MOVE,
        message_id: int = 1,
        on_pending: Callable[[int], None] = lambda _: None,
        **values: object,
    ) -> Moved:
        moved = Moved([], None, [])
        responses = self.association.send_c_move(keys(level, values), destination, model, msg_id=message_id)
        for status, identifier in responses:
            if not status:
                return moved
            if status.Status == PENDING:
                moved.pending.append(status)
                on_pending(len(moved.pending))
                if not self.association.is_established:
                    return moved
            else:
                moved.final = status
                uids = identifier.get("FailedSOPInstanceUIDList", []) if identifier is not None else []
                moved.failed_list = [uids] if isinstance(uids, str) else list(uids or [])
        return moved


class Entity(AE):
    """pynetdicom's application entity, which does not always close the socket of an association that failed."""

    opened: ClassVar[list[socket.socket]] = []

    def _create_socket(self, *args: Any) -> Any:
        wrapper = super()._create_socket(*args)
        self.opened.append(wrapper.socket)
        return wrapper


def connect(
    pacs: SimulatedPacs,
    *,
    calling: str = "TESTER",
    called: str = "",
    wait: float = 20.0,
    max_pdu: int = 16384,
    on_pdu: Callable[[Any], None] = lambda _: None,
) -> Association:
    entity = Entity(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = wait
    for abstract_syntax in (VERIFICATION, PATIENT_FIND, PATIENT_MOVE, STUDY_FIND, STUDY_MOVE, CT_STORAGE):
        entity.add_requested_context(abstract_syntax, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    handlers: list[Any] = [(evt.EVT_PDU_RECV, lambda event: on_pdu(event.pdu))]
    return entity.associate(
        "127.0.0.1", pacs.port, ae_title=called or pacs.ae_title, max_pdu=max_pdu, evt_handlers=handlers
    )


@contextmanager
def scu(pacs: SimulatedPacs, *, calling: str = "TESTER", wait: float = 20.0) -> Iterator[Scu]:
    association = connect(pacs, calling=calling, wait=wait)
    assert association.is_established
    try:
        yield Scu(association)
    finally:
        if association.is_established:
            association.release()
        association.kill()


def rejection(pacs: SimulatedPacs, **how: Any) -> Rejection | None:
    # From the PDU: pynetdicom takes an association for aborted, not rejected, if its A-ASSOCIATE-RJ has closed the
    # connection before the thread looks whether there is one.
    received: list[Any] = []
    association = connect(pacs, on_pdu=received.append, **how)
    if association.is_established:
        association.release()
        return None
    rejected = next(pdu for pdu in received if isinstance(pdu, A_ASSOCIATE_RJ))
    return Rejection(rejected.result, rejected.source, rejected.reason_diagnostic)


def uids(datasets: list[Dataset]) -> set[str]:
    return {str(dataset.SOPInstanceUID) for dataset in datasets}


def arrived(destination: SimulatedPacs) -> set[str]:
    return {str(instance.sop_instance) for instance in destination.stored}
