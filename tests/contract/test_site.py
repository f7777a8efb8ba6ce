"""The key of a site and the way back from a pseudonym, in every ledger."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from router.domain.pseudonym import Pseudonyms
from router.errors import LedgerMissing
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import intent, new, queue


def test_the_key_is_made_once_and_stays(url: str) -> None:
    with SqlLedger.open(url) as ledger:
        key = ledger.site_key()
        assert len(key) == 32
        assert ledger.site_key() == key
    with SqlLedger.open(url) as ledger, SqlLedger.open(url, read_only=True) as reading:
        assert ledger.site_key() == key
        assert reading.site_key() == key


def test_no_two_sites_have_the_same_key() -> None:
    with SqlLedger.in_memory() as one, SqlLedger.in_memory() as other:
        assert one.site_key() != other.site_key()


def test_those_who_ask_for_the_first_key_at_once_get_the_same(url: str) -> None:
    with SqlLedger.open(url) as one, SqlLedger.open(url) as other, ThreadPoolExecutor(16) as pool:
        keys = list(pool.map(lambda number: (one, other)[number % 2].site_key(), range(32)))
    assert len(set(keys)) == 1


def test_who_only_reads_makes_no_key_and_says_what_does(url: str) -> None:
    with SqlLedger.open(url), SqlLedger.open(url, read_only=True) as reading:
        with pytest.raises(LedgerMissing, match=r"no key for pseudonyms yet; `dicom-router run` makes one"):
            reading.site_key()
        with SqlLedger.open(url) as ledger:
            ledger.site_key()
        assert reading.site_key()


def test_a_study_is_found_by_its_pseudonym_once_however_often_it_is_moved(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(number)) for number in range(1, 30)])
    queue(ledger, [new(intent(7, destination="other")), new(intent(7, series="1.2.3"))])
    pseudonyms = Pseudonyms(ledger.site_key())
    sought = intent(7).study_instance_uid
    assert ledger.studies_where(lambda uid: pseudonyms.of(uid) == pseudonyms.of(sought)) == [sought]
    assert ledger.studies_where(lambda uid: False) == []


def test_the_newest_transfers_are_searched_and_no_more_than_so_many(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(number)) for number in range(1, 30)])
    newest = [intent(number).study_instance_uid for number in (29, 28, 27)]
    assert ledger.studies_where(lambda uid: True, 3) == newest
