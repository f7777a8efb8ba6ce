"""The quarantine on disk, and what is admitted to the store beside it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.admitting import GuardedStore, Sender
from router.domain.events import Event, InstanceQuarantined
from router.domain.quarantine import (
    ALLOW,
    GRACE_SECONDS,
    KEEP,
    MEANINGS,
    NOT_ASKED_FOR,
    REFUSE,
    UNKNOWN,
    Held,
    QuarantineSettings,
    is_kept,
)
from router.domain.receipt import Receipt
from router.errors import LedgerError, NotPossible, NotThere, StoreError, StoreRefused
from router.objects import ObjectStore
from router.quarantine import Quarantine
from router.questions import Question, Questions
from router.releasing import Releaser
from tests.support.stored import CT, EXPLICIT, data_set, uids

STUDY, SERIES, INSTANCE = uids(1)
WHOLE = data_set(STUDY, SERIES, INSTANCE)
CUT_OFF = WHOLE[:-100]
NO_STUDY = data_set("", SERIES, INSTANCE)
OTHER_INSTANCE = data_set(STUDY, SERIES, f"{INSTANCE}.9")
GARBAGE = b"\x08\x00\x16\x00UI\xff\x7f" + bytes(300)
"""A UID of 32 KiB."""


class Site:
    """A guarded store whose callers are one node."""

    def __init__(self, root: Path, push: str = ALLOW, limits: QuarantineSettings | None = None) -> None:
        self.push = push
        self.in_flight: set[str] = set()
        self.events: list[Event] = []
        self.store = ObjectStore(root, durability="rename")
        self.quarantine = Quarantine(root, limits or QuarantineSettings(), durable=False)
        self.guarded = GuardedStore(
            self.store,
            self.quarantine,
            sender=lambda title: Sender("ct", self.push),
            asked=lambda title, study: study in self.in_flight if study else bool(self.in_flight),
            observer=self.events.append,
        )

    def send(self, content: bytes, instance: str = INSTANCE, part: int = 1000) -> Receipt:
        writer = self.guarded.begin(
            sop_class_uid=CT, sop_instance_uid=instance, transfer_syntax_uid=EXPLICIT, calling_ae_title="CT1"
        )
        try:
            for start in range(0, len(content), part):
                writer.write(memoryview(content[start : start + part]))
            return writer.commit()
        finally:
            writer.discard()

    def refused(self, content: bytes, instance: str = INSTANCE) -> StoreRefused:
        with pytest.raises(StoreRefused) as refusal:
            self.send(content, instance)
        return refusal.value

    def reasons(self) -> list[str]:
        return [one.reason for one in reversed(self.quarantine.all())] if self.quarantine.held().objects else []

    def kept(self, number: int) -> bytes:
        return self.quarantine.file(number).read_bytes()

    def files(self) -> list[str]:
        """What is visible in the store itself."""
        return sorted(str(path.relative_to(self.store.root)) for path in self.store.root.glob("[0-9]*/**/*.dcm"))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def one(push: str = ALLOW, limits: QuarantineSettings | None = None) -> Site:
        made.append(Site(tmp_path / "store", push, limits))
        return made[-1]

    yield one
    for site in made:
        site.store.close()


# --- who may send what ------------------------------------------------------------------------------------------------


def test_what_was_not_asked_for_is_refused_and_kept_nowhere(make: Callable[..., Site]) -> None:
    site = make(REFUSE)
    refusal = site.refused(WHOLE)
    assert (refusal.status, refusal.reason) == (0x0124, NOT_ASKED_FOR)
    assert (site.files(), site.reasons(), site.events) == ([], [], [])
    assert list((site.store.root / ".incoming").iterdir()) == []


def test_what_was_asked_for_enters_the_store_and_no_other_study_of_the_node(make: Callable[..., Site]) -> None:
    site = make(REFUSE)
    site.in_flight.add(STUDY)
    assert site.send(WHOLE).study_instance_uid == STUDY
    other = uids(2)
    assert site.refused(data_set(*other), other[2]).reason == NOT_ASKED_FOR
    assert site.files() == [f"{STUDY}/{SERIES}/{INSTANCE}.dcm"]


def test_a_node_that_may_push_is_never_asked_about(make: Callable[..., Site]) -> None:
    site = make(ALLOW)
    assert site.send(WHOLE).sop_instance_uid == INSTANCE


def test_a_push_may_be_kept_aside_and_is_still_answered_with_a_failure(make: Callable[..., Site]) -> None:
    site = make(KEEP)
    refusal = site.refused(WHOLE)
    assert (refusal.status, refusal.reason) == (0x0124, NOT_ASKED_FOR)
    assert len(str(refusal)) <= 64, "an Error Comment (0000,0902)"
    assert (site.files(), site.reasons()) == ([], [NOT_ASKED_FOR])
    assert site.kept(1).endswith(WHOLE)
    assert site.events == [InstanceQuarantined(calling="ct", reason=NOT_ASKED_FOR)]


@pytest.mark.parametrize("part", [1, 10, 100_000])
def test_it_does_not_matter_in_which_parts_it_comes(make: Callable[..., Site], part: int) -> None:
    site = make(KEEP)
    with pytest.raises(StoreRefused):
        site.send(WHOLE, part=part)
    assert site.kept(1).endswith(WHOLE)
    site.in_flight.add(STUDY)
    assert site.send(WHOLE, part=part).size == len(WHOLE)


# --- what cannot be stored --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason", "status"),
    [
        (CUT_OFF, "unparseable", 0xC001),
        (GARBAGE, "unparseable", 0xC001),
        (NO_STUDY, "missing-uid", 0xC002),
        (data_set("1.2.x", SERIES, INSTANCE), "invalid-uid", 0xC003),
        (OTHER_INSTANCE, "mismatch", 0xA900),
    ],
    ids=["cut-off", "garbage", "no-study", "no-uid", "mismatch"],
)
def test_what_cannot_be_stored_is_kept_aside_with_the_status_it_has_without(
    make: Callable[..., Site], content: bytes, reason: str, status: int
) -> None:
    site = make()
    refusal = site.refused(content)
    assert (refusal.status, refusal.reason) == (status, reason)
    assert str(refusal).endswith("; quarantined")
    assert len(str(refusal)) <= 64
    [one] = site.quarantine.all()
    assert (one.number, one.reason, one.node, one.calling_ae_title) == (1, reason, "ct", "CT1")
    assert site.kept(1).endswith(content)
    assert site.files() == []


def test_another_version_of_what_is_held_is_kept_aside(make: Callable[..., Site]) -> None:
    site = make()
    site.send(WHOLE)
    changed = data_set(STUDY, SERIES, INSTANCE, name="Doe^Joan")
    refusal = site.refused(changed)
    assert (refusal.status, site.reasons()) == (0xB000, ["conflict"])
    assert site.kept(1).endswith(changed)


def test_what_cannot_be_read_is_kept_of_a_node_that_was_asked_for_something_only(make: Callable[..., Site]) -> None:
    site = make(REFUSE)
    assert site.refused(GARBAGE).reason == "unparseable"
    assert site.reasons() == []
    site.in_flight.add(STUDY)
    site.refused(GARBAGE)
    assert site.reasons() == ["unparseable"]


def test_nothing_of_the_object_stands_in_names_and_notes(make: Callable[..., Site]) -> None:
    site = make()
    site.refused(OTHER_INSTANCE)
    names = " ".join(path.name for path in site.quarantine.path.iterdir())
    notes = " ".join(path.read_text() for path in site.quarantine.path.glob("*.json"))
    assert notes
    assert not [word for word in (STUDY, INSTANCE, "Doe") if word in names + notes]


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_the_same_again_is_not_kept_twice(make: Callable[..., Site]) -> None:
    site = make()
    for _ in range(3):
        site.refused(CUT_OFF)
    [one] = site.quarantine.all()
    assert one.offered_at >= one.received_at
    assert len(site.events) == 3


@pytest.mark.parametrize("limits", [QuarantineSettings(objects=2), QuarantineSettings(size=2 * len(WHOLE) + 1000)])
def test_a_full_quarantine_refuses_as_if_there_were_none(make: Callable[..., Site], limits: QuarantineSettings) -> None:
    site = make(limits=limits)
    for length in (5, 6, 7, 8):
        refusal = site.refused(WHOLE[:-length])
    assert site.quarantine.held().objects == 2
    assert not str(refusal).endswith("quarantined")


def test_what_is_larger_than_the_quarantine_is_not_written_to_its_end(make: Callable[..., Site]) -> None:
    site = make(limits=QuarantineSettings(size=1000))
    writer = site.guarded.begin(
        sop_class_uid=CT, sop_instance_uid=INSTANCE, transfer_syntax_uid=EXPLICIT, calling_ae_title="CT1"
    )

    def fill() -> None:
        for _ in range(20):
            writer.write(memoryview(GARBAGE))

    with pytest.raises(StoreRefused):
        fill()
    writer.discard()
    assert site.quarantine.held() == Held()


def test_without_a_size_nothing_is_kept(make: Callable[..., Site]) -> None:
    site = make(limits=QuarantineSettings(size=0))
    assert site.refused(CUT_OFF).reason == "unparseable"
    assert not site.quarantine.path.exists()


def test_numbers_are_given_once(make: Callable[..., Site]) -> None:
    site = make()
    site.refused(WHOLE[:-5])
    site.quarantine.remove(1)
    site.refused(WHOLE[:-6])
    assert [one.number for one in site.quarantine.all()] == [2]
    with pytest.raises(NotThere):
        site.quarantine.find(1)


def test_many_at_once_keep_within_the_bound(make: Callable[..., Site]) -> None:
    site = make(limits=QuarantineSettings(objects=5))
    threads = [threading.Thread(target=site.refused, args=(WHOLE[: -5 - number],)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(one.number for one in site.quarantine.all()) == [1, 2, 3, 4, 5]


def test_a_note_that_is_gone_leaves_an_object_without_a_reason(make: Callable[..., Site]) -> None:
    site = make()
    site.refused(CUT_OFF)
    [note] = site.quarantine.path.glob("*.json")
    note.write_text("{")
    [one] = site.quarantine.all()
    assert (one.reason, one.node) == (UNKNOWN, "")


# --- release ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "instance"), [(OTHER_INSTANCE, f"{INSTANCE}.9"), (WHOLE, INSTANCE)])
def test_what_is_released_is_an_instance_like_any_other(
    make: Callable[..., Site], content: bytes, instance: str
) -> None:
    site = make(KEEP)
    site.in_flight.add(STUDY)
    if content is WHOLE:
        site.in_flight.clear()
    site.refused(content)
    receipts: list[Receipt] = []
    receipt = Releaser(site.quarantine, site.store, receipts.append).release(1)
    assert receipts == [receipt]
    assert (receipt.study_instance_uid, receipt.sop_instance_uid) == (STUDY, instance)
    assert (receipt.calling_ae_title, receipt.size) == ("CT1", len(content))
    assert site.files() == [receipt.path]
    assert site.quarantine.all() == []


@pytest.mark.parametrize("content", [CUT_OFF, GARBAGE, NO_STUDY], ids=["cut-off", "garbage", "no-study"])
def test_what_still_cannot_be_stored_stays_in_quarantine(make: Callable[..., Site], content: bytes) -> None:
    site = make()
    site.refused(content)
    with pytest.raises(NotPossible, match="cannot be released: its data set"):
        Releaser(site.quarantine, site.store, lambda receipt: None).release(1)
    assert len(site.quarantine.all()) == 1
    assert site.files() == []


def test_what_the_store_holds_otherwise_is_not_overwritten(make: Callable[..., Site]) -> None:
    site = make()
    site.send(WHOLE)
    site.refused(data_set(STUDY, SERIES, INSTANCE, name="Doe^Joan"))
    with pytest.raises(NotPossible, match="another version"):
        Releaser(site.quarantine, site.store, lambda receipt: None).release(1)
    assert (site.store.root / site.files()[0]).read_bytes().endswith(WHOLE)


def test_what_the_ledger_does_not_take_can_be_released_again(make: Callable[..., Site]) -> None:
    site = make(KEEP)
    site.refused(WHOLE)

    def index(receipt: Receipt) -> None:
        raise LedgerError

    with pytest.raises(LedgerError):
        Releaser(site.quarantine, site.store, index).release(1)
    assert Releaser(site.quarantine, site.store, lambda receipt: None).release(1).study_instance_uid == STUDY


def test_a_store_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no object store"):
        Quarantine(tmp_path / "nowhere", QuarantineSettings()).all()


# --- the question -----------------------------------------------------------------------------------------------------


class Engine:
    """Answers at once, on the thread that asks."""

    def __init__(self, patience: float = 20.0) -> None:
        self.now = 0.0
        self.answers: bool | None = True
        self.asked: list[str] = []
        self.questions = Questions(self._take, lambda: self.now, patience)

    def _take(self, question: Question) -> None:
        self.asked.append(question.study_instance_uid)

        def known(title: str, study: str) -> bool:
            if self.answers is None:
                raise LedgerError
            return self.answers

        self.questions.answer(question.answered(known))


def test_what_was_asked_for_is_asked_about_once_while_it_keeps_coming() -> None:
    engine = Engine()
    for _ in range(5):
        assert engine.questions.asked("CT1", STUDY)
        engine.now += GRACE_SECONDS - 1
    assert engine.asked == [STUDY]
    engine.now += 1
    engine.answers = False
    assert not engine.questions.asked("CT1", STUDY)


def test_a_no_is_never_remembered() -> None:
    engine = Engine()
    engine.answers = False
    assert not engine.questions.asked("CT1", STUDY)
    engine.answers = True
    assert engine.questions.asked("CT1", STUDY)


def test_where_nobody_can_say_the_sender_is_told_to_come_again() -> None:
    engine = Engine()
    engine.answers = None
    with pytest.raises(StoreRefused) as refusal:
        engine.questions.asked("CT1", STUDY)
    assert refusal.value.status == 0xA700


def test_a_reply_that_never_comes_is_not_waited_for_without_end() -> None:
    questions = Questions(lambda question: None, patience=0.01)
    with pytest.raises(StoreRefused):
        questions.asked("CT1", STUDY)
    closed = Questions(lambda question: None)
    closed.close()
    with pytest.raises(StoreRefused):
        closed.asked("CT1", STUDY)


# --- the words --------------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    reason=st.sampled_from([*MEANINGS, "out-of-space", "storage-failure"]), push=st.sampled_from([ALLOW, REFUSE, KEEP])
)
def test_what_was_not_asked_for_is_kept_only_where_that_is_wanted(reason: str, push: str) -> None:
    kept = is_kept(reason, push)
    assert kept == (push == KEEP if reason == NOT_ASKED_FOR else reason in MEANINGS and reason != UNKNOWN)


def test_room_is_counted_in_objects_and_bytes() -> None:
    limits = QuarantineSettings(size=100, objects=2)
    assert Held(objects=1, size=50).takes(50, limits)
    assert not Held(objects=2, size=0).takes(1, limits)
    assert not Held(objects=1, size=51).takes(50, limits)
