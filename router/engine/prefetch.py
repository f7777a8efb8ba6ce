"""Looking for a current study's priors: asked by patient, ranked here, made transfers. `plan` does it unwritten."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import msgspec

from router.domain.appointment import Appointment, AppointmentReport, AppointmentState, Notice
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.events import AppointmentNoted, LookEnded, ValueRefused
from router.domain.examination import Examination, examination
from router.domain.prefetching import candidates_question, decisions, retry_at, visit
from router.domain.priors import Priors
from router.domain.relevance import Prior, attributes_of, choose, wants_anatomy
from router.domain.rule import Node, Rule, RuleSet
from router.domain.safety import patient_refusal, refusal
from router.domain.selection import Decision
from router.engine.enumeration import Budget, Enumerator
from router.engine.ports import Clock, Ledger, Observer
from router.engine.presence import Presences
from router.engine.query import Inquiry, QueryFailed, unique_keys
from router.engine.slots import Urgency
from router.errors import Cancelled, RouterError, WireError

MOST_SERIES_QUERIES = 100
"""Studies of a patient, the newest, whose series are asked for what the study's row does not say."""
MOST_FAILURES = 3
"""Failed queries for series after which a source is asked for none any more: it does not know how."""

_MODALITIES, _BODY_PART = known_tag("ModalitiesInStudy"), known_tag("BodyPartExamined")


class NotToBeAsked(RouterError):
    """The patient's ID cannot be asked for; the message says why, without it."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What a look for priors found and decided."""

    decisions: list[Decision]
    candidates: int = 0
    queries: int = 0
    complete: bool = True
    reason: str = ""
    """Why it is not complete, or what could not be found out, in sentences."""
    examined: dict[str, Examination] = {}
    """Study Instance UID -> the candidate, as it was judged."""

    @property
    def record(self) -> list[Prior]:
        """Each candidate with why it was taken or not."""
        return [one.prior for one in self.decisions if one.prior is not None]

    @property
    def groups(self) -> dict[str, int]:
        """How many were taken for each group."""
        return dict(Counter(one.group for one in self.record if one.taken))


class Prefetcher:
    """Looks for priors. `look` decides and writes nothing; `run` writes a claimed appointment's outcome."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        inquiry: Inquiry,
        held: Callable[[str], set[str]],
        stored: Callable[[str, Collection[int]], Identifier | None],
        clock: Clock,
        observer: Observer,
    ) -> None:
        """`held`: SOP Instance UIDs of a study in our store; `stored`: what its headers say, of these tags too."""
        self._rules = rules
        self._ledger = ledger
        self._inquiry = inquiry
        self._enumerator = Enumerator(inquiry)
        self._presences = Presences(ledger, inquiry, held)
        self._stored = stored
        self._clock = clock
        self._observer = observer

    def run(self, appointment: Appointment, cancelled: threading.Event) -> datetime | None:
        """Look for a claimed appointment's priors, whatever comes of it; when it is due again, None where it is not.

        Raises LedgerError only.
        """
        started = self._clock.now()
        rules = self._rules()
        rule = rules.rules.get(appointment.rule)
        looked = Looked(decisions=[])
        if rule is None or not rule.enabled or rule.priors is None:
            report = AppointmentReport(
                state=AppointmentState.FAILED,
                cause="rule-removed",
                reason=f"The running configuration has no enabled rule {appointment.rule} with priors.",
            )
        elif rule.source != appointment.source:
            return self._elsewhere(rule, appointment)
        else:
            try:
                looked = self.look_for(rules, rule, appointment, cancelled)
                report = AppointmentReport(
                    state=AppointmentState.DONE,
                    queries=looked.queries,
                    candidates=looked.candidates,
                    complete=looked.complete,
                    cause="" if looked.complete else "capped",
                    reason=looked.reason,
                )
            except NotToBeAsked as error:
                report = AppointmentReport(
                    state=AppointmentState.FAILED, cause="unusable-patient-id", reason=str(error)
                )
            except WireError as error:
                report = self._failed(appointment, error)
        now = self._clock.now()
        transfers = [one.new for one in looked.decisions if one.new is not None]
        if not self._ledger.finish_appointment(appointment, report, looked.record, transfers, now):
            return None  # there is news of it meanwhile: nothing of this look counts
        again = report.state is AppointmentState.WAITING
        self._observer(
            LookEnded(
                rule=appointment.rule,
                source=appointment.source,
                appointment=appointment.id,
                result="again" if again else str(report.state),
                candidates=looked.candidates,
                groups=looked.groups,
                queries=looked.queries,
                complete=looked.complete,
                duration_seconds=(now - started).total_seconds(),
                cause=report.cause,
                message=report.reason,
            )
        )
        return report.due_at if again else None

    def _elsewhere(self, rule: Rule, appointment: Appointment) -> datetime:
        """The rule takes its priors from another node since: so does the appointment. When it is due there."""
        now = self._clock.now()
        notice = Notice(
            rule=appointment.rule,
            trigger=appointment.trigger,
            key=appointment.key,
            source=rule.source,
            current=appointment.current,
            patient_id=appointment.patient_id,
            issuer=appointment.issuer,
            start_at=appointment.start_at,
            due_at=now,
        )
        for news in self._ledger.note([notice], now, {}):
            self._observer(AppointmentNoted(rule=notice.rule, trigger=notice.trigger, news=str(news)))
        return now

    def _failed(self, appointment: Appointment, error: WireError) -> AppointmentReport:
        now = self._clock.now()
        at = now if isinstance(error, Cancelled) else retry_at(appointment, now)
        state = AppointmentState.FAILED if at is None else AppointmentState.WAITING
        return AppointmentReport(state=state, due_at=at, cause=error.cause, reason=str(error))

    def look_for(self, rules: RuleSet, rule: Rule, appointment: Appointment, cancelled: threading.Event) -> Looked:
        """Find and choose the priors of an appointment. Raises WireError, LedgerError, NotToBeAsked."""
        current = appointment.current
        if appointment.trigger == "arrival":
            of_priors = attributes_of(rule.priors) if rule.priors is not None else frozenset()
            stored = self._stored(current.text("StudyInstanceUID"), rule.where.attributes | of_priors)
            if stored is None:
                return Looked(decisions=[], reason="The study that arrived is not in the store any more.")
            # What the ledger says beside the UID is the ID that took the place of the patient's.
            current = Identifier({**stored.elements, **current.elements})
            node = rules.node(rule.source)
            zone = ZoneInfo(node.timezone if node is not None else "UTC")
            if not rule.where.holds(current, Evaluation(now=self._clock.now(), zone=zone)):
                return Looked(decisions=[], reason="The study that arrived does not fulfil the rule's condition.")
        first = appointment.finished_at is None or appointment.sweep_id is not None
        return self.look(rules, rule, current, appointment.start_at, cancelled, first=first)

    def look(
        self,
        rules: RuleSet,
        rule: Rule,
        current: Identifier,
        start_at: datetime | None,
        cancelled: threading.Event,
        *,
        first: bool = True,
    ) -> Looked:
        """Find and choose the priors of a current study. Raises WireError, LedgerError, NotToBeAsked.

        `first`: what failed before is tried again, see `prefetching.decisions`.
        """
        priors, source = rule.priors, rules.node(rule.source)
        if priors is None or source is None:
            raise RouterError(f"The configuration has no node {rule.source or 'for priors'} (rule {rule.name}).")
        now = self._clock.now()
        evaluation = Evaluation(now=now, zone=ZoneInfo(source.timezone))
        examined = examination(current)
        patient = examined.patient
        self._refuse(rule, current)
        former = self._ledger.former_ids(patient.patient_id, patient.issuer)
        asked = [(patient.patient_id, patient.issuer), *(one for one in former if not refusal(one[0]))]
        work = _Look(self._inquiry, self._enumerator, rules, priors, source, cancelled)
        candidates = work.candidates([patient_id for patient_id, _ in asked])
        by_uid = {one.study_instance_uid: one for one in candidates}
        facts = self._ledger.facts(source.name, list(by_uid))
        brought = self._ledger.brought(rule.name, patient.patient_id, patient.issuer, *visit(start_at, now))
        made: list[Decision] = []
        for destination in rule.move.to:
            held = self._presences.of(
                source.name,
                destination,
                rules.node(destination),
                patient.patient_id,
                candidates,
                now,
                priors.believed,
                cancelled,
                ask=rule.move.verify != "none" and rule.move.skip_present,
            )
            work.queries += held.queries
            work.say(held.note)
            chosen = choose(
                examined,
                candidates,
                priors,
                rules.anatomy,
                evaluation,
                asked=asked,
                destination=destination,
                presence=held.presence,
                brought=brought.get(destination, {}),
            )
            made += decisions(
                rule,
                chosen,
                by_uid,
                facts,
                held.presence,
                destination=destination,
                start_at=start_at,
                now=now,
                first=first,
            )
        return Looked(
            decisions=made,
            candidates=len(candidates),
            queries=work.queries,
            complete=work.complete,
            reason=" ".join(work.said),
            examined=by_uid,
        )

    def _refuse(self, rule: Rule, current: Identifier) -> None:
        """Raise NotToBeAsked where the patient's ID would widen the query."""
        if word := patient_refusal(current):
            self._observer(ValueRefused(rule=rule.name, trigger=rule.trigger, attribute="PatientID", reason=word))
            raise NotToBeAsked(f"The current study's Patient ID cannot be asked for: {_WHY[word]}.")


_WHY = {
    "empty": "it is empty, which would ask for every patient",
    "too-long": "it is longer than 64 characters",
    "backslash": "it holds a backslash, which makes two values of it",
    "wildcard": "it holds * or ?, which match other patients too",
    "control": "it holds control characters",
}


class _Look:
    """One look's questions to the source."""

    def __init__(
        self,
        inquiry: Inquiry,
        enumerator: Enumerator,
        rules: RuleSet,
        priors: Priors,
        source: Node,
        cancelled: threading.Event,
    ) -> None:
        self._inquiry = inquiry
        self._enumerator = enumerator
        self._anatomy = rules.anatomy
        self._priors = priors
        self._source = source
        self._cancelled = cancelled
        self._wants_anatomy = wants_anatomy(priors)
        self._failures = 0
        """SERIES queries in a row that failed."""
        self.queries = 0
        self.complete = True
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        """Note what could not be found out, once."""
        if sentence and sentence not in self.said:
            self.said.append(sentence)

    def candidates(self, patient_ids: Sequence[str]) -> list[Examination]:
        """All studies that the source has under these patient IDs."""
        rows: dict[str, Identifier] = {}
        budget = Budget(self._source.find.max_queries)
        for patient_id in dict.fromkeys(patient_ids):
            found = self._enumerator.all(
                self._source,
                QueryRetrieveLevel.STUDY,
                candidates_question(patient_id, self._priors),
                budget=budget,
                cancelled=self._cancelled,
            )
            self.queries += found.queries
            self.complete = self.complete and found.complete
            self.say(found.reason)
            for row in found.rows:
                rows.setdefault(row.text("StudyInstanceUID"), row)
        examined = sorted(
            (examination(row) for row in rows.values()), key=lambda one: str(one.date or ""), reverse=True
        )
        left = MOST_SERIES_QUERIES
        completed = []
        for one in examined:
            # What a source adds of other patients is not asked about: it cannot be taken.
            if left and self._failures < MOST_FAILURES and one.patient.patient_id in patient_ids and self._lacks(one):
                left -= 1
                one = self._by_series(one)
            completed.append(one)
        return completed

    def _lacks(self, one: Examination) -> bool:
        """Whether its series may say what counts: its modalities, or where in the body it was."""
        return not one.modalities or (self._wants_anatomy and not self._anatomy.regions_of(one).regions)

    def _by_series(self, one: Examination) -> Examination:
        """The same with what its series say (Modality, Body Part Examined), where the source answers for them."""
        keys = unique_keys(one.patient.patient_id, one.study_instance_uid)
        keys.elements.update(Identifier.of(SeriesInstanceUID="", Modality="", BodyPartExamined="").elements)
        self.queries += 1
        try:
            rows = self._inquiry.find(
                self._source, QueryRetrieveLevel.SERIES, keys, Urgency.SWEEP, self._cancelled
            ).identifiers
        except Cancelled:
            raise
        except WireError as error:
            # One that keeps silent costs minutes: it is not asked for the others.
            self._failures += 1 if isinstance(error, QueryFailed) else MOST_FAILURES
            self.say(f"{self._source.name} does not answer for the series of some studies.")
            return one
        self._failures = 0
        rows = [row for row in rows if row.text("StudyInstanceUID") in ("", one.study_instance_uid)]
        found = dict(one.attributes.elements)
        for keyword, tag in (("Modality", _MODALITIES), ("BodyPartExamined", _BODY_PART)):
            values = tuple(dict.fromkeys(text for row in rows if (text := row.text(keyword))))
            if values and not one.attributes.values("ModalitiesInStudy" if tag == _MODALITIES else keyword):
                found[tag] = values
        return examination(Identifier(found))
