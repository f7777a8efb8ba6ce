"""A PACS that makes its studies up: C-FIND, C-MOVE and C-STORE as fast as the asker goes, whatever the number.

`python -m bench.factory PORT AE_TITLE OFFER INSTANCES ROWS [DESTINATION_PORT]`

Study n follows from n alone, so a million cost it nothing, and each has UIDs of its own. A question without a Study
Instance UID is answered with the studies of the range that the file OFFER names (`first last`, last not included).
What is stored to it is acknowledged and dropped, and listed where it is asked for: a destination without a disk.
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from bench import wire
from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.pdu import AssociateRequest, PduType, ProposedContext
from router.domain.dicom import tag_of, vr_of
from tests.support.part10 import dataset_bytes
from tests.support.samples import make_study

_ROOT = "1.2.826.0.1.3680043.10.1001.7."
_FIRST_STUDY, _FIRST_INSTANCE = 10**9, 10**4
"""Added to the numbers, so that all UIDs have one length."""
_STUDY = re.compile(re.escape(_ROOT).encode("ascii") + rb"(\d{10})")
_INSTANCE = re.compile(_STUDY.pattern + rb"\.1\.(\d{5})")
_IMPLICIT = "1.2.840.10008.1.2"
_CONTEXT = 1
_PENDING, _SUCCESS = 0xFF00, 0x0000
_SECONDS = 120.0


def study_instance_uid(study: int) -> str:
    """Of the study with this number."""
    return f"{_ROOT}{_FIRST_STUDY + study}"


def sop_instance_uid(study: int, instance: int) -> str:
    """Of an instance of it."""
    return f"{study_instance_uid(study)}.1.{_FIRST_INSTANCE + instance}"


class Settings(NamedTuple):
    """What the factory was told."""

    ae_title: str
    offer: Path
    instances: int
    rows: int
    destination_port: int


class Template:
    """One CT image, encoded in Explicit VR Little Endian, whose UIDs are replaced."""

    def __init__(self, rows: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = make_study(Path(directory), rows=rows, instances=1).files[0]
            dataset = dcmread(path)
            dataset.StudyInstanceUID = study_instance_uid(0)
            dataset.SeriesInstanceUID = f"{study_instance_uid(0)}.1"
            dataset.SOPInstanceUID = sop_instance_uid(0, 0)
            dataset.save_as(path, enforce_file_format=True)
            self._content = bytearray(dataset_bytes(path))
        self._studies = [found.start(1) for found in _STUDY.finditer(self._content)]
        self._instances = [found.start(2) for found in _INSTANCE.finditer(self._content)]

    def filled(self, study: int, instance: int) -> bytearray:
        """The data set of this instance, valid until the next is asked for."""
        for place in self._studies:
            self._content[place : place + 10] = b"%010d" % (_FIRST_STUDY + study)
        for place in self._instances:
            self._content[place : place + 5] = b"%05d" % (_FIRST_INSTANCE + instance)
        return self._content


class Session:
    """One association."""

    def __init__(self, connection: socket.socket, settings: Settings, template: Template) -> None:
        self._connection = connection
        self._settings = settings
        self._template = template
        self._implicit: dict[int, bool] = {}
        self._calling = ""

    def run(self) -> None:
        """Serve it to its end."""
        command = b""
        data = bytearray()
        for kind, body in wire.pdus(self._connection):
            if kind == PduType.P_DATA:
                control = body[5]
                if control & pdu.COMMAND:
                    command = bytes(body[6:])
                    data.clear()
                    if _field(command, commands.COMMAND_FIELD) == commands.C_ECHO_RQ:
                        self._answer(body[4], command, commands.C_ECHO_RSP, _SUCCESS)
                    continue
                if _field(command, commands.COMMAND_FIELD) != commands.C_STORE_RQ:
                    data += body[6:]
                if control & pdu.LAST:
                    self._serve(body[4], command, bytes(data))
            elif kind == PduType.ASSOCIATE_RQ:
                request = wire.accept(self._connection, body)
                self._calling = request.calling_ae_title
                self._implicit = {
                    context.context_id: context.transfer_syntaxes[0] == _IMPLICIT for context in request.contexts
                }
            elif kind == PduType.RELEASE_RQ:
                self._connection.sendall(pdu.encode_release_response())

    def _serve(self, context: int, command: bytes, data: bytes) -> None:
        match _field(command, commands.COMMAND_FIELD):
            case commands.C_STORE_RQ:
                self._answer(context, command, commands.C_STORE_RSP, _SUCCESS)
            case commands.C_FIND_RQ:
                self._find(context, command, data)
            case commands.C_MOVE_RQ:
                self._move(context, command, data)

    def _answer(self, context: int, command: bytes, kind: int, status: int, **counts: int) -> None:
        self._connection.sendall(self._response(context, command, kind, status, **counts))

    def _response(self, context: int, command: bytes, kind: int, status: int, **counts: int) -> bytes:
        elements: dict[int, int | str] = {
            commands.COMMAND_FIELD: kind,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: wire.message_id(command),
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET
            if kind == commands.C_FIND_RSP and status == _PENDING
            else commands.NO_DATA_SET,
            commands.STATUS: status,
        }
        elements |= {getattr(commands, name.upper()): number for name, number in counts.items()}
        return wire.command_pdu(context, dict(sorted(elements.items())))

    # --- C-FIND, PS3.4 section C.4.1 ----------------------------------------------------------------------------------

    def _find(self, context: int, command: bytes, data: bytes) -> None:
        pending = self._response(context, command, commands.C_FIND_RSP, _PENDING)
        parts = []
        for row in self._rows(data):
            parts += [pending, wire.data_pdu(context, pdu.LAST, _encoded(row, self._implicit[context]))]
        parts.append(self._response(context, command, commands.C_FIND_RSP, _SUCCESS))
        self._connection.sendall(b"".join(parts))

    def _rows(self, data: bytes) -> Iterator[dict[str, str]]:
        named = [int(number) - _FIRST_STUDY for number in _STUDY.findall(data)]
        first, last = map(int, self._settings.offer.read_text().split())
        studies: Sequence[int] = named or range(first, last)
        count = self._settings.instances
        for study in studies:
            if b"IMAGE" in data:
                for instance in range(count):
                    yield {
                        "QueryRetrieveLevel": "IMAGE",
                        "StudyInstanceUID": study_instance_uid(study),
                        "SeriesInstanceUID": f"{study_instance_uid(study)}.1",
                        "SOPInstanceUID": sop_instance_uid(study, instance),
                        "SOPClassUID": CTImageStorage,
                        "InstanceNumber": str(instance + 1),
                    }
            elif b"SERIES" in data:
                yield {
                    "QueryRetrieveLevel": "SERIES",
                    "StudyInstanceUID": study_instance_uid(study),
                    "SeriesInstanceUID": f"{study_instance_uid(study)}.1",
                    "Modality": "CT",
                    "SeriesNumber": "1",
                    "NumberOfSeriesRelatedInstances": str(count),
                }
            else:
                yield _study(study, count)

    # --- C-MOVE, PS3.4 section C.4.2 ----------------------------------------------------------------------------------

    def _move(self, context: int, command: bytes, data: bytes) -> None:
        wanted = [(int(a) - _FIRST_STUDY, int(b) - _FIRST_INSTANCE) for a, b in _INSTANCE.findall(data)]
        if not wanted:
            studies = [int(number) - _FIRST_STUDY for number in _STUDY.findall(data)]
            wanted = [(study, instance) for study in studies for instance in range(self._settings.instances)]
        with _Delivery(self._settings, command, self._calling) as delivery:
            for number, (study, instance) in enumerate(wanted, 1):
                delivery.send(sop_instance_uid(study, instance), self._template.filled(study, instance))
                self._answer(
                    context,
                    command,
                    commands.C_MOVE_RSP,
                    _PENDING,
                    remaining=len(wanted) - number,
                    completed=number,
                    failed=0,
                    warning=0,
                )
        self._answer(context, command, commands.C_MOVE_RSP, _SUCCESS, completed=len(wanted), failed=0, warning=0)


class _Delivery:
    """The association on which a move's instances go, PS3.7 section 9.1.1."""

    def __init__(self, settings: Settings, command: bytes, mover: str) -> None:
        self._originator = (mover, wire.message_id(command))
        self._connection = socket.create_connection(("127.0.0.1", settings.destination_port), timeout=_SECONDS)
        wire.prepare(self._connection)
        self._answers = wire.pdus(self._connection)
        context = ProposedContext(_CONTEXT, CTImageStorage, (ExplicitVRLittleEndian,))
        destination = _text(command, commands.MOVE_DESTINATION)
        request = AssociateRequest(destination, settings.ae_title, (context,), wire.MAXIMUM_LENGTH)
        self._connection.sendall(pdu.encode_associate_request(request))
        kind, body = next(self._answers)
        if kind != PduType.ASSOCIATE_AC:
            raise ConnectionError("the destination rejected the association")
        self._part = pdu.decode_associate_accept(body).maximum_length - 6
        self._sent = 0

    def send(self, uid: str, content: bytearray) -> None:
        """One C-STORE; raises ConnectionError where it is not acknowledged with success."""
        self._sent += 1
        parts = [
            wire.command_pdu(
                _CONTEXT,
                {
                    commands.AFFECTED_SOP_CLASS_UID: CTImageStorage,
                    commands.COMMAND_FIELD: commands.C_STORE_RQ,
                    commands.MESSAGE_ID: self._sent,
                    commands.PRIORITY: 0,
                    commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
                    commands.AFFECTED_SOP_INSTANCE_UID: uid,
                    commands.MOVE_ORIGINATOR_AE_TITLE: self._originator[0],
                    commands.MOVE_ORIGINATOR_MESSAGE_ID: self._originator[1],
                },
            )
        ]
        view = memoryview(content)
        for start in range(0, len(content), self._part):
            piece = view[start : start + self._part]
            parts.append(wire.data_pdu(_CONTEXT, pdu.LAST if start + self._part >= len(content) else 0, piece))
        self._connection.sendall(b"".join(parts))
        _kind, body = next(self._answers)
        if commands.decode(body[6:]).status != _SUCCESS:
            raise ConnectionError("an instance was refused")

    def __enter__(self) -> _Delivery:
        return self

    def __exit__(self, *problem: object) -> None:
        if problem[0] is None:
            self._connection.sendall(pdu.encode_release_request())
            next(self._answers)
        self._connection.close()


# --- Rows -----------------------------------------------------------------------------------------------------------


def _study(study: int, count: int) -> dict[str, str]:
    return {
        "StudyDate": f"{datetime.now(UTC):%Y%m%d}",
        "StudyTime": f"{study // 3600 % 24:02}{study // 60 % 60:02}{study % 60:02}",
        "AccessionNumber": f"A{study:09}",
        "QueryRetrieveLevel": "STUDY",
        "ModalitiesInStudy": "CT",
        "StudyDescription": "CT Thorax",
        "PatientName": f"Doe^Number {study // 3}",
        "PatientID": f"PID{study // 3:08}",
        "PatientBirthDate": f"19{study % 90 + 10}0101",
        "PatientSex": "FM"[study % 2],
        "StudyInstanceUID": study_instance_uid(study),
        "StudyID": f"S{study:07}",
        "NumberOfStudyRelatedSeries": "1",
        "NumberOfStudyRelatedInstances": str(count),
    }


@cache
def _order(keywords: tuple[str, ...]) -> list[tuple[str, int]]:
    tags = [(keyword, tag) for keyword in keywords if (tag := tag_of(keyword)) is not None]
    return sorted(tags, key=lambda one: one[1])


def _encoded(row: dict[str, str], implicit: bool) -> bytes:
    length = struct.Struct("<L" if implicit else "<H").pack
    parts = []
    for keyword, tag in _order(tuple(row)):
        value = row[keyword].encode("ascii")
        if len(value) % 2:
            value += b"\0" if keyword.endswith("UID") else b" "
        head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + (b"" if implicit else vr_of(tag).encode("ascii"))
        parts += [head, length(len(value)), value]
    return b"".join(parts)


def _field(command: bytes, element: int) -> int:
    """A number of a command set."""
    place = command.index(struct.pack("<HHL", 0, element, 2)) + 8
    return int.from_bytes(command[place : place + 2], "little")


def _text(command: bytes, element: int) -> str:
    place = command.index(struct.pack("<HH", 0, element)) + 4
    length = int.from_bytes(command[place : place + 4], "little")
    return command[place + 4 : place + 4 + length].decode("ascii").strip(" \0")


def main(port: int, ae_title: str, offer: str, instances: int, rows: int, destination_port: int = 0) -> None:
    """Serve until the process is ended."""
    settings = Settings(ae_title, Path(offer), instances, rows, destination_port)
    template = Template(rows)
    wire.serve(port, lambda connection: Session(connection, settings, template).run())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
