"""Orders that come in: which rules want them, and the ledger's receipt before anything is acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from router.domain.appointment import News, Notice, repeat_of
from router.domain.condition import Evaluation
from router.domain.events import AppointmentNoted, ValueRefused
from router.domain.hl7 import ACCEPT, ERROR, REJECT, Acknowledgement, OrderMessage, OrderRequest, Request, takes
from router.domain.prefetching import due_at
from router.domain.rule import Rule, RuleSet
from router.domain.safety import patient_refusal
from router.domain.worklist import start_of
from router.engine.ports import Clock, Ledger, Observer
from router.errors import LedgerError

LONG_PAST = timedelta(days=1)
"""An order whose examination was to begin longer ago is history that is sent again."""

_APPLICATION_ERROR = 207


class Orders:
    """Takes order messages. Thread-safe."""

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: Ledger,
        clock: Clock,
        observer: Observer,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when work was put into the ledger."""
        self._rules = rules
        self._ledger = ledger
        self._clock = clock
        self._observer = observer
        self._wake = wake

    def take(self, message: OrderMessage) -> Acknowledgement:
        """Write down what a message asks for; how to answer it. It is accepted only once that is durable."""
        rules, now = self._rules(), self._clock.now()
        wanting = [
            rule
            for rule in rules.rules.values()
            if rule.enabled
            and rule.order is not None
            and takes(rule.order.senders, message)
            and message.event in rule.order.events
        ]
        for request in message.requests:
            if wanting and (word := patient_refusal(request.examination)):
                for rule in wanting:
                    event = ValueRefused(rule=rule.name, trigger="order", attribute="PatientID", reason=word)
                    self._observer(event)
                return Acknowledgement(
                    code=ERROR,
                    reason=f"The patient ID cannot be used in a query ({word}).",
                    condition=_APPLICATION_ERROR,
                    word="unusable-value",
                )
        zone = ZoneInfo(rules.router.hl7.timezone if rules.router.hl7 is not None else "UTC")
        evaluation = Evaluation(now=now, zone=zone)
        notices = [
            notice
            for rule in wanting
            for request in message.requests
            if (notice := _notice(rule, message, request, evaluation)) is not None
        ]
        try:
            if message.merges:
                self._ledger.merge_patients(message.merges, now)
            news = self._note(notices, rules, now)
        except LedgerError:
            return Acknowledgement(
                code=REJECT,
                reason="The router cannot write to its ledger now; send the message again later.",
                condition=_APPLICATION_ERROR,
                word="not-durable",
            )
        for notice, one in zip(notices, news, strict=True):
            self._observer(AppointmentNoted(rule=notice.rule, trigger=notice.trigger, news=str(one)))
        changed = any(one not in (News.REPEATED, News.UNKNOWN) for one in news)
        if changed:
            self._wake()
        if changed or message.merges:
            return Acknowledgement(code=ACCEPT)
        return Acknowledgement(code=ACCEPT, word="repeated" if News.REPEATED in news else "ignored")

    def _note(self, notices: list[Notice], rules: RuleSet, now: datetime) -> list[News]:
        if not notices:
            return []
        repeat = {name: repeat_of(rule.priors) for name, rule in rules.rules.items()}
        return self._ledger.note(notices, now, repeat)


def _notice(rule: Rule, message: OrderMessage, request: OrderRequest, evaluation: Evaluation) -> Notice | None:
    """What an order is to a rule; None where it is nothing.

    One that does not fulfil the condition (any more) is as good as cancelled: it may have been known as another. Its
    key begins with the sender, for numbers of two hospitals may be the same.
    """
    now = evaluation.now
    one = request.examination
    start_at = start_of(one, evaluation.zone)
    if start_at is not None and start_at < now - LONG_PAST:
        return None
    patient_id, issuer = one.text("PatientID"), one.text("IssuerOfPatientID")
    day = one.text("ScheduledProcedureStepStartDate") or f"{now.astimezone(evaluation.zone):%Y%m%d}"
    return Notice(
        rule=rule.name,
        trigger="order",
        key=f"{message.sender} {request.key or f'patient {patient_id} {issuer} {day}'}",
        source=rule.source,
        current=one,
        patient_id=patient_id,
        issuer=issuer,
        start_at=start_at,
        due_at=due_at(rule, start_at, now),
        cancelled=request.request is Request.CANCEL or not rule.where.holds(one, evaluation),
    )
