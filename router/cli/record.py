"""`query --record`: what a node answers, written down with its identifiers replaced."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from router.auditing import by_hand
from router.cli.render import counted
from router.cli.settings import Settings, no_such, plain, print_json, say, terminal
from router.config.recording import random_key, recording_key, refused, write_recording
from router.config.values import nearest_attribute
from router.domain.condition import Evaluation
from router.domain.confidential import KEEPABLE
from router.domain.dicom import Identifier, QueryRetrieveLevel, name_of, tag_of
from router.domain.levels import asked_at
from router.domain.question import keys_of
from router.domain.recording import (
    UNIQUE,
    Pseudonyms,
    Recording,
    identifiers_of,
    named,
    pseudonymous,
    replaced_in,
    unknowable,
)
from router.domain.rule import Node, Rule, RuleSet
from router.engine.query import Inquiry
from router.engine.recorder import Recorder, Taken
from router.engine.slots import NodeSlots
from router.errors import UsageError
from router.service import SystemClock, open_peers

_WEEKS_LEAST, _WEEKS_MOST = 52, 520
"""Between one and ten years."""


class RecordOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of a recording on the command line."""

    path: Path
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    key: Path | None = None
    shift_dates: bool = False
    force: bool = False

    def check(self, configuration: Path) -> None:
        """Raises UsageError for what cannot be, before anything is asked."""
        _tags(self.drop, "--record-drop")
        _tags(self.keep, "--record-keep")
        if self.path.exists() and not self.force:
            raise refused(self.path)
        if not self.path.parent.is_dir() and not self.path.parent.parent.is_dir():
            raise UsageError(f"There is no directory {self.path.parent} for the recording, nor one to make it in")
        if self.path.suffix == ".yaml" and self.path.parent.resolve() == configuration.resolve():
            below = configuration / "recordings" / self.path.name
            raise UsageError(f"Every *.yaml in {configuration} is part of the configuration; write it to {below}")


def needed_by_rules(rules: RuleSet, source: str) -> frozenset[int]:
    """What the rules that sweep a source look at of its studies, to be asked back."""
    wanted: set[int] = set()
    for rule in rules.rules.values():
        if rule.sweep is not None and rule.sweep.source == source:
            wanted |= rule.where.attributes
            wanted.update(tag for key in rule.sweep.keys for tag in key.attributes)
    return frozenset(tag for tag in wanted if asked_at(tag) is QueryRetrieveLevel.STUDY)


def record_rule(settings: Settings, rules: RuleSet, node: Node, name: str, options: RecordOptions) -> int:
    """Ask what a rule's sweep asks, and write the answer down."""
    rule = rules.rules.get(name)
    if rule is None:
        raise no_such("rule", name, rules.rules)
    if rule.sweep is None or rule.sweep.source != node.name:
        raise UsageError(f"The rule {name} does not sweep {node.name}")
    with open_peers(rules) as peers:
        slots = NodeSlots(lambda: rules.windows, SystemClock())
        inquiry = Inquiry(by_hand(rules, peers, SystemClock().now), slots)
        taken = Recorder(inquiry).take(rule, node, SystemClock().now(), threading.Event())
    return write(settings, node, taken, options, rule)


def write(settings: Settings, node: Node, taken: Taken, options: RecordOptions, rule: Rule | None = None) -> int:
    """Replace the identifiers and write the file. `rule`: whose sweep was asked."""
    studies = named("study", taken.studies)
    series = {
        name: named("series", taken.series[uid])
        for name, row in studies.items()
        if (uid := row.text("StudyInstanceUID")) in taken.series
    }
    original = Recording(
        source=node.name,
        recorded_at=taken.at.astimezone(ZoneInfo(node.timezone)),
        timezone=node.timezone,
        keys=Identifier(keys_of(taken.question)),  # type: ignore[arg-type]
        returned=tuple(sorted(map(name_of, taken.returned))),
        studies=studies,
        series=series,
        complete=taken.complete,
        shifted=options.shift_dates,
        rule=rule.name if rule is not None else "",
        kept=tuple(sorted(set(options.keep))),
    )
    if rule is not None:
        original = _within_keys(original, rule)
    drop, keep = _tags(options.drop, "--record-drop"), _tags(options.keep, "--record-keep")
    key = recording_key(options.key) if options.key is not None else random_key()
    weeks = 0
    if options.shift_dates:
        # With a key file the same key shifts all recordings alike.
        weeks = _WEEKS_LEAST + (
            int.from_bytes(key[-4:]) % (_WEEKS_MOST - _WEEKS_LEAST)
            if options.key is not None
            else secrets.randbelow(_WEEKS_MOST - _WEEKS_LEAST)
        )
    pseudonyms = Pseudonyms(key, identifiers_of(original), keep=keep, drop=drop, shift=weeks)
    recording = pseudonymous(original, pseudonyms, drop)
    write_recording(options.path, recording, force=options.force)
    replaced = [name for name in replaced_in(original, keep) if tag_of(name) not in drop]
    below = sum(map(len, recording.series.values()))
    notes = list(unknowable(recording, rule)) if rule is not None else []
    if settings.json:
        print_json(
            {
                "recording": str(options.path),
                "source": node.name,
                "studies": len(recording.studies),
                "series": below,
                "complete": taken.complete,
                "reason": taken.reason,
                "replaced": replaced,
                "texts_with_identifiers": pseudonyms.in_texts,
                "notes": notes,
            }
        )
        return 0
    out = terminal()
    with_series = f" with {counted(below, 'series', 'series')}" if series else ""
    recorded = f"{counted(len(recording.studies), 'study', 'studies')}{with_series} recorded in {options.path}."
    out.print(plain(recorded), soft_wrap=True)
    if replaced:
        out.print(plain(f"Replaced: {', '.join(replaced)}."))
    if pseudonyms.in_texts:
        out.print(f"Identifiers stood in {counted(pseudonyms.in_texts, 'description')}, and were replaced there too.")
    out.print("Descriptions are as they were typed: look through them before you give the file away.")
    for note in notes:
        say(note)
    if not taken.complete:
        say(f"There may be more than was recorded. {taken.reason}".rstrip())
    return 0


def _within_keys(original: Recording, rule: Rule) -> Recording:
    """Without the studies that lie outside keys whose values are replaced: afterwards nobody can tell them.

    The sweep leaves them out as well. What it makes of the other keys shows in the recording.
    """
    assert rule.sweep is not None
    evaluation = Evaluation(original.recorded_at, original.zone)
    keys = [
        key
        for key in rule.sweep.keys
        if key.values and original.loses(key.tag) and asked_at(key.tag) is QueryRetrieveLevel.STUDY
    ]
    studies = {
        name: row for name, row in original.studies.items() if all(key.explain(row, evaluation).passed for key in keys)
    }
    series = {name: below for name, below in original.series.items() if name in studies}
    return msgspec.structs.replace(original, studies=studies, series=series)


def _tags(keywords: Iterable[str], option: str) -> frozenset[int]:
    found = set()
    for keyword in keywords:
        tag = tag_of(keyword)
        if tag is None:
            raise UsageError(f"{option}: {keyword} is no DICOM keyword; {nearest_attribute(keyword)}")
        if option == "--record-drop" and tag in UNIQUE:
            raise UsageError(f"{option}: a recording needs {keyword}, which is replaced")
        if option == "--record-keep" and tag not in KEEPABLE:
            some = ", ".join(sorted(map(name_of, KEEPABLE)))
            raise UsageError(f"{option}: {keyword} cannot be kept; what names a place or a device can: {some}")
        found.add(tag)
    return frozenset(found)
