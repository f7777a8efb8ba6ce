"""Grafana dashboards read without Grafana: their panels, and their expressions as Prometheus would be asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARDS = sorted((Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards").glob("*.json"))

# What Grafana puts in for a window of an hour; a variable that is not restricted matches anything.
# A rate over minutes: what has happened is still seen when all of it has been looked at, on a busy machine too.
_BUILT_IN = {"__rate_interval": "10m", "__interval": "15s", "__range": "1h"}
_UNRESTRICTED = ".*"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|([A-Za-z_]\w*))")
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_LABEL_VALUES = re.compile(r"label_values\((?P<series>.*), (?P<label>\w+)\)")


class Expression(NamedTuple):
    """One query of a panel, its variables replaced."""

    dashboard: str
    """The name of its file, without the ending."""
    panel: str
    promql: str
    named_by: tuple[str, ...] = ()
    """The labels that its series are called by."""


class Offer(NamedTuple):
    """What a variable offers: the values of a label of some series."""

    variable: str
    series: str
    label: str


def load(path: Path) -> dict[str, Any]:
    """Return the dashboard's JSON."""
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel, rows and what collapsed rows hold included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions(*paths: Path) -> list[Expression]:
    """Return each panel's PromQL of these dashboards, or of all, with Grafana's variables replaced as for "All".

    What marks the graphs of a dashboard stands under the title of the mark.
    """
    found = []
    for path in paths or DASHBOARDS:
        dashboard = load(path)
        asked = [
            (one["title"], query["expr"], query["legendFormat"])
            for one in panels(dashboard)
            for query in one.get("targets", [])
        ]
        asked += [(one["name"], one["expr"], one["textFormat"]) for one in dashboard["annotations"]["list"]]
        for title, expr, legend in asked:
            found.append(Expression(path.stem, title, resolve(expr), tuple(_PLACEHOLDER.findall(legend))))
    return found


def offers(dashboard: dict[str, Any]) -> list[Offer]:
    """Return what the variables of a dashboard that ask Prometheus offer, as they stand."""
    found = []
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            parts = _LABEL_VALUES.fullmatch(variable["definition"])
            assert parts is not None, variable["definition"]
            found.append(Offer(variable["name"], parts["series"], parts["label"]))
    return found


def resolve(expression: str) -> str:
    """Replace Grafana's variables in an expression."""

    def value(match: re.Match[str]) -> str:
        return _BUILT_IN.get(match[1] or match[2], _UNRESTRICTED)

    return _VARIABLE.sub(value, expression)
