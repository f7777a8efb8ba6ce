"""What every ledger does with reasons of instances that a destination did not take."""

from __future__ import annotations

from router.domain.rule import LOCAL
from router.domain.transfer import Finish, Happening, Instance
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, intent, new, queue

REASONS = {"it is full": ["1.2.1", "1.2.2"], "it does not understand it": ["1.2.3"]}
EXPECTED = [Instance("1.2", "1.2.1")]


def test_reasons_are_remembered_until_others_take_their_place(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    transfer = claim(ledger)
    assert ledger.refused_instances(transfer.id) == {}
    ledger.set_refused(transfer, REASONS)
    assert ledger.refused_instances(transfer.id) == REASONS
    assert ledger.refused_instances(transfer.id + 1) == {}
    ledger.set_refused(transfer, {"it is full": ["1.2.2"]})
    assert ledger.refused_instances(transfer.id) == {"it is full": ["1.2.2"]}
    ledger.set_refused(transfer, {})
    assert ledger.refused_instances(transfer.id) == {}


def test_who_has_lost_the_claim_changes_no_reasons(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1))])
    transfer = claim(ledger)
    ledger.set_refused(transfer, REASONS)
    ledger.expire_leases(after(10 * LEASE))
    ledger.set_refused(transfer, {})
    assert ledger.refused_instances(transfer.id) == REASONS


def test_asked_for_again_reasons_are_forgotten_and_what_our_own_store_is_to_send_is_not(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1, source=LOCAL)), new(intent(1))])
    for source, kept in ((LOCAL, EXPECTED), ("archive", None)):
        transfer = ledger.claim_transfer([source], NOW, LEASE)
        assert transfer is not None
        ledger.set_refused(transfer, REASONS)
        ledger.set_expected(transfer, EXPECTED)
        assert ledger.finish(transfer, Finish(happening=Happening.FAIL, moved=True), NOW, NOW)
        ledger.apply(transfer.id, Happening.AGAIN, after(1))
        assert ledger.refused_instances(transfer.id) == {}
        assert ledger.expected_instances(transfer.id) == kept
