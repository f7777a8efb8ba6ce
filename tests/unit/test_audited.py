"""What this router asks of nodes is told to the audit repository, however it ends, and ends as it did without."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from router.domain.audit import MINOR, SERIOUS, SUCCESS, AuditMessage, Counted, Party
from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts
from router.domain.exchange import MoveRequest, MoveResult, Standing, StoredObject, StoreOutcome, StoreResult
from router.domain.receipt import Receipt
from router.domain.rule import Node
from router.engine.audited import AuditedPeers, Retrievals, Subject
from router.engine.forwarder import OpenObject
from router.errors import Cancelled, ConnectionFailed, WireError
from tests.support.engine import Bench
from tests.support.fake_peers import FakePeers

OWN = Party("ROUTER", "ROUTER", "here")
NEVER = threading.Event()


CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


class Storing(FakePeers):
    """Fake peers that C-STORE, too: `standings` says how it ends, by SOP Instance UID."""

    standings: dict[str, Standing]
    reason = ""

    def store(
        self,
        node: Node,
        objects: Iterable[StoredObject],
        *,
        open_object: OpenObject,
        on_outcome: Callable[[StoreOutcome], None],
        cancelled: threading.Event,
    ) -> StoreResult:
        counts: dict[Standing, int] = {}
        for stored in objects:
            standing = self.standings.get(stored.sop_instance_uid, Standing.SUCCESS)
            counts[standing] = counts.get(standing, 0) + 1
            on_outcome(StoreOutcome(stored=stored, standing=standing, cause="x"))
        return StoreResult(counts=counts, cause="timeout" if self.reason else "", reason=self.reason)


class Told:
    """Audited peers on the bench, and what they told."""

    def __init__(self, directory: Path, person: Party | None = None) -> None:
        self.bench = Bench(directory)
        self.bench.peers = self.storing = Storing(self.bench.ledger)
        self.storing.standings = {}
        self.storing.titles = {"WS": "ws"}
        self.retrievals = Retrievals(self.bench.clock.now)
        self.outcomes: list[StoreOutcome] = []
        self.bench.peers.add("pacs", "1.2.3", "1.2.3.1", "1.2.3.1.1", "1.2.3.1.2", PatientID="P1")
        self.messages: list[AuditMessage] = []
        self.identified: list[str] = []
        self.peers = AuditedPeers(
            self.storing,
            self.messages.append,
            OWN,
            lambda: self.bench.rules,
            lambda level, keys: b"%a" % str(level),
            self.identify,
            self.retrievals,
            person,
        )

    def identify(self, path: str) -> Subject:
        self.identified.append(path)
        return Subject("1.2.3", "P1")

    def store(self, objects: Iterable[StoredObject]) -> StoreResult:
        ws = self.bench.rules.nodes["ws"]
        return self.peers.store(
            ws, objects, open_object=lambda stored: (0, 0), on_outcome=self.outcomes.append, cancelled=NEVER
        )

    @property
    def pacs(self) -> Node:
        return self.bench.rules.nodes["pacs"]

    def find(self, **keys: str) -> Any:
        level = QueryRetrieveLevel.STUDY
        return self.peers.find(self.pacs, level, Identifier.of(**keys), maximum=10, cancelled=NEVER)

    def move(self, destination: str) -> MoveResult:
        request = MoveRequest(
            destination_ae_title=destination,
            level=QueryRetrieveLevel.STUDY,
            study_instance_uid="1.2.3",
            patient_id="P1",
        )
        return self.peers.move(
            self.pacs, request, on_response=lambda _: None, last_arrival=lambda: 0.0, cancelled=NEVER
        )

    @property
    def events(self) -> list[tuple[str, int]]:
        return [(one.event.meaning, one.outcome) for one in self.messages]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_query_is_told_with_its_identifier_and_answered_as_ever(told: Told) -> None:
    found = told.find(StudyInstanceUID="1.2.3")
    assert len(found.identifiers) == 1
    [message] = told.messages
    assert (message.event.meaning, message.outcome) == ("Query", SUCCESS)
    assert [one.party.user_id for one in message.participants] == ["ROUTER", "pacs"]
    assert message.objects[0].query == b"'STUDY'"


@pytest.mark.parametrize(
    ("error", "outcome"), [(ConnectionFailed("pacs is not there."), SERIOUS), (Cancelled("Stopped."), MINOR)]
)
def test_a_query_that_fails_is_told_with_why_and_fails_as_ever(told: Told, error: WireError, outcome: int) -> None:
    told.bench.peers.fail = lambda *asked: error
    with pytest.raises(type(error)):
        told.find(StudyInstanceUID="1.2.3")
    [message] = told.messages
    assert (message.outcome, message.description) == (outcome, str(error))


def test_a_worklist_query_is_told_as_such(told: Told) -> None:
    told.bench.peers.worklists["pacs"] = [Identifier.of(PatientID="P1")]
    told.peers.worklist(told.pacs, Identifier.of(PatientID=""), maximum=10, cancelled=NEVER)
    told.bench.peers.worklist_status = 0xA700
    told.peers.worklist(told.pacs, Identifier.of(PatientID=""), maximum=10, cancelled=NEVER)
    assert [one.objects[0].id for one in told.messages] == ["1.2.840.10008.5.1.4.31"] * 2
    assert [one.outcome for one in told.messages] == [SUCCESS, MINOR]


def test_a_move_is_told_before_and_after_with_how_many(told: Told) -> None:
    told.move("WS")
    assert told.events == [("Begin Transferring DICOM Instances", 0), ("DICOM Instances Transferred", 0)]
    for message in told.messages:
        assert [one.party.user_id for one in message.participants] == ["pacs", "ws", "ROUTER"]
        assert [one.id for one in message.objects] == ["1.2.3", "P1"]
    assert told.messages[1].objects[0].counted == (Counted(2),)


def test_a_move_to_this_router_or_to_who_is_not_configured_names_them(told: Told) -> None:
    told.bench.peers.titles["GONE"] = "ws"
    told.move("ROUTER")
    told.move("GONE")
    destinations = [one.participants[1].party for one in told.messages]
    assert destinations == [OWN, OWN, Party("GONE", "GONE"), Party("GONE", "GONE")]


COUNTS = SubOperationCounts
ENDS = [
    (MoveResult(status=0xA702, counts=COUNTS(None, None, None, None)), SERIOUS, None, "the status 0xA702"),
    (MoveResult(status=0xB000, counts=COUNTS(0, 1, 1, 0)), MINOR, 1, "the status 0xB000"),
    (MoveResult(status=0x0000, counts=COUNTS(0, 1, 1, 1)), MINOR, 2, "1 sub-operations failed"),
    (MoveResult(status=0x0000, counts=COUNTS(0, 0, 2, 0)), SERIOUS, 0, "2 sub-operations failed"),
    (MoveResult(status=0x0000, counts=COUNTS(None, None, None, None)), SUCCESS, None, ""),
]


@pytest.mark.parametrize(("result", "outcome", "instances", "why"), ENDS)
def test_how_a_move_ended_is_told(
    told: Told, result: MoveResult, outcome: int, instances: int | None, why: str
) -> None:
    told.bench.peers.answer = lambda wanted, delivered: result
    assert told.move("WS") == result
    message = told.messages[1]
    assert message.outcome == outcome
    assert message.objects[0].counted == (() if instances is None else (Counted(instances),))
    assert why in message.description


def test_a_get_comes_to_this_router(told: Told) -> None:
    request = MoveRequest(destination_ae_title="ROUTER", level=QueryRetrieveLevel.STUDY, study_instance_uid="1.2.3")
    told.peers.get(told.pacs, request, sop_classes=(), on_response=lambda _: None, cancelled=NEVER)
    assert told.events == [("Begin Transferring DICOM Instances", 0), ("DICOM Instances Transferred", 0)]
    assert told.messages[0].participants[1].party == OWN
    assert told.messages[0].objects[1].id == "<none>"


def test_an_echo_is_not_audited(told: Told) -> None:
    told.peers.echo(told.pacs)
    assert told.messages == []


# C-STORE --------------------------------------------------------------------------------------------------------------


def objects(classes: str = "CCM") -> list[StoredObject]:
    """Instances of these SOP classes: C is CT, M is MR."""
    return [
        StoredObject(
            path=f"1.2.3/1/{number}.dcm",
            sop_class_uid=CT if letter == "C" else MR,
            sop_instance_uid=f"1.2.3.1.{number}",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
        )
        for number, letter in enumerate(classes)
    ]


def test_what_is_sent_on_is_told_before_and_after_by_sop_class(told: Told) -> None:
    result = told.store(objects())
    assert result.delivered == len(told.outcomes) == 3
    assert told.events == [("Begin Transferring DICOM Instances", 0), ("DICOM Instances Transferred", 0)]
    for message in told.messages:
        sides = [(one.party.user_id, one.requestor, one.roles[0].meaning) for one in message.participants]
        assert sides == [("ROUTER", True, "Source Role ID"), ("ws", False, "Destination Role ID")]
        assert [one.id for one in message.objects] == ["1.2.3", "P1"]
    assert told.messages[1].objects[0].counted == (Counted(2, CT), Counted(1, MR))
    assert told.identified == ["1.2.3/1/0.dcm"]


def test_begin_is_told_before_anything_is_sent_and_objects_are_taken_one_by_one(told: Told) -> None:
    seen: list[int] = []

    def lazily() -> Iterator[StoredObject]:
        for one in objects("CCC"):
            seen.append(len(told.messages))
            yield one

    told.store(lazily())
    assert seen == [0, 1, 1]
    assert told.messages[1].objects[0].counted == (Counted(3, CT),)


def test_where_there_is_nothing_to_send_nothing_is_told(told: Told) -> None:
    assert told.store([]).complete
    assert told.messages == []


STORE_ENDS = [
    ([Standing.SUCCESS, Standing.WARNING], "", SUCCESS, 2, ""),
    ([Standing.SUCCESS, Standing.REFUSED], "", MINOR, 1, "1 instances were not stored."),
    ([Standing.SUCCESS, Standing.UNCONFIRMED], "ws does not answer.", MINOR, 1, "ws does not answer."),
    ([Standing.FAILURE, Standing.UNREADABLE], "", SERIOUS, 0, "2 instances were not stored."),
    ([Standing.NOT_SENT, Standing.NOT_SENT], "ws cannot be reached.", SERIOUS, 0, "ws cannot be reached."),
]


@pytest.mark.parametrize(("standings", "reason", "outcome", "instances", "why"), STORE_ENDS)
def test_how_sending_ended_is_told(
    told: Told, standings: list[Standing], reason: str, outcome: int, instances: int, why: str
) -> None:
    sent = objects("CC")
    told.storing.standings = {one.sop_instance_uid: how for one, how in zip(sent, standings, strict=True)}
    told.storing.reason = reason
    told.store(sent)
    message = told.messages[1]
    assert (message.outcome, message.description) == (outcome, why)
    assert sum(one.instances for one in message.objects[0].counted) == instances


def test_what_breaks_off_is_told_with_what_was_there_by_then(told: Told) -> None:
    def broken() -> Iterator[StoredObject]:
        yield objects()[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        told.store(broken())
    assert (told.messages[1].outcome, told.messages[1].objects[0].counted) == (SERIOUS, (Counted(1, CT),))


# what was retrieved, and by whom --------------------------------------------------------------------------------------


def test_a_person_is_who_asked_for_what_he_has_moved(tmp_path: Path) -> None:
    told = Told(tmp_path, Party("doe@here"))
    told.move("WS")
    for message in told.messages:
        assert [one.party.user_id for one in message.participants if one.requestor] == ["doe@here"]


def test_what_a_move_or_get_brings_is_known_as_retrieved(told: Told) -> None:
    at = told.bench.clock.now()

    def receipt(title: str = "PACS", study: str = "1.2.3", late: float = 0) -> Receipt:
        return Receipt(
            study_instance_uid=study,
            series_instance_uid="1.2.3.1",
            sop_instance_uid="1.2.3.1.1",
            sop_class_uid=CT,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            calling_ae_title=title,
            size=1,
            path="x",
            received_at=at + timedelta(seconds=late),
        )

    assert not told.retrievals.brought(receipt())
    told.move("WS")
    assert not told.retrievals.brought(receipt())
    with told.retrievals.under_way(told.pacs, "1.2.3"):
        title = told.pacs.calling_ae_titles[0]
        assert told.retrievals.brought(receipt(title))
        assert not told.retrievals.brought(receipt(title, late=-1))
        assert not told.retrievals.brought(receipt("OTHER"))
        assert not told.retrievals.brought(receipt(title, "1.2.4"))
    assert told.retrievals.brought(receipt(title, late=5))
    assert not told.retrievals.brought(receipt(title, late=60))
