"""Receipts of a C-GET on their way to the ledger: in order, in batches, none lost at the end."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import pytest

from router.domain.receipt import Receipt
from router.errors import StoreRefused
from router.receipts import ReceiptBatches


def receipt(number: int) -> Receipt:
    return Receipt(
        study_instance_uid="1.2",
        series_instance_uid="1.2.3",
        sop_instance_uid=f"1.2.3.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="PACS",
        size=1,
        path=f"1.2/1.2.3/1.2.3.{number}.dcm",
        received_at=datetime.now(UTC),
    )


def test_all_are_handed_on_in_order_and_in_batches() -> None:
    batches: list[list[Receipt]] = []

    def slow(batch: list[Receipt]) -> None:
        time.sleep(0.02)
        batches.append(batch)

    receipts = ReceiptBatches(slow, lambda where, error: None)
    sent = [receipt(number) for number in range(1200)]
    for one in sent:
        receipts.put(one)
    receipts.stop(20.0)
    assert [one for batch in batches for one in batch] == sent
    assert len(batches) < 600
    assert max(map(len, batches)) <= 500


def test_a_fault_of_who_takes_them_is_told_and_the_next_are_handed_on() -> None:
    taken = threading.Event()
    troubles: list[tuple[str, BaseException]] = []
    failing = [True]

    def take(batch: list[Receipt]) -> None:
        if failing.pop() if failing else False:
            raise ValueError
        taken.set()

    receipts = ReceiptBatches(take, lambda where, error: troubles.append((where, error)))
    receipts.put(receipt(1))
    deadline = time.monotonic() + 10.0
    while not troubles and time.monotonic() < deadline:
        time.sleep(0.01)
    receipts.put(receipt(2))
    assert taken.wait(10.0)
    receipts.stop(10.0)
    assert [(where, type(error)) for where, error in troubles] == [("receipts", ValueError)]


def test_after_the_end_instances_are_refused() -> None:
    receipts = ReceiptBatches(lambda batch: None, lambda where, error: None)
    receipts.stop(10.0)
    with pytest.raises(StoreRefused, match="stopping") as refused:
        receipts.put(receipt(1))
    assert refused.value.status == 0xA700


def test_a_queue_that_stays_full_refuses_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.receipts._QUEUE", 1)
    monkeypatch.setattr("router.receipts._PATIENCE", 0.05)
    go_on = threading.Event()
    receipts = ReceiptBatches(lambda batch: (go_on.wait(20.0), None)[1], lambda where, error: None)
    receipts.put(receipt(1))
    time.sleep(0.2)  # it is being handed on now, and nobody takes the next ones
    receipts.put(receipt(2))
    with pytest.raises(StoreRefused, match="takes no receipts"):
        receipts.put(receipt(3))
    go_on.set()
    receipts.stop(10.0)
