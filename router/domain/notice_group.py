"""Groups of trouble: what has happened and is not told yet, when it is told, and when again. Pure.

A group collects for `wait`, is told, and is then quiet for `again`, however much of the same happens: that is counted.
What goes on until it is over is told once more when it is over. What comes back after it was over is told again, but
each time has to last twice as long as the time before: something that comes and goes is told a few times, not for ever.
What has got worse is told at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from router.domain.notice import KINDS, SEVERITIES, Key, Notice
from router.domain.notify import NotifySettings

MOST_EXAMPLES = 5
"""Transfers that a notification names."""
MOST_RULES = 50
"""Rules that a group counts by name; those after them are counted together."""
MOST_PARTS = 30
"""Groups that a summary names; of those after them it only counts what happened."""
FORGOTTEN_AFTER = timedelta(days=7)
"""What went on when it was last heard of is forgotten then: nobody knows any more how it stands."""
CLOCKS_DIFFER = timedelta(minutes=1)
"""So much may the clocks of machines that work on one ledger."""
OTHER_RULES = "other"
_DETAIL = 1000
"""Characters that are kept of what happened."""


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer of a group."""

    transfer: int
    study: str = ""
    """The study's pseudonym; empty where the configuration wants none."""
    rule: str = ""
    word: str
    reason: str = ""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """One group on one channel."""

    channel: str
    kind: str
    names: tuple[str, ...] = ()
    # What is not told yet.
    counts: dict[str, int] = {}
    """Word -> how often."""
    rules: dict[str, int] = {}
    examples: tuple[Example, ...] = ()
    severity: str = "info"
    """The gravest of it."""
    detail: str = ""
    """The latest of what is known to have happened, told or not."""
    first_at: datetime | None = None
    last_at: datetime | None = None
    # How it stands.
    ongoing: bool = False
    over_at: datetime | None = None
    """Since when it is over; None: it is not, or that is told."""
    unused: bool = False
    """It is over, for the configuration has it no more."""
    # What is told.
    told_at: datetime | None = None
    told_severity: str = "info"
    told_open: bool = False
    """People were told that it goes on, and not that it is over."""
    firings: int = 0
    """How often news of trouble was told."""
    number: int = 0
    """Notifications so far."""
    began_at: datetime
    seen_at: datetime

    @property
    def key(self) -> Key:
        """Kind and names."""
        return (self.kind, *self.names)


def single(channel: str, notice: Notice, now: datetime) -> Group:
    """What one notice says, as a group by itself. It must have a word."""
    detail = notice.detail[:_DETAIL]
    example = Example(
        transfer=notice.transfer, study=notice.study, rule=notice.rule, word=notice.word, reason=notice.detail[:300]
    )
    return Group(
        channel=channel,
        kind=notice.kind,
        names=notice.names,
        counts={notice.word: 1},
        rules={notice.rule: 1} if notice.rule and "rule" not in KINDS[notice.kind].fields else {},
        examples=(example,) if notice.transfer else (),
        severity=notice.severity,
        detail=detail,
        first_at=now,
        last_at=now,
        ongoing=KINDS[notice.kind].ends,
        began_at=now,
        seen_at=now,
    )


def merged(before: Group | None, after: Group) -> Group:
    """A group with what happened after it; neither is told of more or less than before."""
    if before is None:
        return after
    return msgspec.structs.replace(
        before,
        counts=_summed(before.counts, after.counts),
        rules=_bounded(_summed(before.rules, after.rules)),
        examples=(*before.examples, *after.examples)[:MOST_EXAMPLES],
        severity=max(before.severity, after.severity, key=SEVERITIES.index),
        detail=after.detail or before.detail,
        first_at=before.first_at or after.first_at,
        last_at=after.last_at or before.last_at,
        ongoing=after.ongoing,
        over_at=after.over_at,
        unused=after.unused,
        seen_at=max(before.seen_at, after.seen_at),
    )


def ended(group: Group, now: datetime, *, unused: bool = False) -> Group:
    """The group, over since now."""
    if not group.ongoing:
        return group
    return msgspec.structs.replace(group, ongoing=False, over_at=now, unused=unused, seen_at=now)


def _not_ahead(group: Group, now: datetime) -> Group:
    """The group as one that nothing has happened to after now: the clock may have been set back."""
    times = {key: getattr(group, key) for key in ("first_at", "last_at", "over_at", "told_at", "seen_at")}
    ahead = {key: now for key, at in times.items() if at is not None and at - now > CLOCKS_DIFFER}
    return msgspec.structs.replace(group, **ahead) if ahead else group


def _summed(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *(key for key in other if key not in one))}


def _bounded(rules: dict[str, int]) -> dict[str, int]:
    if len(rules) <= MOST_RULES:
        return rules
    kept = [name for name in rules if name != OTHER_RULES][: MOST_RULES - 1]
    return {name: rules[name] for name in kept} | {OTHER_RULES: sum(rules.values()) - sum(rules[n] for n in kept)}


# --- When it is told --------------------------------------------------------------------------------------------------


def due_at(group: Group, settings: NotifySettings, *, confirmed: bool) -> datetime | None:
    """When it is to be told next; None: when something happens.

    `confirmed`: this process knows that it goes on; after a restart that has to be seen anew.
    """
    kind = KINDS[group.kind]
    wait, again = timedelta(seconds=settings.wait), timedelta(seconds=settings.again)
    quiet_until = group.told_at + again if group.told_at is not None else None
    if group.over_at is not None and group.told_open:
        return group.over_at + _damped(wait, again, group.firings - 1)
    if group.counts and group.first_at is not None:
        ready = group.first_at + wait
        if quiet_until is None or _worse(group):
            return ready
        if kind.ends and not group.told_open:
            return min(group.first_at + _damped(wait, again, group.firings), max(ready, quiet_until))
        return max(ready, quiet_until)
    if group.ongoing and group.told_open and confirmed and kind.reminded:
        return quiet_until
    return None


def _damped(wait: timedelta, again: timedelta, times: int) -> timedelta:
    factor: int = 2 ** max(0, min(times, 20))
    return max(wait, min(wait * factor, again))


def _worse(group: Group) -> bool:
    told = group.told_open or not KINDS[group.kind].ends
    return told and SEVERITIES.index(group.severity) > SEVERITIES.index(group.told_severity)


def told(group: Group, now: datetime) -> Group:
    """The group after it was told."""
    over = group.over_at is not None
    before = group.told_severity if group.told_open else "info"
    return msgspec.structs.replace(
        group,
        counts={},
        rules={},
        examples=(),
        severity="info",
        first_at=None,
        last_at=None,
        over_at=None,
        unused=False,
        told_at=now,
        told_severity="info" if over else max(group.severity, before, key=SEVERITIES.index),
        told_open=not over,
        firings=group.firings + (1 if group.counts else 0),
        number=group.number + 1,
        seen_at=now,
    )


def is_forgotten(group: Group, settings: NotifySettings, now: datetime, *, confirmed: bool) -> bool:
    """Whether nothing is left of it to tell or to be quiet about."""
    if group.counts:
        return False
    if group.over_at is not None and group.told_open:
        return False
    if group.ongoing:
        return not confirmed and group.seen_at + FORGOTTEN_AFTER <= now
    return group.seen_at + timedelta(seconds=settings.again) <= now


# --- A turn -----------------------------------------------------------------------------------------------------------


class Notification(msgspec.Struct, frozen=True, kw_only=True):
    """What one message to one channel says; of a summary what it holds stands in `parts`."""

    channel: str
    kind: str
    names: tuple[str, ...] = ()
    over: bool = False
    unused: bool = False
    """It is over, for the configuration has it no more."""
    severity: str
    counts: dict[str, int] = {}
    rules: dict[str, int] = {}
    examples: tuple[Example, ...] = ()
    detail: str = ""
    first_at: datetime | None = None
    last_at: datetime | None = None
    thread: str = ""
    """The same for all notifications of a group while it is remembered."""
    number: int = 1
    """Which of them it is."""
    parts: tuple[Notification, ...] = ()
    unnamed: int = 0
    """Groups that a summary does not name."""


SUMMARY = "summary"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at all groups brings."""

    changed: tuple[Group, ...] = ()
    forgotten: tuple[tuple[str, Key], ...] = ()
    """Channel and key of groups that are no more."""
    notifications: tuple[Notification, ...] = ()
    summarised: dict[str, int] = {}
    """Channel -> groups that were told in a summary, for there were too many."""
    next_at: datetime | None = None
    """When there is something to tell next, if nothing happens."""
    going_on: frozenset[Key] = frozenset()
    """Keys of groups that end some day."""


def turn(
    groups: Iterable[Group],
    news: Iterable[Group],
    over: Mapping[Key, datetime],
    made: Mapping[str, Sequence[datetime]],
    settings: NotifySettings,
    now: datetime,
    confirmed: Collection[Key] = (),
    unused: Collection[Key] = (),
) -> Turn:
    """Put together what is known, what is new and what is `over`, and decide what is told now.

    `made`: when notifications of the last hour were made, by channel. `unused`: what the configuration has no more.
    """
    known = {(one.channel, one.key): one for one in groups}
    kept = {name: _not_ahead(group, now) for name, group in known.items()}
    for name, group in kept.items():
        if group.key in over:
            kept[name] = ended(group, over[group.key], unused=group.key in unused)
    for group in news:
        name = (group.channel, group.key)
        kept[name] = merged(kept.get(name), group)
    kept = {name: group for name, group in kept.items() if group.channel in settings.channels}
    notifications: list[Notification] = []
    summarised: dict[str, int] = {}
    waits: list[datetime] = []
    for channel in settings.channels:
        due = [one for one in kept.values() if one.channel == channel and _is_due(one, settings, now, confirmed)]
        if not due:
            continue
        due.sort(key=lambda one: (-SEVERITIES.index(one.severity), one.first_at or now, one.key))
        lately = sorted(at for at in made.get(channel, ()) if -CLOCKS_DIFFER <= now - at < timedelta(hours=1))
        free = settings.at_most - len(lately)
        if free <= 0:
            waits.append(lately[-settings.at_most] + timedelta(hours=1))
            continue
        alone = len(due) if len(due) <= free else free - 1
        notifications += [_notification(group) for group in due[:alone]]
        if due[alone:]:
            notifications.append(_summary(channel, due[alone:], now))
            summarised[channel] = len(due) - alone
        for group in due:
            kept[channel, group.key] = told(group, now)
    forgotten = {n for n, g in kept.items() if is_forgotten(g, settings, now, confirmed=g.key in confirmed)}
    kept = {name: group for name, group in kept.items() if name not in forgotten}
    waits += [at for g in kept.values() if (at := due_at(g, settings, confirmed=g.key in confirmed)) and at > now]
    return Turn(
        changed=tuple(group for name, group in kept.items() if known.get(name) != group),
        forgotten=tuple(name for name in known if name not in kept),
        notifications=tuple(notifications),
        summarised=summarised,
        next_at=min(waits, default=None),
        going_on=frozenset(group.key for group in kept.values() if group.ongoing),
    )


def _is_due(group: Group, settings: NotifySettings, now: datetime, confirmed: Collection[Key]) -> bool:
    at = due_at(group, settings, confirmed=group.key in confirmed)
    return at is not None and at <= now


def _notification(group: Group) -> Notification:
    over = group.over_at is not None
    return Notification(
        channel=group.channel,
        kind=group.kind,
        names=group.names,
        over=over,
        unused=group.unused,
        severity="info" if over else group.severity if group.counts else group.told_severity,
        counts=group.counts,
        rules=group.rules,
        examples=group.examples,
        detail=group.detail,
        first_at=group.first_at or group.over_at or group.told_at,
        last_at=group.last_at or group.over_at or group.told_at,
        thread=_thread(group.channel, group.began_at, *group.key),
        number=group.number + 1,
    )


def _thread(channel: str, began_at: datetime, *key: str) -> str:
    """What tells this group, since then, from all others: 16 hexadecimal digits."""
    return hashlib.sha256("\0".join((channel, began_at.isoformat(), *key)).encode()).hexdigest()[:16]


def _summary(channel: str, groups: Sequence[Group], now: datetime) -> Notification:
    all_parts = [_notification(group) for group in groups]
    counts: dict[str, int] = {}
    for part in all_parts:
        counts = _summed(counts, part.counts)
    return Notification(
        channel=channel,
        kind=SUMMARY,
        over=all(part.over for part in all_parts),
        severity=max((part.severity for part in all_parts), key=SEVERITIES.index),
        counts=counts,
        first_at=min((part.first_at for part in all_parts if part.first_at), default=now),
        last_at=max((part.last_at for part in all_parts if part.last_at), default=now),
        thread=_thread(channel, now, SUMMARY),
        parts=tuple(msgspec.structs.replace(part, examples=(), rules={}) for part in all_parts[:MOST_PARTS]),
        unnamed=max(0, len(all_parts) - MOST_PARTS),
    )
