"""The triggers of a rule: a sweep, the modality worklist, orders, arrivals. From their trees to the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

from router.config.base import Base
from router.config.diagnostics import Code
from router.config.document import MappingNode, Node
from router.config.schema import did_you_mean, node_at, raw_value
from router.domain import rule as model
from router.domain.attributes import SET_BY_ROUTER
from router.domain.condition import KeyMatch
from router.domain.dicom import QueryRetrieveLevel, name_of, tag_of
from router.domain.problem import ExpressionError
from router.domain.timing import DateExpression, Schedule
from router.domain.triggers import ORDER_EVENTS
from router.domain.worklist import STEP_KEYS, WORKLIST_KEYS

_MINUTES = re.compile(r"now[^.]*[0-9]\s*m(?!o)")
"""Where someone may have meant minutes."""

_START_DATE = "ScheduledProcedureStepStartDate"
_DATES = "today..today+1d"
"""For which days a worklist is asked where a rule does not say."""

_NOT_ASKED = {
    "ScheduledProcedureStepStartTime": "times are compared here: " + _START_DATE + ": now..now+4h asks for their days",
    "StudyDate": f"use {_START_DATE}",
    "StudyTime": f"use {_START_DATE}",
    "ModalitiesInStudy": "use Modality",
    "StudyDescription": "filter by RequestedProcedureDescription under where:",
}
"""Keys that a worklist is not asked for, and what was meant."""


def sweep(
    base: Base, name: str, tree: MappingNode, values: Mapping[str, Any], nodes: Mapping[str, model.Node]
) -> model.Sweep:
    """The trigger `sweep`."""
    zone = _zone(base, tree, values, nodes)
    return model.Sweep(
        source=values.get("source", ""),
        level=QueryRetrieveLevel(values.get("level", "STUDY")),
        tiers=_tiers(base, name, "sweep", tree, values, zone),
        keys=_keys(base, name, "sweep", tree, zone),
        **base.durations(tree, values, "settle", "catch_up"),
    )


def worklist(
    base: Base, name: str, tree: MappingNode, values: Mapping[str, Any], nodes: Mapping[str, model.Node]
) -> model.Worklist:
    """The trigger `worklist`; without a date it asks for today and tomorrow."""
    zone = _zone(base, tree, values, nodes)
    keys = tuple(
        key for key in _keys(base, name, "worklist", tree, zone) if key.values or key.tag != tag_of(_START_DATE)
    )
    if not any(key.tag == tag_of(_START_DATE) for key in keys):
        keys = (KeyMatch.of_date(_START_DATE, DateExpression.parse(_DATES)), *keys)
    return model.Worklist(
        source=values.get("source", ""),
        tiers=_tiers(base, name, "worklist", tree, values, zone),
        keys=keys,
        **base.durations(tree, values, "lead"),
    )


def order(base: Base, tree: MappingNode, values: Mapping[str, Any]) -> model.Order:
    """The trigger `order`."""
    return model.Order(
        senders=tuple(dict.fromkeys(values.get("from", ()))),
        events=tuple(dict.fromkeys(values.get("events", ORDER_EVENTS))),
        **base.durations(tree, values, "lead"),
    )


def arrival(base: Base, tree: MappingNode, values: Mapping[str, Any]) -> model.Arrival:
    """The trigger `arrival`."""
    return model.Arrival(
        senders=tuple(dict.fromkeys(values.get("from", ()))),
        level=model.Unit(values.get("level", "study")),
        **base.durations(tree, values, "stable"),
    )


def _zone(base: Base, tree: MappingNode, values: Mapping[str, Any], nodes: Mapping[str, model.Node]) -> str:
    source = nodes.get(values.get("source", ""))
    return base.zone(tree, values, source.timezone if source else base.machine_zone)


# --- Schedules --------------------------------------------------------------------------------------------------------


def _tiers(
    base: Base, name: str, trigger: str, tree: MappingNode, values: Mapping[str, Any], zone: str
) -> tuple[model.Tier, ...]:
    subject = f"rules.{name}.{trigger}"
    source = values.get("source", "")
    given = [key for key in ("every", "cron", "tiers") if key in values]
    if len(given) != 1:
        if given or not base.is_damaged(name):
            place = tree.keys[given[1]] if given else base.rule_place(name, trigger, at_key=True)
            what = f"has {' and '.join(given)}" if given else "has no schedule"
            hint = "exactly one of every, cron and tiers, for example every: 5m"
            base.report(place, Code.SCHEDULE, f"{subject} {what}", hint)
        return ()
    if given != ["tiers"]:
        schedule = _schedule(base, tree, values, zone, source)
        return (model.Tier(schedule=schedule),) if schedule else ()
    tiers = []
    for index, tier in enumerate(values["tiers"]):
        item = node_at(tree, ("tiers", index))
        if not isinstance(item, MappingNode):
            continue
        if ("every" in tier) == ("cron" in tier):
            if "every" in tier or not base.is_damaged(name):
                hint = "exactly one of every and cron"
                base.report(item, Code.SCHEDULE, f"{subject}.tiers: tier {index + 1} needs a schedule", hint)
            continue
        schedule = _schedule(base, item, tier, zone, source)
        lookback = base.duration(item.values["lookback"], tier["lookback"]) if "lookback" in tier else None
        if schedule:
            tiers.append(model.Tier(schedule=schedule, lookback=lookback))
    return tuple(tiers)


def _schedule(base: Base, tree: MappingNode, values: Mapping[str, Any], zone: str, source: str) -> Schedule | None:
    if "cron" in values:
        try:
            return Schedule.at(values["cron"], zone)
        except ExpressionError as error:
            base.report(tree.values["cron"], Code.CRON, error.message, error.hint)
            return None
    seconds = base.duration(tree.values["every"], values["every"])
    if seconds < 1:
        base.report(tree.values["every"], Code.BAD_VALUE, "a node cannot be asked more often than once a second")
        return None
    # What one source is asked equally often falls due together, so that rules can share the answer.
    return Schedule.periodic(seconds, f"{source}/{seconds:g}")


# --- Matching keys ----------------------------------------------------------------------------------------------------


def _keys(base: Base, name: str, trigger: str, tree: MappingNode, zone: str) -> tuple[KeyMatch, ...]:
    given = tree.values.get("keys")
    if not isinstance(given, MappingNode):
        return ()
    keys: list[KeyMatch] = []
    for attribute, value in raw_value(given).items():
        texts = value if isinstance(value, list) else [value]
        subject = f"rules.{name}.{trigger}.keys.{attribute}"
        if not all(isinstance(text, str) for text in texts) or not texts:
            hint = "one value, a list of values, or nothing; matchers go under where"
            base.report(given.values[attribute], Code.WRONG_TYPE, f"{subject} is no value to match", hint)
            base.refused_keys.add(name)
            continue
        if trigger == "worklist" and not _is_of_worklist(base, subject, given.keys[attribute], tag_of(attribute)):
            continue
        try:
            key = KeyMatch.of(attribute, *texts)
        except ExpressionError as error:
            base.report_expression(error.below(attribute), given, subject)
            base.refused_keys.add(name)
            continue
        if key.tag in SET_BY_ROUTER:
            message = f"{subject} is not yours: {SET_BY_ROUTER[key.tag]}"
            base.report(given.keys[attribute], Code.KEY_REFUSED, message, "leave it out")
            continue
        if key.tag in [other.tag for other in keys]:
            message = f"{subject} is given twice, by keyword and by tag"
            base.report(given.keys[attribute], Code.DUPLICATE_KEY, message)
            continue
        for dates in (value.dates for value in key.values if value.dates is not None):
            _check_dates(base, dates, given.values[attribute], subject, zone)
        keys.append(key)
    return tuple(keys)


def _is_of_worklist(base: Base, subject: str, place: Node, tag: int | None) -> bool:
    """Whether a modality worklist is matched by an attribute (PS3.4 table K.6-1); it is reported where not."""
    known = STEP_KEYS | WORKLIST_KEYS
    keyword = name_of(tag) if tag is not None else ""
    if tag is None or (tag in known and keyword not in _NOT_ASKED):
        return True
    hint = _NOT_ASKED.get(keyword) or did_you_mean(keyword, sorted(map(name_of, known))) or "filter by it under where:"
    base.report(place, Code.KEY_REFUSED, f"{subject}: a modality worklist is not asked for {keyword}", hint)
    return False


def _check_dates(base: Base, dates: DateExpression, place: Node, subject: str, zone: str) -> None:
    if dates.resolve(base.now, ZoneInfo(zone)).empty:
        base.report(place, Code.DATE_ORDER, f"{subject}: {dates.text!r} holds no day at present", warning=True)
    if _MINUTES.search(dates.text):
        hint = "write mo for months; minutes do not exist here, hours are h"
        base.report(place, Code.DATE, f"{subject}: m means months in {dates.text!r}", hint, warning=True)
