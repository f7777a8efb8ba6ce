"""What monitoring/ ships for Prometheus: rules and scrape example are sound and ask for metrics the router has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.metrics import METRICS
from tests.support.process import run
from tests.support.prometheus import check_configuration

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"

HISTOGRAMS = {
    "transfer_duration_seconds",
    "seen_to_verified_seconds",
    "sweep_duration_seconds",
    "prior_look_duration_seconds",
    "prior_lead_seconds",
    "node_response_seconds",
}
SERIES = {f"dicom_router_{name}": labels for name, labels in METRICS.items() if name not in HISTOGRAMS} | {
    f"dicom_router_{name}_{part}": METRICS[name] | ({"le"} if part == "bucket" else set())
    for name in HISTOGRAMS
    for part in ("bucket", "sum", "count")
}
TARGET_LABELS = {"instance", "job"}


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Return each metric an expression names, with the labels it selects by."""
    found = re.findall(r"(dicom_router_\w+)(\{[^}]*\})?", expression)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found]


def test_prometheus_accepts_the_scrape_example() -> None:
    path = MONITORING / "prometheus.yml"
    check_configuration(path)
    jobs = yaml.safe_load(path.read_text())["scrape_configs"]
    assert [job["job_name"] for job in jobs] == ["dicom-router"]


@pytest.mark.parametrize("name", ["alerts.yaml", "recording.yaml"])
def test_rules_do_what_their_tests_say(name: str) -> None:
    run(["promtool", "check", "rules", "--lint-fatal", MONITORING / name])
    run(["promtool", "test", "rules", MONITORING / "tests" / name], seconds=180)


def rules(name: str = "alerts.yaml") -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"]: rule["expr"] for rule in rules("recording.yaml")}


def minutes(span: str) -> int:
    """A span of a test: of minutes, hours or both."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?", span)
    assert found is not None, span
    return 60 * int(found[1] or 0) + int(found[2] or 0)


def cases(alert: str) -> list[list[bool]]:
    """Whether the alert fires, in order of time, in each test that asks."""
    found = []
    for test in yaml.safe_load((MONITORING / "tests" / "alerts.yaml").read_text())["tests"]:
        asked = [one for one in test["promql_expr_test"] if f'"{alert}"' in one["expr"]]
        if asked:
            asked.sort(key=lambda one: minutes(one["eval_time"]))
            found.append([bool(one["exp_samples"]) for one in asked])
    return found


@pytest.mark.parametrize("alert", [rule["alert"] for rule in rules()])
def test_of_each_alert_it_is_tested_that_it_is_quiet_fires_and_ends(alert: str) -> None:
    assert any(not fires[0] and True in fires and not fires[-1] for fires in cases(alert)), cases(alert)


def test_of_each_recording_rule_a_value_is_tested() -> None:
    tests = yaml.safe_load((MONITORING / "tests" / "recording.yaml").read_text())["tests"]
    asked = {one["expr"] for test in tests for one in test["promql_expr_test"] if one["exp_samples"]}
    assert asked == set(RECORDED)


@pytest.mark.parametrize("rule", rules("recording.yaml"), ids=lambda rule: rule["record"])
def test_a_recording_rule_has_a_name_of_three_parts_and_asks_for_what_there_is(rule: dict[str, Any]) -> None:
    level, metric, operations = rule["record"].split(":")
    assert level
    assert operations
    assert metric.startswith("dicom_router_")
    for name, labels in selectors(re.sub(r"\w+:dicom_router_\w+:\w+", "", rule["expr"])):
        assert name in SERIES
        assert labels <= SERIES[name] | TARGET_LABELS
    assert set(re.findall(r"\w+:dicom_router_\w+:\w+", rule["expr"])) <= set(RECORDED)


@pytest.mark.parametrize("alert", rules(), ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_what_there_is_and_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert all(alert["annotations"][text].strip() for text in ("summary", "description", "runbook"))
    recorded = set(re.findall(r"\w+:dicom_router_\w+:\w+", alert["expr"]))
    assert recorded <= set(RECORDED)
    asked = selectors(re.sub(r"\w+:dicom_router_\w+:\w+", "", alert["expr"]))
    assert recorded or asked or 'up{job="dicom-router"}' in alert["expr"]
    for name, labels in asked:
        assert name in SERIES
        assert labels <= SERIES[name] | TARGET_LABELS


def test_prometheus_loads_all_rules_and_so_does_the_stack() -> None:
    loaded = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["rule_files"]
    assert sorted(loaded) == sorted(path.name for path in MONITORING.glob("*.yaml"))
    for name in loaded:
        assert f"./monitoring/{name}:/etc/prometheus/{name}:ro" in (ROOT / "compose.yaml").read_text()
