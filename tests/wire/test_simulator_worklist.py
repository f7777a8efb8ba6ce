"""The simulated modality worklist and its misbehaviours, seen by DCMTK and by the router's look at a worklist."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from pydicom.dataset import Dataset

from router.dimse.peers import MODALITY_WORKLIST, Peers
from router.domain.appointment import Appointment, AppointmentState
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.events import Event
from router.domain.priors import Priors
from router.domain.rule import Move, Node, Rule, Worklist
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots
from router.engine.worklist import WorklistAnswer, WorklistLook
from router.errors import ContextRefused, WireError
from router.simulator import Behaviour, SimulatedPacs
from tests.support.process import run
from tests.support.worklist import scheduled

EVALUATION = Evaluation(now=datetime(2026, 11, 22, 9, 0, tzinfo=UTC), zone=UTC)
TODAY = KeyMatch.of("ScheduledProcedureStepStartDate", "today..today+1d")


class Asking:
    """Our side."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.peers = Peers("ROUTER", self.events.append)
        self.cancelled = threading.Event()


@pytest.fixture
def router() -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.peers.close()


def several() -> Dataset:
    """An order with an MR today and a CT tomorrow."""
    item = scheduled("A1", date="20261122", time="150000")
    item.ScheduledProcedureStepSequence.append(
        scheduled("A1", date="20261123", modality="CT", step_id="2").ScheduledProcedureStepSequence[0]
    )
    return item


ITEMS = (several(), scheduled("A2", date="20261123", patient_id="P2"), scheduled("A3", date="20261224"))


@pytest.fixture(scope="module")
def pacs() -> Iterator[SimulatedPacs]:
    with SimulatedPacs("RIS") as running:
        yield running


@pytest.fixture
def simulated(pacs: SimulatedPacs) -> SimulatedPacs:
    pacs.behaviour = Behaviour()
    pacs.worklist = ITEMS
    return pacs


class Expecting:
    """A ledger that expects these appointments."""

    def __init__(self) -> None:
        self.appointments: list[Appointment] = []

    def expected(self, rule: str, first: datetime, last: datetime) -> list[Appointment]:
        return self.appointments


def look(router: Asking, pacs: SimulatedPacs, *keys: KeyMatch, known: WorklistAnswer | None = None) -> WorklistAnswer:
    """One look of a rule at the simulated worklist, after what it `known` from another."""
    ledger = Expecting()
    for number, one in enumerate(known.notices if known is not None else ()):
        ledger.appointments.append(
            Appointment(
                id=number,
                rule="r",
                trigger=one.trigger,
                key=one.key,
                source=one.source,
                current=one.current,
                patient_id=one.patient_id,
                start_at=one.start_at,
                due_at=one.due_at,
                state=AppointmentState.WAITING,
                noted_at=EVALUATION.now,
            )
        )
    rule = Rule(
        name="r",
        worklist=Worklist(source="ris", keys=(TODAY, *keys)),
        where=Condition(),
        priors=Priors(source="pacs", groups=()),
        move=Move(to=("local",)),
    )
    worklists = WorklistLook(cast("Any", ledger), Inquiry(router.peers, NodeSlots()), router.events.append)
    node = Node(name="ris", ae_title="RIS", host="127.0.0.1", port=pacs.port)
    return worklists.look(rule, node, EVALUATION, manual=False, cancelled=router.cancelled)


def news(answer: WorklistAnswer) -> list[tuple[str, bool]]:
    return [(one.key.partition(" of ")[0], one.cancelled) for one in answer.notices]


MR = KeyMatch.of("Modality", "MR")


def test_an_honest_worklist_answers_step_by_step(router: Asking, simulated: SimulatedPacs) -> None:
    answer = look(router, simulated)
    assert news(answer) == [("A1 1", False), ("A1 2", False), ("A2 1", False)]
    assert (answer.matches, answer.complete) == (3, True)
    assert news(look(router, simulated, MR)) == [("A1 1", False), ("A2 1", False)]
    assert news(look(router, simulated, KeyMatch.of("PatientID", "P2"))) == [("A2 1", False)]
    assert [step.ScheduledProcedureStepID for step in ITEMS[0].ScheduledProcedureStepSequence] == ["1", "2"]


def test_dcmtk_understands_the_simulated_worklist(simulated: SimulatedPacs) -> None:
    keys = ["-k", "AccessionNumber", "-k", "ScheduledProcedureStepSequence[0].Modality=CT"]
    command = ["findscu", "-v", "-W", "-aec", "RIS", *keys, "127.0.0.1", str(simulated.port)]
    done = run(command)
    assert done.stdout.count("Find Response:") == 1
    assert "A1" in done.stdout
    assert "Received Final Find Response (Success)" in done.stdout


@pytest.mark.parametrize("behaviour", [Behaviour(worklist_ignores_keys=True), Behaviour(worklist_steps_together=True)])
def test_what_was_not_asked_for_is_left_out_here(
    router: Asking, simulated: SimulatedPacs, behaviour: Behaviour
) -> None:
    simulated.behaviour = behaviour
    answer = look(router, simulated, MR)
    assert news(answer) == [("A1 1", False), ("A2 1", False)]
    assert answer.complete
    assert "outside the key" in answer.account


def test_several_steps_in_one_response_are_several_appointments(router: Asking, simulated: SimulatedPacs) -> None:
    simulated.behaviour = Behaviour(worklist_steps_together=True)
    answer = look(router, simulated)
    assert news(answer) == [("A1 1", False), ("A1 2", False), ("A2 1", False)]
    assert answer.matches == 2


def test_empty_times_are_the_beginning_of_the_day(router: Asking, simulated: SimulatedPacs) -> None:
    simulated.behaviour = Behaviour(worklist_empty_times=True)
    answer = look(router, simulated)
    days = [one.start_at.day if one.start_at and one.start_at.hour == 0 else None for one in answer.notices]
    assert days == [22, 23, 23]


def test_without_the_sequence_nothing_is_known_and_nothing_cancelled(router: Asking, simulated: SimulatedPacs) -> None:
    known = look(router, simulated)
    simulated.behaviour = Behaviour(worklist_without_sequence=True)
    answer = look(router, simulated, known=known)
    assert news(answer) == []
    assert not answer.complete


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(max_results=1, capped_status=0xFE00),
        Behaviour(undecodable_row=1),
    ],
)
def test_an_answer_with_less_than_there_is_cancels_nothing(
    router: Asking, simulated: SimulatedPacs, behaviour: Behaviour
) -> None:
    known = look(router, simulated)
    simulated.behaviour = behaviour
    answer = look(router, simulated, known=known)
    assert not answer.complete
    assert not any(one.cancelled for one in answer.notices)
    assert len(answer.notices) < 3


def test_what_is_taken_from_the_worklist_is_cancelled(router: Asking, simulated: SimulatedPacs) -> None:
    known = look(router, simulated)
    simulated.worklist = ITEMS[:1]
    assert news(look(router, simulated, known=known)) == [("A1 1", False), ("A1 2", False), ("A2 1", True)]


def test_a_worklist_that_fails_is_an_error(router: Asking, simulated: SimulatedPacs) -> None:
    simulated.behaviour = Behaviour(refuse_find_status=0xC000)
    with pytest.raises(QueryFailed, match="C000"):
        look(router, simulated)
    simulated.behaviour = Behaviour(abort_find_after=1)
    with pytest.raises(WireError):
        look(router, simulated)
    simulated.behaviour = Behaviour(refused_sop_classes=frozenset({MODALITY_WORKLIST}))
    router.peers.close()
    router.peers = Peers("ROUTER", router.events.append)
    with pytest.raises(ContextRefused):
        look(router, simulated)
