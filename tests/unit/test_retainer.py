"""Retention at work on a store and a ledger: what leaves, what stays, and that who stops in between loses nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from router.domain.events import Event, RoomLacking, StudyLeft
from router.domain.receipt import Receipt
from router.domain.retention_settings import Retention, Watermark
from router.domain.rule import RouterSettings, RuleSet
from router.domain.surroundings import Space
from router.domain.transfer import Happening
from router.engine import retention
from router.engine.departure_port import Files
from router.engine.retention import Retainer
from router.errors import StoreError
from router.indexing import Indexer
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from router.removal import Remover
from tests.support.departures import pass_on
from tests.support.fake_peers import FakeClock
from tests.support.process import wait_for
from tests.support.stored import Stored, uids

DAY = 86400.0
SIZE = 1000


class Keeping:
    """A store, its ledger, a disk that tells what the test wants, and retention for them."""

    def __init__(self, directory: Path) -> None:
        self.ledger = SqlLedger.open(f"sqlite:///{directory}/ledger.db")
        self.stored = Stored(directory / "store", self.ledger)
        self.remover = Remover(self.stored.root)
        self.files: Files = self.remover
        self.clock = FakeClock()
        self.clock.time = datetime.now(UTC)
        self.events: list[Event] = []
        self.troubles: list[BaseException] = []
        self.settings = RouterSettings(retention=Retention(keep=7 * DAY), minimum_free=0)
        self.space: Callable[[], Space] = lambda: Space(free=SIZE, size=SIZE)
        self.retainer = self.another()

    def another(self) -> Retainer:
        """Retention of another process."""
        return Retainer(
            rules=lambda: RuleSet(router=self.settings, nodes={}, rules={}, content_hash="x"),
            ledger=self.ledger,
            files=self,
            space=lambda: self.space(),
            clock=self.clock,
            observer=self.events.append,
            pseudonym=lambda study: f"s-{study}",
            trouble=lambda where, error: self.troubles.append(error),
        )

    def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
        return self.files.is_whole(study_instance_uid, receipts)

    def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        return self.files.remove(receipts)

    def study(self, number: int, *, instances: int = 2, sent: bool = True) -> str:
        """A study that came in, and was passed on."""
        for instance in range(instances):
            self.stored.put(number, 1, instance + 1)
        if sent:
            pass_on(self.ledger, uids(number)[0], self.clock.now())
        return uids(number)[0]

    def look(self, days: float = 0.0) -> None:
        self.clock.advance(days * DAY)
        self.retainer.look()

    def configure(self, **changes: object) -> None:
        self.settings = msgspec.structs.replace(self.settings, **changes)

    @property
    def there(self) -> set[str]:
        """Studies of which files are there; each has a receipt, and each receipt a file."""
        paths = {str(path.relative_to(self.stored.root)) for path in self.stored.root.rglob("*.dcm")}
        indexed = {one.receipt.path for study in self.ledger.stored_uids() for one in self.ledger.indexed(study)}
        assert paths == indexed
        return {path.split("/")[0] for path in paths}

    def close(self) -> None:
        self.stored.close()
        self.remover.close()
        self.ledger.close()


@pytest.fixture
def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    monkeypatch.setattr(retention, "_YIELD_SECONDS", 0.0)
    opened = Keeping(tmp_path)
    yield opened
    opened.close()


class Crash(BaseException):
    """A killed process."""


class Broken:
    """Files of which so many are removed before the process is killed."""

    def __init__(self, files: Files, most: int) -> None:
        self._files = files
        self._most = most

    def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
        return self._files.is_whole(study_instance_uid, receipts)

    def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
        self._files.remove(receipts[: self._most])
        raise Crash


def test_without_the_key_nothing_ever_leaves(keeping: Keeping) -> None:
    study = keeping.study(1)
    keeping.configure(retention=None)
    keeping.look(days=1000)
    assert keeping.there == {study}
    assert keeping.events == []


def test_a_study_leaves_once_it_was_kept_and_is_told(keeping: Keeping) -> None:
    study, other = keeping.study(1), keeping.study(2, sent=False)
    keeping.look(days=6.9)
    assert keeping.there == {study, other}
    size = sum(one.receipt.size for one in keeping.ledger.indexed(study))
    keeping.look(days=0.2)
    assert keeping.there == {other}
    assert keeping.events == [StudyLeft(study=f"s-{study}", instances=2, size=size)]
    keeping.look(days=100)
    assert keeping.there == {other}


@pytest.mark.parametrize("happening", [Happening.NO_EVIDENCE, Happening.SOME_MISSING, Happening.FAIL, None])
def test_a_study_that_another_forward_has_not_proven_stays(keeping: Keeping, happening: Happening | None) -> None:
    study = keeping.study(1)
    pass_on(keeping.ledger, study, keeping.clock.now(), to="second", happening=happening)
    keeping.look(days=100)
    assert keeping.there == {study}


def test_a_study_that_came_in_without_its_receipt_yet_stays_whole(keeping: Keeping) -> None:
    study = keeping.study(1)
    receipt = keeping.stored.put(1, 2, 9, receipt=False)
    keeping.look(days=8)
    assert len(list(keeping.stored.root.rglob("*.dcm"))) == 3
    keeping.ledger.add_receipts([receipt])
    keeping.look(days=8)
    assert keeping.there == {study}, "nothing sent the new instance on"
    again = Happening.AGAIN
    pass_on(keeping.ledger, study, keeping.clock.now(), again=again)
    keeping.look(days=8)
    assert keeping.there == set()


def test_an_instance_that_comes_again_while_its_study_leaves_stays(keeping: Keeping) -> None:
    """Its sender was told that it is kept: it is, until it is known that it is elsewhere, or always."""
    study = keeping.study(1, instances=3)
    late: list[Receipt] = []

    class Comes(Broken):
        def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
            late.append(keeping.stored.put(1, 1, 2, receipt=False))
            return self._files.remove(receipts)

    keeping.files = Comes(keeping.files, 0)
    keeping.look(days=8)
    keeping.files = keeping.remover
    (path,) = keeping.stored.root.rglob("*.dcm")
    assert str(path.relative_to(keeping.stored.root)) == late[0].path
    keeping.ledger.add_receipts(late)
    assert keeping.there == {study}
    keeping.look(days=100)
    assert keeping.there == {study}, "nothing sent it on since it came again"


@pytest.mark.parametrize("most", [0, 1, 3])
def test_who_is_killed_while_a_study_leaves_goes_on_with_it(keeping: Keeping, most: int) -> None:
    keeping.study(1, instances=3)
    other = keeping.study(2)
    keeping.clock.advance(8 * DAY)
    keeping.ledger.postpone_leaving({other: keeping.clock.now() + timedelta(days=1)})
    keeping.files = Broken(keeping.files, most)
    with pytest.raises(Crash):
        keeping.look()
    assert len(list((keeping.stored.root / uids(1)[0]).rglob("*.dcm"))) == 3 - most if most < 3 else True
    keeping.files = keeping.remover
    store = ObjectStore(keeping.stored.root)
    indexer = Indexer(keeping.ledger, store)
    indexer.start()
    indexer.stop(10)
    store.close()
    keeping.another().look()
    assert keeping.there == {other}
    departed = keeping.ledger.departed(uids(1)[0])
    assert departed is not None
    assert departed.left_at is not None
    assert len(departed.instances) == 3


def test_a_store_that_cannot_be_written_to_is_trouble_and_what_is_leaving_leaves_later(keeping: Keeping) -> None:
    study = keeping.study(1)

    class Silent(Broken):
        def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
            raise StoreError("no")

    keeping.clock.advance(8 * DAY)
    keeping.files = Silent(keeping.files, 0)
    with pytest.raises(StoreError):
        keeping.look()
    assert keeping.there == {study}
    keeping.files = keeping.remover
    keeping.look()
    assert keeping.there == set()


def test_studies_whose_files_cannot_be_removed_keep_no_others_but_for_many_of_them(keeping: Keeping) -> None:
    studies = {keeping.study(number, instances=1) for number in range(1, 31)}
    healed = False

    class Stuck(Broken):
        def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
            if not healed and int(receipts[0].study_instance_uid.rpartition(".")[2]) % 2:
                raise StoreError("no")
            return self._files.remove(receipts)

    keeping.clock.advance(8 * DAY)
    keeping.files = Stuck(keeping.files, 0)
    for _ in range(30):
        with pytest.raises(StoreError):
            keeping.look()
    assert len(keeping.ledger.unfinished_departures(99)) == retention.MOST_STUCK + 1
    assert retention.MOST_STUCK < len(keeping.there) < len(studies), "others have left"
    healed = True
    keeping.look()
    assert keeping.there == set()


def test_a_study_that_cannot_be_looked_at_keeps_no_other(keeping: Keeping) -> None:
    study, other = keeping.study(1), keeping.study(2)
    directory = keeping.stored.root / study
    directory.rename(keeping.stored.root.parent / "elsewhere")
    directory.symlink_to(keeping.stored.root.parent / "elsewhere")
    keeping.look(days=8)
    assert keeping.ledger.received(study)
    assert not keeping.ledger.received(other)
    assert len(keeping.troubles) == 1


# the watermark --------------------------------------------------------------------------------------------------------


class Disk:
    """A disk on which the store lies, beside other things."""

    def __init__(self, keeping: Keeping, other: float, size: float) -> None:
        self.keeping = keeping
        self.other = other
        self.size = size

    def __call__(self) -> Space:
        used = self.other + self.keeping.ledger.stored_amount().size
        return Space(free=round(self.size - used), size=round(self.size))


def test_under_the_watermark_the_oldest_leave_until_there_is_room_and_no_more(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STUDIES_AT_ONCE", 2)
    studies = [keeping.study(number, instances=1) for number in range(1, 11)]
    size = keeping.ledger.stored_amount().size
    keeping.space = disk = Disk(keeping, other=0, size=size * 2)
    keeping.configure(retention=Retention(keep=DAY, watermark=Watermark(high=0.9, low=0.7)))
    keeping.look(days=2)
    assert keeping.there == set(studies), "half of the disk is free"
    disk.other = size * 0.82
    keeping.look()
    assert keeping.there == set(studies[5:]), "from 91% to 66%; with one study less it would be 71%"
    keeping.look()
    assert len(keeping.there) == 5
    assert not [event for event in keeping.events if isinstance(event, RoomLacking)]


def test_room_that_nothing_can_make_is_told_once(keeping: Keeping) -> None:
    keeping.study(1, sent=False)
    study = keeping.study(2)
    keeping.configure(retention=Retention(keep=DAY, watermark=Watermark(high=0.9, low=0.7)))
    keeping.space = lambda: Space(free=50, size=1000)
    for _ in range(3):
        keeping.look()
    assert keeping.events == [RoomLacking(size=250)]
    keeping.space = lambda: Space(free=500, size=1000)
    keeping.look()
    keeping.space = lambda: Space(free=50, size=1000)
    keeping.look()
    assert keeping.events == [RoomLacking(size=250)] * 2
    keeping.look(days=2)
    assert study not in keeping.there


def test_before_instances_are_refused_studies_leave_whatever_the_watermark(keeping: Keeping) -> None:
    keeping.study(1)
    keeping.configure(retention=Retention(keep=DAY, watermark=Watermark(high=0.99, low=0.98)), minimum_free=300)
    keeping.space = lambda: Space(free=301, size=1000)
    keeping.look(days=2)
    assert keeping.there
    keeping.space = lambda: Space(free=300, size=1000)
    keeping.look()
    assert not keeping.there


# the thread -----------------------------------------------------------------------------------------------------------


def test_it_works_by_itself_and_survives_trouble(keeping: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.01)
    keeping.study(1)
    keeping.clock.advance(8 * DAY)
    keeping.ledger.postpone_leaving({uids(1)[0]: keeping.clock.now() + timedelta(days=9)})

    def silent() -> Space:
        raise OSError(5, "silent")

    well, keeping.space = keeping.space, silent
    keeping.retainer.start()
    try:
        wait_for(lambda: keeping.troubles, "the trouble")
        assert keeping.there
        keeping.space = well
        wait_for(
            lambda: keeping.ledger.stored_amount().instances == 0, "the study to leave: what waits is looked at anew"
        )
    finally:
        keeping.retainer.stop()


def test_who_is_stopped_lets_go_no_more(keeping: Keeping) -> None:
    studies = {keeping.study(1), keeping.study(2)}
    keeping.retainer.stop()
    keeping.look(days=100)
    assert keeping.there == studies


def test_what_came_in_before_but_was_heard_of_while_the_study_left_stays(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FILES_AT_ONCE", 1)
    study = keeping.study(1)
    began = min(one.receipt.received_at for one in keeping.ledger.indexed(study)) - timedelta(seconds=5)
    late: list[Receipt] = []

    class Late:
        """Files among which one turns up whose disk stalled."""

        def is_whole(self, study_instance_uid: str, receipts: Sequence[Receipt]) -> bool:
            return keeping.remover.is_whole(study_instance_uid, receipts)

        def remove(self, receipts: Sequence[Receipt]) -> list[Receipt]:
            if not late:
                came = keeping.stored.put(1, 1, 9, receipt=False)
                os.utime(keeping.stored.file(came), (began.timestamp(), began.timestamp()))
                late.append(msgspec.structs.replace(came, received_at=began))
                keeping.ledger.add_receipts(late)
            return keeping.remover.remove(receipts)

    keeping.files = Late()
    keeping.look(days=8)
    keeping.look(days=8)
    assert [one.receipt for one in keeping.ledger.indexed(study)] == late
    assert keeping.there == {study}
