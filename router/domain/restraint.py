"""What a rule holds back of what it would move: studies that still settle, and those beyond its limits.

Everything comes in as values and a list of decisions goes out; nothing here asks a source or the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo

import msgspec

from router.domain.levels import AVAILABILITIES, NEARLINE, NOT_TO_BE_HAD
from router.domain.rule import Rule, RuleLimits
from router.domain.selection import LIMITED, PRIORITIES, SETTLES, Action, Decision, held_by_rule
from router.domain.transfer import (
    INSTANCES_PER_DAY,
    LIMIT_HOLDS,
    SETTLING,
    STUDIES_PER_SWEEP,
    Happening,
    Hold,
    Intent,
    NewTransfer,
    State,
    TransferFact,
)

Unit = tuple[str, str]
"""A study (or series) of a source, whatever its destinations: study and series UID, the latter empty for a study."""

PATIENCE = timedelta(days=1)
"""How long a study is waited for that has had the time to settle, but about which the source fails to answer."""


class Held(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A transfer that a rule holds back, as the ledger has it."""

    id: int
    intent: Intent
    rule: str
    cause: str
    instance_count: int | None
    completed: int
    """Instances that were there before it grew."""
    since: datetime
    """See `Hold.since`."""
    patient_id: str
    availability: str

    @property
    def unit(self) -> Unit:
        """The study or series it is about."""
        return self.intent.study_instance_uid, self.intent.series_instance_uid


class Recount(msgspec.Struct, frozen=True):
    """What the source answered when it was asked again for a study or series by its UID."""

    listed: bool
    count: int | None = None


class Restraint(msgspec.Struct, frozen=True, kw_only=True):
    """How a rule is restrained at one moment."""

    rule: str
    priority: str = "normal"
    settle: float = 0.0
    limits: RuleLimits = RuleLimits()
    queued_today: int = 0
    """Instances that the rule has queued since midnight in the source's time zone."""
    now: datetime
    """When the sweep began: what was seen for the last time before has had the time until then to settle."""
    seen_at: datetime
    """When its answers were there: what is seen for the first time begins to settle then."""
    zone: tzinfo
    """That of the source."""

    @classmethod
    def of(cls, rule: Rule, *, now: datetime, seen_at: datetime, zone: tzinfo) -> Restraint:
        """What a rule wants, before anything was queued today."""
        settle = rule.sweep.settle if rule.sweep is not None else 0.0
        return cls(
            rule=rule.name,
            priority=rule.priority,
            settle=settle,
            limits=rule.limits,
            now=now,
            seen_at=seen_at,
            zone=zone,
        )

    def having_queued(self, instances: int) -> Restraint:
        """The same where the rule has queued so many today."""
        return msgspec.structs.replace(self, queued_today=instances)

    @property
    def is_none(self) -> bool:
        """Nothing would be held back."""
        return not self.settle and self.limits == RuleLimits()

    @property
    def day(self) -> date:
        """The source's day."""
        return self.now.astimezone(self.zone).date()

    @property
    def settled_before(self) -> datetime:
        """What has been the same since then, or longer, has settled."""
        return self.now - timedelta(seconds=self.settle)

    @property
    def tomorrow(self) -> datetime:
        """The next midnight of the source."""
        return datetime.combine(self.day + timedelta(days=1), time(), self.zone).astimezone(UTC)

    def settling(self) -> Hold:
        """The hold of what begins to settle now."""
        reason = f"It goes on when its number of instances has stayed the same for {spelled(self.settle)} (settle)."
        return Hold(
            cause=SETTLING, reason=reason, since=self.seen_at, next_at=self.seen_at + timedelta(seconds=self.settle)
        )

    def limited(self, cause: str, since: datetime) -> Hold:
        """The hold of what a limit leaves over."""
        if cause == STUDIES_PER_SWEEP:
            reason = (
                f"The sweep had its {self.limits.studies_per_sweep} studies (studies_per_sweep); "
                "the next sweeps let it go on, the oldest first."
            )
            return Hold(cause=cause, reason=reason, since=since, next_at=self.now)
        reason = (
            f"The rule had its {self.limits.instances_per_day} instances of the day (instances_per_day); "
            "the sweeps of the next days let it go on, the oldest first."
        )
        return Hold(cause=cause, reason=reason, since=since, next_at=self.tomorrow)


def to_ask_again(held: Sequence[Held], decisions: Sequence[Decision], restraint: Restraint) -> list[Held]:
    """What the rule lets settle and this sweep's answer does not have (any more), though its time has come.

    One for each study or series, the oldest first.
    """
    if not restraint.settle:
        return []
    wanted: dict[Unit, Held] = {}
    for one in sorted(held, key=lambda one: (one.since, one.id)):
        if one.rule == restraint.rule and one.cause == SETTLING and one.since <= restraint.settled_before:
            wanted.setdefault(one.unit, one)
    if not wanted:
        return []
    answered = {(one.study_instance_uid, one.series_instance_uid) for one in decisions if one.destination}
    return [one for unit, one in wanted.items() if unit not in answered]


def restrain(
    decisions: Sequence[Decision],
    restraint: Restraint,
    facts: Mapping[Intent, TransferFact],
    held: Sequence[Held] = (),
    recounts: Mapping[Unit, Recount] | None = None,
) -> list[Decision]:
    """The decisions, with what must wait held back, and what has waited long enough let go.

    `held` has of what this rule holds the oldest by its limits and what has had the time to settle, and what other
    rules hold of the decisions' studies. What this rule has no objection against it moves, whoever held it.
    What is in `held` and not among the decisions has dropped out of the sweep's range; it is decided as well.
    """
    work = _Restraining(restraint, facts, held)
    for decision in decisions:
        work.take(decision)
    work.follow(recounts or {})
    work.allot()
    return work.decisions


def said_of_held(decisions: Sequence[Decision], restraint: Restraint) -> str:
    """How many transfers are held back and when they go on, as a sentence; empty where none is."""
    settling = sum(one.code == SETTLES for one in decisions)
    limited = sum(one.code == LIMITED for one in decisions)
    limits = [
        f"{name} ({value})"
        for name, value in (
            ("studies_per_sweep", restraint.limits.studies_per_sweep),
            ("instances_per_day", restraint.limits.instances_per_day),
        )
        if value is not None
    ]
    parts = []
    if settling:
        parts.append(f"{settling} until the number of instances has stayed the same for {spelled(restraint.settle)}")
    if limited:
        parts.append(f"{limited} by {' and '.join(limits) or 'the limits of another rule'}")
    if not parts:
        return ""
    return f"Transfers held back: {', '.join(parts)}; later sweeps let them go on."


class _Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that would move if the limits allow it."""

    place: int
    """Of its decision in the list: as it stands there it waits."""
    moving: Decision
    cost: int
    held: Held | None = None


class _Restraining:
    """One sweep's working state."""

    def __init__(self, restraint: Restraint, facts: Mapping[Intent, TransferFact], held: Sequence[Held]) -> None:
        self.decisions: list[Decision] = []
        self._restraint = restraint
        self._facts = facts
        self._held = {one.id: one for one in held}
        self._claims: list[_Claim] = []

    # who would move ---------------------------------------------------------------------------------------------------

    def take(self, decision: Decision) -> None:
        """A decision of the sweep."""
        self.decisions.append(decision)
        if decision.action is Action.MOVE and decision.new is not None:
            self._to_move(decision, decision.new)
        elif decision.code in (SETTLES, LIMITED):
            held = self._held.pop(decision.transfer or 0, None)
            count = decision.instance_count
            if decision.new is not None and self._restraint.settle:
                self._settle_anew(decision, decision.new)
            elif held is not None:
                known = held.instance_count if count is None else count
                self._to_release(held, decision, known)

    def _to_move(self, decision: Decision, new: NewTransfer) -> None:
        fact = self._facts.get(new.intent)
        had = fact.instance_count or 0 if fact is not None and fact.state in _THERE else 0
        cost = _cost(new.instance_count, had)
        if fact is not None and fact.state is State.QUEUED:
            self.decisions[-1] = self._charged(decision, cost)  # it was let go before
        elif self._restraint.settle:
            self.decisions[-1] = _waiting(decision, SETTLES, new, self._restraint.settling())
        else:
            self._claims.append(_Claim(place=len(self.decisions) - 1, moving=decision, cost=cost))

    def _settle_anew(self, decision: Decision, new: NewTransfer) -> None:
        new = msgspec.structs.replace(new, happening=Happening.WAIT)
        self.decisions[-1] = _waiting(decision, SETTLES, new, self._restraint.settling())

    def _to_release(self, held: Held, decision: Decision, count: int | None, reason: str = "") -> None:
        """Claim room for what is held, unless it still settles or the source cannot send it."""
        if held.since > self._restraint.settled_before:
            return
        availability = decision.availability.upper()
        if availability in NOT_TO_BE_HAD:
            reason = f"held, and not to be had from the source now ({availability}); the next sweep asks again"
            self.decisions[-1] = msgspec.structs.replace(decision, code="unavailable", reason=reason)
            return
        urgency = PRIORITIES[self._restraint.priority]
        if (availability or held.availability) == NEARLINE:
            urgency = min(urgency + 1, PRIORITIES["low"])
        new = NewTransfer(
            intent=held.intent,
            rule=self._restraint.rule,
            priority=urgency,
            instance_count=count,
            patient_id=held.patient_id,
            availability=availability if availability in AVAILABILITIES else held.availability,
            happening=Happening.RELEASE,
        )
        moving = msgspec.structs.replace(
            decision, action=Action.MOVE, code="released", reason=reason or _RELEASED[held.cause], new=new
        )
        cost = _cost(count, held.completed)
        self._claims.append(_Claim(place=len(self.decisions) - 1, moving=moving, cost=cost, held=held))

    def follow(self, recounts: Mapping[Unit, Recount]) -> None:
        """What the rule holds and the sweep did not find: a limit's goes by its turn, what settles by its recount."""
        for held in [one for one in self._held.values() if one.rule == self._restraint.rule]:
            self.decisions.append(_of(held))
            before = len(self._claims)
            if held.cause in LIMIT_HOLDS or not self._restraint.settle:
                self._to_release(held, self.decisions[-1], held.instance_count)
            else:
                self._settled(held, recounts.get(held.unit))
            if len(self._claims) == before and self.decisions[-1].new is None:
                self.decisions.pop()  # it stays as it is

    def _settled(self, held: Held, recount: Recount | None) -> None:
        decision, count = self.decisions[-1], held.instance_count
        if recount is None:
            if held.since + PATIENCE <= self._restraint.settled_before:
                self._to_release(held, decision, count, "the source cannot be asked for it by its UID; moved as it is")
        elif not recount.listed:
            # Not ended here: the move looks closer, and has words for what it finds.
            self._to_release(held, decision, count, "the source does not list it any more; the move finds out")
        elif recount.count is not None and recount.count != count:
            new = NewTransfer(
                intent=held.intent,
                rule=held.rule,
                priority=PRIORITIES[self._restraint.priority],
                instance_count=recount.count,
                patient_id=held.patient_id,
                availability=held.availability,
            )
            self._settle_anew(msgspec.structs.replace(decision, instance_count=recount.count), new)
        else:
            self._to_release(held, decision, count)

    # who moves --------------------------------------------------------------------------------------------------------

    def allot(self) -> None:
        """Give each study or series its room, in order; who finds none is held."""
        units: dict[Unit, list[_Claim]] = {}
        # Who has waited goes first, the longest wait before all; then what is new, as the source lists it.
        waited = [(claim.held.since, claim.held.id, claim) for claim in self._claims if claim.held is not None]
        waited.sort(key=lambda one: one[:2])
        for claim in [*(one[2] for one in waited), *(claim for claim in self._claims if claim.held is None)]:
            one = claim.moving
            units.setdefault((one.study_instance_uid, one.series_instance_uid), []).append(claim)
        limits = self._restraint.limits
        studies, daily = limits.studies_per_sweep, limits.instances_per_day
        taken, used = 0, self._restraint.queued_today
        for claims in units.values():
            cost = sum(claim.cost for claim in claims)
            if studies is not None and taken >= studies:
                self._deny(claims, STUDIES_PER_SWEEP)
            elif daily is not None and used and used + cost > daily:
                self._deny(claims, INSTANCES_PER_DAY)
            else:
                taken, used = taken + 1, used + cost
                alone = daily is not None and cost > daily
                for claim in claims:
                    self.decisions[claim.place] = self._charged(claim.moving, claim.cost, alone=alone)

    def _deny(self, claims: Sequence[_Claim], cause: str) -> None:
        for claim in claims:
            held, new = claim.held, claim.moving.new
            if held is None and new is not None:
                hold = self._restraint.limited(cause, self._restraint.seen_at)
                self.decisions[claim.place] = _waiting(claim.moving, LIMITED, new, hold)
            elif held is not None and new is not None and held.cause == SETTLING and held.rule == self._restraint.rule:
                new = msgspec.structs.replace(new, happening=Happening.WAIT)
                hold = self._restraint.limited(cause, held.since)
                self.decisions[claim.place] = _waiting(claim.moving, LIMITED, new, hold)
            # What a limit held already stays as it is: nothing is written.

    def _charged(self, decision: Decision, cost: int, *, alone: bool = False) -> Decision:
        daily = self._restraint.limits.instances_per_day
        if daily is None or decision.new is None:
            return decision
        reason = decision.reason
        if alone:
            reason += f"; alone more than instances_per_day ({daily}), so nothing else goes today"
        return msgspec.structs.replace(decision, reason=reason, new=msgspec.structs.replace(decision.new, charge=cost))


_THERE = frozenset({State.COMPLETE, State.UNPROVEN, State.QUEUED})
"""States in which what was counted before need not be reckoned with again."""

_RELEASED = {
    SETTLING: "its number of instances has stayed the same (settle)",
    STUDIES_PER_SWEEP: "it waited for its turn (studies_per_sweep)",
    INSTANCES_PER_DAY: "it waited for its turn (instances_per_day)",
}


def _waiting(decision: Decision, code: str, new: NewTransfer, hold: Hold) -> Decision:
    return msgspec.structs.replace(
        decision, action=Action.HOLD, code=code, reason=hold.reason, new=msgspec.structs.replace(new, hold=hold)
    )


def _of(held: Held) -> Decision:
    """The decision about what the sweep did not find, before anything is decided."""
    code, reason = held_by_rule(held.cause)
    return Decision(
        action=Action.HOLD,
        code=code,
        reason=reason,
        study_instance_uid=held.intent.study_instance_uid,
        series_instance_uid=held.intent.series_instance_uid,
        destination=held.intent.destination,
        instance_count=held.instance_count,
        availability=held.availability,
        transfer=held.id,
    )


def _cost(count: int | None, had: int) -> int:
    """Instances that a move is reckoned with; a study of unknown size is one."""
    return 1 if count is None else max(0, count - had)


def spelled(seconds: float) -> str:
    """A duration as the configuration writes it: `90s`, `5m`, `2h`, `7d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"
