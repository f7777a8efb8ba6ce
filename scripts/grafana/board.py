"""A dashboard: its variables, links and rows, and where each panel stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from grafana.panels import DATASOURCE, Json, Panel

WIDTH = 24

VARIABLES = {
    "instance": ("Router", "dicom_router_build_info"),
    "rule": ("Rule", 'dicom_router_transfers_total{instance=~"$instance"}'),
    "source": ("Source", 'dicom_router_transfers_total{instance=~"$instance"}'),
    "destination": ("Destination", 'dicom_router_transfers_total{instance=~"$instance"}'),
    "node": ("Node", 'dicom_router_node_up{instance=~"$instance"}'),
}
"""Variable, which is a label -> what it is called, and whose label it is."""


class Row(NamedTuple):
    """Panels under a heading, from left to right."""

    title: str
    panels: Sequence[Panel]


def dashboard(
    uid: str, title: str, text: str, variables: Sequence[str], rows: Sequence[Row], own: dict[str, str] | None = None
) -> Json:
    """The JSON. `own`: series for a variable in the place of those of VARIABLES."""
    return {
        "uid": uid,
        "title": f"dicom-router: {title}",
        "description": text,
        "tags": ["dicom-router"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "annotations": {"list": [accepted()]},
        "links": [to_the_others()],
        "templating": {"list": [source(), *(variable(name, (own or {}).get(name)) for name in variables)]},
        "panels": placed(rows),
    }


def accepted() -> Json:
    """A line in the graphs where a configuration was accepted."""
    return {
        "name": "Configuration accepted",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "expr": 'dicom_router_config_last_reload_success_timestamp_seconds{instance=~"$instance"} * 1000',
        "useValueForTime": "on",
        "titleFormat": "Configuration accepted",
        "textFormat": "{{instance}}",
    }


def to_the_others() -> Json:
    """The menu of all dashboards of the router."""
    return {
        "type": "dashboards",
        "title": "dicom-router",
        "tags": ["dicom-router"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "The other dashboards of the router, for the same time and selection.",
        "url": "",
    }


def source() -> Json:
    """The variable that says which Prometheus is asked."""
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "options": [],
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "multi": False,
        "includeAll": False,
        "skipUrlSync": False,
    }


def variable(name: str, series: str | None) -> Json:
    """A label by which a dashboard can be narrowed."""
    label, usual = VARIABLES[name]
    query = f"label_values({series or usual}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "options": [],
        "regex": "",
        "skipUrlSync": False,
    }


def placed(rows: Sequence[Row]) -> list[Json]:
    """Every panel with its number and place."""
    found: list[Json] = []
    top = 0
    for row in rows:
        heading = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
        found.append({"id": len(found) + 1, **heading, "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}})
        top += 1
        left = height = 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, height = 0, top + height, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append({"id": len(found) + 1, **panel.body, "gridPos": place})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return found
