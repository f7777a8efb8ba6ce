"""An appointment: an examination to come (or just done) for which a rule fetches priors, and what news of it changes.

Rules of this file: what news does is decided by `reconcile` alone; nothing here reads a clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from router.domain.dicom import Identifier, known_tag
from router.domain.priors import Priors
from router.domain.transfer import URGENT


class AppointmentState(StrEnum):
    """Where an appointment stands."""

    WAITING = "waiting"
    """Until it is due."""
    LOOKING = "looking"
    """Its patient's priors are being looked for."""
    DONE = "done"
    """They were found; what was taken moves by itself."""
    FAILED = "failed"
    """They could not be looked for."""
    CANCELLED = "cancelled"


class News(StrEnum):
    """What a notice is to what is known."""

    NEW = "new"
    REPEATED = "repeated"
    """It says nothing new."""
    MOVED = "moved"
    """It has another time."""
    CHANGED = "changed"
    """Something else of it is different."""
    AGAIN = "again"
    """It says nothing new, but the last look is long ago (or a person asks)."""
    CANCELLED = "cancelled"
    REVIVED = "revived"
    """It was cancelled, and is not any more."""
    UNKNOWN = "unknown"
    """The end of something that was never known."""


TRIGGERS = ("worklist", "order", "arrival", "sweep")


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What a trigger says of an appointment."""

    rule: str
    trigger: str
    """A word of TRIGGERS."""
    key: str
    """What makes it the same appointment again, within its rule."""
    source: str
    """Where the priors are."""
    current: Identifier
    """The current examination: flat, see `router.domain.examination.examination`."""
    patient_id: str
    issuer: str = ""
    start_at: datetime | None = None
    """The appointment: the deadline; None: there is none."""
    due_at: datetime
    """When its priors are to be looked for."""
    cancelled: bool = False


class Appointment(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the ledger."""

    id: int
    rule: str
    trigger: str
    key: str
    source: str
    current: Identifier
    patient_id: str
    issuer: str = ""
    start_at: datetime | None = None
    due_at: datetime
    state: AppointmentState
    fence: int = 0
    attempts: int = 0
    """Looks that failed since the last news."""
    sweep_id: int | None = None
    """The sweep of a person who waits for it."""
    queries: int = 0
    candidates: int = 0
    """Studies of the patient that were looked at."""
    taken: int = 0
    """Of those, how many were chosen (each destination counted)."""
    complete: bool = True
    """The source's answer was all there is."""
    cause: str = ""
    reason: str = ""
    noted_at: datetime
    """When it was heard of last."""
    finished_at: datetime | None = None
    """When its last look ended."""


class AppointmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a look for priors ended. WAITING: it is tried again at `due_at`."""

    state: AppointmentState
    due_at: datetime | None = None
    queries: int = 0
    candidates: int = 0
    complete: bool = True
    cause: str = ""
    reason: str = ""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What a notice does to what is known."""

    news: News
    state: AppointmentState
    due_at: datetime
    look: bool = False
    """It is to be looked at (again): a look that is under way does not count any more."""
    deadlines: bool = False
    """The deadlines of its transfers have moved."""
    cancel: bool = False
    """What it has queued, and has not begun, is to be cancelled."""


def reconcile(known: Appointment | None, notice: Notice, now: datetime, repeat: float, *, again: bool) -> Change:
    """What a notice changes. `repeat`: seconds for which the same news changes nothing; `again`: a person asks.

    Cancelled ones first, then by what differs; only then counts when it was looked at last.
    """
    state = known.state if known is not None else None
    if notice.cancelled:
        return _cancelled(known, notice)
    due_at = now if again else notice.due_at
    if known is None:
        return _to_look(News.NEW, due_at)
    if state is AppointmentState.CANCELLED:
        return _to_look(News.REVIVED, due_at)
    moved = known.start_at != notice.start_at
    if _content(known) != _content(notice):
        another = (known.patient_id, known.issuer) != (notice.patient_id, notice.issuer)
        return msgspec.structs.replace(_to_look(News.CHANGED, due_at, deadlines=moved), cancel=another)
    news = News.MOVED if moved else News.REPEATED
    if state is AppointmentState.WAITING:
        # A further instance pushes an arrival back; a retry keeps its time.
        stays = news is News.REPEATED and not again and known.trigger != "arrival"
        return Change(
            news=News.AGAIN if again and not moved else news,
            state=AppointmentState.WAITING,
            due_at=known.due_at if stays else due_at,
            look=again,
            deadlines=moved,
        )
    if state is AppointmentState.LOOKING:
        news = News.AGAIN if again and not moved else news
        return Change(news=news, state=AppointmentState.LOOKING, due_at=known.due_at, deadlines=moved)
    if again:
        return _to_look(news if moved else News.AGAIN, due_at, deadlines=moved)
    if moved:
        if due_at > now or state is AppointmentState.FAILED:
            return _to_look(news, due_at, deadlines=True)
        return Change(news=news, state=known.state, due_at=known.due_at, deadlines=True)
    if now - (known.finished_at or known.noted_at) < timedelta(seconds=repeat):
        return Change(news=news, state=known.state, due_at=known.due_at)
    return _to_look(News.AGAIN, due_at)


def _to_look(news: News, due_at: datetime, *, deadlines: bool = False) -> Change:
    return Change(news=news, state=AppointmentState.WAITING, due_at=due_at, look=True, deadlines=deadlines)


def _cancelled(known: Appointment | None, notice: Notice) -> Change:
    cancelled = AppointmentState.CANCELLED
    if known is None:
        return Change(news=News.UNKNOWN, state=cancelled, due_at=notice.due_at)
    if known.state is cancelled:
        return Change(news=News.REPEATED, state=cancelled, due_at=known.due_at)
    return Change(news=News.CANCELLED, state=cancelled, due_at=known.due_at, look=True, cancel=True, deadlines=True)


def _content(one: Appointment | Notice) -> tuple[object, ...]:
    """What a look depends on, besides the time: when it begins stands in the data set too, but is compared apart."""
    elements = {tag: values for tag, values in one.current.elements.items() if values and tag not in _TIMES}
    return (elements, one.patient_id, one.issuer, one.source, one.trigger)


_TIMES = frozenset(
    map(
        known_tag,
        (
            "ScheduledProcedureStepStartDate",
            "ScheduledProcedureStepStartTime",
            "ScheduledProcedureStepEndDate",
            "ScheduledProcedureStepEndTime",
            "ScheduledProcedureStepStatus",
            "ScheduledProcedureStepSequence",
            "NumberOfStudyRelatedInstances",
            "NumberOfStudyRelatedSeries",
        ),
    )
)
"""What changes without another examination being meant; the sequence holds what stands beside it already."""


def urgent_from(start_at: datetime) -> datetime:
    """From when on transfers for an appointment go before all others."""
    return start_at - URGENT


def repeat_of(priors: Priors | None) -> float:
    """`Priors.repeat`, or nothing where a rule has no priors any more."""
    return priors.repeat if priors is not None else 0.0
