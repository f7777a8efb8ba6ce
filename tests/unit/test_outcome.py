"""Statuses, failures, counters and evidence: the tables and what follows from them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import errors
from router.domain.dicom import SubOperationCounts
from router.domain.outcome import (
    CAUSES,
    FIND_FAILURES,
    MOVE_STATUSES,
    STATUS_RANGES,
    Evidence,
    Expectation,
    Remedy,
    error_cause,
    judge,
    missing_instances,
    outcome_of_error,
    outcome_of_status,
    portions,
    quotable,
)
from router.domain.progress import Progress
from router.domain.transfer import Happening, Instance


def counts(completed: int | None = None, failed: int | None = None, warning: int | None = None) -> SubOperationCounts:
    return SubOperationCounts(None, completed, failed, warning)


def test_every_status_leads_to_a_cause_with_a_sentence() -> None:
    for cause in {*MOVE_STATUSES.values(), *(cause for _, _, cause in STATUS_RANGES)}:
        assert CAUSES[cause].sentence.endswith((".", "?"))


@given(st.integers(0, 0xFFFF))
def test_any_status_is_classified(status: int) -> None:
    assert outcome_of_status(status, counts(), None).cause in CAUSES


@pytest.mark.parametrize(
    ("status", "reported", "asked", "cause", "remedy"),
    [
        (0x0000, counts(5, 0, 0), 5, "success", Remedy.NONE),
        (0x0000, counts(3, 0, 2), 5, "success", Remedy.NONE),
        (0x0000, counts(3, 0, 0), 5, "success-partial", Remedy.SMALLER),
        (0x0000, counts(3, 2, 0), 5, "success-partial", Remedy.SMALLER),
        (0x0000, counts(0, 0, 0), 5, "success-empty", Remedy.LATER),
        (0x0000, counts(0, 5, 0), 5, "all-failed", Remedy.LATER),
        (0x0000, counts(), 5, "success", Remedy.NONE),
        (0x0000, counts(3, 0, 0), None, "success", Remedy.NONE),
        (0xB000, counts(3, 2, 0), 5, "some-failed", Remedy.SMALLER),
        (0xB000, counts(0, 5, 0), 5, "all-failed", Remedy.LATER),
        (0xB000, counts(0, 0, 5), 5, "warning", Remedy.NONE),
        (0xB000, counts(2, None, 2), 10, "some-failed", Remedy.SMALLER),
        (0x0000, counts(None, 3, None), 10, "all-failed", Remedy.LATER),
        (0xA702, counts(), 5, "suboperations-impossible", Remedy.LATER),
        (0xA801, counts(), 5, "destination-unknown", Remedy.STOP_ROUTE),
        (0xA900, counts(), 5, "identifier-mismatch", Remedy.PERMANENT),
        (0xC123, counts(), 5, "unable-to-process", Remedy.LATER),
        (0xAA02, counts(), 5, "frame-level", Remedy.PERMANENT),
        (0x1234, counts(), 5, "unknown-status", Remedy.LATER),
        (0xFE00, counts(2), 5, "cancelled-by-peer", Remedy.SMALLER),
    ],
)
def test_a_final_response(
    status: int, reported: SubOperationCounts, asked: int | None, cause: str, remedy: Remedy
) -> None:
    outcome = outcome_of_status(status, reported, asked)
    assert (outcome.cause, outcome.remedy) == (cause, remedy)


def test_the_peers_comment_reaches_the_administrator() -> None:
    outcome = outcome_of_status(0xA702, counts(), 1, "disk on fire")
    assert outcome.comment == "disk on fire"
    assert "fire" not in outcome.sentence, "sentences are logged, comments are not"


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (errors.AssociationRejected(1, 1, 3), "rejected", Remedy.STOP_ROUTE),
        (errors.AssociationRejected(1, 1, 7), "rejected", Remedy.STOP_ROUTE),
        (errors.AssociationRejected(2, 3, 2), "rejected-busy", Remedy.LATER),
        (errors.AssociationRejected(1, 3, 2), "rejected-busy", Remedy.LATER),
        (errors.AssociationRejected(2, 1, 1), "rejected-busy", Remedy.LATER),
        (errors.ConnectionFailed(), "unreachable", Remedy.LATER),
        (errors.ConnectionLost(), "connection-lost", Remedy.SMALLER),
        (errors.AssociationAborted(0, 0), "aborted", Remedy.SMALLER),
        (errors.DeadlineExceeded(), "timeout", Remedy.SMALLER),
        (errors.ContextRefused(), "no-context", Remedy.STOP_ROUTE),
        (errors.RemoteProtocolError(), "protocol", Remedy.LATER),
    ],
)
def test_a_failure_of_the_wire(error: errors.WireError, cause: str, remedy: Remedy) -> None:
    outcome = outcome_of_error(error.cause, str(error))
    assert (outcome.cause, outcome.remedy) == (cause, remedy)
    assert outcome.sentence == str(error)


def test_an_unheard_of_cause_is_worth_a_retry() -> None:
    assert CAUSES[error_cause("something new")].remedy is Remedy.LATER


A, B, C = (Instance("1.1", f"1.1.{n}") for n in range(3))
ALL = Expectation(instances=frozenset({A, B, C}))


def found(*instances: Instance, kind: str = "receipts") -> Evidence:
    return Evidence(kind=kind, present=frozenset(i.sop_instance_uid for i in instances))


NONE = Evidence(kind="none", note="Nobody knows.")


@pytest.mark.parametrize(
    ("expectation", "evidence", "cause", "happening", "there"),
    [
        (ALL, found(A, B, C), "success", Happening.PROVEN, 3),
        (ALL, found(A, B, C), "suboperations-impossible", Happening.PROVEN, 3),
        (ALL, found(A, B), "success", Happening.CONTRADICTION, 2),
        (ALL, found(), "success-empty", Happening.CONTRADICTION, 0),
        (ALL, found(A, B), "some-failed", Happening.SOME_MISSING, 2),
        (ALL, found(), "all-failed", Happening.FAIL, 0),
        (ALL, Evidence(kind="find", count=3), "success", Happening.NO_EVIDENCE, 3),
        (ALL, Evidence(kind="find", count=3), "some-failed", Happening.SOME_MISSING, 3),
        (Expectation(instances=ALL.instances, count=4), found(A, B, C), "success", Happening.NO_EVIDENCE, 3),
        (Expectation(instances=ALL.instances, count=4), found(A, B), "success", Happening.CONTRADICTION, 2),
        (ALL, Evidence(kind="find", count=2), "success", Happening.CONTRADICTION, 2),
        (Expectation(count=3), found(A, B, C), "success", Happening.PROVEN, 3),
        (Expectation(count=4), found(A, B, C), "success", Happening.CONTRADICTION, 3),
        (Expectation(), found(A), "success", Happening.NO_EVIDENCE, 1),
        (Expectation(), found(), "success", Happening.CONTRADICTION, 0),
        (Expectation(count=0), found(), "success", Happening.EMPTY, 0),
        (ALL, NONE, "success", Happening.NO_EVIDENCE, None),
        (ALL, NONE, "warning", Happening.NO_EVIDENCE, None),
        (ALL, NONE, "success-partial", Happening.SOME_MISSING, None),
        (ALL, NONE, "some-failed", Happening.SOME_MISSING, None),
        (ALL, NONE, "success-empty", Happening.CONTRADICTION, None),
        (ALL, NONE, "timeout", Happening.FAIL, None),
    ],
)
def test_evidence_outranks_the_status(
    expectation: Expectation, evidence: Evidence, cause: str, happening: Happening, there: int | None
) -> None:
    verdict = judge(expectation, evidence, cause)
    assert (verdict.happening, verdict.there) == (happening, there)
    assert verdict.reason


def test_what_is_missing_is_named() -> None:
    assert judge(ALL, found(A), "some-failed").missing == {B, C}
    assert missing_instances(Expectation(count=3), found(A)) is None


def test_findings_of_other_instances_prove_nothing() -> None:
    stranger = Instance("1.1", "9.9")
    assert judge(ALL, found(A, B, stranger), "success").happening is Happening.CONTRADICTION


SERIES = st.sampled_from(["1.1", "1.2", "1.3"])
INSTANCES = st.builds(lambda s, n: Instance(s, f"{s}.{n}"), SERIES, st.integers(0, 30))


@given(st.frozensets(INSTANCES, min_size=1), st.data(), st.integers(1, 7))
def test_portions_ask_for_exactly_what_is_missing(
    expected: frozenset[Instance], data: st.DataObject, limit: int
) -> None:
    missing = data.draw(st.frozensets(st.sampled_from(sorted(expected))))
    asked: list[Instance] = []
    for portion in portions(missing, expected, limit):
        assert 1 <= max(len(portion.series_instance_uids), len(portion.sop_instance_uids)) <= limit
        if portion.sop_instance_uids:
            (series,) = portion.series_instance_uids
            some = [Instance(series, uid) for uid in portion.sop_instance_uids]
        else:
            some = [i for i in expected if i.series_instance_uid in portion.series_instance_uids]
        assert portion.size == len(some)
        asked += some
    assert sorted(asked) == sorted(missing)


COUNTS = st.builds(SubOperationCounts, *[st.none() | st.integers(0, 65535)] * 4)


@given(st.lists(COUNTS))
def test_counters_never_fall_however_they_are_reported(responses: list[SubOperationCounts]) -> None:
    progress = Progress()
    total = 0
    for response in responses:
        increase = progress.advance(response)
        assert increase.completed is not None and increase.completed >= 0
        total += increase.completed
    assert total == progress.completed == max((r.completed or 0 for r in responses), default=0)


def test_failures_of_queries_have_words() -> None:
    assert all(text and not text.endswith(".") for text in FIND_FAILURES.values())


@pytest.mark.parametrize(
    ("comment", "quoted"),
    [
        ("Out of memory", "Out of memory"),
        ("No study 1.2.840.113619", "No study …"),
        ("Patient Doe^Jane unknown", "Patient … unknown"),
        ("ID PAT-0042 locked", "ID … locked"),
        ("", ""),
    ],
)
def test_comments_of_peers_are_quoted_without_identifiers(comment: str, quoted: str) -> None:
    assert quotable(comment) == quoted
