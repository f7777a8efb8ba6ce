"""Rules that pass on what arrived: from YAML to the model, and what is odd about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from router import config
from router.config.diagnostics import Code
from router.domain.forward import Choice, Group, Syntax
from router.domain.rule import LOCAL, Rule, Unit

NODES = """
nodes:
  ct: {ae_title: CT1, address: 10.0.0.5:104, sends_as: [CT1, CT1_OUT]}
  a: {ae_title: A1, address: 10.0.0.6:104, commitment: true}
  b: {ae_title: B1, address: 10.0.0.7:104}
"""


def loaded(directory: Path, rule: str, more: str = "") -> config.Loaded:
    (directory / "all.yaml").write_text(f"{NODES}rules:\n  onwards: {rule}\n{more}")
    return config.load(directory)


def compiled(directory: Path, rule: str, more: str = "") -> Rule:
    found = loaded(directory, rule, more)
    assert found.rule_set is not None, [str(one) for one in found.diagnostics]
    return found.rule_set.rules["onwards"]


def findings(directory: Path, rule: str, more: str = "") -> list[tuple[Code, str]]:
    return [(one.code, one.message) for one in loaded(directory, rule, more).diagnostics]


def test_a_rule_that_passes_on_has_its_groups_and_says_where_to_in_move_too(tmp_path: Path) -> None:
    rule = compiled(
        tmp_path,
        "{arrival: {from: [ct], stable: 90s}, where: {Modality: CT}, forward: {to: [a, {round_robin: [b]}],"
        " transfer_syntax: explicit, verify: find, retry: {attempts: 3}}}",
    )
    assert rule.forward is not None
    assert rule.forward.to == (Group(nodes=("a",)), Group(choice=Choice.ROUND_ROBIN, nodes=("b",)))
    assert (rule.forward.level, rule.forward.transfer_syntax) == (Unit.STUDY, Syntax.EXPLICIT)
    assert (rule.move.to, rule.move.verify, rule.move.retry.attempts) == (("a", "b"), "find", 3)
    assert (rule.trigger, rule.source, rule.asked) == ("arrival", LOCAL, LOCAL)


@pytest.mark.parametrize(
    ("arrival", "forward", "expected"),
    [
        ("{}", "{to: [a]}", (Unit.STUDY, Unit.STUDY)),
        ("{level: series}", "{to: [a]}", (Unit.SERIES, Unit.SERIES)),
        ("{level: instance}", "{to: [a]}", (Unit.INSTANCE, Unit.INSTANCE)),
        ("{}", "{to: [a], level: instance}", (Unit.STUDY, Unit.INSTANCE)),
    ],
)
def test_the_level_is_that_of_the_arrival_or_a_lower_one(
    arrival: str, forward: str, expected: tuple[Unit, Unit], tmp_path: Path
) -> None:
    rule = compiled(tmp_path, f"{{arrival: {arrival}, forward: {forward}}}")
    assert rule.arrival is not None
    assert rule.forward is not None
    assert (rule.arrival.level, rule.forward.level) == expected


def test_conditions_may_name_any_attribute_private_and_nested_ones_too(tmp_path: Path) -> None:
    rule = compiled(
        tmp_path,
        '{arrival: {}, forward: {to: [a]}, where: {KVP: {gte: 100}, "(0009,1002)": {matches: x}, '
        "AnatomicRegionSequence.CodeValue: T-D3000}}",
    )
    assert len(rule.where.clauses) == 3


def test_defaults_of_the_other_action_are_for_other_rules(tmp_path: Path) -> None:
    defaults = "defaults: {rules: {move: {to: [local]}, limits: {studies_per_sweep: 5}, forward: {verify: none}}}"
    rule = compiled(tmp_path, "{arrival: {}, forward: {to: [a]}}", defaults)
    assert (rule.move.to, rule.move.verify) == (("a",), "none")
    sweep = "{sweep: {source: a, every: 5m, keys: {StudyDate: today}}}"
    assert compiled(tmp_path, sweep, defaults).forward is None


@pytest.mark.parametrize(
    ("rule", "code", "message"),
    [
        (
            "{arrival: {level: instance, stable: 5s}, forward: {to: [a]}}",
            Code.UNUSED_KEY,
            "rules.onwards.arrival.stable is never used: an instance is there at once",
        ),
        (
            "{arrival: {}, where: {InstanceAvailability: ONLINE}, forward: {to: [a]}}",
            Code.CONDITION_LEVEL,
            "rules.onwards.where: no instance that arrives holds InstanceAvailability",
        ),
        ("{arrival: {}}", Code.MISSING_KEY, "rules.onwards: arrival needs forward or priors"),
        (
            "{arrival: {from: [ct]}, forward: {to: [a, {any_of: [b, ct]}]}}",
            Code.LOOP,
            "rules.onwards.forward.to: ct is where it comes from (AE title CT1)",
        ),
        (
            "{order: {}, forward: {to: [a]}}",
            Code.TRIGGER,
            "rules.onwards: order does not go with forward",
        ),
    ],
)
def test_what_is_odd_is_said(rule: str, code: Code, message: str, tmp_path: Path) -> None:
    assert (code, message) in findings(tmp_path, rule)


def test_every_mistake_of_a_rule_is_found_at_once(tmp_path: Path) -> None:
    rule = "{arrival: {level: series}, forward: {to: [local, c, a, a], level: study, verify: commitment}}"
    assert [code for code, _ in findings(tmp_path, rule)] == [
        Code.LOOP,
        Code.UNKNOWN_NODE,
        Code.SAME_NODE,
        Code.BAD_VALUE,
    ]
