"""Rules that take what another rule takes already. Pure.

A rule covers another where, at any moment, all that the other finds it finds too, asks at least as often, waits no
longer and is no less urgent. What is concluded from keys is what `router.domain.certainty` and `implication` are sure
of; anything in doubt is no overlap.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import msgspec

from router.domain.attributes import below
from router.domain.certainty import covers as dates_cover
from router.domain.dicom import QueryRetrieveLevel, known_tag, vr_of
from router.domain.implication import Form, conjunction, follows, form_of, literal_values
from router.domain.key import KeyMatch, KeyValue
from router.domain.rule import Move, Rule, RuleLimits, Sweep
from router.domain.timing import DateExpression, Schedule

_STUDY_DATE = known_tag("StudyDate")
_MODALITY, _MODALITIES = known_tag("Modality"), known_tag("ModalitiesInStudy")
_URGENCY = {"urgent": 0, "normal": 1, "low": 2}
_DAY = 24 * 60

Token = tuple[object, ...]
"""Something that a rule needs or offers; what a rule needs, a rule that it covers offers."""
_ANY_RULE: Token = ("rule",)
_MOST = 50
"""Rules that one is compared with at each destination: what bounds the time, whatever the rules are."""


class Overlap(NamedTuple):
    """A rule all of whose studies are moved to all of its destinations by other rules already."""

    rule: str
    by: tuple[str, ...]
    """The other rules, in the order of the destinations, each once."""
    twice: bool
    """They would be moved again all the same, or in another way: as series and as whole studies, say."""


class Take(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule takes, prepared for comparison."""

    number: int
    """Its place among all."""
    rule: Rule
    sweep: Sweep
    keys: tuple[KeyMatch, ...]
    """Those that narrow, without the Study Date."""
    dates: tuple[tuple[DateExpression, ...], ...]
    """For each tier the alternatives of its Study Date; none: any."""
    parts: frozenset[Form]
    """What must hold of each answer. What only a key says does not count: an answer may lack the attribute."""

    @classmethod
    def of(cls, number: int, rule: Rule) -> Take | None:
        """What a rule takes; None for one that does not sweep for what it moves."""
        sweep = rule.sweep
        if sweep is None or rule.priors is not None or not rule.enabled or not sweep.tiers:
            return None
        date = next((key for key in sweep.keys if key.tag == _STUDY_DATE), None)
        asked = tuple(value.dates for value in date.values if value.dates is not None) if date is not None else ()
        keys = tuple(key for key in sweep.keys if key.values and key.tag != _STUDY_DATE)
        return cls(
            number=number,
            rule=rule,
            sweep=sweep,
            keys=keys,
            dates=tuple(
                (DateExpression.looking_back(tier.lookback),) if tier.lookback is not None else asked
                for tier in sweep.tiers
            ),
            parts=frozenset(form_of(part) for part in conjunction(rule.where.root)),
        )


def overlaps(rules: Iterable[Rule], now: datetime) -> Iterator[Overlap]:
    """Rules that others cover, each once; of two that cover each other the later one."""
    takes = [take for number, rule in enumerate(rules) if (take := Take.of(number, rule)) is not None]
    index = _Index(takes)
    for inner in takes:
        found = [_coverer(inner, index.candidates(inner, destination), now) for destination in inner.rule.move.to]
        outers = [outer for outer in found if outer is not None]
        if found and len(outers) == len(found):
            by = tuple(dict.fromkeys(outer.rule.name for outer in outers))
            yield Overlap(inner.rule.name, by, any(_manner(outer) != _manner(inner) for outer in outers))


def _coverer(inner: Take, candidates: Iterable[Take], now: datetime) -> Take | None:
    for outer in candidates:
        if outer is inner or not covers(outer, inner, now):
            continue
        same_level = outer.rule.move.level == inner.rule.move.level
        mutual = set(outer.rule.move.to) <= set(inner.rule.move.to) and covers(inner, outer, now)
        if mutual and outer.number > inner.number:
            continue
        if not same_level or mutual or _manner(outer) == _manner(inner):
            return outer
    return None


def _manner(take: Take) -> Move:
    """How it moves, wherever to."""
    return msgspec.structs.replace(take.rule.move, to=())


# --- One rule and another ---------------------------------------------------------------------------------------------


def covers(outer: Take, inner: Take, now: datetime) -> bool:
    """Whether all that the inner rule finds, the outer one finds as well and moves no later."""
    one, other = outer.rule, inner.rule
    return (
        outer.sweep.source == inner.sweep.source
        and one.limits == RuleLimits()
        and outer.sweep.settle <= inner.sweep.settle
        and outer.sweep.catch_up >= inner.sweep.catch_up
        and _URGENCY.get(one.priority, 1) <= _URGENCY.get(other.priority, 1)
        and _levels_fit(outer, inner)
        and all(_key_follows(key, inner) for key in outer.keys)
        and all(follows(part, inner.parts) for part in outer.parts)
        and _times_cover(outer, inner, now)
    )


def _levels_fit(outer: Take, inner: Take) -> bool:
    """Of series, a rule for studies knows only what stands in the answers at the study level."""
    if outer.sweep.level == inner.sweep.level:
        return True
    study = QueryRetrieveLevel.STUDY
    return outer.sweep.level is study and not any(below(tag, study) for tag in outer.rule.where.attributes)


def _literals(key: KeyMatch) -> frozenset[str]:
    return literal_values(key.tag, [value.test for value in key.values])


def _key_follows(key: KeyMatch, inner: Take) -> bool:
    """Whether what the inner rule takes satisfies a key of the outer one."""
    literal = _literals(key)
    if literal and any(one[0] == "is" and one[1] == (key.tag,) and one[2] <= literal for one in inner.parts):
        return True
    caseless = vr_of(key.tag) == "PN"
    return any(
        all(any(_value_follows(wide, value, caseless) for wide in key.values) for value in other.values)
        for other in inner.keys
        if other.tag == key.tag or (key.tag == _MODALITIES and other.tag == _MODALITY)
    )


def _value_follows(wide: KeyValue, value: KeyValue, caseless: bool) -> bool:
    if wide.text == value.text:
        return True
    if wide.test.pattern is None:
        return False
    if value.test.pattern is None:
        return wide.test.pattern.match(value.text) is not None
    beginning, text = wide.text.rstrip("*"), value.text
    if caseless:
        beginning, text = beginning.casefold(), text.casefold()
    return wide.text.endswith("*") and not {"*", "?"} & set(beginning) and text.startswith(beginning)


def _times_cover(outer: Take, inner: Take, now: datetime) -> bool:
    return all(
        any(
            _as_often(wide.schedule, tier.schedule) and _dates_cover(wide_dates, dates, now)
            for wide, wide_dates in zip(outer.sweep.tiers, outer.dates, strict=True)
        )
        for tier, dates in zip(inner.sweep.tiers, inner.dates, strict=True)
    )


def _dates_cover(outer: tuple[DateExpression, ...], inner: tuple[DateExpression, ...], now: datetime) -> bool:
    if not outer or outer == inner:
        return True
    return bool(inner) and all(any(dates_cover(wide, one, now) for wide in outer) for one in inner)


def _as_often(one: Schedule, other: Schedule) -> bool:
    """Whether the one asks at least as often as the other."""
    if one == other:
        return True
    if one.every is None:
        return False
    return one.every <= (other.every if other.every is not None else _shortest_gap(other))


@lru_cache(maxsize=256)
def _shortest_gap(schedule: Schedule) -> float:
    """Seconds between two runs by cron, at least."""
    if schedule.cron is None:
        return 0.0
    minutes = [hour * 60 + minute for hour in schedule.cron.hours for minute in schedule.cron.minutes]
    following = [*minutes[1:], minutes[0] + _DAY]
    return 60.0 * min(later - sooner for sooner, later in zip(minutes, following, strict=True))


# --- Which to compare -------------------------------------------------------------------------------------------------


class _Index:
    """Finds the few rules that may cover a rule, so that not every pair is looked at.

    Each rule is kept under its rarest need, once for each destination; a rule that it covers offers that.
    """

    def __init__(self, takes: Sequence[Take]) -> None:
        needs = {take.number: _needs(take) for take in takes}
        frequency = Counter(token for each in needs.values() for need in each for token in need)
        self._kept: defaultdict[tuple[str, str, Token], list[Take]] = defaultdict(list)
        for take in takes:
            rarest = min(needs[take.number], key=lambda need: sum(frequency[token] for token in need))
            for destination in take.rule.move.to:
                for token in rarest:
                    self._kept[take.sweep.source, destination, token].append(take)

    def candidates(self, inner: Take, destination: str) -> Iterator[Take]:
        """Those that may cover it there, each once, a bounded number of them."""
        seen: set[int] = set()
        for token in _offers(inner):
            for take in self._kept.get((inner.sweep.source, destination, token), ()):
                if len(seen) < _MOST and take.number not in seen:
                    seen.add(take.number)
                    yield take


def _needs(outer: Take) -> list[frozenset[Token]]:
    """What a rule asks for: of each, a rule that it covers offers one token."""
    needs: list[frozenset[Token]] = [frozenset([_ANY_RULE])]
    needs += [frozenset((key.tag, _beginning(value.text)) for value in key.values) for key in outer.keys]
    for part in outer.parts:
        if part[0] == "is":
            needs.append(frozenset((part[1], text) for text in part[2]))
        elif part[0] != "any":
            needs.append(frozenset([part]))
    return needs


def _offers(inner: Take) -> Iterator[Token]:
    yield _ANY_RULE
    for key in inner.keys:
        for tag in (key.tag, _MODALITIES) if key.tag == _MODALITY else (key.tag,):
            for value in key.values:
                yield from _beginnings(tag, value.text)
    for part in inner.parts:
        yield part
        if part[0] == "is":
            for text in part[2]:
                yield (part[1], text)
                if len(part[1]) == 1:
                    yield from _beginnings(part[1][0], text)


def _beginning(text: str) -> str:
    """A value of a key up to its first wildcard; what it matches begins like that."""
    return re.split(r"[*?]", text, maxsplit=1)[0].casefold()


def _beginnings(tag: int, text: str) -> Iterator[Token]:
    beginning = _beginning(text)
    for length in range(len(beginning) + 1):
        yield (tag, beginning[:length])
