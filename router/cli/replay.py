"""`test --replay`: what the rules would decide about a recorded sweep, and what a changed configuration makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.cli.differing import differences_table, show_sides, show_totals
from router.cli.render import ACTION_STYLES, counted, new_table
from router.cli.settings import Settings, load_rules, no_such, plain, print_json, terminal
from router.config.document import DocumentError
from router.config.recording import read_recording
from router.domain.candidates import divides
from router.domain.condition import Evaluation
from router.domain.dicom import Identifier, QueryRetrieveLevel, name_of
from router.domain.difference import Comparison, Totals, compare, totals
from router.domain.lookback import sweep_keys
from router.domain.recording import Recording, asked_for, fulfilled_by, unknowable
from router.domain.rehearsal import Material, rehearse, without_keys
from router.domain.rule import Rule, RuleSet
from router.domain.selection import Action, Decision
from router.domain.transfer import Intent
from router.engine.asking import questions
from router.errors import ConfigurationError, UsageError

_ORDER = list(Action)


class Replayed(NamedTuple):
    """What one rule would do with a recording."""

    rule: Rule
    decisions: list[Decision]
    currents: int
    """Current studies whose priors would be looked for."""
    notes: list[str]
    """What the recording cannot say, as sentences."""

    @property
    def moves(self) -> Iterator[Intent]:
        """What would be moved."""
        for one in self.decisions:
            if one.action is Action.MOVE:
                yield Intent(self.rule.source, one.study_instance_uid, one.series_instance_uid, one.destination)


class _Names:
    """The names of a recording's studies and series by their UIDs."""

    def __init__(self, recording: Recording) -> None:
        self._studies = {row.text("StudyInstanceUID"): name for name, row in recording.studies.items()}
        self._series = {
            (recording.studies[study].text("StudyInstanceUID"), row.text("SeriesInstanceUID")): name
            for study, below in recording.series.items()
            for name, row in below.items()
        }

    def of(self, study: str, series: str) -> str:
        """`study-1`, or `study-1/series-2`."""
        below = self._series.get((study, series), "")
        return f"{self._studies.get(study, study)}{'/' if below else ''}{below}"


def replay(settings: Settings, rules: RuleSet, path: Path, name: str, against: Path | None) -> int:
    """Replay a recording and print what comes of it; the exit code."""
    try:
        recording = read_recording(path)
    except DocumentError as error:
        raise ConfigurationError(f"The recording cannot be replayed: {error.diagnostic}") from None
    if against is None:
        zone = _zone(rules, recording)
        replayed = [_replayed(rule, recording, zone) for rule in _chosen(rules, recording, name)]
        if settings.json:
            print_json({**_head(path, recording), "rules": [_row(one, recording) for one in replayed]})
        else:
            _tell(path, recording, replayed, terminal())
        return 0
    changed = _changed(against)
    sides = [_rules_of(one, recording) for one in (rules, changed)]
    if name:
        if name not in sides[0] | sides[1]:
            raise no_such(f"rule that sweeps {recording.source},", name, sides[0] | sides[1])
        sides = [{name: side[name]} if name in side else {} for side in sides]
    before, after = (
        {key: _replayed(rule, recording, _zone(configured, recording)) for key, rule in side.items()}
        for side, configured in zip(sides, (rules, changed), strict=True)
    )
    if settings.json:
        print_json({**_head(path, recording), "against": str(against), **_difference(before, after, recording)})
    else:
        _tell_difference(settings, path, against, before, after, recording, terminal())
    return 0


def _changed(directory: Path) -> RuleSet:
    try:
        return load_rules(Settings(config=directory))
    except ConfigurationError as error:
        raise ConfigurationError(f"--against: {error}") from None


def _rules_of(rules: RuleSet, recording: Recording) -> dict[str, Rule]:
    """The enabled rules that sweep the source of the recording."""
    return {
        name: rule
        for name, rule in rules.rules.items()
        if rule.enabled and rule.sweep is not None and rule.sweep.source == recording.source
    }


def _chosen(rules: RuleSet, recording: Recording, name: str) -> list[Rule]:
    if name:
        rule = rules.rules.get(name)
        if rule is None:
            raise no_such("rule", name, rules.rules)
        if rule.sweep is None:
            raise UsageError(f"The rule {name} has no sweep, so nothing can be replayed to it")
        return [rule]
    chosen = _rules_of(rules, recording)
    if not chosen:
        raise UsageError(
            f"No enabled rule sweeps {recording.source}, which the recording is of; --rule NAME names one all the same"
        )
    return list(chosen.values())


def _zone(rules: RuleSet, recording: Recording) -> ZoneInfo:
    """The time zone of the source as it is configured; that of the recording where it is not."""
    node = rules.node(recording.source)
    return ZoneInfo(node.timezone) if node is not None else recording.zone


def _replayed(rule: Rule, recording: Recording, zone: ZoneInfo) -> Replayed:
    assert rule.sweep is not None
    material = Material(
        studies=list(recording.studies.values()),
        series={
            recording.studies[study].text("StudyInstanceUID"): list(below.values())
            for study, below in recording.series.items()
        },
        whole=recording.has_whole_series,
    )
    evaluation = Evaluation(recording.recorded_at.astimezone(zone), zone)
    sweep = without_keys(rule.sweep, fulfilled_by(recording, rule))
    made = rehearse(rule, sweep, material, evaluation, tier=rule.widest_tier, manual=True)
    return Replayed(rule, made.decisions, len(made.currents), list(_notes(rule, recording, evaluation)))


def _notes(rule: Rule, recording: Recording, evaluation: Evaluation) -> Iterator[str]:
    """What the recording cannot say about a rule."""
    assert rule.sweep is not None
    if str(evaluation.zone) != recording.timezone:
        yield f"{recording.source} was recorded in {recording.timezone}; by this configuration it is {evaluation.zone}."
    yield from unknowable(recording, rule)
    again = f"record it with: dicom-router query {recording.source} --rule {rule.name} --record FILE"
    keys = sweep_keys(rule.sweep, rule.widest_tier, now=evaluation.now, zone=evaluation.zone, watermark=None).keys
    by_series = rule.sweep.level is QueryRetrieveLevel.SERIES or divides(rule.sweep, rule.move)
    if by_series and recording.studies and not recording.series:
        yield f"The recording has no series, which the rule looks at; {again}"
    wanted = rule.where.attributes.union(*(key.attributes for key in keys))
    lacking = sorted({name_of(tag) for tag in wanted} - set(recording.returned))
    if lacking and not (by_series and not recording.series):
        yield f"The recording was not asked for {', '.join(lacking)}; {again}"
    asked = [one.elements for one in questions(rule, keys, QueryRetrieveLevel.STUDY, evaluation)]
    below = (
        [one.elements for one in questions(rule, keys, QueryRetrieveLevel.SERIES, evaluation)] if by_series else [{}]
    )
    given = fulfilled_by(recording, rule)
    if not all(asked_for(recording, Identifier({**series, **one}), given) for one in asked for series in below):
        yield "The recording was asked for less than the rule asks, so that there may be more."
    if not recording.complete:
        yield "The recording is not complete, so that there may be more."


# JSON -----------------------------------------------------------------------------------------------------------------


def _head(path: Path, recording: Recording) -> dict[str, Any]:
    return {
        "recording": str(path),
        "source": recording.source,
        "recorded_at": recording.recorded_at,
        "studies": len(recording.studies),
    }


def _row(one: Replayed, recording: Recording) -> dict[str, Any]:
    names = _Names(recording)
    actions = Counter(decision.action for decision in one.decisions)
    return {
        "rule": one.rule.name,
        "counts": {str(action): actions[action] for action in _ORDER},
        "currents": one.currents,
        "notes": one.notes,
        "decisions": [
            {
                "study": names.of(decision.study_instance_uid, decision.series_instance_uid),
                "study_instance_uid": decision.study_instance_uid,
                "series_instance_uid": decision.series_instance_uid or None,
                "destination": decision.destination or None,
                "decision": str(decision.action),
                "code": decision.code,
                "reason": decision.reason,
            }
            for decision in one.decisions
        ],
    }


def _difference(before: dict[str, Replayed], after: dict[str, Replayed], recording: Recording) -> dict[str, Any]:
    names = _Names(recording)
    in_all = _totals(before, after)
    return {
        "rules": [
            {
                "rule": name,
                "change": _change(name, before, after) or None,
                "added": found.added,
                "removed": found.removed,
                "changed": found.changed,
                "unchanged": found.unchanged,
                "notes": _both(name, before, after),
                "differences": [
                    {
                        "study": names.of(one.unit.study_instance_uid, one.unit.series_instance_uid),
                        "destination": one.unit.destination or None,
                        "before": one.before,
                        "after": one.after,
                    }
                    for one in found.differences
                ],
            }
            for name, found in _compared(before, after)
        ],
        **in_all._asdict(),
    }


def _compared(before: dict[str, Replayed], after: dict[str, Replayed]) -> Iterator[tuple[str, Comparison]]:
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        yield name, compare(old.decisions if old else (), new.decisions if new else ())


def _change(name: str, before: dict[str, Replayed], after: dict[str, Replayed]) -> str:
    return "new" if name not in before else "gone" if name not in after else ""


def _both(name: str, before: dict[str, Replayed], after: dict[str, Replayed]) -> list[str]:
    """The notes of both sides, each once."""
    return list(dict.fromkeys(note for side in (before, after) if name in side for note in side[name].notes))


def _totals(before: dict[str, Replayed], after: dict[str, Replayed]) -> Totals:
    old, new = ((intent for one in side.values() for intent in one.moves) for side in (before, after))
    return totals(old, new)


# text -----------------------------------------------------------------------------------------------------------------


def _said(path: Path, recording: Recording) -> str:
    studies = counted(len(recording.studies), "study", "studies")
    shifted = ", dates shifted" if recording.shifted else ""
    return f"{path}: {studies} of {recording.source}, recorded {recording.recorded_at:%Y-%m-%d %H:%M}{shifted}."


def _tell(path: Path, recording: Recording, replayed: Sequence[Replayed], out: Console) -> None:
    out.print(plain(_said(path, recording)), soft_wrap=True)
    for one in replayed:
        out.print()
        actions = Counter(decision.action for decision in one.decisions)
        counts = ", ".join(f"{actions[action]} {action}" for action in _ORDER)
        if one.rule.priors is not None:
            counts = f"{counted(one.currents, 'current study', 'current studies')}, whose priors are not recorded"
        out.print(Text.assemble(plain(one.rule.name, "bold"), f": {counts}"))
        for note in one.notes:
            out.print(plain(note, "red"), soft_wrap=True)
        if one.decisions:
            out.print(_reasons(one.decisions))


def _reasons(decisions: Sequence[Decision]) -> Table:
    """A row for each decision, destination and reason, with how many there are."""
    table = new_table("", "number", "to", "why", right=("number",))
    table.columns[0].no_wrap = True
    rows = Counter((one.action, one.destination, one.reason) for one in decisions)
    for (action, destination, reason), number in sorted(
        rows.items(), key=lambda row: (_ORDER.index(row[0][0]), -row[1], row[0][1:])
    ):
        table.add_row(Text(str(action), ACTION_STYLES[action]), str(number), plain(destination), plain(reason))
    return table


def _tell_difference(
    settings: Settings,
    path: Path,
    against: Path,
    before: dict[str, Replayed],
    after: dict[str, Replayed],
    recording: Recording,
    out: Console,
) -> None:
    out.print(plain(_said(path, recording)), soft_wrap=True)
    show_sides(out, settings.config, against)
    names = _Names(recording)
    for name, found in _compared(before, after):
        change = _change(name, before, after)
        others = f", {found.changed} otherwise decided" if found.changed else ""
        counts = f": +{found.added} -{found.removed} (={found.unchanged} unchanged){others}"
        out.print(Text.assemble(plain(name, "bold"), f" ({change})" if change else "", counts))
        for note in _both(name, before, after):
            out.print(plain(note, "red"), soft_wrap=True)
        if found.differences:
            out.print(differences_table(found.differences, names.of))
    show_totals(out, _totals(before, after))
