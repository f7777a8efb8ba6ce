"""The outcome table: every status, rejection, abort and pattern of counters leads to a row, and no row is in vain."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain import causes
from router.domain.causes import (
    ABORTS,
    CAUSES,
    COUNTER_PATTERNS,
    FIND_FAILURES,
    MOVE_STATUSES,
    PREDICATES,
    REJECTIONS,
    STATUS_RANGES,
    Remedy,
    Tally,
    abort_cause,
    counted_cause,
    error_cause,
    rejection_cause,
    status_cause,
)

ROUTER = Path(causes.__file__).parents[1]


def by_tables() -> set[str]:
    """The rows that the tables lead to."""
    patterns = {pattern.cause for pattern in COUNTER_PATTERNS}
    ranges = {cause for _, _, cause in STATUS_RANGES}
    return {*MOVE_STATUSES.values(), *ranges, *REJECTIONS.values(), *ABORTS.values(), *patterns, "unknown-status"}


def said_elsewhere() -> set[str]:
    """The texts of the rest of the program: errors and the engine name causes themselves."""
    return {
        node.value
        for path in ROUTER.rglob("*.py")
        if path.name != "causes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_every_status_there_is_leads_to_a_row() -> None:
    assert {status_cause(status) for status in range(0x10000)} <= CAUSES.keys()


def test_every_table_leads_to_rows_only() -> None:
    assert by_tables() <= CAUSES.keys()


def test_every_row_can_be_reached() -> None:
    assert CAUSES.keys() - by_tables() - said_elsewhere() == set()


def test_every_row_speaks_to_an_administrator_in_sentences_of_its_own() -> None:
    sentences = [cause.sentence for cause in CAUSES.values()]
    assert len(set(sentences)) == len(sentences)
    assert all(sentence[0].isupper() and sentence.endswith((".", "?")) for sentence in sentences)


def test_what_stops_a_route_says_what_to_change() -> None:
    """Or, where the node gives no reason, where one may be found."""
    advice = (
        "there",
        "here",
        "correct",
        "is that its DICOM port",
        "log",
        "in common",
        "validate",
        "certificate",
        "ca ",
    )
    silent = {
        code
        for code, cause in CAUSES.items()
        if cause.remedy is Remedy.STOP_ROUTE and not any(word in cause.sentence for word in advice)
    }
    assert silent == set()


@pytest.mark.parametrize("result", [1, 2])
@pytest.mark.parametrize("source", [1, 2, 3])
@pytest.mark.parametrize("reason", range(10))
def test_every_rejection_has_a_cause_and_what_is_transient_is_no_stop(result: int, source: int, reason: int) -> None:
    cause = rejection_cause(result, source, reason)
    assert cause == error_cause(f"rejected-{result}-{source}-{reason}")
    busy = result == 2 or (source == 3 and reason in (1, 2))
    assert CAUSES[cause].remedy is (Remedy.LATER if busy else Remedy.STOP_ROUTE)
    assert CAUSES[cause].unsent


def test_rejections_of_the_standard_each_have_a_row_of_their_own() -> None:
    standard = [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 7), (1, 2, 1), (1, 2, 2), (2, 3, 1), (2, 3, 2)]
    assert len({rejection_cause(*numbers) for numbers in standard}) == len(standard)


def test_aborts_of_the_standard_each_have_a_row_of_their_own() -> None:
    standard = [(0, 0), (2, 0), (2, 1), (2, 2), (2, 4), (2, 5), (2, 6)]
    assert len({abort_cause(*numbers) for numbers in standard}) == len(standard)
    assert abort_cause(0, 200) == "aborted"
    assert abort_cause(2, 3) == "aborted-by-provider"
    assert abort_cause(77, 3) == "aborted"


@given(st.text(max_size=20) | st.from_regex(r"(rejected|aborted|tls)(-[0-9a-z]{0,3}){0,4}", fullmatch=True))
def test_any_code_of_an_error_leads_to_a_row(code: str) -> None:
    assert error_cause(code) in CAUSES


NUMBERS = st.none() | st.integers(0, 70_000)
TALLIES = st.builds(Tally, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.booleans())


@given(st.integers(0, 0xFFFF), TALLIES)
def test_any_counters_lead_to_a_row(status: int, tally: Tally) -> None:
    assert counted_cause(status_cause(status), tally) in CAUSES


@pytest.mark.parametrize("number", range(len(COUNTER_PATTERNS)))
def test_each_pattern_of_counters_is_the_first_to_hold_for_some(number: int) -> None:
    values = (None, 0, 1, 2, 3)
    tallies = (
        Tally(completed, failed, warning, asked, wavering)
        for completed in values
        for failed in values
        for warning in values
        for asked in (None, 0, 2)
        for wavering in (False, True)
    )
    family = COUNTER_PATTERNS[number].family
    rows = [at for at, pattern in enumerate(COUNTER_PATTERNS) if pattern.family == family]
    assert any(
        next((at for at in rows if PREDICATES[COUNTER_PATTERNS[at].predicate](tally)), None) == number
        for tally in tallies
    )


def test_every_predicate_serves_a_pattern() -> None:
    assert {pattern.predicate for pattern in COUNTER_PATTERNS} == PREDICATES.keys()


def test_failures_of_queries_have_words() -> None:
    assert all(text and not text.endswith(".") for text in FIND_FAILURES.values())
