"""How two configurations are told apart in text: for `plan --against` and `test --replay --against`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from router.cli.render import new_table
from router.cli.settings import plain
from router.domain.difference import Difference, Stand, Totals

_SIGNS = (("+", "green"), ("-", "red"), ("~", "yellow"))
_ABSENT = "not found by the rule"


def show_sides(out: Console, before: Path, after: Path) -> None:
    """Which configuration is which."""
    out.print(plain(f"{before} is what runs now, {after} the changed configuration."), soft_wrap=True)


def show_totals(out: Console, found: Totals, but: str = "") -> None:
    """What differs over all rules; `but`: which of them are not among these."""
    added, removed, unchanged = found
    out.print(f"In all{but}: +{added} -{removed} (={unchanged} unchanged); what several rules want counts once.")


def differences_table(differences: Sequence[Difference], named: Callable[[str, str], str]) -> Table:
    """A row for each; `named` is what a study and series are called, by their UIDs."""
    table = new_table("", "study", "to", "before", "after")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for one in differences:
        sign, style = _SIGNS[0 if one.added else 1 if one.removed else 2]
        table.add_row(
            Text(sign, style),
            plain(named(one.unit.study_instance_uid, one.unit.series_instance_uid)),
            plain(one.unit.destination),
            _stand(one.before),
            _stand(one.after),
        )
    return table


def _stand(stand: Stand | None) -> Text:
    return plain(f"{stand.decision}: {stand.reason}") if stand is not None else plain(_ABSENT, "dim")
