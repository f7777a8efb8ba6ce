"""Studies that have arrived in the router's store, as triggers: each is an appointment once no more of it comes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import NamedTuple

from router.domain.appointment import News, Notice, repeat_of
from router.domain.dicom import Identifier
from router.domain.events import AppointmentNoted
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL, RuleSet
from router.engine.ports import Clock, Ledger, Observer

_FEW = 10
_REMEMBERED = 10_000
"""Studies whose patient is remembered while they arrive."""


class _Who(NamedTuple):
    patient_id: str
    issuer: str
    fetched: bool
    """A rule has had it moved here as a prior: it is no current study, else each prior would bring its own."""


class ArrivalTrigger:
    """Notes what arrives for the rules that fetch priors of it; what is passed on is noted elsewhere. Thread-safe."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        stored: Callable[[str, Collection[int]], Identifier | None],
        clock: Clock,
        observer: Observer,
    ) -> None:
        """`stored`: what the headers of a study in our store say, of these tags too."""
        self._rules = rules
        self._ledger = ledger
        self._stored = stored
        self._clock = clock
        self._observer = observer
        self._patients: OrderedDict[str, _Who] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, receipts: Sequence[Receipt]) -> None:
        """Instances that are in the store and indexed. Raises LedgerError."""
        rules = self._rules()
        wanting = [one for one in rules.rules.values() if one.enabled and one.arrival and one.priors is not None]
        if not wanting:
            return
        callers = rules.callers
        latest = {(one.study_instance_uid, callers.get(one.calling_ae_title, "")): one for one in receipts}
        notices: list[Notice] = []
        for (study, node), receipt in latest.items():
            for rule in wanting:
                arrival = rule.arrival
                if arrival is None or (arrival.senders and node not in arrival.senders):
                    continue
                who = self._who(study, rules)
                if who is None or who.fetched:
                    continue
                notices.append(
                    Notice(
                        rule=rule.name,
                        trigger="arrival",
                        key=study,
                        source=rule.source,
                        current=Identifier.of(StudyInstanceUID=study),
                        patient_id=who.patient_id,
                        issuer=who.issuer,
                        due_at=receipt.received_at + timedelta(seconds=arrival.stable),
                    )
                )
        if notices:
            repeat = {rule.name: repeat_of(rule.priors) for rule in wanting}
            for notice, news in zip(notices, self._ledger.note(notices, self._clock.now(), repeat), strict=True):
                if news is not News.REPEATED:
                    self._observer(AppointmentNoted(rule=notice.rule, trigger="arrival", news=str(news)))

    def _who(self, study: str, rules: RuleSet) -> _Who | None:
        """Whose study it is, and whether it comes as a prior; None where none of its files can be read."""
        with self._lock:
            known = self._patients.get(study)
        if known is None:
            header = self._stored(study, ())
            if header is None:
                return None
            moved = self._ledger.transfers(study_instance_uid=study, destination=LOCAL, limit=_FEW)
            known = _Who(
                header.text("PatientID"),
                header.text("IssuerOfPatientID"),
                fetched=any((rule := rules.rules.get(one.rule)) and rule.priors is not None for one in moved),
            )
            with self._lock:
                self._patients[study] = known
                while len(self._patients) > _REMEMBERED:
                    self._patients.popitem(last=False)
        return known
