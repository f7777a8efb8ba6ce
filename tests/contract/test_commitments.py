"""What every ledger does with storage commitment: one transaction is answered once, and lives as long as its move."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import text

from router.domain.commitment import MAXIMUM_PATIENCE, CommitmentAnswer
from router.domain.transfer import Finish, Happening, Transfer
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, intent, look, new, queue

ANSWER = CommitmentAnswer(
    transaction_uid="2.25.1", calling_ae_title="WS", committed=frozenset({"1.2", "1.3"}), failed={"1.4": 0x0112}
)


def verifying(ledger: SqlLedger, number: int = 1) -> Transfer:
    """A transfer that was moved and is being looked at."""
    queue(ledger, [new(intent(number))])
    moved = claim(ledger)
    assert ledger.finish(moved, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
    return look(ledger)


def asked(ledger: SqlLedger, *uids: str) -> Transfer:
    """A transfer that waits until late for the answers of `ws`."""
    transfer = verifying(ledger)
    assert ledger.request_commitment(transfer, "ws", uids or ("2.25.1",), NOW)
    waiting = ledger.finish(transfer, Finish(happening=Happening.LATER, next_at=after(3600)), NOW, NOW)
    assert waiting is not None
    assert waiting.next_at == after(3600)
    return waiting


def uids(ledger: SqlLedger, transfer: Transfer) -> list[str]:
    return [one.transaction_uid for one in ledger.commitments(transfer.id)]


def test_what_was_asked_is_remembered_until_it_is_answered(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    (before,) = ledger.commitments(transfer.id)
    assert (before.transaction_uid, before.node, before.requested_at) == ("2.25.1", "ws", NOW)
    assert (before.answered_at, before.committed, before.failed) == (None, frozenset(), {})
    assert ledger.awaits_commitment(transfer.id)
    assert ledger.answer_commitment(ANSWER, ["pacs", "ws"], after(5)) is True
    (now,) = ledger.commitments(transfer.id)
    assert (now.answered_at, now.committed, now.failed) == (after(5), ANSWER.committed, ANSWER.failed)
    assert not ledger.awaits_commitment(transfer.id)


def test_an_answer_makes_the_transfer_due_at_once(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    assert ledger.claim_verification(["ws"], after(5), LEASE) is None
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    assert look(ledger, after(5)).id == transfer.id


def test_one_of_several_is_not_all(ledger: SqlLedger) -> None:
    transfer = asked(ledger, "2.25.1", "2.25.2")
    assert uids(ledger, transfer) == ["2.25.1", "2.25.2"]
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    assert ledger.awaits_commitment(transfer.id)


def test_an_answer_during_a_look_makes_it_due_when_the_look_ends(ledger: SqlLedger) -> None:
    asked(ledger)
    looked = look(ledger, after(3600))
    assert ledger.answer_commitment(ANSWER, ["ws"], after(3601))
    ended = ledger.finish(looked, Finish(happening=Happening.LATER, next_at=after(9000)), after(3600), after(3602))
    assert ended is not None
    assert ended.next_at == after(3602)
    again = look(ledger, after(3602))
    ended = ledger.finish(again, Finish(happening=Happening.LATER, next_at=after(9000)), after(3602), after(3603))
    assert ended is not None
    assert ended.next_at == after(9000), "what the look could see does not hurry it"


@pytest.mark.parametrize(("uid", "nodes"), [("2.25.9", ["ws"]), ("2.25.1", ["pacs"]), ("2.25.1", [])])
def test_an_answer_that_nobody_asked_of_these_changes_nothing(ledger: SqlLedger, uid: str, nodes: list[str]) -> None:
    transfer = asked(ledger)
    strange = CommitmentAnswer(transaction_uid=uid, calling_ae_title="X", committed=frozenset({"1.2"}))
    assert ledger.answer_commitment(strange, nodes, after(5)) is None
    assert ledger.awaits_commitment(transfer.id)
    assert ledger.transfer(transfer.id) == transfer


def test_the_first_answer_holds(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    other = CommitmentAnswer(transaction_uid="2.25.1", calling_ae_title="WS")
    assert ledger.answer_commitment(other, ["ws"], after(6)) is False
    (one,) = ledger.commitments(transfer.id)
    assert (one.answered_at, one.committed) == (after(5), ANSWER.committed)


def test_asking_again_forgets_what_was_asked(ledger: SqlLedger) -> None:
    transfer = verifying(ledger)
    assert ledger.request_commitment(transfer, "ws", ["2.25.1", "2.25.2"], NOW)
    assert ledger.request_commitment(transfer, "ws", ["2.25.3"], after(1))
    assert uids(ledger, transfer) == ["2.25.3"]
    assert ledger.request_commitment(transfer, "ws", [], after(2))
    assert uids(ledger, transfer) == []


def test_who_lost_the_claim_asks_for_nothing(ledger: SqlLedger) -> None:
    transfer = verifying(ledger)
    ledger.release_claims([transfer], after(1))
    assert not ledger.request_commitment(transfer, "ws", ["2.25.1"], after(2))
    assert uids(ledger, transfer) == []


def test_a_repair_knows_what_failed_until_it_has_moved(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    looked = look(ledger, after(5))
    assert ledger.finish(looked, Finish(happening=Happening.GAP), after(5), after(6))
    assert uids(ledger, transfer) == ["2.25.1"]
    moving = claim(ledger, after(6))
    assert ledger.finish(moving, Finish(happening=Happening.RETRY, moved=True), after(6), after(7))
    assert uids(ledger, transfer) == ["2.25.1"], "nothing arrived since"
    moving = claim(ledger, after(7))
    assert ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), after(7), after(8))
    assert uids(ledger, transfer) == []


def test_a_lost_move_makes_old_answers_worthless(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    assert ledger.finish(look(ledger, after(5)), Finish(happening=Happening.GAP), after(5), after(6))
    claim(ledger, after(6))
    assert ledger.expire_leases(after(7 + LEASE)) == 1
    assert uids(ledger, transfer) == []


def test_a_lost_look_forgets_what_may_not_have_been_sent(ledger: SqlLedger) -> None:
    transfer = asked(ledger, "2.25.1", "2.25.2")
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    look(ledger, after(5))
    assert ledger.expire_leases(after(6 + LEASE)) == 1
    assert uids(ledger, transfer) == ["2.25.1"]


@pytest.mark.parametrize("way", ["person", "growth"])
def test_queueing_anew_forgets_them(ledger: SqlLedger, way: str) -> None:
    transfer = asked(ledger)
    ledger.answer_commitment(ANSWER, ["ws"], after(5))
    assert ledger.finish(look(ledger, after(5)), Finish(happening=Happening.PROVEN), after(5), after(6))
    assert uids(ledger, transfer) == ["2.25.1"], "what it rests on stays"
    if way == "person":
        ledger.apply(transfer.id, Happening.AGAIN, after(7))
    else:
        queue(ledger, [new(intent(1), count=9, happening=Happening.GREW)], after(7))
    assert uids(ledger, transfer) == []


def test_old_ones_are_forgotten(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    much_later = NOW + 2 * MAXIMUM_PATIENCE + timedelta(seconds=1)
    queue(ledger, [new(intent(2))], after(1))
    moved = claim(ledger, after(1))
    assert ledger.finish(moved, Finish(happening=Happening.MOVED, moved=True), after(1), after(1))
    other = look(ledger, after(1))
    assert ledger.request_commitment(other, "ws", ["2.25.2"], after(2))
    assert uids(ledger, transfer) == ["2.25.1"]
    assert ledger.request_commitment(other, "ws", ["2.25.3"], much_later)
    assert uids(ledger, transfer) == []
    assert uids(ledger, other) == ["2.25.3"]


def test_they_go_with_their_transfer(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    with ledger._database.write() as connection:
        connection.execute(text("DELETE FROM transfers"))
    assert uids(ledger, transfer) == []


def test_thousands_of_instances_take_little_room(ledger: SqlLedger) -> None:
    transfer = asked(ledger)
    many = frozenset(f"1.2.826.0.1.3680043.8.498.{number:020d}" for number in range(5000))
    ledger.answer_commitment(
        CommitmentAnswer(transaction_uid="2.25.1", calling_ae_title="WS", committed=many), ["ws"], after(5)
    )
    (one,) = ledger.commitments(transfer.id)
    assert one.committed == many
    with ledger._database.read() as connection:
        assert connection.scalar(text("SELECT length(answer) FROM commitments")) < 50_000
