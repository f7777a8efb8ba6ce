"""Tables and JSON rows for what the commands print. The JSON field names are a contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from router.cli.settings import plain
from router.domain.selection import Action
from router.domain.sweep import SweepRecord, SweepState
from router.domain.transfer import State, Transfer

STYLES = {
    State.COMPLETE: "green",
    State.UNPROVEN: "yellow",
    State.NOTHING: "yellow",
    State.PARTIAL: "red",
    State.CONTRADICTED: "red",
    State.FAILED: "red",
    State.CANCELLED: "magenta",
}
UNDER_WAY_STYLE = "cyan"
ACTION_STYLES = {Action.MOVE: "green", Action.HOLD: "yellow", Action.SKIP: "dim"}

_SHORT = 8
_NUMBERS = 6
"""Transfers named one by one before one sentence that holds for all of them."""
_WIDE = 100
"""Columns from which a table has room for times."""


# JSON -----------------------------------------------------------------------------------------------------------------


def sweep_row(sweep: SweepRecord) -> dict[str, Any]:
    """A sweep as JSON."""
    report = sweep.report
    return {
        "rule": sweep.due.rule,
        "source": sweep.due.source,
        "matches": report.matches if report else 0,
        "complete": sweep.state is SweepState.COMPLETE,
        "queries": report.queries if report else 0,
        "state": str(sweep.state),
        "selected": report.selected if report else 0,
        "reason": report.reason if report else "",
        "account": report.account if report else "",
    }


def transfer_row(transfer: Transfer) -> dict[str, Any]:
    """A transfer as JSON; `verdict` is null until it has one."""
    return {
        "id": transfer.id,
        "rule": transfer.rule,
        "source": transfer.intent.source,
        "destination": transfer.intent.destination,
        "study_instance_uid": transfer.intent.study_instance_uid,
        "series_instance_uid": transfer.intent.series_instance_uid or None,
        "state": str(transfer.state),
        "verdict": str(transfer.state) if transfer.ended else None,
        "expected": transfer.expected,
        "completed": transfer.completed,
        "failed": transfer.failed,
        "warning": transfer.warning,
        "attempts": transfer.attempts,
        "status": f"0x{transfer.status:04X}" if transfer.status is not None else None,
        "cause": transfer.cause or None,
        "reason": transfer.reason,
        "deadline": transfer.deadline_at,
    }


# text -----------------------------------------------------------------------------------------------------------------


def new_table(*columns: str, right: Sequence[str] = ()) -> Table:
    """A table without lines. Too long names end in an ellipsis; numbers never lose a digit."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for column in columns:
        if column in right:
            table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
        else:
            table.add_column(column, overflow="ellipsis")
    return table


def sweeps_table(sweeps: Sequence[SweepRecord]) -> RenderableType:
    """Sweeps for people, and below them why some did not come to their end, what they took and what they hold back."""
    numbers = ("matches", "to move", "queries")
    table = new_table("rule", "source", "sweep", *numbers, right=numbers)
    for sweep in sweeps:
        row = sweep_row(sweep)
        table.add_row(
            plain(sweep.due.rule),
            plain(sweep.due.source),
            Text(str(sweep.state), "green" if row["complete"] else "red"),
            str(row["matches"]),
            str(row["selected"]),
            str(row["queries"]),
        )
    said = {s.due.rule: f"{s.report.reason} {s.report.account}".strip() for s in sweeps if s.report}
    why = {rule: words for rule, words in said.items() if words}
    return Group(table, *([Text()] if why else []), *(plain(f"{rule}: {reason}") for rule, reason in why.items()))


def transfers_table(transfers: Sequence[Transfer], *, width: int) -> RenderableType:
    """Transfers for people, and below them why some are not complete."""
    wide = width >= _WIDE
    timed = any(transfer.deadline_at is not None for transfer in transfers)
    columns = ["id", "rule", "from", "to", "study", "instances", "state"]
    columns += [*(["deadline"] if timed else []), *(["changed"] if wide else [])]
    table = new_table(*columns, right=("id", "instances"))
    table.columns[columns.index("study")].no_wrap = True
    table.columns[columns.index("state")].no_wrap = True
    for transfer in transfers:
        intent = transfer.intent
        table.add_row(
            str(transfer.id),
            plain(transfer.rule),
            plain(intent.source),
            plain(intent.destination),
            short(intent.study_instance_uid, intent.series_instance_uid),
            f"{transfer.completed}/{_or_unknown(size(transfer))}",
            styled(transfer.state),
            *([f"{transfer.deadline_at.astimezone():%m-%d %H:%M}" if transfer.deadline_at else ""] if timed else []),
            *([f"{transfer.updated_at.astimezone():%m-%d %H:%M:%S}"] if wide else []),
        )
    why = _reasons(transfers)
    return Group(table, Text(), why) if why.row_count else table


def _reasons(transfers: Iterable[Transfer]) -> Table:
    """One line per reason with the numbers of the transfers it holds for."""
    numbers: dict[str, list[int]] = {}
    for transfer in sorted(transfers, key=lambda t: t.id):
        if transfer.state is not State.COMPLETE and (sentence := explanation(transfer)):
            numbers.setdefault(sentence, []).append(transfer.id)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    for sentence, ids in numbers.items():
        more = f" +{len(ids) - _NUMBERS}" if len(ids) > _NUMBERS else ""
        grid.add_row(",".join(map(str, ids[:_NUMBERS])) + more, plain(sentence))
    return grid


def explanation(transfer: Transfer) -> str:
    """Why it stands where it stands: the reason, with the status and the number of attempts where they add to it."""
    parts = []
    if transfer.status and not transfer.reason:
        which = f"last of {transfer.attempts} attempts" if transfer.attempts > 1 else "last attempt"
        return f"The {which} ended with status {transfer.status:04X}."
    if transfer.status and f"{transfer.status:04X}" not in transfer.reason:
        parts.append(f"status {transfer.status:04X}")
    if transfer.attempts > 1:
        parts.append(f"{transfer.attempts} attempts")
    return (transfer.reason + (f" ({', '.join(parts)})" if parts else "")).strip()


def summary(transfers: Sequence[Transfer]) -> Text:
    """One line: how many there are of each state."""
    totals: dict[State, int] = {}
    for transfer in transfers:
        totals[transfer.state] = totals.get(transfer.state, 0) + 1
    parts = [Text(f"{totals[state]} {state}", STYLES.get(state, UNDER_WAY_STYLE)) for state in State if state in totals]
    return Text.assemble(f"{counted(len(transfers), 'transfer')}: ", Text(", ").join(parts), ".")


def styled(state: State) -> Text:
    """A state in its colour."""
    return Text(str(state), STYLES.get(state, UNDER_WAY_STYLE))


def size(transfer: Transfer) -> int | None:
    """How many instances it is about, as far as is known yet."""
    return transfer.instance_count if transfer.expected is None else transfer.expected


def _or_unknown(number: int | None) -> str:
    return "?" if number is None else str(number)


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 study`, `2 studies`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def short(study: str, series: str = "") -> str:
    """The end of a UID, which tells studies apart in a table; `--format json` has the whole."""
    return " / ".join(uid if len(uid) <= _SHORT else "…" + uid[1 - _SHORT :] for uid in (study, series) if uid)
