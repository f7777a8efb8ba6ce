"""What a destination holds of a patient's studies, by its own answer or by what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel
from router.domain.examination import Examination, examination
from router.domain.relevance import Presence
from router.domain.rule import Node
from router.engine.presence import MOST_UIDS, UIDS_AT_ONCE, Held, Presences
from router.engine.query import QueryFailed
from router.errors import Cancelled, ConnectionFailed, WireError
from tests.support.engine import Bench

THERE, ABSENT, UNKNOWN = Presence.THERE, Presence.ABSENT, Presence.UNKNOWN
DAYS = 86400.0


class Asks(Bench):
    """A bench that asks what `ws` or `local` holds."""

    def ask(
        self,
        *candidates: Examination,
        destination: str = "ws",
        believed: float = 30 * DAYS,
        ask: bool = True,
        cancelled: bool = False,
    ) -> Held:
        presences = Presences(self.ledger, self.inquiry, self.held)
        event = threading.Event()
        if cancelled:
            event.set()
        return presences.of(
            "pacs",
            destination,
            self.rules.node(destination),
            "P",
            candidates,
            self.clock.now(),
            believed,
            event,
            ask=ask,
        )

    def patient_root(self) -> None:
        changed = msgspec.structs.replace(self.rules.nodes["ws"], root=InformationModel.PATIENT_ROOT)
        self.rules = msgspec.structs.replace(self.rules, nodes=self.rules.nodes | {"ws": changed})

    def asked(self) -> list[Identifier]:
        return [keys for name, _, keys in self.peers.finds if name == "ws"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Asks]:
    bench = Asks(tmp_path)
    yield bench
    bench.ledger.close()


def study(uid: str, instances: int | None = 2, date: str = "20240101") -> Examination:
    count = {} if instances is None else {"NumberOfStudyRelatedInstances": instances}
    return examination(Identifier.of(StudyInstanceUID=uid, PatientID="P", StudyDate=date, **count))


def add(bench: Asks, uid: str, count: int, node: str = "ws") -> None:
    bench.peers.add(node, uid, f"{uid}.1", *(f"{uid}.1.{n}" for n in range(count)), PatientID="P")


def test_what_the_destination_has_whole_is_there_and_what_it_lacks_is_absent(bench: Asks) -> None:
    add(bench, "1.1", 2)
    add(bench, "1.2", 1)
    held = bench.ask(study("1.1"), study("1.2"), study("1.3"))
    assert held == Held({"1.1": THERE, "1.2": ABSENT, "1.3": ABSENT}, 2)


def test_it_is_asked_by_patient_and_then_for_the_missing_by_uid(bench: Asks) -> None:
    add(bench, "1.1", 2)
    bench.ask(study("1.1"), study("1.3"), study("1.4"))
    by_patient, by_uid = bench.asked()
    assert (by_patient.values("PatientID"), by_patient.values("StudyInstanceUID")) == (("P",), ())
    assert (by_uid.values("PatientID"), by_uid.values("StudyInstanceUID")) == ((), ("1.3", "1.4"))


def test_nothing_is_asked_by_uid_where_the_patient_brought_all(bench: Asks) -> None:
    add(bench, "1.1", 2)
    assert bench.ask(study("1.1")).queries == 1


def test_what_it_keeps_under_another_patient_id_is_there_too(bench: Asks) -> None:
    add(bench, "1.1", 2)
    bench.peers.known_as["ws", "1.1"] = "Q"
    assert bench.ask(study("1.1")).presence == {"1.1": THERE}


def test_by_patient_root_only_the_patient_is_asked_for(bench: Asks) -> None:
    bench.patient_root()
    add(bench, "1.1", 2)
    held = bench.ask(study("1.1"), study("1.2"))
    assert held == Held({"1.1": THERE, "1.2": ABSENT}, 1)


@pytest.mark.parametrize(
    ("here", "there", "presence"),
    [(None, 1, THERE), (None, 0, ABSENT), (2, 2, THERE), (2, 3, THERE), (2, 1, ABSENT), (0, 0, ABSENT)],
)
def test_numbers_decide_where_there_are_any(bench: Asks, here: int | None, there: int, presence: Presence) -> None:
    if there:
        add(bench, "1.1", there)
    assert bench.ask(study("1.1", here)).presence == {"1.1": presence}


def test_a_destination_that_gives_no_numbers_is_taken_to_have_all_of_a_study(bench: Asks) -> None:
    bench.peers.report_counts = False
    add(bench, "1.1", 1)
    assert bench.ask(study("1.1"), study("1.2")).presence == {"1.1": THERE, "1.2": ABSENT}


def test_the_newest_are_asked_for_by_uid_in_bounded_questions_and_the_rest_is_unknown(bench: Asks) -> None:
    many = [study(f"1.{n}", date=f"{1000 + n}0101") for n in range(MOST_UIDS + 30)]
    held = bench.ask(*many)
    by_uid = bench.asked()[1:]
    assert all(len(keys.values("StudyInstanceUID")) <= UIDS_AT_ONCE for keys in by_uid)
    assert sum(len(keys.values("StudyInstanceUID")) for keys in by_uid) == MOST_UIDS
    assert held.queries == 1 + MOST_UIDS // UIDS_AT_ONCE
    assert held.presence.keys() == {f"1.{n}" for n in range(30, MOST_UIDS + 30)}
    assert by_uid[0].values("StudyInstanceUID")[0] == f"1.{MOST_UIDS + 29}"


def test_a_uid_that_is_none_is_not_asked_for(bench: Asks) -> None:
    assert bench.ask(study("1.*")).presence == {}
    assert len(bench.asked()) == 1


def test_nobody_is_asked_where_there_are_no_candidates(bench: Asks) -> None:
    assert bench.ask() == Held({}, 0)
    assert bench.asked() == []


def sent(bench: Asks, uid: str) -> None:
    """Have a study moved to ws, and lost there."""
    bench.peers.add("pacs", uid, f"{uid}.1", f"{uid}.1.1", f"{uid}.1.2", PatientID="P")
    bench.to("ws")
    bench.sweep()
    bench.finish()
    bench.peers.holdings["ws"].clear()
    bench.peers.finds.clear()


def test_one_that_cannot_be_asked_is_believed_to_keep_what_it_was_sent_for_a_while(bench: Asks) -> None:
    sent(bench, "1.1")
    bench.peers.down.add("ws")
    held = bench.ask(study("1.1"), study("1.2"))
    assert held.presence == {"1.1": THERE}
    assert "What ws holds is not known" in held.note
    bench.clock.advance(31 * DAYS)
    assert bench.ask(study("1.1")).presence == {}


def test_one_that_may_not_be_asked_is_believed_without_a_word(bench: Asks) -> None:
    sent(bench, "1.1")
    assert bench.ask(study("1.1"), ask=False) == Held({"1.1": THERE}, 0)
    assert bench.ask(study("1.1", 3), ask=False).presence == {"1.1": ABSENT}
    assert bench.asked() == []


def test_the_queries_of_a_question_that_failed_later_are_counted(bench: Asks) -> None:
    def fail(node: Node, level: QueryRetrieveLevel, keys: Identifier) -> WireError | None:
        return ConnectionFailed("ws is gone.") if keys.values("StudyInstanceUID") else None

    bench.peers.fail = fail
    assert bench.ask(study("1.1")).queries == 2


def test_an_answer_that_was_cut_short_is_made_whole_by_uid(bench: Asks) -> None:
    add(bench, "1.1", 2)
    add(bench, "1.2", 2)
    honest = bench.peers.find

    def find(node: Node, level: QueryRetrieveLevel, keys: Identifier, **named: object) -> object:
        result = honest(node, level, keys, **named)  # type: ignore[arg-type]
        if keys.text("PatientID"):
            return msgspec.structs.replace(result, identifiers=result.identifiers[:1], status=0xA700)
        return result

    bench.peers.find = find  # type: ignore[method-assign,assignment]
    assert bench.ask(study("1.1"), study("1.2")).presence == {"1.1": THERE, "1.2": THERE}


def test_a_failure_status_is_a_destination_that_cannot_be_asked(bench: Asks) -> None:
    bench.peers.fail = lambda *asked: QueryFailed(0xC001, "ws failed a STUDY query.")
    held = bench.ask(study("1.1"))
    assert held.presence == {}
    assert held.note


def test_who_cancels_is_not_told_that_it_cannot_be_asked(bench: Asks) -> None:
    bench.peers.fail = lambda *asked: Cancelled()
    with pytest.raises(Cancelled):
        bench.ask(study("1.1"), cancelled=True)


def test_here_the_receipts_count_whose_files_are_in_the_store(bench: Asks) -> None:
    bench.peers.add("pacs", "1.1", "1.1.1", "1.1.1.1", "1.1.1.2", PatientID="P")
    bench.to("local")
    bench.sweep()
    bench.finish()
    bench.peers.finds.clear()
    assert bench.ask(study("1.1"), study("1.2"), destination="local") == Held({"1.1": THERE, "1.2": ABSENT}, 0)
    bench.lost_files.add("1.1.1.1")
    assert bench.ask(study("1.1"), destination="local").presence == {"1.1": ABSENT}
    assert bench.peers.finds == []
