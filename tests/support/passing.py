"""What instances are passed on to and from, as fakes: destinations that answer C-STORE, and a shelf."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import msgspec

from router.domain.exchange import Standing, StoredObject, StoreOutcome, StoreResult, store_status
from router.domain.forward import Syntax
from router.domain.receipt import Receipt
from router.domain.rule import Node
from router.domain.store_outcome import InstanceFate
from router.domain.transfer import Transfer
from router.engine.forwarder import OpenObject
from router.errors import StoreError
from tests.support.fake_peers import FakePeers

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"


def place_of(uid: str) -> tuple[str, str]:
    """Study and series of an instance `STUDY.SERIES.INSTANCE`."""
    series = uid.rpartition(".")[0]
    return series.rpartition(".")[0], series


class FakeDestinations:
    """Answer C-STORE with what `answers` says of an instance; without an answer they take it."""

    def __init__(self, peers: FakePeers) -> None:
        self._peers = peers
        self.answers: dict[str, int] = {}
        self.takes: set[str] = {EXPLICIT, JPEG}
        """Transfer syntaxes."""
        self.breaks_after: int | None = None
        self.breaks_at = ""
        """The SOP Instance UID at which they break off."""
        self.loses = False
        """What they acknowledge they do not keep."""
        self.sent: list[StoredObject] = []
        self.portions: list[int] = []
        """How many instances each request had."""
        self.at_work: Counter[str] = Counter()
        self.most_at_work: Counter[str] = Counter()
        """Requests at a time by node: now, and ever."""
        self.holds: dict[str, threading.Event] = {}
        """Nodes that do not answer until their event is set."""
        self._lock = threading.Lock()

    def store(
        self,
        node: Node,
        objects: Iterable[StoredObject],
        *,
        open_object: OpenObject,
        on_outcome: Callable[[StoreOutcome], None],
        cancelled: threading.Event,
    ) -> StoreResult:
        with self._lock:
            self.at_work[node.name] += 1
            self.most_at_work[node.name] = max(self.most_at_work[node.name], self.at_work[node.name])
        try:
            if node.name in self.holds:
                assert self.holds[node.name].wait(60.0)
            return self._store(node, list(objects), on_outcome, cancelled)
        finally:
            with self._lock:
                self.at_work[node.name] -= 1

    def _store(
        self,
        node: Node,
        objects: Sequence[StoredObject],
        on_outcome: Callable[[StoreOutcome], None],
        cancelled: threading.Event,
    ) -> StoreResult:
        cause = "connection-refused" if node.name in self._peers.down else ""
        self.portions.append(len(objects))
        sent = 0
        for stored in objects:
            if not cause and self.breaks_after is not None and sent >= self.breaks_after:
                cause = "connection-lost"
            if not cause and stored.sop_instance_uid == self.breaks_at:
                cause = "connection-lost"
            if cancelled.is_set():
                cause = "cancelled"
            if cause:
                on_outcome(StoreOutcome(stored=stored, standing=Standing.NOT_SENT, cause=cause))
                continue
            if stored.transfer_syntax_uid not in self.takes:
                on_outcome(StoreOutcome(stored=stored, standing=Standing.REFUSED, cause="syntax-refused"))
                continue
            self.sent.append(stored)
            sent += 1
            status = self.answers.get(stored.sop_instance_uid, 0)
            standing, why = store_status(status)
            if standing in (Standing.SUCCESS, Standing.WARNING) and not self.loses:
                self._peers.add(node.name, *place_of(stored.sop_instance_uid), stored.sop_instance_uid)
            on_outcome(StoreOutcome(stored=stored, standing=standing, cause=why, status=status))
        return StoreResult(counts={}, cause=cause, reason="It broke off." if cause else "")


class FakeShelf:
    """Holds receipts; a transfer carries those of its study."""

    def __init__(self) -> None:
        self.receipts: dict[str, Receipt] = {}
        self.fates: list[InstanceFate] = []
        self.released: list[str] = []
        self.away_stores: set[str] = set()
        """Stores of replicas that do not run."""
        self.why_away = ""
        self.broken: set[str] = set()
        """What cannot be decompressed."""
        self.not_now: set[str] = set()
        """What cannot be decompressed the first time it is tried."""

    def arrives(self, *uids: str, at: datetime, syntax: str = EXPLICIT, store: str = "") -> None:
        """Put instances on it."""
        for uid in uids:
            study, series = place_of(uid)
            self.receipts[uid] = Receipt(
                study_instance_uid=study,
                series_instance_uid=series,
                sop_instance_uid=uid,
                sop_class_uid=CT,
                transfer_syntax_uid=syntax,
                calling_ae_title="PACS",
                size=1,
                path=uid,
                received_at=at,
                store=store,
            )

    def wanted(self, transfer: Transfer) -> Sequence[Receipt]:
        study = transfer.intent.study_instance_uid
        return [one for one in self.receipts.values() if one.study_instance_uid == study]

    def open(self, stored: StoredObject) -> tuple[int, int]:
        raise AssertionError("the fake destination reads nothing")

    def away(self, objects: Sequence[StoredObject]) -> tuple[frozenset[str], str]:
        return frozenset(one.sop_instance_uid for one in objects if one.store in self.away_stores), self.why_away

    def decompressed(self, stored: StoredObject, syntax: Syntax) -> StoredObject | None:
        if stored.sop_instance_uid in self.not_now:
            self.not_now.remove(stored.sop_instance_uid)
            raise StoreError("There is no room.")
        if stored.sop_instance_uid in self.broken:
            return None
        path = f"temporary/{stored.sop_instance_uid}"
        return msgspec.structs.replace(stored, path=path, transfer_syntax_uid=EXPLICIT)

    def release(self, stored: StoredObject) -> None:
        self.released.append(stored.path)

    def note(self, transfer: Transfer, fates: Sequence[InstanceFate]) -> None:
        self.fates = list(fates)
