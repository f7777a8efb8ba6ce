"""Modality worklist queries on the wire: identifiers as pydicom reads them, and worklists of all kinds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE, build_context, evt

from router.dimse.identifier import Decoder
from router.dimse.peers import MODALITY_WORKLIST, Peers
from router.dimse.request import worklist_identifier
from router.domain.condition import Evaluation, KeyMatch
from router.domain.dicom import Identifier, QueryRetrieveLevel, name_of
from router.domain.events import AssociationEnded, Event
from router.domain.rule import FindSettings, Node
from router.domain.worklist import questions, steps_of
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots, Urgency
from router.errors import Cancelled, ContextRefused, DeadlineExceeded
from tests.support.worklist import scheduled

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
STUDY_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
EVALUATION = Evaluation(now=datetime(2026, 11, 22, 9, 0, tzinfo=UTC), zone=UTC)
TODAY = KeyMatch.of("ScheduledProcedureStepStartDate", "today..today+1d")


def question(*keys: KeyMatch) -> Identifier:
    (one,) = questions((TODAY, *keys), EVALUATION)
    return one


def read(encoded: bytes, implicit: bool) -> Dataset:
    """By pydicom, which has nothing to do with how it was written."""
    dataset = read_dataset(BytesIO(encoded), is_implicit_VR=implicit, is_little_endian=True)
    dataset.decode()
    return dataset


def assert_same(dataset: Dataset, identifier: Identifier) -> None:
    """Every attribute is there with its values, at any depth; and no other."""
    names = {element.keyword for element in dataset} - {"SpecificCharacterSet"}
    assert names == {name_of(tag) for tag in identifier if name_of(tag) != "SpecificCharacterSet"}
    for tag, values in identifier.elements.items():
        element = dataset[tag]
        if element.VR == "SQ":
            assert len(element.value) == len(values)
            for item, value in zip(element.value, values, strict=True):
                assert isinstance(value, Identifier)
                assert_same(item, value)
        elif not values:
            assert element.is_empty
        else:
            assert str(element.value) == "\\".join(str(value) for value in values)


# --- Bytes ------------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\\*?^=~"), min_size=1)


@pytest.mark.parametrize("implicit", [True, False])
@given(
    modality=st.sampled_from(["MR", "CT", "US"]),
    station=st.from_regex(r"[A-Z][A-Z0-9]{0,14}", fullmatch=True),
    description=TEXTS.filter(lambda text: len(text) <= 64),
    place=TEXTS.filter(lambda text: len(text) <= 64),
)
def test_every_question_is_read_by_others_as_it_was_meant(
    implicit: bool, modality: str, station: str, description: str, place: str
) -> None:
    keys = [("Modality", modality), ("ScheduledStationAETitle", station)]
    keys += [("ScheduledProcedureStepDescription", description), ("CurrentPatientLocation", place)]
    asked = question(*(KeyMatch.of(name, value) for name, value in keys))
    encoded = worklist_identifier(asked, implicit)
    dataset = read(encoded, implicit)
    assert_same(dataset, asked)
    assert "QueryRetrieveLevel" not in dataset
    assert len(encoded) % 2 == 0
    assert Decoder(IMPLICIT if implicit else EXPLICIT).decode(encoded).values("ScheduledProcedureStepSequence") == (
        asked.values("ScheduledProcedureStepSequence")
    )


@pytest.mark.parametrize("implicit", [True, False])
def test_a_character_set_is_named_for_a_value_inside_an_item_and_only_then(implicit: bool) -> None:
    plain = worklist_identifier(question(), implicit, "ISO_IR 100")
    assert "SpecificCharacterSet" not in read(plain, implicit)
    asked = question(KeyMatch.of("ScheduledPerformingPhysicianName", "Müller^Jörg"))
    latin = worklist_identifier(asked, implicit, "ISO_IR 100")
    assert read(latin, implicit).SpecificCharacterSet == "ISO_IR 100"
    assert "Müller^Jörg".encode("latin-1") in latin
    assert_same(read(latin, implicit), asked)
    assert read(worklist_identifier(asked, implicit), implicit).SpecificCharacterSet == "ISO_IR 192"


# --- Worklists --------------------------------------------------------------------------------------------------------


class Ris:
    """pynetdicom as a worklist: what it was asked, and which contexts were proposed."""

    def __init__(self) -> None:
        self.answers: list[Dataset] = []
        self.status = 0
        self.released = threading.Event()
        self.silent = False
        self.asked: list[Dataset] = []
        self.proposed: list[list[str]] = []

    def on_requested(self, event: evt.Event) -> None:
        self.proposed.append([str(one.abstract_syntax) for one in event.assoc.requestor.requested_contexts])

    def on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if self.silent:
            self.released.wait(20)
        self.asked.append(event.identifier)
        for answer in self.answers:
            if event.is_cancelled:
                yield 0xFE00, None
                return
            yield 0xFF00, answer
        yield self.status, None


@pytest.fixture
def ris() -> Iterator[Ris]:
    one = Ris()
    yield one
    one.released.set()


@pytest.fixture
def serve(ris: Ris) -> Iterator[Callable[..., Node]]:
    """Let it listen, with these contexts; gives the node."""
    running = []

    def start(syntax: str = IMPLICIT, classes: tuple[str, ...] = (MODALITY_WORKLIST,), **settings: Any) -> Node:
        entity = AE("RIS")
        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_REQUESTED, ris.on_requested), (evt.EVT_C_FIND, ris.on_find)],
            contexts=[build_context(uid, [syntax]) for uid in classes],
        )
        running.append((entity, server))
        return Node(name="ris", ae_title="RIS", host="127.0.0.1", port=server.server_address[1], **settings)

    yield start
    for entity, server in running:
        server.shutdown()
        entity.shutdown()


class Asking:
    """Our side."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.peers = Peers("ROUTER", self.events.append)
        self.cancelled = threading.Event()

    def worklist(self, node: Node, *keys: KeyMatch, maximum: int = 100) -> Any:
        return self.peers.worklist(node, question(*keys), maximum=maximum, cancelled=self.cancelled)


@pytest.fixture
def router() -> Iterator[Asking]:
    asking = Asking()
    yield asking
    asking.peers.close()


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_a_worklist_that_takes_nothing_else_is_asked_and_understood(
    router: Asking, ris: Ris, serve: Callable[..., Node], syntax: str
) -> None:
    ris.answers = [scheduled("A1", date="20261122", patient_name="Müller^Jörg"), scheduled("A2", date="20261123")]
    result = router.worklist(serve(syntax), KeyMatch.of("Modality", "MR"))
    steps = [step for row in result.identifiers for step in steps_of(row)]
    assert (result.status, result.undecodable) == (0, 0)
    assert [step.text("AccessionNumber") for step in steps] == ["A1", "A2"]
    assert steps[0].text("PatientName") == "Müller^Jörg"
    (code,) = steps[0].values("ScheduledProtocolCodeSequence")
    assert isinstance(code, Identifier)
    assert code.text("CodeValue") == "MRKNEE"
    assert ris.proposed == [[MODALITY_WORKLIST]]
    (item,) = ris.asked[0].ScheduledProcedureStepSequence
    assert (item.Modality, item.ScheduledProcedureStepStartDate) == ("MR", "20261122-20261123")
    assert "QueryRetrieveLevel" not in ris.asked[0]


def test_questions_that_follow_use_the_same_association(router: Asking, ris: Ris, serve: Callable[..., Node]) -> None:
    node = serve()
    for _ in range(3):
        router.worklist(node)
    assert len(ris.asked) == 3
    assert len(ris.proposed) == 1


def test_an_archive_is_never_offered_the_worklist_and_a_node_that_is_both_takes_turns(
    router: Asking, ris: Ris, serve: Callable[..., Node]
) -> None:
    node = serve(classes=(MODALITY_WORKLIST, STUDY_FIND))
    for _ in range(2):
        router.worklist(node)
        keys = Identifier.of(StudyInstanceUID="")
        router.peers.find(node, QueryRetrieveLevel.STUDY, keys, maximum=9, cancelled=router.cancelled)
    worklists = [one for one in ris.proposed if MODALITY_WORKLIST in one]
    assert all(one == [MODALITY_WORKLIST] for one in worklists)
    assert len(ris.proposed) > len(worklists) > 0
    results = {event.result for event in router.events if isinstance(event, AssociationEnded)}
    assert results == {"accepted"}


def test_a_node_without_a_worklist_is_named_with_what_to_do(router: Asking, serve: Callable[..., Node]) -> None:
    with pytest.raises(ContextRefused, match=r"ris \(RIS at .*\) accepts no modality worklist .* is it the node"):
        router.worklist(serve(classes=(STUDY_FIND, "1.2.840.10008.1.1")))


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001, 0x0122])
def test_a_failure_is_one_sentence_with_the_node_and_the_status(
    router: Asking, ris: Ris, serve: Callable[..., Node], status: int
) -> None:
    ris.status = status
    inquiry = Inquiry(router.peers, NodeSlots())
    with pytest.raises(QueryFailed, match=rf"^ris \(RIS\) failed a worklist query, status {status:04X}: [^.]+\.$"):
        inquiry.worklist(serve(), question(), Urgency.SWEEP, router.cancelled, maximum=10)


def test_an_answer_that_failed_after_some_matches_keeps_them(
    router: Asking, ris: Ris, serve: Callable[..., Node]
) -> None:
    ris.answers, ris.status = [scheduled("A1", date="20261122")], 0xA700
    inquiry = Inquiry(router.peers, NodeSlots())
    result = inquiry.worklist(serve(), question(), Urgency.SWEEP, router.cancelled, maximum=10)
    assert (len(result.identifiers), result.status) == (1, 0xA700)


def test_more_matches_than_the_maximum_are_cancelled(router: Asking, ris: Ris, serve: Callable[..., Node]) -> None:
    ris.answers = [scheduled(f"A{number}", date="20261122") for number in range(50)]
    result = router.worklist(serve(), maximum=10)
    assert (len(result.identifiers), result.status) == (10, 0xFE00)


def test_a_silent_worklist_is_given_up_and_a_cancelled_question_ends(
    router: Asking, ris: Ris, serve: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.dimse.find.CANCEL_GRACE", 0.2)
    ris.silent = True
    node = serve(find=FindSettings(inactivity=0.3))
    with pytest.raises(DeadlineExceeded, match="ris"):
        router.worklist(node)
    router.cancelled.set()
    with pytest.raises(Cancelled):
        router.worklist(node)
