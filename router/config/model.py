"""Builds the typed model from merged trees and compiles every expression; remembers places for the checks after it.

Nothing here stops at a mistake: what cannot be built is reported and stands in the model as its default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from router.config.character_sets import with_character_set
from router.config.diagnostics import Code, Diagnostic, Severity
from router.config.document import MappingNode, Node
from router.config.merge import Sections
from router.config.schema import diagnostic_at, did_you_mean, node_at, raw_value, schema_at, value_of
from router.config.tls import tls_settings
from router.config.values import (
    ae_title_problem,
    is_zone,
    machine_zone,
    nearest_attribute,
    nearest_zone,
    parse_address,
    parse_percentage,
    parse_size,
    result_limit,
)
from router.config.windows import compile_windows, window_uses
from router.domain import rule as model
from router.domain.attributes import SET_BY_ROUTER
from router.domain.commitment import MAXIMUM_PATIENCE
from router.domain.condition import KeyMatch, compile_condition
from router.domain.dicom import InformationModel, QueryRetrieveLevel
from router.domain.problem import ExpressionError, Kind, Step
from router.domain.timing import DateExpression, Schedule, parse_duration

_CODES = {
    Kind.SYNTAX: Code.MATCHER,
    Kind.ATTRIBUTE: Code.UNKNOWN_ATTRIBUTE,
    Kind.MATCHER: Code.MATCHER,
    Kind.VALUE: Code.ATTRIBUTE_VALUE,
    Kind.REGEX: Code.REGULAR_EXPRESSION,
    Kind.DATE: Code.DATE,
    Kind.DATE_ORDER: Code.DATE_ORDER,
    Kind.CRON: Code.CRON,
    Kind.WINDOW: Code.WINDOW,
    Kind.KEY: Code.KEY_REFUSED,
    Kind.UID_WILDCARD: Code.UID_WILDCARD,
}

_ADDRESS_HINT = "host:port with a port from 1 to 65535, for example 10.0.0.5:104 or [::1]:104"

_MINUTES = re.compile(r"now[^.]*[0-9]\s*m(?!o)")
"""Where someone may have meant minutes."""

Settings = TypeVar("Settings", bound=model.Model)

_RESERVED = {
    model.LOCAL: "that is this router's own store",
    "other": "metrics call nodes so that are not configured",
}


class Builder:
    """Makes the RuleSet of merged sections. `damaged` names what the schema refused in part: it may lack things."""

    def __init__(self, sections: Sections, damaged: frozenset[Step], now: datetime) -> None:
        self.sections = sections
        self.diagnostics: list[Diagnostic] = []
        self.trees: dict[str, MappingNode] = {}
        """The rules' trees with the defaults merged in."""
        self.refused_keys: set[str] = set()
        """Rules with a matching key that could not be compiled."""
        self._damaged = damaged
        self._now = now
        self._machine_zone = machine_zone()

    # --- places -------------------------------------------------------------------------------------------------------

    def is_damaged(self, *names: str) -> bool:
        """Whether something of these nodes, rules or sections was refused before: what is missing then is no news."""
        return not self._damaged.isdisjoint(("", "defaults", *names))

    def rule_place(self, rule: str, *path: Step, at_key: bool = False) -> Node:
        """The place of something of a rule; of the rule's name where the path leads nowhere."""
        tree = self.trees[rule]
        place = node_at(tree, path, at_key)
        return self.sections.rules.keys[rule] if place is tree else place

    def node_tree(self, name: str) -> Node:
        """A node's tree with the defaults merged in."""
        tree = self.sections.nodes.values[name]
        return self.sections.with_defaults("nodes", tree) if isinstance(tree, MappingNode) else tree

    def report(self, place: Node, code: Code, message: str, hint: str = "", *, warning: bool = False) -> None:
        """Note a finding."""
        severity = Severity.WARNING if warning else Severity.ERROR
        self.diagnostics.append(diagnostic_at(place, code, message, hint, severity=severity))

    def _report_expression(self, error: ExpressionError, tree: Node, subject: str) -> None:
        hint = error.hint
        if error.kind is Kind.ATTRIBUTE and error.name:
            hint = nearest_attribute(error.name)
        elif error.kind is Kind.MATCHER and error.name:
            hint = did_you_mean(error.name, hint.removeprefix("matchers are ").split(", ")) or hint
        self.report(node_at(tree, error.path, error.at_key), _CODES[error.kind], f"{subject}: {error.message}", hint)

    # --- the whole ----------------------------------------------------------------------------------------------------

    def build(self, content_hash: str) -> model.RuleSet:
        """The model, as far as it can be built."""
        router = self._router()
        nodes: dict[str, model.Node] = {}
        for name, tree in self.sections.nodes.values.items():
            if isinstance(tree, MappingNode):
                nodes[name] = self._node(name, self.sections.with_defaults("nodes", tree), router.tls)
        rules = {}
        for name, tree in self.sections.rules.values.items():
            if isinstance(tree, MappingNode):
                self.trees[name] = self.sections.with_defaults("rules", tree)
                rules[name] = self._rule(name, self.trees[name], nodes)
        zone_of = partial(self._zone, default=self._machine_zone)
        windows = compile_windows(self.sections.windows, zone_of, self._now, self.report)
        return model.RuleSet(router=router, nodes=nodes, rules=rules, windows=windows, content_hash=content_hash)

    # --- router and nodes ---------------------------------------------------------------------------------------------

    def _router(self) -> model.RouterSettings:
        tree = self.sections.router
        values = value_of(tree, schema_at(("router",)))
        changes: dict[str, Any] = {
            key: values[key]
            for key in ("store", "ledger", "durability", "maximum_associations", "receivers")
            if key in values
        }
        for key in ("listen", "http"):
            if key in values:
                address = parse_address(values[key])
                if address is None:
                    self.report(tree.values[key], Code.ADDRESS, f"{values[key]!r} is no address", _ADDRESS_HINT)
                else:
                    changes[f"{key}_host"], changes[f"{key}_port"] = address
        if "ae_title" in values and self._ae_title(tree.values["ae_title"], values["ae_title"], "router.ae_title"):
            changes["ae_title"] = values["ae_title"]
        if "drain" in values:
            changes["drain"] = self._duration(tree.values["drain"], values["drain"])
        if "minimum_free" in values:
            changes["minimum_free"] = parse_size(values["minimum_free"]) or 0
        if not values.get("ledger", "sqlite:///x").startswith("sqlite:///") or values.get("ledger") == "sqlite:///":
            hint = "sqlite:///./data/ledger.db, or sqlite:////var/lib/dicom-router/ledger.db for an absolute path"
            self.report(tree.values["ledger"], Code.BAD_VALUE, "router.ledger names no SQLite file", hint)
        if not str(values.get("store", "x")).strip():
            self.report(tree.values["store"], Code.BAD_VALUE, "router.store is empty", "name a directory")
        changes["tls"] = tls_settings(
            tree, values, "router", own=None, whole=not self.is_damaged("router"), report=self.report
        )
        return model.RouterSettings(**changes)

    def _node(self, name: str, tree: MappingNode, own_tls: model.TlsSettings | None) -> model.Node:
        key = self.sections.nodes.keys[name]
        if name in _RESERVED:
            self.report(key, Code.BAD_NAME, f"a node cannot be called {name}: {_RESERVED[name]}")
        values = value_of(tree, schema_at(("nodes", name)))
        title = values.get("ae_title", "")
        if "ae_title" in values:
            self._ae_title(tree.values["ae_title"], title, f"nodes.{name}.ae_title")
        address = parse_address(values.get("address", ""))
        if address is None and "address" in values:
            self.report(tree.values["address"], Code.ADDRESS, f"{values['address']!r} is no address", _ADDRESS_HINT)
        sends_as = tuple(dict.fromkeys(values.get("sends_as", ())))
        for index, calling in enumerate(values.get("sends_as", ())):
            self._ae_title(node_at(tree, ("sends_as", index)), calling, f"nodes.{name}.sends_as")
        return model.Node(
            name=name,
            ae_title=title,
            host=address[0] if address else "",
            port=address[1] if address else 0,
            timezone=self._zone(tree, values, self._machine_zone),
            sends_as=sends_as,
            root=InformationModel(values.get("root", "study")),
            limits=self._settings(model.NodeLimits, tree, values, "limits"),
            breaker=self._settings(model.BreakerSettings, tree, values, "breaker"),
            windows=window_uses(name, tree, values, whole=not self.is_damaged(name), report=self.report),
            find=self._settings(model.FindSettings, tree, with_character_set(name, tree, values, self.report), "find"),
            move=self._settings(model.MoveSettings, tree, values, "move"),
            timeouts=self._settings(model.Timeouts, tree, values, "timeouts"),
            commitment=self._commitment(name, tree, values),
            tls=tls_settings(
                tree,
                values,
                f"nodes.{name}",
                own=own_tls,
                whole=not self.is_damaged(name, "router"),
                report=self.report,
            ),
        )

    def _commitment(self, name: str, tree: MappingNode, values: Mapping[str, Any]) -> model.CommitmentSettings | None:
        given = values.get("commitment", False)
        if given is False:
            return None
        if given is True:
            return model.CommitmentSettings()
        settings = self._settings(model.CommitmentSettings, tree, values, "commitment")
        if settings.timeout > MAXIMUM_PATIENCE.total_seconds():
            place = node_at(tree, ("commitment", "timeout"))
            message = f"nodes.{name}.commitment.timeout is longer than {MAXIMUM_PATIENCE.days} days"
            self.report(place, Code.BAD_VALUE, message, "6h is usual")
        return settings

    def _settings(self, kind: type[Settings], tree: MappingNode, values: Mapping[str, Any], key: str) -> Settings:
        """A group of numbers and durations, which are the fields of type float."""
        given: dict[str, Any] = dict(values.get(key, {}))
        if "max_results" in given:
            given["max_results"] = result_limit(given["max_results"])
        if "duty" in given:
            given["duty"] = parse_percentage(text := given["duty"])
            if given["duty"] is None:
                message = f"{text!r} is no duty cycle for {key}.duty"
                hint = "more than 0% and at most 100%, for example 50%"
                self.report(node_at(tree, (key, "duty")), Code.BAD_VALUE, message, hint)
        durations = {field.name for field in msgspec.structs.fields(kind) if field.type is float}
        for name in durations & set(given):
            given[name] = self._duration(node_at(tree, (key, name)), given[name])
        settings = kind(**given)
        inactivity, total = getattr(settings, "inactivity", 0.0), getattr(settings, "total", 0.0)
        if inactivity > total:
            place = node_at(tree, (key, "inactivity" if "inactivity" in given else "total"), at_key=True)
            self.report(place, Code.LIMITS, f"{key}.inactivity is longer than {key}.total", "it would never be reached")
        return settings

    def _ae_title(self, place: Node, title: str, subject: str) -> bool:
        problem = ae_title_problem(title)
        if problem:
            self.report(place, Code.AE_TITLE, f"{subject} {problem}")
        return not problem

    def _zone(self, tree: MappingNode, values: Mapping[str, Any], default: str) -> str:
        name: str = values.get("timezone", default)
        if is_zone(name):
            return name
        self.report(tree.values["timezone"], Code.TIME_ZONE, f"there is no time zone {name!r}", nearest_zone(name))
        return default

    def _duration(self, place: Node, text: str) -> float:
        try:
            return parse_duration(text)
        except ExpressionError as error:
            self.report(place, Code.BAD_VALUE, error.message, error.hint)
            return 1.0

    # --- rules --------------------------------------------------------------------------------------------------------

    def _rule(self, name: str, tree: MappingNode, nodes: Mapping[str, model.Node]) -> model.Rule:
        values = value_of(tree, schema_at(("rules", name)))
        where = tree.values.get("where", MappingNode(tree.file, tree.line, tree.column))
        condition, errors = compile_condition(raw_value(where) if isinstance(where, MappingNode) else {})
        for error in errors:
            self._report_expression(error, where, f"rules.{name}.where")
        return model.Rule(
            name=name,
            description=values.get("description", ""),
            owner=values.get("owner", ""),
            enabled=values.get("enabled", True),
            priority=values.get("priority", "normal"),
            sweep=self._sweep(name, tree.values.get("sweep"), values.get("sweep", {}), nodes),
            where=condition,
            move=self._move(tree, values.get("move", {})),
            limits=self._settings(model.RuleLimits, tree, values, "limits"),
        )

    def _move(self, tree: MappingNode, values: Mapping[str, Any]) -> model.Move:
        inner = tree.values.get("move")
        retry = model.Retry()
        if isinstance(inner, MappingNode):
            retry = self._settings(model.Retry, inner, values, "retry")
        return model.Move(
            to=tuple(values.get("to", ())),
            level=QueryRetrieveLevel(values.get("level", "STUDY")),
            verify=values.get("verify", "auto"),
            skip_present=values.get("skip_present", True),
            via=values.get("via"),
            retry=retry,
        )

    def _sweep(
        self, name: str, tree: Node | None, values: Mapping[str, Any], nodes: Mapping[str, model.Node]
    ) -> model.Sweep:
        if not isinstance(tree, MappingNode):
            return model.Sweep(source="")
        source = nodes.get(values.get("source", ""))
        zone = self._zone(tree, values, source.timezone if source else self._machine_zone)
        keys = tree.values.get("keys")
        return model.Sweep(
            source=values.get("source", ""),
            level=QueryRetrieveLevel(values.get("level", "STUDY")),
            tiers=self._tiers(name, tree, values, zone),
            keys=self._keys(name, keys, zone) if isinstance(keys, MappingNode) else (),
            **{key: self._duration(tree.values[key], values[key]) for key in ("settle", "catch_up") if key in values},
        )

    def _tiers(self, name: str, tree: MappingNode, values: Mapping[str, Any], zone: str) -> tuple[model.Tier, ...]:
        source = values.get("source", "")
        given = [key for key in ("every", "cron", "tiers") if key in values]
        if len(given) != 1:
            if given or not self.is_damaged(name):
                place = tree.keys[given[1]] if given else self.rule_place(name, "sweep", at_key=True)
                what = f"has {' and '.join(given)}" if given else "has no schedule"
                hint = "exactly one of every, cron and tiers, for example every: 5m"
                self.report(place, Code.SCHEDULE, f"rules.{name}.sweep {what}", hint)
            return ()
        if given != ["tiers"]:
            schedule = self._schedule(tree, values, zone, source)
            return (model.Tier(schedule=schedule),) if schedule else ()
        tiers = []
        for index, tier in enumerate(values["tiers"]):
            item = node_at(tree, ("tiers", index))
            if not isinstance(item, MappingNode):
                continue
            if ("every" in tier) == ("cron" in tier):
                if "every" in tier or not self.is_damaged(name):
                    hint = "exactly one of every and cron"
                    self.report(
                        item, Code.SCHEDULE, f"rules.{name}.sweep.tiers: tier {index + 1} needs a schedule", hint
                    )
                continue
            schedule = self._schedule(item, tier, zone, source)
            lookback = self._duration(item.values["lookback"], tier["lookback"]) if "lookback" in tier else None
            if schedule:
                tiers.append(model.Tier(schedule=schedule, lookback=lookback))
        return tuple(tiers)

    def _schedule(self, tree: MappingNode, values: Mapping[str, Any], zone: str, source: str) -> Schedule | None:
        if "cron" in values:
            try:
                return Schedule.at(values["cron"], zone)
            except ExpressionError as error:
                self.report(tree.values["cron"], Code.CRON, error.message, error.hint)
                return None
        seconds = self._duration(tree.values["every"], values["every"])
        if seconds < 1:
            self.report(tree.values["every"], Code.BAD_VALUE, "a sweep cannot run more often than once a second")
            return None
        # What one source is asked equally often falls due together, so that rules can share the answer.
        return Schedule.periodic(seconds, f"{source}/{seconds:g}")

    def _keys(self, name: str, tree: MappingNode, zone: str) -> tuple[KeyMatch, ...]:
        keys: list[KeyMatch] = []
        for attribute, value in raw_value(tree).items():
            texts = value if isinstance(value, list) else [value]
            subject = f"rules.{name}.sweep.keys.{attribute}"
            if not all(isinstance(text, str) for text in texts) or not texts:
                hint = "one value, a list of values, or nothing; matchers go under where"
                self.report(tree.values[attribute], Code.WRONG_TYPE, f"{subject} is no value to match", hint)
                self.refused_keys.add(name)
                continue
            try:
                key = KeyMatch.of(attribute, *texts)
            except ExpressionError as error:
                self._report_expression(error.below(attribute), tree, subject)
                self.refused_keys.add(name)
                continue
            if key.tag in SET_BY_ROUTER:
                self.report(
                    tree.keys[attribute],
                    Code.KEY_REFUSED,
                    f"{subject} is not yours: {SET_BY_ROUTER[key.tag]}",
                    "leave it out",
                )
                continue
            if key.tag in [other.tag for other in keys]:
                self.report(
                    tree.keys[attribute], Code.DUPLICATE_KEY, f"{subject} is given twice, by keyword and by tag"
                )
                continue
            for dates in (value.dates for value in key.values if value.dates is not None):
                self._check_dates(dates, tree.values[attribute], subject, zone)
            keys.append(key)
        return tuple(keys)

    def _check_dates(self, dates: DateExpression, place: Node, subject: str, zone: str) -> None:
        if dates.resolve(self._now, ZoneInfo(zone)).empty:
            self.report(place, Code.DATE_ORDER, f"{subject}: {dates.text!r} holds no day at present", warning=True)
        if _MINUTES.search(dates.text):
            hint = "write mo for months; minutes do not exist here, hours are h"
            self.report(place, Code.DATE, f"{subject}: m means months in {dates.text!r}", hint, warning=True)
