"""The keys `windows`: opening times from their texts, and which of them a node keeps with which limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from router.config.diagnostics import Code
from router.config.document import MappingNode
from router.config.schema import node_at, schema_at, value_of
from router.config.tls import Report
from router.config.values import parse_percentage
from router.domain.problem import ExpressionError
from router.domain.rule import WindowUse
from router.domain.window import Window, parse_dates, parse_span

_LIMITS = ("associations", "queries_per_minute", "moves_per_hour", "incoming")


def compile_windows(
    section: MappingNode,
    zone_of: Callable[[MappingNode, Mapping[str, Any]], str],
    now: datetime,
    report: Report,
) -> dict[str, Window]:
    """The section `windows`; what of it is not understood, and what never opens any more, goes to `report`."""
    windows = {}
    for name, tree in section.values.items():
        if isinstance(tree, MappingNode):
            values = value_of(tree, schema_at(("windows", name)))
            windows[name] = _window(name, tree, values, zone_of(tree, values), now, report)
    return windows


def _window(
    name: str, tree: MappingNode, values: Mapping[str, Any], zone: str, now: datetime, report: Report
) -> Window:
    whole = "open" in values

    def compiled(key: str, parse: Callable[[str], Any]) -> list[Any]:
        nonlocal whole
        result = []
        for index, text in enumerate(values.get(key, ())):
            try:
                result.append(parse(text))
            except ExpressionError as error:
                whole = False
                report(node_at(tree, (key, index)), Code.WINDOW, f"windows.{name}.{key}: {error.message}", error.hint)
        return result

    spans = [part for parts in compiled("open", parse_span) for part in parts]
    window = Window.of(name, zone, spans, compiled("except", parse_dates), values.get("description", ""))
    if whole and not window.open_at(now) and window.next_open(now) is None:
        key, why = ("except", "every date to come is excepted") if spans else ("open", "it has no times")
        hint = "take dates out, or leave the window away" if spans else "for example open: [mon-fri 19:00-07:00]"
        report(node_at(tree, (key,), at_key=True), Code.NEVER_OPEN, f"windows.{name} never opens: {why}", hint)
    return window


def window_uses(
    name: str, tree: MappingNode, values: Mapping[str, Any], *, whole: bool, report: Report
) -> tuple[WindowUse, ...]:
    """The list `windows` of a node, where the tree is `whole`. Whether its windows exist is for the checks to say."""
    uses = []
    for index, given in enumerate(values.get("windows", ())):
        place = node_at(tree, ("windows", index))
        always = given.get("always", False)
        if ("use" in given) == always:
            which = "has use and always" if always else "names no window"
            hint = "use: NAME of a window, or always: true for the rest of the time"
            if always or whole:
                report(place, Code.WINDOW_ENTRY, f"nodes.{name}.windows: entry {index + 1} {which}", hint)
            continue
        duty = None
        if "duty" in given:
            duty = parse_percentage(given["duty"])
            if duty is None:
                message = f"{given['duty']!r} is no duty cycle for nodes.{name}.windows.duty"
                at = node_at(tree, ("windows", index, "duty"))
                report(at, Code.BAD_VALUE, message, "more than 0% and at most 100%, for example 50%")
        limits = {key: given[key] for key in _LIMITS if key in given}
        uses.append(WindowUse(window=given.get("use"), duty=duty, **limits))
    return tuple(uses)
