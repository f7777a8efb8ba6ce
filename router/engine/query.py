"""Asking a node what it holds, within its slots: C-FIND with failures as errors, and IMAGE-level lists."""

from __future__ import annotations

import threading
import time

from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid, tag_of
from router.domain.outcome import FIND_FAILURES, quotable
from router.domain.rule import Node
from router.domain.transfer import Instance
from router.engine.ports import FindResult, Peers
from router.engine.slots import NodeSlots, Urgency
from router.errors import WireError

MAXIMUM_MATCHES = 200_000
"""A C-FIND with more matches than this is cancelled: memory has a bound."""

_CACHE_SECONDS = 30.0
_CACHE_SIZE = 256


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

    def __init__(self, peers: Peers, slots: NodeSlots) -> None:
        self._peers = peers
        self._slots = slots
        self._lists: dict[tuple[str, str, str], tuple[float, list[Instance]]] = {}
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
        with self._slots.hold(node, urgency, cancelled):
            result = self._peers.find(node, level, keys, maximum=maximum, cancelled=cancelled)
        if result.status == 0 or (partial and result.identifiers):
            return result
        meaning = FIND_FAILURES.get(result.status, "the source is unable to process the query")
        raise QueryFailed(
            result.status,
            f"{node.name} ({node.ae_title}) failed a {level} query, status {result.status:04X}: {meaning}.",
            quotable(result.error_comment),
        )

    def instances(
        self,
        node: Node,
        study: str,
        series: str,
        patient_id: str,
        urgency: Urgency,
        cancelled: threading.Event,
        *,
        known_count: int | None = None,
    ) -> list[Instance]:
        """The IMAGE-level list of a study, or of one series of it.

        A list of some seconds ago serves again (a study goes to several destinations) only where it holds as many
        instances as are known to be there now (`known_count`): one that is shorter is stale.

        One SERIES query, then one IMAGE query per series: an IMAGE query needs one value for every unique key above it
        (PS3.4 section C.4.1.2.1). Empty where the node has nothing, or answers no such query.
        """
        key = (node.name, study, series)
        now = time.monotonic()
        with self._lock:
            cached = self._lists.get(key)
        if cached and known_count == len(cached[1]) and now - cached[0] < _CACHE_SECONDS:
            return cached[1]
        all_series = [series] if series else self.series(node, study, patient_id, urgency, cancelled)
        found: dict[str, Instance] = {}
        for one in all_series:
            keys = unique_keys(patient_id, study, one)
            keys.elements[_SOP_INSTANCE_UID] = ()
            for row in self.find(node, QueryRetrieveLevel.IMAGE, keys, urgency, cancelled).identifiers:
                uid = row.text("SOPInstanceUID")
                if is_uid(uid):
                    found[uid] = Instance(one, uid)
        result = list(found.values())
        with self._lock:
            while len(self._lists) >= _CACHE_SIZE:
                del self._lists[next(iter(self._lists))]
            self._lists[key] = (now, result)
        return result

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
        keys.elements.setdefault(_tag("PatientID"), ())
        keys.elements.update(Identifier.of(**{"PatientName": "", counter: ""}).elements)
        rows = self.find(node, level, keys, urgency, cancelled).identifiers
        counts = [row.number(counter) for row in rows if row.text(unique) == (series or study)]
        return counts[0] if counts else 0

    def series(
        self, node: Node, study: str, patient_id: str, urgency: Urgency, cancelled: threading.Event
    ) -> list[str]:
        """The Series Instance UIDs of a study."""
        keys = unique_keys(patient_id, study)
        keys.elements[_SERIES_INSTANCE_UID] = ()
        rows = self.find(node, QueryRetrieveLevel.SERIES, keys, urgency, cancelled).identifiers
        return list(dict.fromkeys(uid for row in rows if is_uid(uid := row.text("SeriesInstanceUID"))))


def _tag(keyword: str) -> int:
    tag = tag_of(keyword)
    assert tag is not None
    return tag


_SERIES_INSTANCE_UID = _tag("SeriesInstanceUID")
_SOP_INSTANCE_UID = _tag("SOPInstanceUID")


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
        keys.elements[_tag("PatientID")] = (patient_id,)
    return keys
