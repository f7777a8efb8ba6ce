"""What leaves the store is told to the audit repository by study: whose it was, how much went, also where it fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from router.domain.audit import SERIOUS, AuditMessage, Counted, Party
from router.domain.receipt import Receipt
from router.engine.audited import Subject
from router.engine.audited_files import MOST_TRIED, AuditedFiles
from router.engine.departure_port import Files
from router.errors import StoreError
from router.ledger.ledger import SqlLedger
from router.removal import Remover
from tests.support.stored import CT, Stored, uids

OWN = Party("ROUTER")
STUDY, OTHER = uids(1)[0], uids(2)[0]


class Broken:
    """Files that cannot be removed; without a `sentence` none is removed, and nothing raised."""

    def __init__(self) -> None:
        self.sentence = "The store cannot be used."

    def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
        return True

    def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        if self.sentence:
            raise StoreError(self.sentence)
        return []


class Told:
    """A store with instances of two studies, and what was told."""

    def __init__(self, directory: Path, ledger: SqlLedger) -> None:
        self.root = directory / "store"
        self.stored = Stored(self.root, ledger)
        self.ledger = ledger
        self.messages: list[AuditMessage] = []
        self.read: list[str] = []
        self.patient: Callable[[str], str] = lambda path: "P1" if (self.root / path).exists() else ""

    def put(self, study: int, count: int) -> None:
        for number in range(count):
            self.stored.put(study, 1, number + 1)

    def receipts(self, *studies: str) -> list[Receipt]:
        return [one.receipt for study in studies for one in self.ledger.indexed(study)]

    def files(self, files: Files) -> AuditedFiles:
        return AuditedFiles(files, self.messages.append, OWN, self._identify)

    def _identify(self, path: str) -> Subject:
        self.read.append(path)
        return Subject("", self.patient(path))

    @property
    def said(self) -> list[tuple[list[str], tuple[Counted, ...]]]:
        return [([one.id for one in message.objects], message.objects[0].counted) for message in self.messages]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        made = Told(tmp_path, ledger)
        yield made
        made.stored.close()


def test_each_study_is_told_with_whose_it_was_and_how_much_of_it_went(told: Told) -> None:
    told.put(1, 3)
    told.put(2, 1)
    receipts = told.receipts(STUDY, OTHER)
    with Remover(told.root) as remover:
        assert told.files(remover).is_whole(STUDY, told.receipts(STUDY))
        assert len(told.files(remover).remove(receipts)) == 4
    assert not list(told.root.rglob("*.dcm"))
    assert told.said == [([STUDY, "P1"], (Counted(3, CT),)), ([OTHER, "P1"], (Counted(1, CT),))]
    assert {(one.event.meaning, one.action, one.outcome) for one in told.messages} == {("DICOM Study Deleted", "D", 0)}
    assert len(told.read) == 2


def test_what_was_gone_before_is_told_without_the_patient(told: Told) -> None:
    told.put(1, MOST_TRIED + 5)
    receipts = told.receipts(STUDY)
    with Remover(told.root) as remover:
        remover.remove(receipts)
        told.files(remover).remove(receipts)
    assert told.said == [([STUDY, "<none>"], (Counted(MOST_TRIED + 5, CT),))]
    assert len(told.read) == MOST_TRIED


def test_what_cannot_be_removed_is_told_and_raised(told: Told) -> None:
    told.put(1, 2)
    with pytest.raises(StoreError):
        told.files(Broken()).remove(told.receipts(STUDY))
    [message] = told.messages
    assert (message.outcome, message.description) == (SERIOUS, "The store cannot be used.")
    assert told.said == [([STUDY, "P1"], ())]


def test_what_fails_again_and_again_is_told_once_until_it_succeeds_or_fails_otherwise(told: Told) -> None:
    told.put(1, 1)
    receipts = told.receipts(STUDY)
    broken = Broken()
    files = told.files(broken)

    def fail(times: int) -> int:
        for _ in range(times):
            with pytest.raises(StoreError):
                files.remove(receipts)
        return len(told.messages)

    assert fail(5) == 1
    broken.sentence = "The store is read-only."
    assert fail(5) == 2
    broken.sentence = ""
    assert files.remove(receipts) == []
    broken.sentence = "The store is read-only."
    assert fail(2) == 3


def test_where_nothing_went_nothing_is_told(told: Told) -> None:
    with Remover(told.stored.root) as remover:
        assert told.files(remover).remove([]) == []
    assert told.messages == []
