"""Panels of Grafana 11 as plain values: few kinds, each with all it needs to be read without explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grafana.words import FINE, Steps, Words

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
Json = dict[str, Any]


class Panel(NamedTuple):
    """A panel without its place."""

    width: int
    height: int
    body: Json


class Query(NamedTuple):
    """What Prometheus is asked, and how its series are called."""

    expr: str
    legend: str = "__auto"


def stat(
    title: str,
    expr: str,
    text: str,
    *,
    unit: str = "short",
    steps: Steps = FINE,
    words: Words | None = None,
    trend: bool = False,
    width: int = 3,
    height: int = 4,
    none: str = "no data",
    decimals: int | None = None,
    link: Json | None = None,
) -> Panel:
    """One number; `trend` adds its course."""
    defaults: Json = {**look(unit, none, steps, words), "color": {"mode": "thresholds"}}
    if decimals is not None:
        defaults["decimals"] = decimals
    if link:
        defaults["links"] = [link]
    options = {
        "colorMode": "value" if trend else "none" if steps is FINE else "background",
        "graphMode": "area" if trend else "none",
        "justifyMode": "center",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    body = panel("stat", title, text, [target(Query(expr), instant=not trend)], defaults, [], options)
    return Panel(width, height, body)


def lines(
    title: str,
    queries: Sequence[Query],
    text: str,
    *,
    unit: str = "short",
    stacked: bool = False,
    steps: Steps | None = None,
    colors: Mapping[str, str] | None = None,
    dashed: Sequence[str] = (),
    width: int = 8,
    height: int = 8,
    none: str = "nothing in this time",
    least: float | None = 0,
) -> Panel:
    """Values over time. `dashed`: patterns of names that are limits, not values."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stacked else 10,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    defaults: Json = {**look(unit, none, steps or FINE), "custom": custom, "color": {"mode": "palette-classic"}}
    if least is not None:
        defaults["min"] = least
    overrides = coloured(colors or {})
    for pattern in dashed:
        style = {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}}
        overrides.append(override("byRegexp", pattern, style, {"id": "custom.fillOpacity", "value": 0}))
    options = graph_options(["lastNotNull", "max"])
    return Panel(width, height, panel("timeseries", title, text, targets(queries), defaults, overrides, options))


def bars(
    title: str,
    expr: str,
    legend: str,
    text: str,
    *,
    unit: str = "short",
    colors: Mapping[str, str] | None = None,
    width: int = 8,
    height: int = 8,
    none: str = "nothing in this time",
) -> Panel:
    """How many of each within five minutes or, where more time is shown, longer; the legend adds them up."""
    custom = {
        "drawStyle": "bars",
        "lineWidth": 1,
        "fillOpacity": 60,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal", "group": "A"},
        "thresholdsStyle": {"mode": "off"},
    }
    defaults: Json = {**look(unit, none, FINE), "decimals": 0, "min": 0, "custom": custom}
    defaults["color"] = {"mode": "palette-classic"}
    queries = targets([Query(expr, legend)])
    body = panel("timeseries", title, text, queries, defaults, coloured(colors or {}), graph_options(["sum"]))
    body["interval"] = "5m"  # shorter ones would overlap: $__rate_interval is a scrape longer, so that none is lost
    return Panel(width, height, body)


def states(
    title: str,
    query: Query,
    text: str,
    words: Words,
    *,
    width: int = 8,
    height: int = 8,
    none: str = "nothing to show",
) -> Panel:
    """What something was over time: 0 or 1 as a word and a colour."""
    defaults: Json = {
        **look("short", none, ((None, words[0][1]), (1, words[1][1])), words),
        "custom": {"lineWidth": 0, "fillOpacity": 80},
        "color": {"mode": "thresholds"},
    }
    options = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return Panel(width, height, panel("state-timeline", title, text, targets([query]), defaults, [], options))


class Column(NamedTuple):
    """A column of a table: a label, or the value of a query."""

    title: str
    """Empty: the query is asked for its labels."""
    expr: str = ""
    """Empty: the label called `title`."""
    unit: str = "short"
    steps: Steps | None = None
    """Colours of the cell."""
    words: Words | None = None
    link: Json | None = None
    decimals: int | None = None


def table(
    title: str,
    columns: Sequence[Column],
    text: str,
    *,
    sort: str = "",
    above: float | None = None,
    width: int = 24,
    height: int = 8,
    none: str = "nothing to show",
) -> Panel:
    """What is now, a row for each set of labels. All queries must leave the same labels.

    `above` drops the rows whose only value is not above it.
    """
    asked = [column for column in columns if column.expr]
    names = [f"Value #{letter(number)}" if len(asked) > 1 else "Value" for number in range(len(asked))]
    found = [target(Query(one.expr), letter(at), instant=True, shape="table") for at, one in enumerate(asked)]
    steps: list[Json] = [{"id": "merge", "options": {}}]
    if above is not None:
        filters = [{"fieldName": names[0], "config": {"id": "greater", "options": {"value": above}}}]
        steps.append({"id": "filterByValue", "options": {"type": "include", "match": "all", "filters": filters}})
    called = dict(zip(names, asked, strict=True))
    fields = [next((name for name in names if called[name] is one), one.title) for one in columns]
    organize = {
        "excludeByName": {"Time": True, **{name: True for name in names if not called[name].title}},
        "indexByName": {field: number for number, field in enumerate(fields)},
        "renameByName": {name: called[name].title for name in names if called[name].title},
    }
    steps.append({"id": "organize", "options": organize})
    defaults: Json = {
        **look("short", none, FINE),
        "custom": {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False},
        "color": {"mode": "thresholds"},
    }
    options: Json = {
        "showHeader": True,
        "cellHeight": "sm",
        "frameIndex": 0,
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
        "sortBy": [{"displayName": sort.lstrip("-"), "desc": sort.startswith("-")}] if sort else [],
    }
    overrides = [one for one in map(cell, (each for each in columns if each.title)) if one["properties"]]
    body = panel("table", title, text, found, defaults, overrides, options)
    body["transformations"] = steps
    return Panel(width, height, body)


def cell(column: Column) -> Json:
    """How the cells of a column look."""
    properties: list[Json] = []
    if column.expr:
        properties.append({"id": "unit", "value": column.unit})
    if column.decimals is not None:
        properties.append({"id": "decimals", "value": column.decimals})
    if column.steps:
        properties.append({"id": "thresholds", "value": thresholds(column.steps)})
    if column.words:
        properties.append({"id": "mappings", "value": mappings(column.words)})
    if column.steps or column.words:
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-background", "mode": "basic"}})
    if column.link:
        properties.append({"id": "links", "value": [column.link]})
    return override("byName", column.title, *properties)


def gauges(
    title: str,
    query: Query,
    text: str,
    *,
    unit: str,
    steps: Steps,
    least: float = 0,
    most: float | None = None,
    width: int = 8,
    height: int = 8,
    none: str = "nothing to show",
) -> Panel:
    """A bar for each series, as it is now."""
    defaults: Json = {**look(unit, none, steps), "min": least, "color": {"mode": "thresholds"}}
    if most is not None:
        defaults["max"] = most
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "valueMode": "color",
        "namePlacement": "auto",
        "showUnfilled": True,
        "sizing": "auto",
        "minVizWidth": 8,
        "minVizHeight": 16,
        "maxVizHeight": 300,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False, "calcs": []},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    found = [target(query, instant=True)]
    return Panel(width, height, panel("bargauge", title, text, found, defaults, [], options))


# --- parts of panels --------------------------------------------------------------------------------------------------


def panel(
    kind: str, title: str, text: str, found: list[Json], defaults: Json, overrides: list[Json], options: Json
) -> Json:
    """A panel of any kind."""
    return {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "targets": found,
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": options,
    }


def targets(queries: Sequence[Query]) -> list[Json]:
    """The queries of a panel over time."""
    return [target(query, letter(number)) for number, query in enumerate(queries)]


def target(query: Query, name: str = "A", *, instant: bool = False, shape: str = "time_series") -> Json:
    """One query."""
    return {
        "refId": name,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": shape,
        "instant": instant,
        "range": not instant,
        "legendFormat": query.legend,
    }


def letter(number: int) -> str:
    """A, B, C and so on."""
    return chr(ord("A") + number)


def look(unit: str, none: str, steps: Steps, words: Words | None = None) -> Json:
    """Unit, what stands where there is nothing, colours, words for values."""
    return {"unit": unit, "noValue": none, "thresholds": thresholds(steps), "mappings": mappings(words or {})}


def thresholds(steps: Steps) -> Json:
    """Colours from a value on."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for value, color in steps]}


def mappings(words: Words) -> list[Json]:
    """Words and colours for values, or for those from a pair's first on (`(1, None)`)."""
    single = {
        str(value): {"text": text, "color": color, "index": number}
        for number, (value, (text, color)) in enumerate(words.items())
        if not isinstance(value, tuple)
    }
    found: list[Json] = [{"type": "value", "options": single}] if single else []
    for value, (text, color) in words.items():
        if isinstance(value, tuple):
            result = {"text": text, "color": color, "index": len(found)}
            found.append({"type": "range", "options": {"from": value[0], "to": value[1], "result": result}})
    return found


def override(kind: str, name: str, *properties: Json) -> Json:
    """What differs for fields of this name."""
    return {"matcher": {"id": kind, "options": name}, "properties": list(properties)}


def coloured(colors: Mapping[str, str]) -> list[Json]:
    """Fixed colours by name."""
    return [
        override("byName", name, {"id": "color", "value": {"mode": "fixed", "fixedColor": color}})
        for name, color in colors.items()
    ]


def graph_options(calcs: list[str]) -> Json:
    """Legend and tooltip of a graph."""
    return {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": calcs, "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def leads_to(uid: str, title: str, variable: str = "", value: str = "${__value.raw}") -> Json:
    """A link to another dashboard that keeps data source, router and time, and sets a variable."""
    chosen = f"&var-{variable}={value}" if variable else ""
    kept = "${datasource:queryparam}&${instance:queryparam}"
    return {"title": title, "url": f"/d/{uid}?{kept}{chosen}&${{__url_time_range}}", "targetBlank": False}
