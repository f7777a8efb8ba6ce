"""Retention: studies that were passed on leave the object store. `router.domain.retention` decides which may.

A study is noted as leaving in the ledger, where nothing is known of it that was not decided about; then its files go, a
few at a time, and after them their receipts. Whoever stops in between leaves it to the next look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from router.domain.events import RoomLacking, StudyLeft
from router.domain.receipt import Receipt
from router.domain.retention import Departure, Disk, HeldStudy, Retention, again_at, leaving, left_of, pressed, within
from router.domain.rule import RuleSet
from router.domain.surroundings import Space
from router.domain.transfer import Instance
from router.engine.departure_port import DepartureLedger, Files
from router.engine.ports import Clock, Observer, Pseudonym, Trouble
from router.errors import StoreError

LOOK_SECONDS = 5.0
STUDIES_AT_ONCE = 50
FILES_AT_ONCE = 200
NEWS = timedelta(minutes=10)
"""When a study is looked at again of which something came in a moment ago."""
MOST_STUCK = 10
"""Studies whose files cannot be removed; while there are more, no other begins to leave."""
_YIELD_SECONDS = 0.01
"""Between two such parts: whoever receives goes first."""
_STOP_SECONDS = 5.0


class Retainer:
    """Lets studies go. `files` and `space` may hang with their file system: nobody waits for this.

    `space` may raise OSError.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: DepartureLedger,
        files: Files,
        space: Callable[[], Space],
        clock: Clock,
        observer: Observer,
        pseudonym: Pseudonym,
        trouble: Trouble,
        store: str | None = None,
    ) -> None:
        """`store`: the name of the store whose files these are; what others hold is for their services to remove."""
        self._rules = rules
        self._ledger = ledger
        self._files = files
        self._space = space
        self._clock = clock
        self._observer = observer
        self._pseudonym = pseudonym
        self._trouble = trouble
        self._store = store
        self._making_room = False
        self._lacking = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._looking, name="retention", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what is leaving goes on leaving after the next start."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)

    def look(self) -> None:
        """Let go what may leave, the oldest first. Raises LedgerError, StoreError, OSError."""
        settings = self._rules().router
        if settings.retention is None:
            return
        freed = self._resume()
        used_before = self._disk().used
        while not self._stopping.is_set():
            disk = self._disk()
            # Some file systems free what was removed a while later: it is not to be removed twice.
            disk = Disk(size=disk.size, used=min(disk.used, used_before - freed))
            retention = within(settings.retention, disk, settings.minimum_free, begun=self._making_room)
            self._making_room = retention.watermark is not None and pressed(retention, disk)
            if not pressed(retention, disk):
                self._lacking = False
                return
            now = self._clock.now()
            found = self._ledger.may_leave(now, STUDIES_AT_ONCE, oldest=self._making_room, store=self._store)
            if not found:
                self._tell_lacking(retention, disk)
                return
            freed += self._let_go(found, retention, disk, now)

    # ------------------------------------------------------------------------------------------------------------------

    def _looking(self) -> None:
        fresh = True
        while not self._stopping.is_set():
            try:
                if fresh:
                    # With other settings than before they may leave sooner.
                    self._ledger.hasten_leaving(self._clock.now())
                    fresh = False
                self.look()
            except Exception as error:  # noqa: BLE001  a defect of ours must not end the looking
                self._trouble("retention", error)
            self._stopping.wait(LOOK_SECONDS)

    def _disk(self) -> Disk:
        space = self._space()
        return Disk(size=space.size, used=max(space.size - space.free, 0))

    def _let_go(self, found: list[str], retention: Retention, disk: Disk, now: datetime) -> int:
        """Decide about these studies, and let go those that may leave; the bytes that became free."""
        held = self._ledger.held_studies(found, now)
        decided = leaving(held, retention, disk, now)
        later = {one.study.study_instance_uid: again_at(one, now) for one in decided.stay}
        gone = set(found) - {one.study_instance_uid for one in held}
        self._ledger.postpone_leaving(later, gone)
        freed = 0
        for study in decided.leave:
            if self._stopping.is_set():
                break
            freed += self._leave(study, now)
        return freed

    def _leave(self, study: HeldStudy, now: datetime) -> int:
        whole = Departure(study_instance_uid=study.study_instance_uid, last_received_at=study.last_received_at)
        receipts: list[Receipt] = []
        while page := self._ledger.leaving_receipts(whole, _key(receipts), FILES_AT_ONCE, self._store):
            receipts += page
        departure = None
        try:
            if self._files.is_whole(study.study_instance_uid, receipts):
                departure = self._ledger.begin_departure(study, now)
        except StoreError as error:  # of this study alone, it may be: the others are not to stay for it
            self._trouble("retention", error)
        if departure is None:  # something came in a moment ago
            self._ledger.postpone_leaving({study.study_instance_uid: now + NEWS})
            return 0
        return self._finish(departure)

    def _resume(self) -> int:
        """Let go the rest of what was leaving when somebody stopped."""
        freed = 0
        stuck: list[StoreError] = []
        for departure in self._ledger.unfinished_departures(STUDIES_AT_ONCE, self._store):
            if self._stopping.is_set():
                break
            try:
                freed += self._finish(departure)
            except StoreError as error:
                stuck.append(error)
        if len(stuck) > MOST_STUCK:
            raise stuck[0]
        if stuck:
            self._trouble("retention", stuck[0])
        return freed

    def _finish(self, departure: Departure) -> int:
        gone: list[Receipt] = []
        after = ("", "")
        # What came in before, but whose receipt was late (its disk stalled), nobody has decided about: it stays.
        decided = left_of(self._ledger.departed(departure.study_instance_uid))
        while page := self._ledger.leaving_receipts(departure, after, FILES_AT_ONCE, self._store):
            after = (page[-1].series_instance_uid, page[-1].sop_instance_uid)
            removed = self._files.remove([one for one in page if _instance(one) in decided])
            self._ledger.forget_receipts(removed)
            gone += removed
            if self._stopping.wait(_YIELD_SECONDS):
                break
        else:
            self._ledger.end_departure(departure, self._clock.now(), self._store)
        size = sum(one.size for one in gone)
        self._observer(StudyLeft(study=self._pseudonym(departure.study_instance_uid), instances=len(gone), size=size))
        return size

    def _tell_lacking(self, retention: Retention, disk: Disk) -> None:
        """Room is wanted, and nothing may leave: said once."""
        if retention.watermark is not None and not self._lacking:
            self._lacking = True
            self._observer(RoomLacking(size=leaving((), retention, disk, self._clock.now()).lacking))


def _instance(receipt: Receipt) -> Instance:
    return Instance(receipt.series_instance_uid, receipt.sop_instance_uid)


def _key(receipts: list[Receipt]) -> tuple[str, str]:
    return (receipts[-1].series_instance_uid, receipts[-1].sop_instance_uid) if receipts else ("", "")
