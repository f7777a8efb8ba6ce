"""A real worklist, DCMTK's wlmscpfs: what is scheduled there, moved and taken away becomes news of appointments."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from router.dimse.peers import Peers
from router.domain.appointment import Appointment, AppointmentState, Notice
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.events import Event, ValueRefused
from router.domain.examination import examination
from router.domain.priors import PriorGroup, Priors
from router.domain.rule import FindSettings, Move, Node, Rule, Worklist
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots
from router.engine.worklist import WorklistAnswer, WorklistLook
from router.errors import AssociationRejected
from tests.support.worklist import Wlmscpfs, scheduled

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
ZONE = ZoneInfo("Europe/Berlin")
DATE = KeyMatch.of("ScheduledProcedureStepStartDate", "today..today+1d")


class Router:
    """A rule that looks at the worklist, and what it has noted of it."""

    def __init__(self, worklist: Wlmscpfs) -> None:
        self.events: list[Event] = []
        self.peers = Peers("ROUTER", self.events.append)
        self.node = Node(name="ris", ae_title=worklist.ae_title, host="127.0.0.1", port=worklist.port)
        self.noted: dict[str, Appointment] = {}
        self.slots = NodeSlots()

    def expected(self, rule: str, first: datetime, last: datetime) -> list[Appointment]:
        """As a ledger says it."""
        return [one for one in self.noted.values() if one.start_at is not None and first <= one.start_at <= last]

    def look(self, *keys: KeyMatch, where: dict[str, Any] | None = None, **node: Any) -> WorklistAnswer:
        """Look once, and note what it brings."""
        rule = Rule(
            name="mr",
            worklist=Worklist(source="ris", keys=keys or (DATE,), lead=3600.0),
            where=Condition.of(where),
            priors=Priors(source="pacs", groups=(PriorGroup(name="all"),)),
            move=Move(to=("local",)),
        )
        look = WorklistLook(cast("Any", self), Inquiry(self.peers, self.slots), self.events.append)
        asked = Node(**{name: getattr(self.node, name) for name in ("name", "ae_title", "host", "port")}, **node)
        answer = look.look(rule, asked, Evaluation(NOW, ZONE), manual=False, cancelled=threading.Event())
        for number, one in enumerate(answer.notices):
            if one.cancelled:
                self.noted.pop(one.key, None)
                continue
            self.noted[one.key] = Appointment(
                id=number,
                rule=one.rule,
                trigger=one.trigger,
                key=one.key,
                source=one.source,
                current=one.current,
                patient_id=one.patient_id,
                start_at=one.start_at,
                due_at=one.due_at,
                state=AppointmentState.WAITING,
                noted_at=NOW,
            )
        return answer


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[Wlmscpfs]:
    with Wlmscpfs(tmp_path) as running:
        yield running


@pytest.fixture
def routed(worklist: Wlmscpfs) -> Iterator[Router]:
    router = Router(worklist)
    yield router
    router.peers.close()


def accessions(answer: WorklistAnswer) -> list[str]:
    return sorted(one.current.text("AccessionNumber") for one in answer.notices)


def week(worklist: Wlmscpfs) -> None:
    worklist.put(
        scheduled("A1", date="20261122", time="150000"),
        scheduled("A2", date="20261123", modality="CT", station="CT1", patient_id="P2"),
        scheduled("A3", date="20261124", patient_id="P3"),
        scheduled("A4", date="20261123", station="MR2", patient_id="P4"),
        scheduled("A5", date="20261121", patient_id="P5"),
    )


def short(notice: Notice) -> str:
    """The key without the patient."""
    return notice.key.partition(" of ")[0]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((DATE,), ["A1", "A2", "A4"]),
        ((KeyMatch.of("ScheduledProcedureStepStartDate", "today"),), ["A1"]),
        ((KeyMatch.of("ScheduledProcedureStepStartDate", "today..today+7d"),), ["A1", "A2", "A3", "A4"]),
        ((KeyMatch.of("ScheduledProcedureStepStartDate", "now..now+4h"),), []),
        ((KeyMatch.of("ScheduledProcedureStepStartDate", "now..now+6h"),), ["A1"]),
        ((DATE, KeyMatch.of("Modality", "MR")), ["A1", "A4"]),
        ((DATE, KeyMatch.of("Modality", "CT", "US")), ["A2"]),
        ((DATE, KeyMatch.of("ScheduledStationAETitle", "MR2")), ["A4"]),
        ((DATE, KeyMatch.of("ScheduledStationAETitle", "MR1", "CT1")), ["A1", "A2"]),
        ((DATE, KeyMatch.of("Modality", "MR"), KeyMatch.of("PatientID", "P4")), ["A4"]),
        ((DATE, KeyMatch.of("AccessionNumber", "A2")), ["A2"]),
        ((DATE, KeyMatch.of("ScheduledProcedureStepLocation", "ROOM 1")), ["A1", "A2", "A4"]),
        ((DATE, KeyMatch.of("CurrentPatientLocation", "WARD 4")), []),
    ],
)
def test_keys_of_the_step_and_above_it_are_matched(
    worklist: Wlmscpfs, routed: Router, keys: tuple[KeyMatch, ...], expected: list[str]
) -> None:
    week(worklist)
    answer = routed.look(*keys)
    assert accessions(answer) == expected
    assert answer.complete, answer.reason


@pytest.mark.parametrize("options", [("+xi",), ("+xe",), ("-nse",), ("+xb",)])
def test_the_current_examination_is_read_whole_in_every_encoding(tmp_path: Path, options: tuple[str, ...]) -> None:
    with Wlmscpfs(tmp_path, options=options) as worklist:
        router = Router(worklist)
        worklist.put(scheduled("A1", date="20261122", time="150000", patient_name="Müller^Jörg"))
        (one,) = router.look().notices
        router.peers.close()
    assert one.start_at == datetime(2026, 11, 22, 14, 0, tzinfo=UTC)
    assert one.due_at == datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
    assert (one.key, one.patient_id, one.issuer) == ("A1 1 of P1 HOSPITAL", "P1", "HOSPITAL")
    read = examination(one.current)
    assert read.modalities == ("MR",)
    assert "MRKNEE" in [code.value for code in read.codes]
    assert (read.patient.birth_date, read.patient.sex) == ("19700101", "F")
    assert one.current.text("PatientName") == "Müller^Jörg"


def test_a_name_in_latin_1_is_asked_for_in_the_node_s_character_set(worklist: Wlmscpfs, routed: Router) -> None:
    worklist.put(
        scheduled("A1", date="20261122", time="150000", patient_name="Müller^Jörg"),
        scheduled("A2", date="20261122", time="150000", patient_name="Møller^Jørn", patient_id="P2"),
    )
    key = KeyMatch.of("PatientName", "Müller*")
    assert accessions(routed.look(DATE, key, find=FindSettings(assume_character_set="ISO_IR 100"))) == ["A1"]


def test_a_step_that_is_moved_is_the_same_appointment_at_another_time(worklist: Wlmscpfs, routed: Router) -> None:
    worklist.put(scheduled("A1", date="20261122", time="150000"))
    (first,) = routed.look().notices
    worklist.put(scheduled("A1", date="20261123", time="090000"))
    (then,) = routed.look().notices
    assert then.key == first.key
    assert first.start_at is not None
    assert then.start_at == first.start_at + timedelta(hours=18)


def test_a_step_that_is_taken_away_or_moved_out_of_sight_is_cancelled(worklist: Wlmscpfs, routed: Router) -> None:
    week(worklist)
    routed.look()
    worklist.remove("A1")
    worklist.put(scheduled("A2", date="20261201", modality="CT", station="CT1", patient_id="P2"))
    answer = routed.look()
    assert [(short(one), one.cancelled) for one in answer.notices] == [("A4 1", False), ("A1 1", True), ("A2 1", True)]
    assert [short(one) for one in routed.look().notices] == ["A4 1"]


def test_steps_that_are_over_are_told_by_their_status(worklist: Wlmscpfs, routed: Router) -> None:
    worklist.put(
        scheduled("A1", date="20261122", time="150000", status="DISCONTINUED"),
        scheduled("A2", date="20261122", time="150000", status="COMPLETED"),
        scheduled("A3", date="20261122", time="150000", status="ARRIVED"),
        scheduled("A4", date="20261122", time="060000"),
    )
    answer = routed.look()
    assert [(short(one), one.cancelled) for one in answer.notices] == [("A1 1", True), ("A3 1", False)]
    assert answer.matches == 4


def test_several_steps_of_an_order_are_several_appointments(worklist: Wlmscpfs, routed: Router) -> None:
    worklist.put(*(scheduled("A1", date="20261122", time=f"1{one}0000", step_id=str(one)) for one in (3, 4)))
    assert sorted(short(one) for one in routed.look().notices) == ["A1 3", "A1 4"]


def test_the_condition_of_the_rule_is_asked_of_what_came(worklist: Wlmscpfs, routed: Router) -> None:
    week(worklist)
    where = {"RequestedProcedureCodeSequence": {"code": "MRKNEE"}, "ScheduledStationName": "SCANNER"}
    assert accessions(routed.look(where=where)) == ["A1", "A2", "A4"]
    answer = routed.look(where={"RequestedProcedureCodeSequence": {"code": "CTHEAD"}})
    assert [one.cancelled for one in answer.notices] == [True] * 3, "the rule does not want them any more"
    assert "3: " in answer.account


def test_a_patient_id_that_would_widen_a_query_brings_no_appointment(worklist: Wlmscpfs, routed: Router) -> None:
    worklist.put(scheduled("A1", date="20261122", time="150000", patient_id="*"))
    assert routed.look().notices == []
    assert [one.reason for one in routed.events if isinstance(one, ValueRefused)] == ["wildcard"]


def test_an_empty_worklist_is_a_complete_answer(routed: Router) -> None:
    answer = routed.look()
    assert (answer.matches, answer.complete) == (0, True)


def test_a_wrong_ae_title_and_a_worklist_that_refuses_are_errors(
    worklist: Wlmscpfs, routed: Router, tmp_path: Path
) -> None:
    routed.node = Node(name="ris", ae_title="NOBODY", host="127.0.0.1", port=worklist.port)
    with pytest.raises(AssociationRejected, match="ris"):
        routed.look()
    with Wlmscpfs(tmp_path / "other", options=("--refuse",)) as other:
        router = Router(other)
        with pytest.raises(AssociationRejected, match="ris"):
            router.look()
        router.peers.close()
