"""The queries about intents: what a selection needs to know of them, and queueing what it selected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, Table, bindparam, delete, func, select, update

from router.domain.rule import LOCAL
from router.domain.transfer import (
    RULE_HOLDS,
    TRANSITIONS,
    UNDER_WAY,
    WAITED,
    Happening,
    Hold,
    Intent,
    NewTransfer,
    State,
    TransferFact,
)
from router.ledger import commitments, departures, held
from router.ledger.dialects import chunks, insert_new
from router.ledger.history import holds_any, recall
from router.ledger.history_tables import history
from router.ledger.instances import OF_THE_SOURCE
from router.ledger.tables import Instant, instance_lists, transfers

_t = transfers.c
_STUDIES_AT_ONCE = 10_000


# A sweep asks for a hundred thousand, and takes half the time where its UIDs go in as one parameter and the facts of
# many studies come back as one row: row by row the driver makes each value and takes the interpreter lock again.
def _facts_in(table: Table) -> Select[Any]:
    c = table.c
    return select(
        func.json_group_array(
            func.json_array(
                func.json_array(c.source, c.study_instance_uid, c.series_instance_uid, c.destination),
                func.json_array(c.id, c.state, c.instance_count, c.cause),
            )
        )
    ).where(
        c.source == bindparam("of_source"),
        c.study_instance_uid.in_(select(func.json_each(bindparam("studies")).table_valued("value").c.value)),
    )


_FACTS, _FACTS_OF_OLD = _facts_in(transfers), _facts_in(history)
_decode_facts = msgspec.json.Decoder(list[tuple[Intent, TransferFact]]).decode


def facts(connection: Connection, source: str, studies: Sequence[str]) -> dict[Intent, TransferFact]:
    """What is known of these studies' intents from this source, their series' too."""
    known: dict[Intent, TransferFact] = {}
    queries = [_FACTS_OF_OLD, _FACTS] if holds_any(connection) else [_FACTS]
    for some in chunks(studies, _STUDIES_AT_ONCE):
        asked = {"of_source": source, "studies": msgspec.json.encode(some).decode()}
        for query in queries:
            known.update(_decode_facts(connection.execute(query, asked).scalar_one()))
    return known


def queue(connection: Connection, selected: Sequence[NewTransfer], now: datetime) -> int:
    """Queue new intents, known ones that grew or are asked for again, and held ones that are let go.

    Only where the table of states allows it. What has a hold is held instead. Returns the instances charged for what
    was really queued.
    """
    # What is charged is looked up as well, so that nothing is charged that another sweep has queued meanwhile.
    asked = [new for new in selected if new.happening is not None or new.charge]
    recall(connection, [new.intent for new in asked if new.happening is not None])
    # Where there is a history, what is new to the sweep may have gone into it since the sweep looked.
    looked_up = selected if holds_any(connection) else asked
    known = _known(connection, [new.intent for new in looked_up])
    fresh = [new for new in selected if new.intent not in known]
    add(connection, fresh, now)
    charged = sum(new.charge for new in fresh)
    again = [new.intent for new in asked if new.happening is Happening.AGAIN]
    departures.recall(connection, [one.study_instance_uid for one in again if one.destination == LOCAL])
    again_now: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    counted: list[dict[str, Any]] = []
    prolonged: dict[int, tuple[Hold, int | None]] = {}
    for new in asked:
        fact, happening = known.get(new.intent), new.happening
        if fact is None or happening is None or not _is_possible(new, happening, fact):
            continue
        row: dict[str, Any] = {"row_id": fact.id, "new_count": new.instance_count}
        if happening is Happening.WAIT and new.hold is not None:
            prolonged[fact.id] = new.hold, new.instance_count
            continue
        if happening is Happening.GREW and fact.state in UNDER_WAY:
            counted.append(row)
        else:
            row = anew(new, fact.id, now)
            if new.hold is None:
                again_now.append(row)
            else:
                waiting.append(row | held.bound(new.hold))
        charged += new.charge
    start_over(connection, again_now, now)
    start_over(connection, waiting, now, held.BOUND)
    count(connection, counted, now)
    held.prolong(connection, prolonged, now)
    return charged


def _is_possible(new: NewTransfer, happening: Happening, fact: TransferFact) -> bool:
    """Whether what is known still stands as the sweep saw it, so far as it matters."""
    if happening not in TRANSITIONS[fact.state] or (new.hold and Happening.WAIT not in TRANSITIONS[fact.state]):
        return False  # it began to move meanwhile: the next sweep sees the difference again
    if happening is Happening.GREW:
        return fact.instance_count != new.instance_count  # else another sweep saw the growth first
    # A person holds it meanwhile, or has let it go.
    return happening is Happening.AGAIN or fact.cause in RULE_HOLDS


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


def turn_of(deadline_at: datetime | None, now: datetime) -> datetime:
    """From when on what is queued now is due: with a deadline as if it had waited since long before that.

    Of what waits the one that has been due for longest goes first, so the earlier deadline does.
    """
    return now if deadline_at is None else min(now, deadline_at - WAITED)


def forget_lists(connection: Connection, transfer_ids: Sequence[int], kinds: Sequence[str]) -> None:
    """Remove lists of instances that no longer hold."""
    if transfer_ids:
        statement = delete(instance_lists).where(
            instance_lists.c.transfer_id == bindparam("of_transfer"), instance_lists.c.kind == bindparam("of_kind")
        )
        rows = [{"of_transfer": number, "of_kind": kind} for number in transfer_ids for kind in kinds]
        connection.execute(statement, rows)


def add(connection: Connection, new: Sequence[NewTransfer], now: datetime) -> None:
    """Queue or hold new intents; what is known by now is left alone."""
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
            "cause": "",
            "reason": "",
            "queued_at": now,
            "next_at": turn_of(one.deadline_at, now),
            "updated_at": now,
            "deadline_at": one.deadline_at,
            **(held.columns(one.hold) if one.hold is not None else {}),
        }
        for one in new
    ]
    insert_new(connection, transfers, rows)


def _known(connection: Connection, intents: Sequence[Intent]) -> dict[Intent, TransferFact]:
    studies: defaultdict[str, list[str]] = defaultdict(list)
    for intent in intents:
        studies[intent.source].append(intent.study_instance_uid)
    known: dict[Intent, TransferFact] = {}
    for source, uids in studies.items():
        known |= facts(connection, source, uids)
    return known


def anew(new: NewTransfer, transfer_id: int, now: datetime) -> dict[str, Any]:
    """What `start_over` is to know of a transfer."""
    return {
        "row_id": transfer_id,
        "new_count": new.instance_count,
        "new_rule": new.rule,
        "new_priority": new.priority,
        "new_patient_id": new.patient_id,
        "new_availability": new.availability,
        "forget": new.happening is Happening.AGAIN,
        "new_deadline": new.deadline_at,
        "new_turn": turn_of(new.deadline_at, now),
    }


def start_over(
    connection: Connection, rows: Sequence[dict[str, Any]], now: datetime, changes: Mapping[str, Any] | None = None
) -> None:
    """Queue known transfers anew, or hold them with these `changes`; what was known of the source is forgotten."""
    if not rows:
        return
    connection.execute(
        update(transfers)
        .where(_t.id == bindparam("row_id"))
        .values(
            **starting_over(now) | {"next_at": bindparam("new_turn", type_=Instant())} | dict(changes or {}),
            deadline_at=bindparam("new_deadline", type_=Instant()),
            instance_count=bindparam("new_count"),
            rule=bindparam("new_rule"),
            priority=bindparam("new_priority"),
            patient_id=bindparam("new_patient_id"),
            availability=bindparam("new_availability"),
        ),
        [{name: value for name, value in row.items() if name != ("new_turn" if changes else "forget")} for row in rows],
    )
    forget_lists(connection, [row["row_id"] for row in rows], OF_THE_SOURCE)
    # What was sent to a destination without evidence counts as there when a study grew, but not when it is asked again.
    forget_lists(connection, [row["row_id"] for row in rows if row["forget"]], ["delivered"])
    commitments.forget(connection, [row["row_id"] for row in rows])


def count(connection: Connection, rows: Sequence[dict[str, Any]], now: datetime) -> None:
    """Note how many instances transfers that have not begun have now."""
    if not rows:
        return
    connection.execute(
        update(transfers)
        .where(_t.id == bindparam("row_id"))
        .values(instance_count=bindparam("new_count"), expected=None, updated_at=now),
        rows,
    )
    forget_lists(connection, [row["row_id"] for row in rows], OF_THE_SOURCE)
