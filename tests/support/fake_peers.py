"""Peers without a network: nodes hold instances, moves copy them, misbehaviour is a function."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta

from router.domain.commitment import CommitmentAnswer, CommitmentRequest
from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts
from router.domain.receipt import Receipt
from router.domain.rule import Node
from router.engine.ports import FindResult, Ledger, MoveProgress, MoveRequest, MoveResult
from router.errors import ConnectionFailed, ContextRefused, WireError

CT = "1.2.840.10008.5.1.4.1.1.2"
Study = dict[str, set[str]]
"""Series Instance UID -> SOP Instance UIDs."""


class FakeClock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class FakePeers:
    """Archives by node name, each a map of studies. What arrives for `local` becomes a receipt in the ledger."""

    def __init__(self, ledger: Ledger, local_ae_title: str = "ROUTER") -> None:
        self.ledger = ledger
        self.local_ae_title = local_ae_title
        self.holdings: dict[str, dict[str, Study]] = defaultdict(dict)
        self.attributes: dict[str, dict[str, str]] = {}
        self.series_attributes: dict[str, dict[str, str]] = {}
        self.known_as: dict[tuple[str, str], str] = {}
        """(node, Study Instance UID) -> the Patient ID there, where it is not that of `attributes`."""
        self.fail: Callable[[Node, QueryRetrieveLevel, Identifier], WireError | None] = lambda *asked: None
        """How a query fails."""
        self.titles: dict[str, str] = {}
        self.mute: set[str] = set()
        self.down: set[str] = set()
        self.report_counts = True
        self.out_of_range: set[str] = set()
        """Studies that the keys of a sweep do not match (any more): only their UID finds them."""
        self.uid_lists = True
        """Of a list of UIDs each is matched; else the last one only."""
        self.requests: list[tuple[str, MoveRequest]] = []
        self.finds: list[tuple[str, QueryRetrieveLevel, Identifier]] = []
        self.deliver: Callable[[list[tuple[str, str]]], list[tuple[str, str]]] = lambda wanted: wanted
        """Which of the wanted instances really arrive."""
        self.answer: Callable[[int, int], MoveResult] | None = None
        """The final response from (wanted, delivered) numbers; honest by default."""
        self.commitments: list[tuple[str, CommitmentRequest]] = []
        self.refuse: WireError | None = None
        """How a storage commitment request fails."""
        self.report_at_once = False
        """On the association of the request; else the test brings the answer."""
        self.uncommitted: dict[str, int] = {}
        """SOP Instance UID -> failure reason."""
        self.gets: list[frozenset[str]] = []
        """The SOP classes each C-GET was asked with."""
        self.classes = True
        """SOP Class UIDs are returned at IMAGE level."""
        self.worklists: dict[str, list[Identifier]] = defaultdict(list)
        """What a node's worklist holds: it takes no notice of keys."""
        self.worklist_status = 0
        """How its answers end."""
        self.worklist_questions: list[Identifier] = []

    def add(self, node: str, study: str, series: str, *instances: str, **attributes: str) -> None:
        self.holdings[node].setdefault(study, {}).setdefault(series, set()).update(instances)
        self.attributes.setdefault(study, {}).update(attributes)

    def echo(self, node: Node) -> None:
        self._reach(node)

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        self._reach(node)
        if node.name in self.mute:
            raise ContextRefused(f"{node.name} offers no query.")
        self.finds.append((node.name, level, keys))
        if (failure := self.fail(node, level, keys)) is not None:
            raise failure
        rows = []
        wanted, series_wanted = keys.values("StudyInstanceUID"), keys.values("SeriesInstanceUID")
        if not self.uid_lists:
            wanted, series_wanted = wanted[-1:], series_wanted[-1:]
        for study, all_series in self.holdings[node.name].items():
            if study not in wanted if wanted else study in self.out_of_range:
                continue
            if level is QueryRetrieveLevel.STUDY:
                total = sum(len(instances) for instances in all_series.values())
                count = {"NumberOfStudyRelatedInstances": str(total)} if self.report_counts else {}
                said = count | self.attributes.get(study, {})
                if (node.name, study) in self.known_as:
                    said["PatientID"] = self.known_as[node.name, study]
                asked = keys.text("PatientID")
                if wanted or asked in ("", said.get("PatientID", "")):
                    rows.append(Identifier.of(StudyInstanceUID=study, **said))
                continue
            for series, instances in all_series.items():
                if series_wanted and series not in series_wanted:
                    continue
                if level is QueryRetrieveLevel.SERIES:
                    count = {"NumberOfSeriesRelatedInstances": str(len(instances))} if self.report_counts else {}
                    said = count | self.series_attributes.get(series, {})
                    rows.append(Identifier.of(StudyInstanceUID=study, SeriesInstanceUID=series, **said))
                else:
                    known = {"SOPClassUID": CT} if self.classes and "SOPClassUID" in keys else {}
                    rows += [Identifier.of(SeriesInstanceUID=series, SOPInstanceUID=uid, **known) for uid in instances]
        return FindResult(identifiers=rows, status=0)

    def worklist(self, node: Node, keys: Identifier, *, maximum: int, cancelled: threading.Event) -> FindResult:
        self._reach(node)
        self.worklist_questions.append(keys)
        rows = self.worklists[node.name]
        return FindResult(identifiers=rows[:maximum], status=0xFE00 if len(rows) > maximum else self.worklist_status)

    def move(
        self,
        node: Node,
        request: MoveRequest,
        *,
        on_response: Callable[[MoveProgress], None],
        last_arrival: Callable[[], float],
        cancelled: threading.Event,
    ) -> MoveResult:
        self._reach(node)
        self.requests.append((node.name, request))
        study = self.holdings[node.name].get(request.study_instance_uid, {})
        wanted = [
            (series, uid)
            for series, instances in sorted(study.items())
            for uid in sorted(instances)
            if (not request.series_instance_uids or series in request.series_instance_uids)
            and (not request.sop_instance_uids or uid in request.sop_instance_uids)
        ]
        delivered = self.deliver(wanted)
        for series, uid in delivered:
            self._arrive(request, series, uid)
        if delivered:
            on_response(MoveProgress(status=0xFF00, counts=SubOperationCounts(1, len(wanted) - 1, 0, 0)))
        if self.answer is not None:
            result = self.answer(len(wanted), len(delivered))
        else:
            failed = len(wanted) - len(delivered)
            result = MoveResult(
                status=0xB000 if failed else 0, counts=SubOperationCounts(None, len(delivered), failed, 0)
            )
        on_response(MoveProgress(status=result.status, counts=result.counts))
        return result

    def get(
        self,
        node: Node,
        request: MoveRequest,
        *,
        sop_classes: Collection[str],
        on_response: Callable[[MoveProgress], None],
        cancelled: threading.Event,
    ) -> MoveResult:
        self.gets.append(frozenset(sop_classes))
        return self.move(node, request, on_response=on_response, last_arrival=lambda: 0.0, cancelled=cancelled)

    def commit(
        self,
        node: Node,
        requests: Sequence[CommitmentRequest],
        *,
        on_answer: Callable[[CommitmentAnswer], None],
        answered: Callable[[], bool],
        cancelled: threading.Event,
    ) -> None:
        self._reach(node)
        if self.refuse is not None:
            raise self.refuse
        for request in requests:
            self.commitments.append((node.name, request))
            if self.report_at_once:
                on_answer(self.judge(node.name, request))

    def judge(self, node: str, request: CommitmentRequest) -> CommitmentAnswer:
        """What an honest archive says: it has committed itself to what it holds, but for what `uncommitted` says."""
        held = {uid for study in self.holdings[node].values() for uids in study.values() for uid in uids}
        failed = {
            uid: self.uncommitted.get(uid, 0x0112)
            for _, uid in request.references
            if uid not in held or uid in self.uncommitted
        }
        return CommitmentAnswer(
            transaction_uid=request.transaction_uid,
            calling_ae_title=node.upper(),
            committed=frozenset(uid for _, uid in request.references) - failed.keys(),
            failed=failed,
        )

    def _arrive(self, request: MoveRequest, series: str, uid: str) -> None:
        if request.destination_ae_title != self.local_ae_title:
            name = self.titles[request.destination_ae_title]
            self.holdings[name].setdefault(request.study_instance_uid, {}).setdefault(series, set()).add(uid)
            return
        self.ledger.add_receipts(
            [
                Receipt(
                    study_instance_uid=request.study_instance_uid,
                    series_instance_uid=series,
                    sop_instance_uid=uid,
                    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
                    transfer_syntax_uid="1.2.840.10008.1.2.1",
                    calling_ae_title="ARCHIVE",
                    size=10,
                    path=f"{request.study_instance_uid}/{series}/{uid}.dcm",
                    received_at=datetime.now(UTC),
                )
            ]
        )

    def _reach(self, node: Node) -> None:
        if node.name in self.down:
            raise ConnectionFailed(f"{node.name} refused the connection; is it running?")
