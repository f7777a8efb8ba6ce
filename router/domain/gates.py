"""The gates between a study that a rule finds and its move: which stand open, which make it wait, and until when. Pure.

Nothing is decided here: what is to be done says the `Decision` that a sweep comes to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

import msgspec

from router.domain.allowance import Allowance, allowance, changes_at, opens_at
from router.domain.levels import NEARLINE, NOT_TO_BE_HAD
from router.domain.restraint import Restraint, spelled
from router.domain.route import StoppedRoute
from router.domain.rule import LOCAL, Node, Rule
from router.domain.selection import AGAIN_WHEN_ASKED, LIMITED, SETTLES, Action, Decision
from router.domain.transfer import INSTANCES_PER_DAY, RULE_HOLDS, SETTLING, STUDIES_PER_SWEEP, State, Transfer
from router.domain.truth import KEY
from router.domain.window import Window

HOUR = timedelta(hours=1)


class Way(StrEnum):
    """How a gate stands."""

    PASS = "pass"
    WAIT = "wait"
    """It opens by itself, at `opens_at` where that is known."""
    FAIL = "fail"
    """It stays shut until something else changes."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate, as it stands now."""

    gate: str
    """A word of GATES."""
    way: Way
    reason: str
    """For people; it holds no value of a data set."""
    opens_at: datetime | None = None

    @property
    def passed(self) -> bool:
        """Whether it stands open."""
        return self.way is Way.PASS


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What a destination holds of a study or series."""

    count: int | None = None
    """Instances; None: it has it, but does not say how many, or nobody knows."""
    note: str = ""
    """Why nobody knows, as a sentence."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """All that the gates of one study (or series) on its way to one destination depend on."""

    now: datetime
    zone: tzinfo
    """That of the source."""
    rule: Rule
    source: Node | None
    destination: str
    node: Node | None
    """The destination; None for `local`."""
    windows: Mapping[str, Window]
    decision: Decision | None
    """None: the rule does not find it."""
    transfer: Transfer | None = None
    moves: Mapping[str, Sequence[datetime]] = {}
    """Name of a node -> the ends of the moves of the last hour in which it took part."""
    queued_today: int = 0
    """Instances that the rule has queued since midnight of the source."""
    waiting: int = 0
    """Other transfers that wait for their turn by the rule's limits."""
    present: Present | None = None
    """None: it was not asked."""
    stopped: StoppedRoute | None = None
    left_alone: Collection[str] = ()
    """Nodes that a running service leaves alone."""
    next_sweep_at: datetime | None = None

    def time(self, moment: datetime) -> str:
        """A moment for people, on the clock of the source."""
        there = moment.astimezone(self.zone)
        same_day = there.date() == self.now.astimezone(self.zone).date()
        return f"{there:%H:%M}" if same_day else f"{there:%Y-%m-%d %H:%M}"


# --- Of the rule and its source ---------------------------------------------------------------------------------------


def _enabled(one: Standing) -> Gate:
    if one.rule.enabled:
        return _open("enabled", "the rule is enabled")
    return _shut("enabled", "the rule is disabled (`enabled: false`): nothing of it runs")


def _source_window(one: Standing) -> Gate | None:
    return _window("source-window", one, one.source) if one.rule.source != LOCAL else None


def _source_limits(one: Standing) -> Gate | None:
    return _limits("source-limits", one, one.source, source=True)


def _studies_per_sweep(one: Standing) -> Gate | None:
    most = one.rule.limits.studies_per_sweep
    if most is None:
        return None
    name = "studies-per-sweep"
    if _held_for(one, STUDIES_PER_SWEEP):
        return _wait(name, f"the sweep has its {most} (studies_per_sweep); the next sweep goes on", one.next_sweep_at)
    before = f"; {one.waiting} wait, the oldest goes first" if one.waiting else ""
    return _open(name, f"{most} for each sweep{before}; what else the sweep finds counts too")


def _instances_per_day(one: Standing) -> Gate | None:
    most = one.rule.limits.instances_per_day
    if most is None:
        return None
    midnight = Restraint(rule=one.rule.name, now=one.now, seen_at=one.now, zone=one.zone).tomorrow
    used = f"{one.queued_today} of {most} used today"
    if _held_for(one, INSTANCES_PER_DAY):
        return _wait("instances-per-day", f"{used} (instances_per_day)", midnight)
    return _open("instances-per-day", f"{used}; begins anew at {one.time(midnight)}")


def _next_sweep(one: Standing) -> Gate | None:
    if one.rule.trigger in ("order", "arrival") or not one.rule.enabled:
        return None
    if not one.rule.tiers:
        return _open("next-sweep", "the rule has no schedule: `apply` runs it")
    if one.next_sweep_at is None:
        return None
    return _open("next-sweep", f"due at {one.time(one.next_sweep_at)}; `apply` sweeps at once")


# --- Of the study and its destination ---------------------------------------------------------------------------------


def _availability(one: Standing) -> Gate | None:
    word = one.decision.availability.upper() if one.decision is not None else ""
    if not word:
        return None
    if word in NOT_TO_BE_HAD:
        return _shut("availability", f"{word}: the source cannot send it now; the next sweep asks again")
    return _open("availability", f"{word}: it is fetched first, which takes longer" if word == NEARLINE else word)


def _settle(one: Standing) -> Gate | None:
    seconds = one.rule.sweep.settle if one.rule.sweep is not None else 0.0
    if not seconds or one.decision is None:
        return None
    name, long = "settle", spelled(seconds)
    if one.decision.code == SETTLES:
        begins = one.decision.new.hold if one.decision.new is not None else None
        if begins is not None:
            opens = one.next_sweep_at + timedelta(seconds=seconds) if one.next_sweep_at else begins.next_at
            anew = " anew" if one.transfer is not None else ""
            return _wait(name, f"the next sweep begins{anew} to watch its number of instances, for {long}", opens)
        if one.transfer is not None and one.transfer.cause == SETTLING:
            since = one.time(one.transfer.queued_at)
            return _wait(
                name, f"the same number of instances since {since}; {long} are asked for", one.transfer.next_at
            )
        return _wait(name, f"its number of instances is being watched, for {long}")
    return _open(name, f"its number of instances is not watched now, or has stayed the same for {long}")


def _destination_window(one: Standing) -> Gate | None:
    return _window("destination-window", one, one.node) if one.destination != LOCAL else None


def _destination_limits(one: Standing) -> Gate | None:
    return _limits("destination-limits", one, one.node) if one.destination != LOCAL else None


def _duplicate(one: Standing) -> Gate:
    name, decision, transfer = "duplicate", one.decision, one.transfer
    moved = _moved(one.rule)
    if transfer is None:
        return _open(name, f"not {moved} before")
    known = f"transfer {transfer.id}, {transfer.state}, by rule {transfer.rule}"
    code = decision.code if decision is not None else ""
    if transfer.state is State.HELD and transfer.cause not in RULE_HOLDS:
        return _shut(name, f"held by an administrator: {known}; `transfers release` lets it go on")
    if transfer.state is State.HELD:
        return _open(name, f"known: {known}")
    if code == "under-way" or (not code and not transfer.ended):
        return _shut(name, f"under way: {known}")
    if code == "done" or (not code and transfer.state in (State.COMPLETE, State.UNPROVEN)):
        return _shut(name, f"{moved} before: {known}")
    return _open(name, f"known, {decision.reason if decision is not None else f'but not as {moved}'}: {known}")


def _failed_before(one: Standing) -> Gate | None:
    if one.transfer is None or one.transfer.state not in AGAIN_WHEN_ASKED:
        return None
    cause = one.transfer.cause or "no cause noted"
    if one.decision is not None and one.decision.code == "grew":
        return _open("failed-before", f"{one.transfer.state} before ({cause}), but it has changed since")
    return _shut(
        "failed-before",
        f"{one.transfer.state} before ({cause}): scheduled sweeps leave it; `apply` or `transfers retry "
        f"{one.transfer.id}` tries again",
    )


def _present(one: Standing) -> Gate | None:
    found, name = one.present, "already-there"
    if one.rule.forward is not None:
        return None
    if not one.rule.move.skip_present:
        return _open(name, "not asked (skip_present: false)")
    if found is None:
        return None
    if found.note:
        return _open(name, f"not known: {found.note}")
    if found.count is None:
        return _open(name, f"{one.destination} has it, but does not say how many instances; the move compares")
    wanted = one.decision.instance_count if one.decision is not None else None
    held = f"{one.destination} holds {found.count} of {'?' if wanted is None else wanted} instances"
    return _shut(name, f"{held} (skip_present)") if there(found, wanted) else _open(name, held)


def there(found: Present | None, wanted: int | None) -> bool:
    """Whether a destination holds all of it already, by numbers."""
    return found is not None and not found.note and found.count is not None and 0 < (wanted or 0) <= found.count


def _route(one: Standing) -> Gate:
    if one.stopped is None:
        source = one.source.name if one.source is not None else one.rule.source or "?"
        return _open("route", f"{source} to {one.destination} is not stopped")
    return _wait("route", f"stopped: {one.stopped.reason}", one.stopped.probe_at)


def _breaker(one: Standing) -> Gate | None:
    names = [node.name for node in (one.source, one.node) if node is not None and node.name in one.left_alone]
    return _wait("breaker", f"{' and '.join(names)} does not answer; it is left alone until it does") if names else None


SHARED: tuple[Callable[[Standing], Gate | None], ...] = (
    _enabled,
    _source_window,
    _source_limits,
    _studies_per_sweep,
    _instances_per_day,
    _next_sweep,
)
"""Gates that are the same for all that a rule finds."""

OWN: tuple[Callable[[Standing], Gate | None], ...] = (
    _availability,
    _destination_window,
    _destination_limits,
    _settle,
    _duplicate,
    _failed_before,
    _present,
    _route,
    _breaker,
)
"""Gates of one study, or one of its series, to one destination."""


def shared_gates(standing: Standing) -> list[Gate]:
    """The gates of a rule, in order; those that it does not have are left out."""
    return [gate for one in SHARED if (gate := one(standing)) is not None]


def own_gates(standing: Standing) -> list[Gate]:
    """The gates on the way to one destination, in order; those that do not matter are left out."""
    return [gate for one in OWN if (gate := one(standing)) is not None]


# --- What comes of it -------------------------------------------------------------------------------------------------


class Conclusion(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a study on its way to a destination, in words, and from when."""

    text: str
    opens_at: datetime | None = None


def conclude(standing: Standing, gates: Sequence[Gate]) -> Conclusion:
    """What the decision comes to behind these gates."""
    decision = standing.decision
    if decision is None:
        return Conclusion(text="not found by the rule")
    if not standing.rule.enabled and decision.action is not Action.SKIP:
        return Conclusion(text="skipped: the rule is disabled")
    shut = [gate for gate in gates if gate.way is Way.WAIT]
    openings = [gate.opens_at for gate in shut if gate.opens_at is not None]
    last = max(openings) if shut and len(openings) == len(shut) else None
    until = f"until {standing.time(last)}" if last is not None else "for what nobody knows the time of"
    names = ", ".join(gate.gate for gate in shut)
    if decision.code == KEY:
        return Conclusion(text=f"not found: {decision.reason.partition(':')[0]}")
    if decision.action is Action.SKIP:
        waits = decision.code == "under-way" and standing.transfer is not None and shut
        also = f"; transfer {standing.transfer.id} waits {until} ({names})" if waits and standing.transfer else ""
        return Conclusion(text=f"skipped: {decision.reason}{also}", opens_at=last if waits else None)
    all_there = ""
    if standing.rule.move.skip_present and there(standing.present, decision.instance_count):
        all_there = f"nothing would be moved: {standing.destination} holds all of it already"
    if decision.action is Action.HOLD:
        if not shut:
            return Conclusion(text=f"held: {decision.reason}" + (f"; {all_there} anyway" if all_there else ""))
        then = f"; then {all_there}" if all_there else ""
        return Conclusion(text=f"held {until} ({names}): {decision.reason.rstrip('.')}{then}", opens_at=last)
    if all_there:
        return Conclusion(text=all_there, opens_at=last)
    if shut:
        return Conclusion(text=f"waits {until} ({names})", opens_at=last)
    by_hand = any(gate.gate == "failed-before" and not gate.passed for gate in gates)
    limits = standing.rule.limits
    named = [name for name in ("studies_per_sweep", "instances_per_day") if getattr(limits, name) is not None]
    room = f", if the sweep leaves it room ({' and '.join(named)})" if named else ""
    return Conclusion(text=f"would be {_moved(standing.rule)} now{' by `apply` only' if by_hand else ''}{room}")


# --- Parts ------------------------------------------------------------------------------------------------------------


def _moved(rule: Rule) -> str:
    return "forwarded" if rule.forward is not None else "moved"


def _open(gate: str, reason: str) -> Gate:
    return Gate(gate=gate, way=Way.PASS, reason=reason)


def _shut(gate: str, reason: str) -> Gate:
    return Gate(gate=gate, way=Way.FAIL, reason=reason)


def _wait(gate: str, reason: str, opens: datetime | None = None) -> Gate:
    return Gate(gate=gate, way=Way.WAIT, reason=reason, opens_at=opens)


def _held_for(one: Standing, cause: str) -> bool:
    """Whether a limit of the rule holds it back, or would."""
    decision = one.decision
    if decision is None or decision.code != LIMITED:
        return False
    hold = decision.new.hold if decision.new is not None else None
    if hold is not None:
        return hold.cause == cause
    return one.transfer is not None and one.transfer.cause == cause


def _window(name: str, one: Standing, node: Node | None) -> Gate:
    if node is None:
        return _shut(name, "the configuration has no such node")
    if not node.windows:
        return _open(name, f"{node.name} is always open")
    words = ", ".join(use.window or "always" for use in node.windows)
    if not allowance(node, one.windows, one.now).open:
        opens = opens_at(node, one.windows, one.now)
        if opens is None:
            return _shut(name, f"{node.name} is closed, and does not open any more ({words})")
        return _wait(name, f"{node.name} is closed by its windows ({words})", opens)
    change = changes_at(node, one.windows, one.now)
    until = f", its limits or windows change at {one.time(change)}" if change is not None else ""
    return _open(name, f"{node.name} is open ({words}){until}")


def _limits(name: str, one: Standing, node: Node | None, *, source: bool = False) -> Gate | None:
    if node is None:
        return None
    now = allowance(node, one.windows, one.now)
    recent = sorted(moment for moment in one.moves.get(node.name, ()) if moment > one.now - HOUR)
    words = f"{node.name}: {_in_force(now, len(recent), source=source)}"
    most = now.moves_per_hour
    if most is not None and len(recent) >= most:
        # When so many have grown old that fewer than the limit are left.
        opens = recent[len(recent) - most] + HOUR if most else None
        return _wait(name, f"{words} used up", opens)
    return _open(name, words)


def _in_force(now: Allowance, moved: int, *, source: bool) -> str:
    parts = [f"{now.associations} association{'s' if now.associations != 1 else ''}"] if source else []
    if source and now.queries_per_minute is not None:
        parts.append(f"{now.queries_per_minute} queries a minute")
    if now.duty is not None:
        parts.append(f"busy {now.duty:.0%} of the time")
    if now.incoming is not None and not source:
        parts.append(f"{now.incoming} moves to it at once")
    if now.moves_per_hour is not None:
        parts.append(f"{moved} of {now.moves_per_hour} moves an hour")
    return ", ".join(parts) or "no limits"
