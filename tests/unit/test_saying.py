"""What may be said to transfers and rules, and why not; what the ledger is asked for on behalf of who looks."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.rule import Worklist
from router.domain.sweep import SweepDue
from router.domain.transfer import (
    RULE_HOLDS,
    TRANSITIONS,
    Finish,
    Happening,
    Intent,
    Route,
    State,
    Stop,
    Transfer,
)
from router.domain.wishes import WORDS, refusal, sayable
from router.engine.explained import StudyExplained
from router.errors import LedgerError, NotPossible, NotThere, TooBusy
from router.lookup import Wanted
from router.saying import Saying
from tests.support.web import COMMENT, PATIENT, STUDY, Work, explained


@pytest.fixture
def work(tmp_path: Path) -> Work:
    """A ledger with transfers: 1 failed, 2 complete, 3 queued."""
    return Work(tmp_path)


NOW = datetime(2026, 11, 28, 9, 0, tzinfo=UTC)
SOME = Transfer(
    id=7,
    intent=Intent("pacs", STUDY, "", "ws"),
    rule="r",
    priority=0,
    state=State.QUEUED,
    instance_count=3,
    queued_at=NOW,
    next_at=NOW,
    updated_at=NOW,
)

# --- Words -----------------------------------------------------------------------------------------------------------


@given(state=st.sampled_from(State), cause=st.sampled_from(["", *sorted(RULE_HOLDS)]))
def test_a_word_that_is_offered_is_legal_and_needs_no_excuse(state: State, cause: str) -> None:
    transfer = msgspec.structs.replace(SOME, state=state, cause=cause)
    for name in sayable(transfer):
        assert WORDS[name].happening in TRANSITIONS[state]
        assert refusal(transfer, WORDS[name]) == ""


@given(state=st.sampled_from(State), word=st.sampled_from(sorted(WORDS)))
def test_a_word_that_the_states_do_not_allow_has_a_sentence(state: State, word: str) -> None:
    transfer = msgspec.structs.replace(SOME, state=state)
    if WORDS[word].happening not in TRANSITIONS[state]:
        assert refusal(transfer, WORDS[word]).startswith("Transfer 7 ")


def test_what_somebody_wants_already_is_not_offered_again() -> None:
    moving = msgspec.structs.replace(SOME, state=State.MOVING)
    assert sayable(moving) == ("cancel", "hold")
    assert sayable(msgspec.structs.replace(moving, wish="cancel")) == ("hold", "release")
    assert sayable(msgspec.structs.replace(moving, wish="hold")) == ("cancel", "release")


def test_what_waits_for_a_stopped_route_may_be_let_try_it(work: Work) -> None:
    assert work.lookup.transfer(3, identifiers=False, appointments=False).transfer.actions == ("cancel", "hold")
    claimed = work.ledger.claim_transfer(["pacs"], work.clock.now(), 60.0)
    assert claimed is not None
    stop = Stop(cause="unknown-destination", reason="The source does not know it.", probe_at=work.clock.now())
    work.ledger.finish(claimed, stopping(stop), work.clock.now(), work.clock.now())
    seen = work.lookup.transfer(3, identifiers=False, appointments=False).transfer
    assert seen.actions == ("cancel", "hold", "release")
    assert "is stopped" in seen.reason


def stopping(stop: Stop) -> Finish:
    return Finish(happening=Happening.STOPPED, stop=stop)


def test_there_are_no_other_words(work: Work) -> None:
    with pytest.raises(NotThere, match="retry, cancel, hold, release"):
        work.saying.say("moved", 1)


def test_a_ledger_that_does_not_work_is_not_blamed_on_the_transfer(work: Work) -> None:
    class Broken:
        def apply(self, *given: Any) -> Transfer:
            raise LedgerError("The ledger is locked.")

        def transfer(self, number: int) -> Transfer | None:
            return work.ledger.transfer(number)

    saying = Saying(
        rules=lambda: work.rules,
        ledger=Broken(),  # type: ignore[arg-type]
        clock=work.clock,
        wake=lambda: None,
        explain=work.explain,
        trouble=lambda where, error: None,
    )
    with pytest.raises(LedgerError, match=r"^The ledger is locked\.$"):
        saying.say("retry", 1)
    with pytest.raises(NotPossible, match=r"^Transfer 3 has not ended: it is queued\.$"):
        saying.say("retry", 3)


# --- Sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_that_is_asked_for_is_manual_due_now_and_of_the_widest_tier(work: Work) -> None:
    number = work.saying.sweep("r")
    (sweep,) = work.ledger.open_sweeps()
    rule = work.rules.rules["r"]
    wanted = SweepDue(rule="r", source="pacs", due_at=work.clock.now(), tier=rule.widest_tier, manual=True)
    assert (sweep.id, sweep.due, work.woken) == (number, wanted, 1)


def test_a_stopped_route_of_the_rule_is_tried_at_once(work: Work) -> None:
    claimed = work.ledger.claim_transfer(["pacs"], work.clock.now(), 60.0)
    assert claimed is not None
    now = work.clock.now()
    later = now.replace(hour=now.hour + 1)
    work.ledger.finish(claimed, stopping(Stop(cause="x", reason="No.", probe_at=later)), now, now)
    work.saying.sweep("r")
    stopped = work.ledger.stopped_route(Route("pacs", "ws"))
    assert stopped is not None
    assert stopped.probe_at <= now


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("manual", [False, True])
def test_a_sweep_that_is_open_is_not_doubled_and_that_is_said(work: Work, running: bool, manual: bool) -> None:
    work.clock.advance(60)
    work.ledger.add_sweeps([SweepDue(rule="r", source="pacs", due_at=work.clock.now(), manual=manual)])
    if running:
        assert work.ledger.claim_sweep(["pacs"], work.clock.now(), 60.0) is not None
    open_before = [one.id for one in work.ledger.open_sweeps()]
    with pytest.raises(NotPossible, match="runs already" if running else "waits for pacs already"):
        work.saying.sweep("r")
    assert [one.id for one in work.ledger.open_sweeps()] == open_before
    assert work.woken == 0


@pytest.mark.parametrize(
    ("rule", "sentence"), [("off", "is not enabled"), ("orders", "has no sweep: an order starts it")]
)
def test_a_rule_that_cannot_be_swept_says_why(work: Work, rule: str, sentence: str) -> None:
    with pytest.raises(NotPossible, match=sentence):
        work.saying.sweep(rule)
    with pytest.raises(NotThere):
        work.saying.sweep("none")
    assert work.ledger.open_sweeps() == []


def test_a_worklist_can_be_looked_at_now(work: Work) -> None:
    changed = work.bench.prefetches("ws", worklist=Worklist(source="pacs"))
    work.rules = msgspec.structs.replace(work.rules, rules={"w": msgspec.structs.replace(changed, name="w")})
    work.saying.sweep("w")
    assert [one.due.rule for one in work.ledger.open_sweeps()] == ["w"]


# --- Explanations ----------------------------------------------------------------------------------------------------


def saying_with(work: Work, explain: Any, troubles: list[str], seconds: float = 30.0) -> Saying:
    return Saying(
        rules=lambda: work.rules,
        ledger=work.ledger,
        clock=work.clock,
        wake=lambda: None,
        explain=explain,
        trouble=lambda where, error: troubles.append(type(error).__name__),
        explain_seconds=seconds,
    )


def test_an_explanation_is_by_the_running_rules(work: Work) -> None:
    assert work.saying.explain(f"{STUDY}.1", offline=True) == explained(work.rules, f"{STUDY}.1")
    with pytest.raises(NotPossible, match="no Study Instance UID"):
        work.saying.explain("DOE^JANE", offline=True)


def test_an_explanation_that_takes_too_long_is_not_waited_for_and_keeps_its_place(work: Work) -> None:
    free, ended = threading.Event(), threading.Semaphore(0)

    def slowly(rules: Any, study: str, *, offline: bool) -> StudyExplained:
        assert free.wait(60)
        ended.release()
        return explained(rules, study)

    saying = saying_with(work, slowly, [], seconds=0.05)
    for _ in range(2):
        with pytest.raises(TooBusy, match="did not answer"):
            saying.explain(STUDY, offline=False)
    with pytest.raises(TooBusy, match="explained already"):
        saying.explain(STUDY, offline=False)
    free.set()
    for _ in range(2):
        assert ended.acquire(timeout=30)


def test_a_defect_in_an_explanation_is_told_to_the_log_and_its_place_is_free_again(work: Work) -> None:
    def fail(rules: Any, study: str, *, offline: bool) -> StudyExplained:
        raise ValueError(study)

    troubles: list[str] = []
    saying = saying_with(work, fail, troubles)
    for _ in range(5):
        with pytest.raises(NotPossible, match="log") as told:
            saying.explain(STUDY, offline=False)
        assert STUDY not in str(told.value)
    assert troubles == ["ValueError"] * 5


def test_what_the_ledger_says_of_an_explanation_is_said(work: Work) -> None:
    def lost(rules: Any, study: str, *, offline: bool) -> StudyExplained:
        raise LedgerError("The ledger is gone.")

    with pytest.raises(LedgerError, match="gone"):
        saying_with(work, lost, []).explain(STUDY, offline=False)


# --- Looking ---------------------------------------------------------------------------------------------------------


def test_masked_nothing_identifies_anybody_and_unmasked_all_is_there(work: Work) -> None:
    for wanted in (Wanted(), Wanted(study_instance_uid=f"{STUDY}.1")):
        masked = msgspec.json.encode(work.lookup.transfers(wanted, identifiers=False)).decode()
        shown = msgspec.json.encode(work.lookup.transfers(wanted, identifiers=True)).decode()
        for secret in (STUDY, PATIENT):
            assert secret not in masked
            assert secret in shown
    masked_one = work.lookup.transfer(1, identifiers=False, appointments=False)
    assert STUDY not in msgspec.json.encode(masked_one).decode()
    for identifiers in (False, True):
        (attempt,) = work.lookup.transfer(1, identifiers=identifiers, appointments=False).attempts
        assert (COMMENT in attempt.reason) is identifiers, "a peer may say anybody's name"
        assert attempt.reason.startswith("It did not work.")
    assert masked_one.missing is not None
    assert (masked_one.missing.count, masked_one.missing.sop_instance_uids) == (3, None)


def test_what_nobody_can_say_is_missing_is_none_and_what_is_complete_misses_nothing(work: Work) -> None:
    complete = work.lookup.transfer(2, identifiers=True, appointments=False)
    assert complete.missing is not None
    assert complete.missing.count == 0
    assert work.lookup.transfer(3, identifiers=True, appointments=False).missing is None


def test_a_transfer_that_is_not_there_is_said_to_be_not_there(work: Work) -> None:
    with pytest.raises(NotThere, match="no transfer 99"):
        work.lookup.transfer(99, identifiers=False, appointments=True)


def test_a_study_is_known_by_its_transfers(work: Work) -> None:
    known = work.lookup.study(f"{STUDY}.2", identifiers=False)
    assert [one.id for one in known.transfers] == [2]
    assert known.considered == ()
