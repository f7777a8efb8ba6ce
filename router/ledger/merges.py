"""The queries about patient IDs that gave way to others. Issuers must be the same; unknown is one of its own."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, and_, bindparam, delete, func, select, update

from router.domain.appointment import AppointmentState, Notice
from router.domain.dicom import Identifier
from router.domain.hl7 import Merge
from router.ledger.database import chunks, insert_or
from router.ledger.packing import pack_identifier, unpack_identifier
from router.ledger.tables import appointments, patient_merges

FORMER_IDS = 10
"""Former IDs of a patient that are asked for, the latest merged."""
_IDS_AT_ONCE = 400
_OVER = timedelta(days=1)
"""How long after it an examination is not looked at again for its patient's new ID."""
_LOOKED_AT = (AppointmentState.DONE.value, AppointmentState.FAILED.value)

_a, _m = appointments.c, patient_merges.c


def merge(connection: Connection, merges: Sequence[Merge], now: datetime) -> None:
    """Remember that patient IDs gave way to others; open appointments go over to the new ones."""
    for one in merges:
        if (one.old_patient_id, one.old_issuer) == (one.patient_id, one.issuer):
            continue
        _remember(connection, one, now)
        _carry_over(connection, one, now)


def _remember(connection: Connection, one: Merge, now: datetime) -> None:
    # The new ID is in use again, whatever it gave way to before: no circles.
    again = (_m.old_patient_id == one.patient_id, _m.old_issuer == one.issuer)
    connection.execute(delete(patient_merges).where(*again))
    row = {"patient_id": one.patient_id, "issuer": one.issuer, "merged_at": now}
    chained = (_m.patient_id == one.old_patient_id, _m.issuer == one.old_issuer)
    connection.execute(update(patient_merges).where(*chained).values(**row))
    add = insert_or(patient_merges, connection).values(
        old_patient_id=one.old_patient_id, old_issuer=one.old_issuer, **row
    )
    connection.execute(add.on_conflict_do_update(index_elements=[_m.old_patient_id, _m.old_issuer], set_=row))


def _carry_over(connection: Connection, one: Merge, now: datetime) -> None:
    same = and_(_a.patient_id == one.old_patient_id, _a.issuer == one.old_issuer)
    rows = connection.execute(select(appointments).where(same)).all()
    for row in rows:
        issuer = one.issuer or row.issuer
        values = {
            "patient_id": one.patient_id,
            "issuer": issuer,
            "current": pack_identifier(_renamed(unpack_identifier(row.current), one.patient_id, issuer)),
        }
        # What was, or is being, found under the old ID is not all: there may be more under the new one.
        ended = row.state in _LOOKED_AT and (row.start_at or row.noted_at) >= now - _OVER
        if ended:
            values["sweep_id"] = None  # whoever waited for the look before has had it
        if ended or row.state == AppointmentState.LOOKING.value:
            values |= _to_look(row.fence)
        connection.execute(update(appointments).where(_a.id == row.id).values(**values))


def _to_look(fence: int) -> dict[str, Any]:
    return {
        "state": AppointmentState.WAITING.value,
        "fence": fence + 1,
        "lease_until": None,
        "attempts": 0,
        "cause": "",
        "reason": "",
    }


_OF_IDS = select(patient_merges).where(
    _m.old_patient_id.in_(select(func.json_each(bindparam("ids")).table_valued("value").c.value))
)


def renamed(connection: Connection, notices: Sequence[Notice]) -> list[Notice]:
    """The notices with the patient IDs that took the place of theirs."""
    found: dict[str, list[Merge]] = {}
    for some in chunks((one.patient_id for one in notices), _IDS_AT_ONCE):
        for row in connection.execute(_OF_IDS, {"ids": msgspec.json.encode(some).decode()}):
            merge = Merge(row.old_patient_id, row.old_issuer, row.patient_id, row.issuer)
            found.setdefault(row.old_patient_id, []).append(merge)
    return [_with_new_id(one, found.get(one.patient_id, ())) for one in notices]


def _with_new_id(notice: Notice, merges: Sequence[Merge]) -> Notice:
    """Under the new ID where the issuer is the same: one that is not known may be another hospital's."""
    one = next((one for one in merges if one.old_issuer == notice.issuer), None)
    if one is None:
        return notice
    current = _renamed(notice.current, one.patient_id, one.issuer)
    return msgspec.structs.replace(notice, patient_id=one.patient_id, issuer=one.issuer, current=current)


def _renamed(current: Identifier, patient_id: str, issuer: str) -> Identifier:
    return Identifier({**current.elements, **Identifier.of(PatientID=patient_id, IssuerOfPatientID=issuer).elements})


def former_ids(connection: Connection, patient_id: str, issuer: str) -> list[tuple[str, str]]:
    """Patient IDs with issuers that gave way to this one, the latest first."""
    query = (
        select(_m.old_patient_id, _m.old_issuer)
        .where(_m.patient_id == patient_id, _m.issuer == issuer)
        .order_by(_m.merged_at.desc(), _m.old_patient_id)
        .limit(FORMER_IDS)
    )
    return [(row.old_patient_id, row.old_issuer) for row in connection.execute(query)]
