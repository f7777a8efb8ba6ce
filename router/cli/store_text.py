"""What the `store` commands print: rows of JSON, whose field names are a contract, tables and sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from router.cli.leave import Leave
from router.cli.render import counted, new_table, short
from router.cli.settings import plain
from router.domain.pseudonym import Pseudonyms
from router.domain.rule import RuleSet
from router.domain.stored import MEANINGS, Finding, StoredStudy
from router.exporting import Exported
from router.inspection import Inspected

_TRANSFERS = 3
"""Transfers of a study that a table names."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def _from(study: StoredStudy, rules: RuleSet) -> list[str]:
    """Who stored it: nodes by their names, others by their AE titles."""
    return sorted({rules.callers.get(title, title) for title in study.calling_ae_titles})


def _in(study: StoredStudy, stores: Mapping[str, str]) -> list[str]:
    """Which stores it is in: those of replicas by their names."""
    return sorted({stores.get(name) or name for name in study.stores})


def study_row(
    study: StoredStudy,
    names: Pseudonyms | None,
    rules: RuleSet,
    leaves: Mapping[str, Leave],
    stores: Mapping[str, str],
) -> dict[str, Any]:
    """A study of the store as JSON; `stores`: name of a store -> whose it is."""
    leave = leaves.get(study.study_instance_uid)
    return {
        "study_instance_uid": study.study_instance_uid,
        "study": names and names.of(study.study_instance_uid),
        "instances": study.instances,
        "bytes": study.size,
        "first_received": study.first_received_at,
        "last_received": study.last_received_at,
        "from": _from(study, rules),
        "stores": _in(study, stores),
        "transfers": study.transfers,
        "stays": leave and leave.why,
        "reason": leave and leave.reason,
        "leaves_at": leave and leave.at,
    }


def studies_table(
    found: Iterable[StoredStudy],
    names: Pseudonyms | None,
    rules: RuleSet,
    leaves: Mapping[str, Leave],
    stores: Mapping[str, str],
) -> Table:
    """Studies of the store for people; with when they leave it, where they ever do, and in which store they are.

    `stores`: name of a store -> whose it is; which is shown only where there are several.
    """
    numbers = ("instances", "size")
    table = new_table(
        "study",
        "pseudonym",
        *numbers,
        "first",
        "last",
        "from",
        *(("stores",) if len(stores) > 1 else ()),
        "needed by",
        *(("leaves",) if leaves else ()),
        right=numbers,
    )
    for column in (0, 1, 4, 5):
        table.columns[column].no_wrap = True
    for one in found:
        needed = ",".join(map(str, one.transfers[:_TRANSFERS]))
        more = f" +{len(one.transfers) - _TRANSFERS}" if len(one.transfers) > _TRANSFERS else ""
        table.add_row(
            short(one.study_instance_uid),
            names.of(one.study_instance_uid) if names else "-",
            str(one.instances),
            byte_count(one.size),
            f"{one.first_received_at.astimezone():%Y-%m-%d %H:%M}",
            f"{one.last_received_at.astimezone():%Y-%m-%d %H:%M}",
            plain(", ".join(_from(one, rules))),
            *((plain(", ".join(_in(one, stores))) or "-",) if len(stores) > 1 else ()),
            needed + more or "-",
            *((leaves[one.study_instance_uid].word,) if leaves else ()),
        )
    return table


def inspected_row(inspected: Inspected) -> dict[str, int]:
    """What was verified as JSON."""
    return {
        "studies": inspected.studies,
        "instances": inspected.instances,
        "bytes": inspected.size,
        "compared": inspected.compared,
        "first_read": inspected.first_read,
        "arriving": inspected.arriving,
    }


def inspected_text(inspected: Inspected) -> str:
    """What was verified as a sentence."""
    parts = (
        (inspected.compared, "as when first verified"),
        (inspected.first_read, "verified for the first time"),
        (inspected.arriving, "came in a moment ago"),
        (inspected.faults, "at fault"),
    )
    read = f"{counted(inspected.instances, 'instance')} of {counted(inspected.studies, 'study', 'studies')}"
    return _sentence(f"{read}, {byte_count(inspected.size)}", parts)


def exported_row(one: Exported) -> dict[str, int]:
    """What was exported as JSON."""
    return {
        "instances": one.instances,
        "bytes": one.size,
        "copied": one.copied,
        "linked": one.linked,
        "present": one.present,
    }


def exported_study(uid: str, one: Exported, names: Pseudonyms | None) -> dict[str, Any]:
    """The same of one study."""
    identity = {"study_instance_uid": uid, "study": names and names.of(uid)}
    return {**identity, **exported_row(one)}


def exported_text(total: Exported, studies: int, directory: Path) -> str:
    """What was exported as a sentence."""
    parts = (
        (total.copied, "copied"),
        (total.linked, "linked"),
        (total.present, "there already"),
        (total.faults, "not exported"),
    )
    there = f"{counted(total.instances, 'instance')} of {counted(studies, 'study', 'studies')}"
    return _sentence(f"{there} in {directory}, {byte_count(total.size)}", parts)


def _sentence(head: str, parts: Iterable[tuple[int, str]]) -> str:
    said = ", ".join(f"{count} {words}" for count, words in parts if count)
    return f"{head}: {said}." if said else f"{head}."


class Faults:
    """What is wrong: the first so many, and how many of each kind there are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._first: list[Finding] = []
        self._counts: Counter[str] = Counter()

    def add(self, finding: Finding) -> None:
        """Take note of one."""
        self._counts[finding.fault] += 1
        if len(self._first) < self._most:
            self._first.append(finding)

    def row(self, names: Pseudonyms | None) -> dict[str, Any]:
        """As JSON, with what stands for studies in the log."""
        faults = [
            {
                "study_instance_uid": place.study_instance_uid,
                "study": names and names.of(place.study_instance_uid),
                "series_instance_uid": place.series_instance_uid,
                "sop_instance_uid": place.sop_instance_uid,
                "path": place.path,
                "fault": str(fault),
                "reason": MEANINGS[fault],
            }
            for place, fault in self._first
        ]
        return {"fault_counts": dict(sorted(self._counts.items())), "faults": faults}

    def print(self, out: Console) -> None:
        """For people: each file, and below them what the words mean."""
        if not self._first:
            return
        table = new_table("fault", "file")
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for place, fault in self._first:
            table.add_row(plain(fault, "red"), plain(place.path))
        out.print()
        out.print(table)
        if (rest := self._counts.total() - len(self._first)) > 0:
            out.print(f"and {rest} more (--limit)")
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(justify="right")
        grid.add_column()
        for fault, meaning in MEANINGS.items():
            if self._counts[fault]:
                grid.add_row(str(fault), str(self._counts[fault]), meaning)
        out.print()
        out.print(grid)


def byte_count(number: int) -> str:
    """Bytes for people."""
    value, unit = float(number), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{number} B"
