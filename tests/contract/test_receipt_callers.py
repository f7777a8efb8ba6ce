"""Who stored what was moved here, and single receipts, in every ledger."""

from __future__ import annotations

from datetime import datetime

from router.domain.receipt import Receipt
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, after, intent, new, queue


def receipt(number: int, calling: str, at: datetime = NOW, instance: str = "9") -> Receipt:
    study = intent(number).study_instance_uid
    return Receipt(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.{instance}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title=calling,
        size=10,
        path=f"{study}/x",
        received_at=at,
    )


def test_the_titles_are_those_of_what_was_moved_from_the_node_to_this_router(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1, destination="local")), new(intent(2, destination="local"))])
    queue(ledger, [new(intent(3, source="other", destination="local")), new(intent(4, destination="ws"))])
    ledger.add_receipts([receipt(1, "OUT_A"), receipt(1, "OUT_A", after(60), "10"), receipt(2, "OUT_B", after(5))])
    ledger.add_receipts([receipt(3, "ELSEWHERE"), receipt(4, "NOT_FOR_US"), receipt(5, "PUSHED")])
    assert ledger.stored_from("archive") == {"OUT_A": after(60), "OUT_B": after(5)}
    assert ledger.stored_from("other") == {"ELSEWHERE": NOW}
    assert ledger.stored_from("gone") == {}


def test_a_receipt_is_found_by_its_three_uids_and_is_the_latest(ledger: SqlLedger) -> None:
    first = receipt(1, "A")
    ledger.add_receipts([first])
    key = (first.study_instance_uid, first.series_instance_uid, first.sop_instance_uid)
    assert ledger.receipt(*key) == first
    again = receipt(1, "B", after(10))
    ledger.add_receipts([again])
    assert ledger.receipt(*key) == again
    assert ledger.receipt(*key[:2], "1.2.3") is None
