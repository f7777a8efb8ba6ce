"""What became of each instance of a C-STORE, and of all of them together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.causes import CAUSES, CLEAN, Remedy
from router.domain.exchange import (
    CONTEXT_REFUSALS,
    STORE_STATUS_RANGES,
    STORE_STATUSES,
    Standing,
    StoredObject,
    StoreOutcome,
    StoreResult,
    store_status,
)
from router.domain.outcome import Outcome
from router.domain.store_causes import INSTANCE_CAUSES, STORE_CAUSES
from router.domain.store_outcome import STORED, UNDECIDED, Fold, cause_of, fate_of

UID = "1.2.276.0.7230010.3.1.4"


def ended(standing: Standing, cause: str, status: int | None = None, comment: str = "") -> StoreOutcome:
    stored = StoredObject(path="x", sop_class_uid="1.2", sop_instance_uid=UID, transfer_syntax_uid="1.2.1")
    return StoreOutcome(stored=stored, standing=standing, cause=cause, status=status, error_comment=comment)


def answered(status: int, comment: str = "") -> StoreOutcome:
    return ended(*store_status(status), status, comment)


def refused(result: int) -> StoreOutcome:
    return ended(Standing.REFUSED, CONTEXT_REFUSALS[result])


def of(*outcomes: StoreOutcome, cause: str = "", reason: str = "") -> Outcome:
    fold = Fold()
    for outcome in outcomes:
        fold.add(outcome)
    return fold.outcome(StoreResult(counts={}, cause=cause, reason=reason))


@pytest.mark.parametrize(
    ("status", "stored", "lasting", "cause"),
    [
        (0x0000, True, False, "stored"),
        (0xB000, True, False, "stored-with-warnings"),
        (0xB006, True, False, "stored-with-warnings"),
        (0xB007, True, False, "stored-with-warnings"),
        (0xA700, False, False, "store-out-of-resources"),
        (0xA7FF, False, False, "store-out-of-resources"),
        (0x0213, False, False, "store-out-of-resources"),
        (0xA900, False, True, "store-mismatch"),
        (0xA9FF, False, True, "store-mismatch"),
        (0xC000, False, True, "store-not-understood"),
        (0xCFFF, False, True, "store-not-understood"),
        (0x0110, False, False, "store-failed"),
        (0x0111, False, True, "store-refused"),
        (0x0117, False, True, "store-refused"),
        (0x0122, False, True, "store-class-not-supported"),
        (0x0124, False, True, "store-not-authorised"),
        (0x7777, False, False, "store-failed"),
    ],
)
def test_each_status_says_whether_it_is_stored_and_whether_it_may_be_later(
    status: int, stored: bool, lasting: bool, cause: str
) -> None:
    fate = fate_of(answered(status))
    assert (fate.stored, fate.lasting, fate.sop_instance_uid) == (stored, lasting, UID)
    assert bool(fate.words) is not stored
    outcome = of(answered(status))
    assert (outcome.cause, outcome.remedy) == (cause, CAUSES[cause].remedy)


def test_what_may_be_done_about_each_kind_of_refusal() -> None:
    remedies = {
        0xA700: Remedy.LATER,
        0xA900: Remedy.PERMANENT,
        0xC001: Remedy.PERMANENT,
        0x0122: Remedy.STOP_ROUTE,
        0x0124: Remedy.STOP_ROUTE,
    }
    assert {status: of(answered(status)).remedy for status in remedies} == remedies


@pytest.mark.parametrize(
    ("result", "cause"), [(3, "store-class-refused"), (4, "store-syntax-refused"), (1, "store-class-refused")]
)
def test_no_presentation_context_is_a_reason_of_the_instance_that_lasts(result: int, cause: str) -> None:
    assert fate_of(refused(result)).lasting
    outcome = of(answered(0), refused(result))
    assert (outcome.cause, outcome.remedy) == (cause, Remedy.PERMANENT)
    assert outcome.sentence.startswith("The destination has taken 1 of 2 instances. 1 not: it ")


def test_every_status_there_is_and_every_refusal_has_a_row() -> None:
    pairs = {*STORE_STATUSES.values(), *((standing, cause) for _, _, standing, cause in STORE_STATUS_RANGES)}
    pairs |= {(Standing.REFUSED, cause) for cause in CONTEXT_REFUSALS.values()}
    assert {pair for pair in pairs if pair[0] not in STORED} <= INSTANCE_CAUSES.keys()


def test_every_row_leads_to_an_outcome_and_every_failure_is_led_to() -> None:
    led_to = {one.cause for one in INSTANCE_CAUSES.values()}
    assert led_to == STORE_CAUSES.keys() - CLEAN
    assert STORE_CAUSES.items() <= CAUSES.items()


def test_the_sentence_counts_each_reason_the_most_frequent_first() -> None:
    outcome = of(answered(0), *[refused(4)] * 2, answered(0xC000), answered(0xB000))
    assert outcome.sentence.startswith(
        "The destination has taken 2 of 5 instances. 2 not: it does not take the transfer syntax of the instance; "
        "1 not: it cannot understand the data set (Cxxx). "
    )
    assert (outcome.counts.completed, outcome.counts.warning, outcome.counts.failed) == (1, 1, 3)


def test_what_may_pass_is_tried_again_before_what_lasts_is_given_up() -> None:
    assert of(answered(0xC000), answered(0xA700), refused(4)).remedy is Remedy.LATER


def test_a_route_is_stopped_only_where_every_instance_says_so() -> None:
    assert of(answered(0x0124), answered(0x0124)).remedy is Remedy.STOP_ROUTE
    mixed = of(answered(0), answered(0x0122), answered(0xC000))
    assert (mixed.cause, mixed.remedy) == ("store-not-understood", Remedy.PERMANENT)
    assert of(answered(0), answered(0x0122)).remedy is Remedy.PERMANENT
    assert of(answered(0x0122), answered(0xA700)).remedy is Remedy.LATER


def test_what_broke_off_the_attempt_counts_before_what_single_instances_came_to() -> None:
    outcome = of(
        answered(0),
        refused(4),
        ended(Standing.UNCONFIRMED, "connection-lost"),
        ended(Standing.NOT_SENT, "connection-lost"),
        cause="connection-lost",
        reason="research closed the connection.",
    )
    assert (outcome.cause, outcome.remedy) == ("connection-lost", Remedy.SMALLER)
    assert outcome.sentence == (
        "research closed the connection. 1 not: it does not take the transfer syntax of the instance."
    )
    assert outcome.counts == (2, 1, 1, 0)


def test_a_destination_that_is_full_is_not_taken_for_a_source_that_is() -> None:
    outcome = of(answered(0xA700), cause="out-of-resources", reason="research is out of resources.")
    assert (outcome.cause, outcome.remedy) == ("store-out-of-resources", Remedy.LATER)


def test_an_error_comment_is_kept_without_what_may_identify_somebody() -> None:
    outcome = of(answered(0xC000, "DOE^JOHN is odd"))
    assert (outcome.status, outcome.comment) == (0xC000, "… is odd")


OUTCOMES = st.lists(
    st.one_of(
        st.integers(0, 0xFFFF).map(answered),
        st.sampled_from([0, 0xA700, 0xB000, 0xC000, 0x0122, 0x0124]).map(answered),
        st.sampled_from(sorted(CONTEXT_REFUSALS)).map(refused),
        st.sampled_from(["unreadable", "empty", "invalid-uid", "cut-off", "anything"]).map(
            lambda cause: ended(Standing.UNREADABLE, cause)
        ),
    ),
    min_size=1,
)


@given(OUTCOMES)
def test_an_attempt_is_clean_if_and_only_if_the_node_has_every_instance(outcomes: list[StoreOutcome]) -> None:
    outcome = of(*outcomes)
    whole = all(fate_of(one).stored for one in outcomes)
    assert (outcome.cause in CLEAN) is whole is (outcome.remedy is Remedy.NONE)
    assert UID not in outcome.sentence
    counts = outcome.counts
    assert (counts.completed or 0) + (counts.warning or 0) == sum(fate_of(one).stored for one in outcomes)
    assert sum(number or 0 for number in counts) == len(outcomes)


@given(OUTCOMES)
def test_it_is_given_up_only_where_no_instance_may_get_there_later(outcomes: list[StoreOutcome]) -> None:
    given_up = of(*outcomes).remedy in (Remedy.PERMANENT, Remedy.STOP_ROUTE)
    open_ones = [one for one in outcomes if not fate_of(one).stored and not fate_of(one).lasting]
    if given_up:
        assert not open_ones


@given(OUTCOMES, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_changes_nothing_but_what_is_quoted(
    outcomes: list[StoreOutcome], random: object
) -> None:
    shuffled = list(outcomes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = of(*outcomes), of(*shuffled)
    assert (one.cause, one.sentence, one.counts) == (other.cause, other.sentence, other.counts)


def test_what_nobody_knows_yet_is_neither_stored_nor_refused() -> None:
    fold = Fold()
    for standing in UNDECIDED:
        one = ended(standing, "timeout")
        assert cause_of(one) is None
        assert not fate_of(one).stored
        fold.add(one)
    assert fold.counts == (2, 0, 0, 0)
    assert fold.unconfirmed == 1
