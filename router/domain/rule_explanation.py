"""Why the sweep of a rule takes a study, or does not: each key, each tier, each clause, with what was seen. Pure.

For a terminal only: it shows values of patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from router.domain.condition import Evaluation, Explanation, KeyMatch
from router.domain.coverage import coverage
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.levels import asked_at
from router.domain.lookback import sweep_keys
from router.domain.restraint import spelled
from router.domain.rule import Rule, Sweep

_STUDY_DATE = known_tag("StudyDate")
_EITHER = ("any of", "one of", "not")
"""How the texts of groups begin of which no single part decides."""
MOST_SERIES = 50
"""Series of a study that are explained one by one."""


def explain_sweep(
    rule: Rule, sweep: Sweep, row: Identifier, series: Sequence[Identifier] | None, evaluation: Evaluation
) -> tuple[Explanation, ...]:
    """The keys, the tiers and the condition, asked of a study's row; of its series' rows where the sweep finds series.

    Rows of series say what the study's row says too.
    """
    keys = sweep_keys(sweep, rule.widest_tier, now=evaluation.now, zone=evaluation.zone, watermark=None).keys
    tiered = any(tier.lookback is not None for tier in sweep.tiers)
    study_keys = [
        _with_coverage(key, row, evaluation)
        for key in keys
        if key.values and asked_at(key.tag) is QueryRetrieveLevel.STUDY and not (tiered and key.tag == _STUDY_DATE)
    ]
    found: list[Explanation] = [_all("all keys of the sweep match", study_keys)] if study_keys else []
    if tiered:
        tiers = [_tier(sweep, number, row, evaluation) for number in range(len(sweep.tiers))]
        found.append(_any("one of the tiers looks back far enough", tiers))
    if sweep.level is not QueryRetrieveLevel.SERIES or series is None:
        return (*found, *_where(rule, row, evaluation))
    return (*found, _any("one of its series fits", [_series(rule, keys, one, evaluation) for one in series]))


def deciding(explanations: Sequence[Explanation]) -> tuple[int, ...]:
    """The way to the part that decides against: its place, then within that, and so on. Empty where all hold."""
    for place, one in enumerate(explanations):
        if not one.passed:
            return (place,) if one.text.startswith(_EITHER) else (place, *deciding(one.parts))
    return ()


def _where(rule: Rule, row: Identifier, evaluation: Evaluation) -> tuple[Explanation, ...]:
    """The condition; nothing where the rule has none."""
    found = rule.where.explain(row, evaluation)
    return (msgspec.structs.replace(found, text="where: all of"),) if found.parts else ()


def _series(rule: Rule, keys: Sequence[KeyMatch], row: Identifier, evaluation: Evaluation) -> Explanation:
    parts = [
        key.explain(row, evaluation) for key in keys if key.values and asked_at(key.tag) is QueryRetrieveLevel.SERIES
    ]
    return _all(f"series {row.text('SeriesInstanceUID')}", [*parts, *_where(rule, row, evaluation)])


def _tier(sweep: Sweep, number: int, row: Identifier, evaluation: Evaluation) -> Explanation:
    """A tier by its Study Date."""
    tier = sweep.tiers[number]
    keys = sweep_keys(sweep, number, now=evaluation.now, zone=evaluation.zone, watermark=None).keys
    back = f"{tier.schedule.text}, looking back {spelled(tier.lookback)}" if tier.lookback else tier.schedule.text
    for key in keys:
        if key.tag == _STUDY_DATE and key.values:
            one = _with_coverage(key, row, evaluation)
            words = one.text if tier.lookback is None else one.text.partition(" (")[2].replace(")", "", 1)
            return msgspec.structs.replace(one, text=f"{back}: {words}")
    return Explanation(f"{back}: any Study Date", True, _dates_of(row))


def _dates_of(row: Identifier) -> tuple[str, ...]:
    """Study Date and Time of a row, as far as it has them."""
    return tuple(text for name in ("StudyDate", "StudyTime") if (text := row.text(name)))


def _with_coverage(key: KeyMatch, row: Identifier, evaluation: Evaluation) -> Explanation:
    """A key; where its dates move with the present, since or until when they take the study."""
    one = key.explain(row, evaluation)
    covered = coverage(key, row, evaluation)
    if covered is None:
        return one
    now = evaluation.now
    if one.passed:
        words = f"until {_time(covered.until, evaluation)}" if covered.until is not None else ""
    elif covered.since is not None and covered.since > now:
        words = f"from {_time(covered.since, evaluation)} on"
    else:
        words = f"no more since {_time(covered.until, evaluation)}" if covered.until is not None else ""
    return msgspec.structs.replace(one, text=f"{one.text}, {words}") if words else one


def _time(moment: datetime | None, evaluation: Evaluation) -> str:
    return f"{moment.astimezone(evaluation.zone):%Y-%m-%d %H:%M}" if moment is not None else ""


def _all(text: str, parts: Sequence[Explanation]) -> Explanation:
    return Explanation(text, all(part.passed for part in parts), (), tuple(parts))


def _any(text: str, parts: Sequence[Explanation]) -> Explanation:
    return Explanation(text, any(part.passed for part in parts), (), tuple(parts))
