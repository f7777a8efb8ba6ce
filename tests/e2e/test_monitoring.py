"""What monitoring/ ships, checked without Grafana: the dashboard is sound and asks for metrics the router has."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dashboard import OVERVIEW, expressions, load, panels, resolve
from tests.support.process import run
from tests.support.prometheus import check_configuration

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"

# The metrics of the design and their labels. Series of a histogram are its name with _bucket, _sum or _count.
ROUTE = {"source", "destination"}
SWEEP = {"rule", "source"}
METRICS: dict[str, set[str]] = {
    "move_suboperations_total": {"rule", "outcome"} | ROUTE,
    "move_suboperations_remaining": ROUTE,
    "transfers_total": {"rule", "verdict"} | ROUTE,
    "move_responses_total": {"status"} | ROUTE,
    "transfer_duration_seconds": ROUTE,
    "transfers": {"state"} | ROUTE,
    "transfers_oldest_queued_seconds": ROUTE,
    "holds_released_total": set(),
    "seen_to_verified_seconds": set(),
    "sweeps_total": {"result"} | SWEEP,
    "sweep_duration_seconds": SWEEP,
    "sweep_matches_total": SWEEP,
    "sweep_unavailable_total": SWEEP,
    "sweep_complete": SWEEP,
    "sweep_due_timestamp_seconds": SWEEP,
    "sweep_queries_total": SWEEP,
    "sweep_rows_dropped_total": {"reason"} | SWEEP,
    "find_cap": {"node"},
    "route_stopped": ROUTE,
    "sweep_last_success_timestamp_seconds": SWEEP,
    "sweeps_missed_total": SWEEP,
    "appointments_total": {"rule", "trigger", "news"},
    "prior_looks_total": {"result"} | SWEEP,
    "prior_look_duration_seconds": {"source"},
    "priors_selected_total": {"rule", "group"},
    "priors_ended_total": {"rule", "result"},
    "order_messages_total": {"event", "code"},
    "order_messages_refused_total": {"reason"},
    "values_refused_total": {"trigger", "reason"},
    "store_instances_total": {"calling", "status"},
    "store_bytes_total": {"calling"},
    "store_refused_total": {"reason"},
    "associations_total": {"node", "role", "result"},
    "associations_active": {"node", "role"},
    "node_up": {"node"},
    "breaker_open": {"node"},
    "window_open": {"node"},
    "config_last_reload_successful": set(),
    "config_last_reload_success_timestamp_seconds": set(),
    "config_info": {"hash"},
    "build_info": {"version"},
}
HISTOGRAMS = {
    "transfer_duration_seconds",
    "seen_to_verified_seconds",
    "sweep_duration_seconds",
    "prior_look_duration_seconds",
}
SERIES = {f"dicom_router_{name}": labels for name, labels in METRICS.items() if name not in HISTOGRAMS} | {
    f"dicom_router_{name}_{part}": METRICS[name] | ({"le"} if part == "bucket" else set())
    for name in HISTOGRAMS
    for part in ("bucket", "sum", "count")
}
TARGET_LABELS = {"instance", "job"}

DASHBOARD = load()
PANELS = list(panels(DASHBOARD))
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return each metric an expression names, with the labels it selects by."""
    found = re.findall(r"(dicom_router_\w+)(\{[^}]*\})?", expression)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found]


def everything_in(value: Any) -> list[dict[str, Any]]:
    """Return every object in a JSON value."""
    if isinstance(value, list):
        return [found for item in value for found in everything_in(item)]
    if isinstance(value, dict):
        return [value, *(found for item in value.values() for found in everything_in(item))]
    return []


def test_each_panel_has_its_own_id_and_place() -> None:
    identifiers = [panel["id"] for panel in PANELS]
    assert len(set(identifiers)) == len(identifiers)
    for panel in PANELS:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24, panel["title"]
        assert place["h"] > 0, panel["title"]
    for one, other in combinations(PANELS, 2):
        a, b = one["gridPos"], other["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one['title']} overlaps {other['title']}"


def test_each_panel_says_what_it_shows() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["targets"], panel["title"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references), panel["title"]


def test_the_data_source_is_a_variable_everywhere() -> None:
    assert DASHBOARD["templating"]["list"][0]["name"] == "datasource"
    assert DASHBOARD["templating"]["list"][0]["type"] == "datasource"
    queries = [item for item in PANELS if item["type"] != "row"]
    queries += [target for item in PANELS for target in item.get("targets", [])]
    queries += [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
    assert all(item["datasource"] == DATASOURCE for item in queries)
    # Nowhere else either, overrides and annotations included, is a data source fixed.
    assert all(item["datasource"] == DATASOURCE for item in everything_in(DASHBOARD) if "datasource" in item)


def test_every_variable_used_is_defined() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert used - defined <= {"__all", "__rate_interval", "__range"}
    assert defined <= used


def test_all_metrics_and_labels_are_the_routers() -> None:
    for title, expression in expressions():
        named = selectors(expression)
        assert named, title
        for name, labels in named:
            assert name in SERIES, f"{title}: {name}"
            assert labels <= SERIES[name] | TARGET_LABELS, f"{title}: {labels - SERIES[name]}"
        known = set().union(*(SERIES[name] for name, _ in named)) | TARGET_LABELS
        for clause in re.findall(r"\bby \(([^)]*)\)", expression):
            grouped = {label.strip() for label in clause.split(",")}
            assert grouped <= known, f"{title}: {grouped - known}"
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["definition"]).groups()
            assert label in SERIES[metric] | TARGET_LABELS
            assert variable["query"]["query"] == variable["definition"]


def test_legends_use_labels_the_query_keeps() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {
                label.strip()
                for clause in re.findall(r"\bby \(([^)]*)\)", target["expr"])
                for label in clause.split(",")
            }
            if not kept:
                kept = set().union(*(SERIES[name] for name, _ in selectors(target["expr"])))
            assert wanted <= kept, panel["title"]


@pytest.mark.parametrize(
    "subject",
    [
        "move_suboperations_total",
        "move_suboperations_remaining",
        "move_responses_total",
        "transfers",
        "transfers_oldest_queued_seconds",
        "transfers_total",
        "sweep_last_success_timestamp_seconds",
        "sweep_duration_seconds_bucket",
        "sweep_complete",
        "store_instances_total",
        "store_bytes_total",
        "store_refused_total",
        "associations_total",
        "node_up",
        "config_last_reload_successful",
    ],
)
def test_the_overview_shows(subject: str) -> None:
    shown = {name for _, expression in expressions() for name, _ in selectors(expression)}
    assert f"dicom_router_{subject}" in shown


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
    expression = 'rate(x{a=~"$a",b=~"${b}",c=~"${c:regex}"}[$__rate_interval]) + y[$__range]'
    assert resolve(expression) == 'rate(x{a=~".*",b=~".*",c=~".*"}[1m]) + y[1h]'


def test_prometheus_accepts_the_scrape_example() -> None:
    path = MONITORING / "prometheus.yml"
    check_configuration(path)
    jobs = yaml.safe_load(path.read_text())["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["dicom-router"]


def test_grafana_is_told_where_everything_is() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "dicom-router.yaml").read_text())["providers"]
    assert provider["options"]["path"]
    assert sorted(OVERVIEW.parent.glob("*.json")) == [OVERVIEW]
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]


def test_alerts_do_what_their_tests_say() -> None:
    run(["promtool", "check", "rules", "--lint-fatal", MONITORING / "alerts.yaml"])
    run(["promtool", "test", "rules", MONITORING / "tests" / "alerts.yaml"])


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_what_there_is_and_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert all(alert["annotations"][text].strip() for text in ("summary", "description", "runbook"))
    asked = selectors(alert["expr"])
    assert asked
    for name, labels in asked:
        assert name in SERIES
        assert labels <= SERIES[name] | TARGET_LABELS
    assert alert["alert"] in (MONITORING / "tests" / "alerts.yaml").read_text()


def test_prometheus_loads_the_alerts() -> None:
    assert yaml.safe_load((MONITORING / "prometheus.yml").read_text())["rule_files"] == ["alerts.yaml"]
    assert "./monitoring/alerts.yaml:/etc/prometheus/alerts.yaml:ro" in (ROOT / "compose.yaml").read_text()
