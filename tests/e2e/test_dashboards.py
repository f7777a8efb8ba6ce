"""The dashboards of monitoring/grafana, checked without Grafana: sound, readable, and about metrics the router has."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.observe.catalogue import CATALOGUE
from router.observe.definitions import PREFIX, Definition
from tests.support.dashboard import DASHBOARDS, expressions, load, offers, panels, resolve
from tests.support.process import run
from tests.support.scripts import script

MONITORING = Path(__file__).parents[2] / "monitoring"
BOARDS = {path.stem: load(path) for path in DASHBOARDS}
EACH = [(name, panel) for name, board in BOARDS.items() for panel in panels(board)]
SHOWN = [(name, panel) for name, panel in EACH if panel["type"] != "row"]
NAMES = [f"{name}: {panel['title']}" for name, panel in SHOWN]
UIDS = {board["uid"]: board for board in BOARDS.values()}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

CORE = {"stat", "timeseries", "table", "bargauge", "state-timeline", "row"}
"""The kinds of panels in use; all come with Grafana 11."""
UNITS = {"short", "none", "ops", "reqps", "s", "d", "bytes", "Bps", "percentunit", "dateTimeFromNow", "dateTimeAsIso"}
"""The units in use, by Grafana's names."""
CUSTOM = {
    "timeseries": {
        "drawStyle",
        "lineWidth",
        "fillOpacity",
        "showPoints",
        "spanNulls",
        "stacking",
        "thresholdsStyle",
        "lineStyle",
    },
    "state-timeline": {"lineWidth", "fillOpacity"},
    "table": {"align", "cellOptions", "inspect", "hidden"},
    "stat": set(),
    "bargauge": set(),
}
"""What the kinds of panels know beyond the settings of all fields."""
PROPERTIES = {"unit", "decimals", "thresholds", "mappings", "links", "color"}
"""Settings of all fields that may differ by field."""

ALERT_LABELS = {"alertname", "severity", "alertstate"}
PROCESS = {f"process_{word}" for word in ("resident_memory_bytes", "cpu_seconds_total", "open_fds", "max_fds")}
OTHERS = {name: {"job", "instance"} for name in (*PROCESS, "process_start_time_seconds")} | {
    "ALERTS": ALERT_LABELS | {"job", "instance"} | {label for one in CATALOGUE.values() for label in one.labels},
}
"""What is not the router's own: of Prometheus, and what every program says of itself."""


def series(definition: Definition) -> dict[str, set[str]]:
    """The series of a metric with their labels."""
    name, labels = f"{PREFIX}{definition.name}", {*definition.labels, "job", "instance"}
    if definition.kind != "histogram":
        return {name: labels}
    return {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}


SERIES = {name: labels for one in CATALOGUE.values() for name, labels in series(one).items()} | OTHERS
_WORD = re.compile(r"\b(dicom_router_\w+|process_\w+|ALERTS)(\{[^}]*\})?")


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return each metric an expression names, with the labels it selects by."""
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in _WORD.findall(expression)]


def made(expression: str) -> set[str]:
    """The labels that an expression makes."""
    return set(re.findall(r'label_replace\(.*?, "(\w+)", ', expression))


def grouped(expression: str) -> list[set[str]]:
    """The labels that each aggregation in an expression leaves, the outermost first."""
    found = re.findall(r"\bby \(([^)]*)\)", expression)
    return [{label.strip() for label in clause.split(",")} for clause in found]


def everything_in(value: Any) -> list[dict[str, Any]]:
    """Return every object in a JSON value."""
    if isinstance(value, list):
        return [found for item in value for found in everything_in(item)]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in everything_in(item))]
    return []


def test_the_files_are_what_the_script_makes() -> None:
    files = {path.name: path.read_text("utf-8") for path in DASHBOARDS}
    assert script("dashboards").main() == files, "run `python scripts/dashboards.py`"


# --- structure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOARDS)
def test_each_panel_has_its_own_id_and_place(name: str) -> None:
    found = list(panels(BOARDS[name]))
    identifiers = [panel["id"] for panel in found]
    assert len(set(identifiers)) == len(identifiers)
    for panel in found:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        assert place["h"] > 0, panel["title"]
    for one, other in combinations(found, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one['title']} overlaps {other['title']}"


@pytest.mark.parametrize("name", BOARDS)
def test_each_row_is_full(name: str) -> None:
    """No hole between panels: at every height that one covers, the widths add up to the whole."""
    cells: dict[int, int] = {}
    for panel in panels(BOARDS[name]):
        place = panel["gridPos"]
        for line in range(place["y"], place["y"] + place["h"]):
            cells[line] = cells.get(line, 0) + place["w"]
    assert set(cells) == set(range(max(cells) + 1))
    assert {line: width for line, width in cells.items() if width != 24} == {}


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_says_what_it_is_and_keeps_itself_fresh(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"dicom-router-{name}"
    assert len(board["uid"]) <= 40  # Grafana's limit
    assert board["title"].startswith("dicom-router: ")
    assert board["description"].endswith(".")
    assert board["tags"] == ["dicom-router"]
    assert (board["refresh"], board["timezone"], board["schemaVersion"]) == ("30s", "browser", 39)
    assert len({one["title"] for one in BOARDS.values()}) == len(BOARDS)


@pytest.mark.parametrize(("name", "panel"), SHOWN, ids=NAMES)
def test_each_panel_says_what_it_shows_and_what_stands_where_there_is_nothing(name: str, panel: dict[str, Any]) -> None:
    assert len([one for board, one in EACH if board == name and one["title"] == panel["title"]]) == 1
    assert len(panel["description"]) > 30
    assert panel["description"].endswith((".", "?"))
    assert panel["fieldConfig"]["defaults"]["noValue"]
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert references == [chr(ord("A") + number) for number in range(len(references))]
    for target in panel["targets"]:
        assert target["instant"] is not target["range"]
        assert target["format"] == ("table" if panel["type"] == "table" else "time_series")


@pytest.mark.parametrize(("name", "panel"), SHOWN, ids=NAMES)
def test_each_panel_is_of_a_kind_and_has_the_settings_that_grafana_knows(name: str, panel: dict[str, Any]) -> None:
    assert panel["type"] in CORE
    defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
    known = CUSTOM[panel["type"]]
    assert set(defaults.get("custom", {})) <= known
    assert set(panel["fieldConfig"]) == {"defaults", "overrides"}
    properties = [one for override in overrides for one in override["properties"]]
    for one in properties:
        assert one["id"] in PROPERTIES or one["id"].removeprefix("custom.") in known, one["id"]
    units = [defaults["unit"], *(one["value"] for one in properties if one["id"] == "unit")]
    assert set(units) <= UNITS
    for found in everything_in(panel["fieldConfig"]):
        if found.get("mode") == "absolute":
            values = [step["value"] for step in found["steps"]]
            assert values[0] is None
            assert values[1:] == sorted(values[1:])
    for mapping in [*defaults["mappings"], *(m for one in properties if one["id"] == "mappings" for m in one["value"])]:
        assert mapping["type"] in ("value", "range")


@pytest.mark.parametrize("name", BOARDS)
def test_the_data_source_is_a_variable_everywhere(name: str) -> None:
    board = BOARDS[name]
    first = board["templating"]["list"][0]
    assert (first["name"], first["type"], first["query"]) == ("datasource", "datasource", "prometheus")
    queries = [item for item in panels(board) if item["type"] != "row"]
    queries += [target for item in panels(board) for target in item.get("targets", [])]
    queries += [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
    assert all(item["datasource"] == DATASOURCE for item in queries)
    # Nowhere else either, overrides and annotations included, is a data source fixed.
    assert all(item["datasource"] == DATASOURCE for item in everything_in(board) if "datasource" in item)


@pytest.mark.parametrize("name", BOARDS)
def test_every_variable_used_is_defined_and_used(name: str) -> None:
    board = BOARDS[name]
    defined = {variable["name"] for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", json.dumps(board)))
    assert used - defined <= {"__all", "__rate_interval", "__range", "__value", "__url_time_range"}
    in_queries = {
        variable
        for panel in panels(board)
        for target in panel.get("targets", [])
        for variable in re.findall(r"\$\{?(\w+)", target["expr"])
    }
    assert defined - {"datasource"} <= in_queries
    for variable in board["templating"]["list"][1:]:
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["query"]["query"] == variable["definition"]


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOARDS)
def test_every_dashboard_leads_to_all_others_and_keeps_time_and_selection(name: str) -> None:
    (link,) = BOARDS[name]["links"]
    assert (link["type"], link["asDropdown"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True, True)
    assert all(set(link["tags"]) <= set(board["tags"]) for board in BOARDS.values())


def test_links_of_panels_lead_to_dashboards_and_variables_that_are_there() -> None:
    links = [one for _, panel in SHOWN for one in everything_in(panel) if "url" in one]
    assert len(links) > 10
    for link in links:
        path, _, query = link["url"].partition("?")
        target = UIDS[path.removeprefix("/d/")]
        there = {variable["name"] for variable in target["templating"]["list"]}
        given = re.findall(r"(?:^|&)(?:var-(\w+)=|\$\{(\w+):queryparam\})", query)
        names = {one or other for one, other in given}
        assert {"datasource", "instance"} <= names <= there, link["url"]
        assert "${__url_time_range}" in query
        assert link["title"]


@pytest.mark.parametrize(("dashboard", "title"), [("overview", "Nodes"), ("overview", "Rules")])
def test_a_row_of_the_overview_leads_to_its_node_or_rule(dashboard: str, title: str) -> None:
    (panel,) = [one for one in panels(BOARDS[dashboard]) if one["title"] == title]
    variable = title.lower().removesuffix("s")
    (override,) = [one for one in panel["fieldConfig"]["overrides"] if one["matcher"]["options"] == variable]
    (links,) = [one["value"] for one in override["properties"] if one["id"] == "links"]
    assert f"/d/dicom-router-{variable}?" in links[0]["url"]
    assert f"var-{variable}=${{__value.raw}}" in links[0]["url"]


# --- expressions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOARDS)
def test_all_metrics_and_labels_are_known(name: str) -> None:
    for _, title, expression, _ in expressions(MONITORING / "grafana" / "dashboards" / f"{name}.json"):
        named = selectors(expression)
        assert named, title
        for metric, labels in named:
            assert metric in SERIES, f"{title}: {metric}"
            assert labels <= SERIES[metric], f"{title}: {labels - SERIES[metric]}"
            assert "instance" in labels, f"{title}: {metric} of every router there is"
        known = set().union(*(SERIES[metric] for metric, _ in named)) | made(expression)
        assert all(by <= known for by in grouped(expression)), f"{title}: {grouped(expression)}"
    for variable, asked, label in offers(BOARDS[name]):
        ((metric, labels),) = selectors(asked)
        assert {label, *labels} <= SERIES[metric], variable
        assert label == variable


def left(expression: str) -> set[str]:
    """The labels that series of an expression have."""
    by = grouped(expression)
    return by[0] if by else set().union(*(SERIES[name] for name, _ in selectors(expression)))


@pytest.mark.parametrize(("name", "panel"), SHOWN, ids=NAMES)
def test_legends_columns_and_colours_are_of_what_the_query_leaves(name: str, panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left(target["expr"])
    if panel["type"] == "table":
        organized = panel["transformations"][-1]["options"]
        labels = {column for column in organized["indexByName"] if not column.startswith("Value")}
        assert labels == set().union(*(grouped(target["expr"])[0] for target in panel["targets"]))
        columns = {*labels, *organized["renameByName"].values()}
        assert {one["matcher"]["options"] for one in panel["fieldConfig"]["overrides"]} <= columns
        assert {one["displayName"] for one in panel["options"]["sortBy"]} <= columns


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:expression:{number}", "expr": expression.promql}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), encoding="utf-8")
    output = run(["promtool", "check", "rules", "--lint-fatal", path]).stdout
    assert f"{len(rules)} rules found" in output


def test_variables_are_replaced_as_grafana_does() -> None:
    expression = 'rate(x{a=~"$a",b=~"${b}",c=~"${c:regex}"}[$__rate_interval]) + y[$__range] + f(z, "$1")'
    assert resolve(expression) == 'rate(x{a=~".*",b=~".*",c=~".*"}[10m]) + y[1h] + f(z, "$1")'


FLEET = {
    # Each of three replicas knows of the nodes; only the one that leads shows what the ledger says.
    "node_up{$,node='pacs'}": "0",
    "node_up{$,node='ws'}": "1",
    "associations_total{$,node='pacs',role='requestor',result='refused'}": "5",
    "associations_total{$,node='ws',role='requestor',result='accepted'}": "5",
    "associations_active{$,node='ws',role='requestor'}": "1",
    "breaker_open{$,node='pacs'}": "1",
    "breaker_open{$,node='ws'}": "0",
    "route_stopped{$,source='pacs',destination='ws'}": "1",
    "window_open{$,node='pacs'}": "0",
    "window_open{$,node='ws'}": "1",
    "node_associations_allowed{$,node='ws'}": "4",
    "node_associations_limit{$,node='ws'}": "6",
    "node_moves_last_hour{$,node='ws'}": "30",
    "node_moves_per_hour_limit{$,node='ws'}": "50",
    "replicas{$}": "3",
    "build_info{$,version='1'}": "1",
}
OF_THE_LEADER = {
    "leads{$}": "1",
    "transfers{$,source='pacs',destination='ws',state='queued'}": "7",
    "transfers_oldest_queued_seconds{$,source='pacs',destination='ws'}": "60",
    "sweep_due_timestamp_seconds{$,rule='ct',source='pacs'}": "1",
    "notifications_waiting{$,channel='pager'}": "2",
}
ONCE = {
    ("overview", "Nodes down"): 1,
    ("overview", "Nodes left alone"): 1,
    ("overview", "Routes stopped"): 1,
    ("overview", "Routers running"): 3,
    ("overview", "Waiting"): 7,
    ("overview", "Oldest waiting"): 60,
    ("overview", "Sweeps late"): 1,
    ("overview", "Notifications waiting"): 2,
    ("node", "Nodes down"): 1,
    ("node", "Left alone"): 1,
    ("node", "Windows closed"): 1,
    ("node", "Queued"): 7,
}
"""What a panel of one number shows of three replicas on one ledger."""
OF_WS = {"in use": 3, "allowed": 4, "limit": 6, "moves in the last hour": 30, "moves_per_hour": 50, "queued to it": 7}
"""Column of the table of nodes -> what it shows of ws."""


def test_of_three_replicas_what_concerns_all_counts_once(tmp_path: Path) -> None:
    series = {
        f"dicom_router_{name}".replace("$", f"job='j',instance='{instance}'"): f"{value}x10"
        for instance in ("a", "b", "c")
        for name, value in {**FLEET, **(OF_THE_LEADER if instance == "b" else {"leads{$}": "0"})}.items()
    }
    asked: list[tuple[str, str, int]] = []
    for where, expected in ONCE.items():
        (promql,) = [one.promql for one in expressions() if (one.dashboard, one.panel) == where]
        asked.append((promql, "{}", expected))
    (table,) = [one for one in panels(BOARDS["node"]) if one["title"] == "Each node"]
    columns = table["transformations"][-1]["options"]["renameByName"]
    found = {columns.get(f"Value #{one['refId']}"): resolve(one["expr"]) for one in table["targets"]}
    of_ws = 'and on (node) label_replace(vector(1), "node", "ws", "", "")'
    asked += [(f"({found[column]}) {of_ws}", "{node='ws'}", expected) for column, expected in OF_WS.items()]
    tests = [
        {"expr": promql, "eval_time": "5m", "exp_samples": [{"labels": labels, "value": value}]}
        for promql, labels, value in asked
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    path = tmp_path / "three.yaml"
    path.write_text(
        json.dumps({"tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": tests}]}), encoding="utf-8"
    )
    run(["promtool", "test", "rules", path])


UNSEEN: dict[str, str] = {}
"""Metrics that no panel and no rule asks for, with the reason why that is right."""


def test_every_metric_is_seen_somewhere() -> None:
    texts = [one.promql for one in expressions()]
    for path in MONITORING.glob("*.yaml"):
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            texts += [rule["expr"] for rule in group["rules"]]
    seen = {name for text in texts for name, _ in selectors(text)}
    unseen = {one.name for one in CATALOGUE.values() if not set(series(one)) & seen}
    assert unseen == set(UNSEEN)


# --- provisioning -----------------------------------------------------------------------------------------------------


def test_grafana_is_told_where_everything_is() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dicom-router.yaml").read_text())["providers"]
    assert provider["folder"] == "DICOM"
    compose = yaml.safe_load((MONITORING.parent / "compose.yaml").read_text())
    assert (
        f"./monitoring/grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
    )
    assert set(BOARDS) == {"overview", "node", "rule", "store", "prefetch"}
