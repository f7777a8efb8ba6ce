"""What the store holds as a whole, and checksums of its files, in every ledger."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.domain.receipt import Receipt
from router.domain.stored import Amount, Indexed, StoredStudy
from router.domain.transfer import Happening
from router.ledger import receipt_index
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import NOW, after, claim, intent, new, queue


def receipt(number: int, instance: str = "1", *, calling: str = "CT1", seconds: float = 0, size: int = 10) -> Receipt:
    study = intent(number).study_instance_uid
    series = f"{study}.1"
    return Receipt(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=f"{series}.{instance}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title=calling,
        size=size,
        path=f"{study}/{series}/{series}.{instance}.dcm",
        received_at=after(seconds),
    )


def uid(number: int) -> str:
    return intent(number).study_instance_uid


def uids(studies: Sequence[StoredStudy]) -> list[str]:
    return [study.study_instance_uid for study in studies]


def checksum(ledger: SqlLedger, of: Receipt) -> bytes | None:
    (known,) = [one for one in ledger.indexed(of.study_instance_uid) if one.receipt.path == of.path]
    return known.checksum


def test_a_study_is_told_with_how_much_there_is_when_it_came_and_from_whom(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(1, "2", calling="CT2", seconds=60, size=5), receipt(2, seconds=30)])
    first, second = ledger.stored_studies()
    assert first == StoredStudy(
        study_instance_uid=uid(1),
        instances=2,
        size=15,
        first_received_at=NOW,
        last_received_at=after(60),
        calling_ae_titles=("CT1", "CT2"),
    )
    assert second.study_instance_uid == uid(2)


def test_studies_are_narrowed_by_uid_caller_and_number(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(number, seconds=number, calling=f"CT{number % 2}") for number in range(4)])
    assert uids(ledger.stored_studies(only=[uid(1), uid(2), "1.9"])) == [uid(2), uid(1)]
    assert uids(ledger.stored_studies(callers=["CT0", "X"])) == [uid(2), uid(0)]
    assert uids(ledger.stored_studies(only=[])) == []
    assert uids(ledger.stored_studies(limit=3)) == [uid(3), uid(2), uid(1)]


def test_of_a_study_some_of_which_came_from_elsewhere_all_is_told(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(1, "2", calling="CT2")])
    (study,) = ledger.stored_studies(callers=["CT2"])
    assert (study.instances, study.calling_ae_titles) == (2, ("CT1", "CT2"))


def test_a_transfer_to_the_store_needs_its_study_until_it_has_ended(ledger: SqlLedger) -> None:
    ledger.add_receipts([receipt(1), receipt(2)])
    queue(ledger, [new(intent(1, destination="local")), new(intent(2, destination="ws"))])
    (transfer,) = ledger.transfers(destination="local")
    told = {study.study_instance_uid: study.transfers for study in ledger.stored_studies()}
    assert told == {uid(1): (transfer.id,), uid(2): ()}
    claim(ledger)
    assert ledger.stored_studies(only=[uid(1)])[0].transfers == (transfer.id,)
    queue(ledger, [new(intent(3, destination="local"))])
    ledger.add_receipts([receipt(3)])
    (other,) = ledger.transfers(study_instance_uid=uid(3))
    ledger.apply(other.id, Happening.CANCEL, NOW)
    assert ledger.stored_studies(only=[uid(3)])[0].transfers == ()


def test_how_much_there_is(ledger: SqlLedger) -> None:
    assert ledger.stored_amount() == Amount(0, 0)
    ledger.add_receipts([receipt(1), receipt(1, "2", size=5), receipt(2)])
    assert ledger.stored_amount() == Amount(3, 25)
    assert ledger.stored_amount([uid(1)]) == Amount(2, 15)


def test_a_checksum_is_kept_and_stays_when_another_is_offered(ledger: SqlLedger) -> None:
    one, other = receipt(1), receipt(1, "2")
    ledger.add_receipts([one, other])
    assert checksum(ledger, one) is None
    ledger.keep_checksums([(one, b"first")])
    ledger.keep_checksums([(one, b"second"), (receipt(9), b"of nothing")])
    assert (checksum(ledger, one), checksum(ledger, other)) == (b"first", None)
    found = ledger.indexed_instance(one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid)
    assert found == Indexed(receipt=one, checksum=b"first")
    assert ledger.indexed_instance(one.study_instance_uid, one.series_instance_uid, "1.9") is None


def test_what_comes_in_anew_has_no_checksum_yet_and_takes_none_of_what_was_there_before(ledger: SqlLedger) -> None:
    before, anew = receipt(1), receipt(1, seconds=10)
    ledger.add_receipts([before])
    ledger.keep_checksums([(before, b"before")])
    ledger.add_receipts([anew])
    assert checksum(ledger, anew) is None
    ledger.keep_checksums([(before, b"before")])
    assert checksum(ledger, anew) is None
    ledger.keep_checksums([(anew, b"anew")])
    assert checksum(ledger, anew) == b"anew"


@given(places=st.sets(st.tuples(*[st.integers(1, 12)] * 3), max_size=40), rows=st.integers(1, 7))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_miss_nothing_and_tell_nothing_twice(places: set[tuple[int, int, int]], rows: int, monkeypatch) -> None:
    monkeypatch.setattr(receipt_index, "_PAGE", rows)
    with SqlLedger.in_memory() as ledger:
        ledger.add_receipts(
            [
                msgspec.structs.replace(
                    receipt(1), study_instance_uid=f"1.{a}", series_instance_uid=f"1.{b}", sop_instance_uid=f"1.{c}"
                )
                for a, b, c in places
            ]
        )
        found = list(ledger.stored_uids())
        assert found == sorted({f"1.{a}" for a, _, _ in places})
        told = [
            (one.receipt.study_instance_uid, one.receipt.series_instance_uid, one.receipt.sop_instance_uid)
            for study in found
            for one in ledger.indexed(study)
        ]
        assert told == sorted((f"1.{a}", f"1.{b}", f"1.{c}") for a, b, c in places)
