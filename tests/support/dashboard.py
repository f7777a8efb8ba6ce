"""Grafana dashboards read without Grafana: their panels, and their expressions as Prometheus would be asked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

OVERVIEW = Path(__file__).parents[2] / "monitoring" / "grafana" / "dashboards" / "overview.json"

# What Grafana puts in for a window of an hour; a variable that is not restricted matches anything.
_BUILT_IN = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h"}
_UNRESTRICTED = ".*"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")


class Expression(NamedTuple):
    """One query of a panel, its variables replaced."""

    panel: str
    promql: str


def load(path: Path = OVERVIEW) -> dict[str, Any]:
    """Return the dashboard's JSON."""
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel, rows and what collapsed rows hold included."""
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions(path: Path = OVERVIEW) -> list[Expression]:
    """Return each panel's title and PromQL, in order, with Grafana's variables replaced as for "All"."""
    return [
        Expression(panel["title"], resolve(target["expr"]))
        for panel in panels(load(path))
        for target in panel.get("targets", [])
    ]


def resolve(expression: str) -> str:
    """Replace Grafana's variables in an expression."""

    def value(match: re.Match[str]) -> str:
        return _BUILT_IN.get(match[1] or match[2], _UNRESTRICTED)

    return _VARIABLE.sub(value, expression)
