"""Asking a node what it holds, within its slots: C-FIND with failures as errors, and IMAGE-level lists."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import NamedTuple

from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid, known_tag
from router.domain.expectation import Expectation, Listing, expect
from router.domain.outcome import FIND_FAILURES, quotable
from router.domain.rule import Node
from router.engine.caps import Caps
from router.engine.guard import Purpose
from router.engine.ports import FindResult, Peers
from router.engine.slots import NodeSlots, Urgency
from router.errors import DeadlineExceeded, WireError

MAXIMUM_MATCHES = 200_000
"""A C-FIND with more matches than this is cancelled: memory has a bound."""

_CACHE_SECONDS = 300.0
_CACHE_SIZE = 256
_CACHE_INSTANCES = 200_000


class _Known(NamedTuple):
    """A listing of before: when, what the sweep had counted then, what it counts itself."""

    at: float
    seen: int | None
    size: int | None
    listing: Listing


class QueryFailed(WireError):
    """The node answered a query with a failure."""

    cause = "query-failed"

    def __init__(self, status: int, message: str, comment: str = "") -> None:
        """A C-FIND that ended with `status`; the peer's `comment` is for a terminal, never for a log."""
        super().__init__(message)
        self.status = status
        self.comment = comment


class Inquiry:
    """C-FIND requests within a node's slots. Raises WireError (QueryFailed for a failure status)."""

    def __init__(self, peers: Peers, slots: NodeSlots, caps: Caps | None = None) -> None:
        self._peers = peers
        self.caps = caps if caps is not None else Caps()
        self._slots = slots
        self._listings: dict[tuple[str, str, str, bool], _Known] = {}
        self._cached_instances = 0
        self._lock = threading.Lock()

    def find(
        self,
        node: Node,
        level: QueryRetrieveLevel,
        keys: Identifier,
        urgency: Urgency,
        cancelled: threading.Event,
        *,
        partial: bool = False,
        maximum: int = MAXIMUM_MATCHES,
    ) -> FindResult:
        """One C-FIND. With `partial`, an answer that ended early is returned rather than raised if it has matches."""
        with self._slots.hold(node, urgency, cancelled, purpose=Purpose.QUERY) as slot:
            result = self._peers.find(node, level, keys, maximum=maximum, cancelled=cancelled)
            slot.ended(0 if result.identifiers else result.status)  # one that was cut short is no sign of trouble
        if result.status == 0 or (partial and result.identifiers):
            return result
        raise _failed(node, str(level), result)

    def worklist(
        self, node: Node, keys: Identifier, urgency: Urgency, cancelled: threading.Event, *, maximum: int
    ) -> FindResult:
        """One modality worklist C-FIND; an answer that ended early is returned rather than raised if it has matches."""
        with self._slots.hold(node, urgency, cancelled, purpose=Purpose.QUERY) as slot:
            result = self._peers.worklist(node, keys, maximum=maximum, cancelled=cancelled)
            slot.ended(0 if result.identifiers else result.status)
        if result.status == 0 or result.identifiers:
            return result
        raise _failed(node, "worklist", result)

    def listing(
        self,
        node: Node,
        study: str,
        series: str,
        patient_id: str,
        urgency: Urgency,
        cancelled: threading.Event,
        *,
        images: bool = True,
        known_count: int | None = None,
    ) -> Listing:
        """The series of a study (or one of them) with their number of instances, and, with `images`, each one's list.

        An answer of some minutes ago serves again, for a study goes to several destinations: but only if it holds as
        many instances as the last sweep saw (`known_count`), for one that holds less may be stale. Of a node whose
        count is not to be trusted the count must only be the same as then.

        One SERIES query, then one IMAGE query per series: an IMAGE query needs one value for every unique key above it
        (PS3.4 section C.4.1.2.1). A node that fails IMAGE queries is believed its counts.
        """
        key = (node.name, study, series, images)
        cached = self._remembered(key, known_count, counts_lie=node.find.expected in ("image", "series"))
        if cached is not None:
            return cached
        counts, whole = self._series_counts(node, study, series, patient_id, urgency, cancelled)
        cut = set() if whole else {""}
        found: dict[str, tuple[str, ...]] = {}
        if images:
            try:
                for one in counts:
                    found[one], whole = self._images(node, study, one, patient_id, urgency, cancelled)
                    if not whole and len(found[one]) != counts[one]:
                        cut.add(one)
            except QueryFailed:
                if None in counts.values():
                    raise
                found = {}
        result = Listing(counts=counts, instances=found, cut=frozenset(cut))
        self._remember(key, known_count, result)
        return result

    def expectation(
        self,
        node: Node,
        study: str,
        series: str,
        patient_id: str,
        urgency: Urgency,
        cancelled: threading.Event,
        *,
        seen: int | None = None,
        fresh: bool = False,
    ) -> Expectation:
        """What a source holds of a study or series, as far as it can be trusted to say (`find.expected`).

        `seen` is the count of the last sweep. With `fresh` no answer of before serves.
        """
        trust = node.find.expected
        if trust == "none":
            return Expectation()
        listing = None
        if trust != "study":
            with contextlib.suppress(QueryFailed, DeadlineExceeded):
                listing = self.listing(
                    node,
                    study,
                    series,
                    patient_id,
                    urgency,
                    cancelled,
                    images=trust != "series",
                    known_count=None if fresh else seen,
                )
        found = expect(trust, listing, seen)
        finer = expect(trust, listing, None).size
        if finer is not None and (seen is None or finer >= seen or found.count is None):
            return found
        # It has less than the sweep saw, or does not say at this level: what does it count now?
        with contextlib.suppress(QueryFailed, DeadlineExceeded):
            count = self.count(node, study, series, patient_id, urgency, cancelled)
            return expect(trust, listing, seen if count is None else count)
        return found

    def _images(
        self, node: Node, study: str, series: str, patient_id: str, urgency: Urgency, cancelled: threading.Event
    ) -> tuple[tuple[str, ...], bool]:
        """The SOP Instance UIDs of a series, and whether the list is surely whole."""
        keys = unique_keys(patient_id, study, series)
        keys.elements[_SOP_INSTANCE_UID] = ()
        result = self.find(node, QueryRetrieveLevel.IMAGE, keys, urgency, cancelled)
        # Some archives do not match by series at this level: what says that it is of another one is left out.
        rows = [row for row in result.identifiers if row.text("SeriesInstanceUID") in ("", series)]
        uids = [uid for row in rows if is_uid(uid := row.text("SOPInstanceUID"))]
        return tuple(dict.fromkeys(uids)), self.whole(node, result) and len(uids) == len(rows)

    def _series_counts(
        self, node: Node, study: str, series: str, patient_id: str, urgency: Urgency, cancelled: threading.Event
    ) -> tuple[dict[str, int | None], bool]:
        """Series Instance UID -> its number of instances, and whether the list is surely whole."""
        keys = unique_keys(patient_id, study, series)
        keys.elements.setdefault(_SERIES_INSTANCE_UID, ())
        keys.elements[_SERIES_INSTANCES] = ()
        result = self.find(node, QueryRetrieveLevel.SERIES, keys, urgency, cancelled)
        counts: dict[str, int | None] = {}
        for row in result.identifiers:
            uid = row.text("SeriesInstanceUID")
            if is_uid(uid) and series in ("", uid):
                counts.setdefault(uid, row.number("NumberOfSeriesRelatedInstances"))
        return counts, bool(series) or self.whole(node, result)

    def whole(self, node: Node, result: FindResult) -> bool:
        """Whether an answer can be all that there is."""
        count, configured = len(result.identifiers), node.find.max_results
        if configured is not None:
            return not result.undecodable and (not configured or count < configured)
        return not result.undecodable and count != self.caps.learned(node)  # with more the cap is of another level

    def _remembered(
        self, key: tuple[str, str, str, bool], known_count: int | None, *, counts_lie: bool
    ) -> Listing | None:
        with self._lock:
            known = self._listings.get(key)
        if known is None or known_count is None or time.monotonic() - known.at > _CACHE_SECONDS:
            return None
        return known.listing if known_count == (known.seen if counts_lie else known.size) else None

    def _remember(self, key: tuple[str, str, str, bool], known_count: int | None, listing: Listing) -> None:
        entry = _Known(time.monotonic(), known_count, expect("auto", listing, None).size, listing)
        size = len(listing.listed)
        if size > _CACHE_INSTANCES:
            return
        with self._lock:
            self._forget(key)
            while self._listings and (
                len(self._listings) >= _CACHE_SIZE or self._cached_instances + size > _CACHE_INSTANCES
            ):
                self._forget(next(iter(self._listings)))
            self._listings[key] = entry
            self._cached_instances += size

    def _forget(self, key: tuple[str, str, str, bool]) -> None:
        gone = self._listings.pop(key, None)
        if gone is not None:
            self._cached_instances -= len(gone.listing.listed)

    def count(
        self,
        node: Node,
        study: str,
        series: str,
        patient_id: str,
        urgency: Urgency,
        cancelled: threading.Event,
    ) -> int | None:
        """The number of instances the node reports of a study or series; 0 where it has no such, None if not told."""
        level, unique, counter = _COUNTERS[bool(series)]
        keys = unique_keys(patient_id, study, series)
        keys.elements.setdefault(known_tag("PatientID"), ())
        keys.elements.update(Identifier.of(**{"PatientName": "", counter: ""}).elements)
        rows = self.find(node, level, keys, urgency, cancelled).identifiers
        counts = [row.number(counter) for row in rows if row.text(unique) == (series or study)]
        if counts:
            return counts[0]
        return None if rows else 0  # a row that does not say of what it is proves nothing

    def sop_classes(
        self, node: Node, study: str, series: str, patient_id: str, urgency: Urgency, cancelled: threading.Event
    ) -> frozenset[str]:
        """The SOP classes of a study, as the node reports them: the study's own list, else that of every instance.

        Empty where it reports none. SOP Classes in Study is computed and optional (PS3.4 section C.3.4).
        """
        keys = unique_keys(patient_id, study)
        keys.elements[_SOP_CLASSES_IN_STUDY] = ()
        found: set[str] = set()
        for row in self.find(node, QueryRetrieveLevel.STUDY, keys, urgency, cancelled).identifiers:
            found.update(uid for uid in row.values("SOPClassesInStudy") if isinstance(uid, str))
        if not found:
            for one in [series] if series else self.series(node, study, patient_id, urgency, cancelled):
                keys = unique_keys(patient_id, study, one)
                keys.elements.update({_SOP_INSTANCE_UID: (), _SOP_CLASS_UID: ()})
                rows = self.find(node, QueryRetrieveLevel.IMAGE, keys, urgency, cancelled).identifiers
                found.update(row.text("SOPClassUID") for row in rows)
        return frozenset(filter(is_uid, found))

    def series(
        self, node: Node, study: str, patient_id: str, urgency: Urgency, cancelled: threading.Event
    ) -> list[str]:
        """The Series Instance UIDs of a study."""
        keys = unique_keys(patient_id, study)
        keys.elements[_SERIES_INSTANCE_UID] = ()
        rows = self.find(node, QueryRetrieveLevel.SERIES, keys, urgency, cancelled).identifiers
        return list(dict.fromkeys(uid for row in rows if is_uid(uid := row.text("SeriesInstanceUID"))))


def _failed(node: Node, kind: str, result: FindResult) -> QueryFailed:
    meaning = FIND_FAILURES.get(result.status, "the source is unable to process the query")
    return QueryFailed(
        result.status,
        f"{node.name} ({node.ae_title}) failed a {kind} query, status {result.status:04X}: {meaning}.",
        quotable(result.error_comment),
    )


_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")
_SERIES_INSTANCES = known_tag("NumberOfSeriesRelatedInstances")
_SOP_INSTANCE_UID = known_tag("SOPInstanceUID")
_SOP_CLASS_UID = known_tag("SOPClassUID")
_SOP_CLASSES_IN_STUDY = known_tag("SOPClassesInStudy")


_COUNTERS = {
    False: (QueryRetrieveLevel.STUDY, "StudyInstanceUID", "NumberOfStudyRelatedInstances"),
    True: (QueryRetrieveLevel.SERIES, "SeriesInstanceUID", "NumberOfSeriesRelatedInstances"),
}


def unique_keys(patient_id: str, study: str, series: str = "") -> Identifier:
    """The unique keys above a level. The Patient ID is there for Patient Root; Study Root requests leave it out."""
    keys = Identifier.of(StudyInstanceUID=study)
    if series:
        keys.elements[_SERIES_INSTANCE_UID] = (series,)
    if patient_id:
        keys.elements[known_tag("PatientID")] = (patient_id,)
    return keys
