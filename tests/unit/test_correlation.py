"""Which piece of work a line of the log is about, and pseudonyms: found together, never found out."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentState
from router.domain.dicom import Identifier, is_uid
from router.domain.events import AssociationEnded
from router.domain.pseudonym import LENGTH, Pseudonyms, is_pseudonym
from router.domain.sweep import SweepDue, SweepRecord, SweepState
from router.domain.transfer import Intent, State, Transfer
from router.errors import LedgerError
from router.observe import logs
from router.observe.correlation import Correlation

NOW = datetime(2026, 11, 28, 8, 0, tzinfo=UTC)
STUDY = "1.2.840.113619.2.55.3"
NAMES = Pseudonyms(b"a key of the tests")
FAILED = AssociationEnded(node="pacs", role="requestor", result="timeout")


def transfer(state: State = State.MOVING) -> Transfer:
    return Transfer(
        id=7,
        intent=Intent("pacs", STUDY, "", "ws"),
        rule="ct",
        priority=1,
        state=state,
        instance_count=5,
        queued_at=NOW,
        next_at=NOW,
        updated_at=NOW,
    )


SWEEP = SweepRecord(id=8, due=SweepDue(rule="ct", source="pacs", due_at=NOW), state=SweepState.RUNNING)
APPOINTMENT = Appointment(
    id=9,
    rule="mr",
    trigger="worklist",
    key="SECRET",
    source="pacs",
    current=Identifier.of(StudyInstanceUID=STUDY, PatientID="SECRET"),
    patient_id="SECRET",
    due_at=NOW,
    state=AppointmentState.LOOKING,
    noted_at=NOW,
)


class Log:
    """What is logged as JSON, without times."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        logs.configure(self.stream, json=True, level="debug")
        self.observe = logs.LogObserver()

    @property
    def lines(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [{key: value for key, value in line.items() if key != "timestamp"} for line in found]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    monkeypatch.setattr(logs, "_troubles", logs.Repeats())
    monkeypatch.setattr(logs, "silence", lambda last_words: None)
    yield Log()
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("work", "begins", "fields"),
    [
        (transfer(), "move begins", {"transfer": 7, "study": NAMES.of(STUDY)}),
        (transfer(State.VERIFYING), "look for evidence begins", {"transfer": 7, "study": NAMES.of(STUDY)}),
        (SWEEP, "sweep begins", {"sweep": 8}),
        (APPOINTMENT, "look for priors begins", {"appointment": 9, "study": NAMES.of(STUDY)}),
    ],
)
def test_all_that_is_logged_while_work_is_done_says_which_and_nothing_after_it(
    log: Log, work: Transfer | SweepRecord | Appointment, begins: str, fields: dict[str, Any]
) -> None:
    def working() -> None:
        with Correlation(NAMES.of)(work):
            log.observe(FAILED)
            logs.trouble("work", LedgerError("The ledger l.db is locked."))
            raise ValueError("defect")

    with pytest.raises(ValueError, match="defect"):
        working()
    logs.logger().info("after")
    assert [line["event"] for line in log.lines] == [begins, "association failed", "trouble", "after"]
    for line in log.lines[:3]:
        assert fields.items() <= line.items()
    assert log.lines[3] == {"event": "after", "level": "info"}
    assert "SECRET" not in log.stream.getvalue()
    assert STUDY not in log.stream.getvalue()


def test_what_other_threads_log_meanwhile_is_not_said_of_it(log: Log) -> None:
    with Correlation(NAMES.of)(transfer()):
        other = threading.Thread(target=lambda: logs.logger().info("elsewhere"))
        other.start()
        other.join(10.0)
    assert log.lines[-1] == {"event": "elsewhere", "level": "info"}


def test_nothing_stands_for_a_study_that_has_no_pseudonym(log: Log) -> None:
    correlation = Correlation(lambda uid: "")
    for work in (transfer(), APPOINTMENT):
        with correlation(work):
            log.observe(FAILED)
    assert log.lines
    assert all("study" not in line for line in log.lines)


UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))


@given(UIDS, st.binary(min_size=1, max_size=40))
def test_a_pseudonym_is_the_same_always_and_looks_like_no_uid(uid: str, key: bytes) -> None:
    name = Pseudonyms(key).of(uid)
    assert name == Pseudonyms(key).of(uid)
    assert len(name) == LENGTH
    assert is_pseudonym(name)
    assert is_uid(uid)
    assert not is_pseudonym(uid)
    assert Pseudonyms(key + b"x").of(uid) != name


def test_studies_of_a_site_have_pseudonyms_of_their_own_and_nothing_has_none() -> None:
    assert len({NAMES.of(f"1.2.{number}") for number in range(10_000)}) == 10_000
    assert NAMES.of("") == ""
    assert not is_pseudonym("")


@pytest.mark.parametrize("text", ["0c5ae3c9b1f", "0c5ae3c9b1f45", "0C5AE3C9B1F4", "0c5ae3c9b1fg", "0c5ae3c9b1f4\n"])
def test_what_only_resembles_one_is_no_pseudonym(text: str) -> None:
    assert not is_pseudonym(text)
