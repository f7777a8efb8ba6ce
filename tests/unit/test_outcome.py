"""Statuses, failures, counters and evidence: the tables and what follows from them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import errors
from router.domain.causes import CAUSES
from router.domain.dicom import SubOperationCounts
from router.domain.outcome import (
    SOON_TRIES,
    Evidence,
    Expectation,
    Remedy,
    error_cause,
    judge,
    missing_instances,
    outcome_of_error,
    outcome_of_status,
    quotable,
    retry_wait,
)
from router.domain.rule import Retry
from router.domain.transfer import Happening, Instance


def counts(completed: int | None = None, failed: int | None = None, warning: int | None = None) -> SubOperationCounts:
    return SubOperationCounts(None, completed, failed, warning)


@pytest.mark.parametrize(
    ("status", "reported", "asked", "cause", "remedy"),
    [
        (0x0000, counts(5, 0, 0), 5, "success", Remedy.NONE),
        (0x0000, counts(3, 0, 2), 5, "success", Remedy.NONE),
        (0x0000, counts(3, 0, 0), 5, "success-partial", Remedy.SMALLER),
        (0x0000, counts(3, 2, 0), 5, "success-partial", Remedy.SMALLER),
        (0x0000, counts(0, 0, 0), 5, "success-empty", Remedy.LATER),
        (0x0000, counts(0, 5, 0), 5, "all-failed", Remedy.LATER),
        (0x0000, counts(), 5, "success-uncounted", Remedy.NONE),
        (0x0000, counts(7, 0, 0), 5, "success-excess", Remedy.NONE),
        (0x0000, counts(0, 0, 0), 0, "success", Remedy.NONE),
        (0x0000, counts(3, 0, 0), None, "success", Remedy.NONE),
        (0xB000, counts(3, 2, 0), 5, "some-failed", Remedy.SMALLER),
        (0xB000, counts(0, 5, 0), 5, "all-failed", Remedy.LATER),
        (0xB000, counts(0, 0, 5), 5, "warning", Remedy.NONE),
        (0xB000, counts(2, None, 2), 10, "some-failed", Remedy.SMALLER),
        (0xB000, counts(), 5, "warning-uncounted", Remedy.SMALLER),
        (0xB007, counts(0, 0, 5), 5, "warning", Remedy.NONE),
        (0x0107, counts(0, 0, 5), 5, "warning", Remedy.NONE),
        (0x0110, counts(), 5, "processing-failure", Remedy.SOON),
        (0x0112, counts(), 5, "no-such-instance", Remedy.LATER),
        (0x0210, counts(), 5, "duplicate-invocation", Remedy.SOON),
        (0xA701, counts(), 5, "matches-unknown", Remedy.SMALLER),
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
        (errors.AssociationRejected(1, 1, 3), "rejected-calling-ae-title", Remedy.STOP_ROUTE),
        (errors.AssociationRejected(1, 1, 7), "rejected-called-ae-title", Remedy.STOP_ROUTE),
        (errors.AssociationRejected(2, 3, 2), "rejected-local-limit", Remedy.LATER),
        (errors.AssociationRejected(1, 3, 2), "rejected-busy-permanent", Remedy.LATER),
        (errors.AssociationRejected(2, 1, 1), "rejected-busy", Remedy.LATER),
        (errors.AssociationRejected(7, 7, 7), "rejected", Remedy.STOP_ROUTE),
        (errors.ConnectionFailed(), "unreachable", Remedy.LATER),
        (errors.ConnectionFailed("Refused.", "connection-refused"), "connection-refused", Remedy.LATER),
        (errors.TlsError("No.", "tls-expired"), "tls-expired", Remedy.STOP_ROUTE),
        (errors.TlsError("No.", "tls-something-new"), "tls", Remedy.LATER),
        (errors.ConnectionLost(), "connection-lost", Remedy.SMALLER),
        (errors.AssociationAborted(0, 0), "aborted", Remedy.SMALLER),
        (errors.AssociationAborted(2, 0), "aborted-by-provider", Remedy.SMALLER),
        (errors.AssociationAborted(2, 6), "aborted-invalid-parameter", Remedy.SMALLER),
        (errors.DeadlineExceeded(), "timeout", Remedy.SMALLER),
        (errors.DeadlineExceeded("Silent.", "timeout-inactivity"), "timeout-inactivity", Remedy.SMALLER),
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


def held(**series: int) -> Evidence:
    """A destination that lists so many instances of each series."""
    present = frozenset(f"{name}.{number}" for name, held in series.items() for number in range(held))
    return Evidence(kind="find", present=present, series=series)


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
        (Expectation(count=3), found(A, B, C), "success", Happening.NO_EVIDENCE, 3),
        (Expectation(count=3), found(A, B, C), "some-failed", Happening.SOME_MISSING, 3),
        (Expectation(series={"s": 3}), held(s=3), "success", Happening.PROVEN, 3),
        (Expectation(series={"s": 3}), held(s=3), "some-failed", Happening.SOME_MISSING, 3),
        (Expectation(series={"s": 3}), held(s=3, own=1), "success", Happening.NO_EVIDENCE, 3),
        (Expectation(series={"s": 3, "t": None}, count=3), held(s=2, own=1), "success", Happening.NO_EVIDENCE, 3),
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


CODES = st.sampled_from(sorted(CAUSES))


@given(CODES, st.integers(1, 20), st.integers(1, 20), st.floats(0, 1, exclude_max=True))
def test_waits_are_bounded_and_end_with_the_budget(cause: str, attempts: int, budget: int, uniform: float) -> None:
    retry = Retry(attempts=budget, delay=30.0, maximum_delay=3600.0)
    wait = retry_wait(retry, cause, attempts, uniform)
    most = min(budget, CAUSES[cause].tries or budget)
    assert (wait is None) is (attempts >= most)
    if wait is not None and CAUSES[cause].remedy is Remedy.SOON and attempts <= SOON_TRIES:
        assert timedelta(seconds=1) <= wait <= timedelta(seconds=8)
    elif wait is not None:
        assert timedelta(0) <= wait <= timedelta(seconds=3600)


def test_soon_is_no_later_than_the_rule_says() -> None:
    retry = Retry(attempts=3, delay=0.5, maximum_delay=1.0)
    wait = retry_wait(retry, "processing-failure", 1, 0.999)
    assert wait is not None
    assert wait <= timedelta(seconds=0.5)


def test_a_cause_of_an_older_version_is_retried_like_any_other() -> None:
    assert retry_wait(Retry(attempts=2), "no such cause", 1, 0.5) == timedelta(seconds=15)
