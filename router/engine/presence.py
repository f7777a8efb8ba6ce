"""What a destination holds of a patient's studies, before any of them is moved there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from router.domain.dicom import Identifier, InformationModel, QueryRetrieveLevel, is_uid
from router.domain.examination import Examination
from router.domain.relevance import Presence
from router.domain.rule import LOCAL, Node
from router.engine.ports import Ledger
from router.engine.query import Inquiry
from router.engine.slots import Urgency
from router.errors import Cancelled, WireError

UIDS_AT_ONCE = 50
MOST_UIDS = 500
"""Studies that a destination is asked for by their UID, the newest; the move itself asks for the others."""


class Held(NamedTuple):
    """What a destination has of the candidates."""

    presence: Mapping[str, Presence]
    queries: int
    note: str = ""
    """Why it is not known, as a sentence; empty where it is."""


class Presences:
    """Asks destinations what they hold. Thread-safe."""

    def __init__(self, ledger: Ledger, inquiry: Inquiry, held: Callable[[str], set[str]]) -> None:
        """`held` gives the SOP Instance UIDs whose files of a study are in our store."""
        self._ledger = ledger
        self._inquiry = inquiry
        self._held = held

    def of(
        self,
        source: str,
        destination: str,
        node: Node | None,
        patient_id: str,
        candidates: Sequence[Examination],
        now: datetime,
        believed: float,
        cancelled: threading.Event,
        *,
        ask: bool = True,
    ) -> Held:
        """What a destination (`local`, or a node) holds of these studies of a patient.

        One that cannot be asked (or is not to be, `ask`) is believed for `believed` seconds to keep what it was sent.
        Raises LedgerError; Cancelled where cancelled.
        """
        if not candidates:
            return Held({}, 0)
        if destination == LOCAL:
            since = now - timedelta(seconds=believed)
            return Held({one.study_instance_uid: self._here(one, since) for one in candidates}, 0)
        queries, note = 0, ""
        if ask and node is not None:
            work = _Asking(self._inquiry, node, patient_id, cancelled)
            try:
                return Held(work.presence(candidates), work.queries)
            except Cancelled:
                raise
            except WireError as error:
                queries = work.queries
                note = f"What {destination} holds is not known, so what it was sent is believed to be there: {error}"
        return Held(self._believed(source, destination, candidates, now, believed), queries, note)

    def _here(self, one: Examination, since: datetime) -> Presence:
        """What has left our store since then, having been passed on, is believed to be where it went."""
        uid = one.study_instance_uid
        there = self._ledger.received(uid) & self._held(uid)
        departed = self._ledger.departed(uid)
        if departed is not None and (departed.left_at is None or departed.left_at >= since):
            there |= {left.sop_instance_uid for left in departed.instances}
        return _compared(one, len(there))

    def _believed(
        self, source: str, destination: str, candidates: Sequence[Examination], now: datetime, seconds: float
    ) -> dict[str, Presence]:
        uids = [one.study_instance_uid for one in candidates]
        sent = self._ledger.delivered_since(source, destination, uids, now - timedelta(seconds=seconds))
        return {
            one.study_instance_uid: _compared(one, sent[one.study_instance_uid] or None)
            for one in candidates
            if one.study_instance_uid in sent
        }


def _compared(one: Examination, count: int | None) -> Presence:
    """By numbers of instances; a destination that has the study but gives no number is taken to have all of it."""
    if count is None:
        return Presence.THERE
    return Presence.THERE if count and count >= (one.instance_count or 0) else Presence.ABSENT


class _Asking:
    """One destination's answers."""

    def __init__(self, inquiry: Inquiry, node: Node, patient_id: str, cancelled: threading.Event) -> None:
        self._inquiry = inquiry
        self._node = node
        self._patient_id = patient_id
        self._cancelled = cancelled
        self.queries = 0

    def presence(self, candidates: Sequence[Examination]) -> dict[str, Presence]:
        """What it has of the candidates; what was not asked for is left out. Raises WireError.

        By patient first. What is not among that is asked for by UID: the destination may know the patient under
        another ID, or may have cut its answer short.
        """
        by_uid = self._node.root is InformationModel.STUDY_ROOT
        counts = self._find(Identifier.of(PatientID=self._patient_id), partial=by_uid)
        newest = sorted(candidates, key=lambda one: str(one.date or ""), reverse=True)
        missing = [one.study_instance_uid for one in newest if one.study_instance_uid not in counts]
        if by_uid:
            asked = [uid for uid in missing if is_uid(uid)][:MOST_UIDS]
            for some in _chunks(asked):
                counts.update(self._find(Identifier.of(StudyInstanceUID=some)))
            missing = asked
        counts = {**dict.fromkeys(missing, 0), **counts}
        return {uid: _compared(one, counts[uid]) for one in candidates if (uid := one.study_instance_uid) in counts}

    def _find(self, keys: Identifier, *, partial: bool = False) -> dict[str, int | None]:
        """Study Instance UID -> instances (None: not said) of what it answers."""
        returned = Identifier.of(PatientID="", PatientName="", StudyInstanceUID="", NumberOfStudyRelatedInstances="")
        question = Identifier({**returned.elements, **keys.elements})
        self.queries += 1
        rows = self._inquiry.find(
            self._node, QueryRetrieveLevel.STUDY, question, Urgency.SWEEP, self._cancelled, partial=partial
        ).identifiers
        return {row.text("StudyInstanceUID"): row.number("NumberOfStudyRelatedInstances") for row in rows}


def _chunks(uids: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(uids), UIDS_AT_ONCE):
        yield list(uids[start : start + UIDS_AT_ONCE])
