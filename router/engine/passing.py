"""Looks at studies that have arrived for the rules that pass them on: what is taken, and who gets it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

import msgspec

from router.domain.arriving import counting, of_pieces, quiet, tags_of, taken, to_read, zone_of
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier
from router.domain.events import ArrivalLookEnded
from router.domain.forwarding import Passage, decide
from router.domain.passing import (
    CAUSES,
    DISABLED,
    LATEST,
    RULE_REMOVED,
    ArrivalReport,
    PendingArrival,
    report_of,
    unwell,
)
from router.domain.receipt import Receipt
from router.domain.rule import Rule, RuleSet
from router.domain.stores import chosen
from router.engine.ports import Clock, Ledger, Observer
from router.engine.slots import NodeSlots
from router.errors import Cancelled

ReadHeaders = Callable[[Sequence[Receipt], Collection[int]], Mapping[str, Identifier]]
"""What the headers of these instances say of these tags, by SOP Instance UID; what cannot be read is left out."""

_AT_ONCE = 100
"""Headers that are read between two looks for who wants it cancelled."""
_REMEMBERED = 20_000
"""Headers that are remembered: while a study grows, no file is read twice."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What a look came to."""

    report: ArrivalReport
    passages: tuple[Passage, ...] = ()
    taken: int = 0
    """Instances that the rule takes."""

    @property
    def queued(self) -> int:
        """Transfers that are queued, or carry more."""
        return sum(one.decision.new is not None for one in self.passages)


class Passer:
    """Looks at studies that have arrived. `look` decides and writes nothing; `run` writes a claimed one's outcome."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        slots: NodeSlots,
        headers: ReadHeaders,
        clock: Clock,
        observer: Observer,
        store: str = "",
    ) -> None:
        """`store`: the name of the own one, whose copies are looked at rather than those of others."""
        self._store = store
        self._rules = rules
        self._ledger = ledger
        self._slots = slots
        self._headers = _Headers(headers)
        self._clock = clock
        self._observer = observer

    def run(self, pending: PendingArrival, cancelled: threading.Event) -> datetime | None:
        """Look at a claimed study, whatever comes of it; when it is due again, None where it is not.

        Raises LedgerError only.
        """
        started = self._clock.now()
        rules = self._rules()
        rule = rules.rules.get(pending.rule)
        if rule is None or rule.forward is None or rule.arrival is None:
            looked = Looked(report=ArrivalReport(cause=RULE_REMOVED, reason=CAUSES[RULE_REMOVED]))
        elif not rule.enabled:
            report = ArrivalReport(due_at=started + LATEST, cause=DISABLED, reason=CAUSES[DISABLED])
            looked = Looked(report=report)
        else:
            try:
                looked = self.look(rules, rule, pending.study_instance_uid, cancelled, noted_at=pending.noted_at)
            except Cancelled:
                looked = Looked(report=ArrivalReport(due_at=started))
        now = self._clock.now()
        if not self._ledger.finish_arrival(pending, looked.report, looked.passages, now):
            return None  # it is due again already, or somebody else's
        report = looked.report
        again = "known" if report.due_at is None else "again"
        left = again if not report.cause or report.due_at is not None else "left"
        self._observer(
            ArrivalLookEnded(
                rule=pending.rule,
                result="passed_on" if looked.queued else left,
                instances=looked.taken,
                transfers=looked.queued,
                withdrawn=sum(len(one.withdrawn) for one in looked.passages),
                duration_seconds=(now - started).total_seconds(),
                cause=report.cause,
                message=report.reason,
            )
        )
        return report.due_at

    def look(
        self, rules: RuleSet, rule: Rule, study: str, cancelled: threading.Event, *, noted_at: datetime | None = None
    ) -> Looked:
        """What a rule that passes on does with a study as it is in the store now. Raises LedgerError, Cancelled."""
        arrival, action = rule.arrival, rule.forward
        assert arrival is not None
        assert action is not None
        now, callers = self._clock.now(), rules.callers
        counted = counting(chosen(self._ledger.receipts_of(study), self._store), arrival, callers)
        found = quiet(counted, arrival, now)
        there = of_pieces(counted, arrival.level, found.there)
        asked = to_read(rule.where, action.level, there)
        headers = self._headers.of(asked, tags_of(rule.where), cancelled)
        takes = taken(
            rule.where,
            action.level,
            there,
            headers,
            Evaluation(now=now, zone=zone_of(rules, rule)),
        )
        passages: list[Passage] = []
        if takes.consignments:
            passages = decide(
                rule=rule,
                consignments=takes.consignments,
                known=self._ledger.known_of(study),
                health=unwell(
                    action.nodes,
                    rules,
                    self._ledger.stopped_routes(),
                    left_alone=self._slots.left_alone,
                    open_now=lambda node: self._slots.allowance(node).open,
                ),
                studies=self._ledger.given(rule.name),
                callers=callers,
            )
        report = report_of(
            noted_at=noted_at or now,
            now=now,
            quiet_at=found.next_at,
            there=len(there),
            reason=takes.reason,
            passages=passages,
            unread=len(headers) < len(asked),
        )
        instances = sum(len(one.receipts) for one in takes.consignments)
        return Looked(report=report, passages=tuple(passages), taken=instances)


class _Headers:
    """Headers of stored instances, as they were last read. Thread-safe."""

    def __init__(self, read: ReadHeaders) -> None:
        self._read = read
        self._known: OrderedDict[tuple[str, datetime, frozenset[int]], Identifier] = OrderedDict()
        self._lock = threading.Lock()

    def of(
        self, receipts: Sequence[Receipt], tags: frozenset[int], cancelled: threading.Event
    ) -> dict[str, Identifier]:
        """What they say of these tags, by SOP Instance UID; what cannot be read is left out. Raises Cancelled."""
        found: dict[str, Identifier] = {}
        unknown = []
        with self._lock:
            for one in receipts:
                key = one.path, one.received_at, tags
                header = self._known.get(key)
                if header is None:
                    unknown.append(one)
                else:
                    self._known.move_to_end(key)
                    found[one.sop_instance_uid] = header
        for start in range(0, len(unknown), _AT_ONCE):
            if cancelled.is_set():
                raise Cancelled("The look was cancelled.")
            some = unknown[start : start + _AT_ONCE]
            read = self._read(some, tags)
            found.update(read)
            with self._lock:
                for one in some:
                    if one.sop_instance_uid in read:
                        self._known[one.path, one.received_at, tags] = read[one.sop_instance_uid]
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        return found
