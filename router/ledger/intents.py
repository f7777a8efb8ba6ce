"""The queries about intents: what a selection needs to know of them, and queueing what it selected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, select, update

from router.domain.transfer import TRANSITIONS, UNDER_WAY, Happening, Intent, NewTransfer, State, TransferFact
from router.ledger import commitments
from router.ledger.database import chunks, insert_or
from router.ledger.instances import OF_THE_SOURCE
from router.ledger.tables import instance_lists, transfers

_t = transfers.c
_STUDIES_AT_ONCE = 1000

# A sweep asks for a hundred thousand, and takes half the time where its UIDs go in as one parameter and the facts of
# many studies come back as one row: row by row the driver makes each value and takes the interpreter lock again.
_FACTS = select(
    func.json_group_array(
        func.json_array(
            func.json_array(_t.source, _t.study_instance_uid, _t.series_instance_uid, _t.destination),
            func.json_array(_t.id, _t.state, _t.instance_count, _t.cause),
        )
    )
).where(
    _t.source == bindparam("of_source"),
    _t.study_instance_uid.in_(select(func.json_each(bindparam("studies")).table_valued("value").c.value)),
)
_decode_facts = msgspec.json.Decoder(list[tuple[Intent, TransferFact]]).decode


def facts(connection: Connection, source: str, studies: Sequence[str]) -> dict[Intent, TransferFact]:
    """What is known of these studies' intents from this source, their series' too."""
    known: dict[Intent, TransferFact] = {}
    for some in chunks(studies, _STUDIES_AT_ONCE):
        asked = {"of_source": source, "studies": msgspec.json.encode(some).decode()}
        known.update(_decode_facts(connection.execute(_FACTS, asked).scalar_one()))
    return known


def queue(connection: Connection, selected: Sequence[NewTransfer], now: datetime) -> None:
    """Queue new intents, and known ones that grew or are asked for again, where the table of states allows it."""
    fresh = [new for new in selected if new.happening is None]
    _insert(connection, fresh, now)
    asked = [(new, new.happening) for new in selected if new.happening is not None]
    known = _known(connection, [new.intent for new, _ in asked])
    _insert(connection, [new for new, _ in asked if new.intent not in known], now)
    anew: list[dict[str, Any]] = []
    counted: list[dict[str, Any]] = []
    for new, happening in asked:
        fact = known.get(new.intent)
        if fact is None or happening not in TRANSITIONS[fact.state]:
            continue  # it began to move meanwhile: the next sweep sees the difference again
        if happening is Happening.GREW and fact.instance_count == new.instance_count:
            continue  # another sweep saw the growth first
        row: dict[str, Any] = {"row_id": fact.id, "new_count": new.instance_count}
        if happening is Happening.GREW and fact.state in UNDER_WAY:
            counted.append(row)
        else:
            row |= {"new_rule": new.rule, "new_priority": new.priority, "new_patient_id": new.patient_id}
            row["new_availability"] = new.availability
            anew.append(row | {"forget": happening is Happening.AGAIN})
    _start_over(connection, anew, now)
    _count(connection, counted, now)


def starting_over(now: datetime) -> dict[str, Any]:
    """The columns of a transfer that is queued anew."""
    return {
        "state": State.QUEUED.value,
        "expected": None,
        "completed": 0,
        "failed": 0,
        "warning": 0,
        "attempts": 0,
        "rounds": 0,
        "looks": 0,
        "status": None,
        "cause": "",
        "reason": "",
        "queued_at": now,
        "started_at": None,
        "next_at": now,
        "lease_until": None,
        "finished_at": None,
        "updated_at": now,
    }


def forget_lists(connection: Connection, transfer_ids: Sequence[int], kinds: Sequence[str]) -> None:
    """Remove lists of instances that no longer hold."""
    if transfer_ids:
        statement = delete(instance_lists).where(
            instance_lists.c.transfer_id == bindparam("of_transfer"), instance_lists.c.kind == bindparam("of_kind")
        )
        rows = [{"of_transfer": number, "of_kind": kind} for number in transfer_ids for kind in kinds]
        connection.execute(statement, rows)


def _insert(connection: Connection, new: Sequence[NewTransfer], now: datetime) -> None:
    rows = [
        {
            "source": one.intent.source,
            "study_instance_uid": one.intent.study_instance_uid,
            "series_instance_uid": one.intent.series_instance_uid,
            "destination": one.intent.destination,
            "rule": one.rule,
            "priority": one.priority,
            "state": State.QUEUED.value,
            "instance_count": one.instance_count,
            "patient_id": one.patient_id,
            "availability": one.availability,
            "queued_at": now,
            "next_at": now,
            "updated_at": now,
        }
        for one in new
    ]
    if rows:
        connection.execute(insert_or(transfers, connection).on_conflict_do_nothing(), rows)


def _known(connection: Connection, intents: Sequence[Intent]) -> dict[Intent, TransferFact]:
    studies: defaultdict[str, list[str]] = defaultdict(list)
    for intent in intents:
        studies[intent.source].append(intent.study_instance_uid)
    known: dict[Intent, TransferFact] = {}
    for source, uids in studies.items():
        known |= facts(connection, source, uids)
    return known


def _start_over(connection: Connection, rows: Sequence[dict[str, Any]], now: datetime) -> None:
    if not rows:
        return
    connection.execute(
        update(transfers)
        .where(_t.id == bindparam("row_id"))
        .values(
            **starting_over(now),
            instance_count=bindparam("new_count"),
            rule=bindparam("new_rule"),
            priority=bindparam("new_priority"),
            patient_id=bindparam("new_patient_id"),
            availability=bindparam("new_availability"),
        ),
        [{name: value for name, value in row.items() if name != "forget"} for row in rows],
    )
    forget_lists(connection, [row["row_id"] for row in rows], OF_THE_SOURCE)
    # What was sent to a destination without evidence counts as there when a study grew, but not when it is asked again.
    forget_lists(connection, [row["row_id"] for row in rows if row["forget"]], ["delivered"])
    commitments.forget(connection, [row["row_id"] for row in rows])


def _count(connection: Connection, rows: Sequence[dict[str, Any]], now: datetime) -> None:
    if not rows:
        return
    connection.execute(
        update(transfers)
        .where(_t.id == bindparam("row_id"))
        .values(instance_count=bindparam("new_count"), expected=None, updated_at=now),
        rows,
    )
    forget_lists(connection, [row["row_id"] for row in rows], OF_THE_SOURCE)
