"""Tables and JSON rows for what the commands print. The JSON field names are a contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

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


_SHORT = 13


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
    }


def sweeps_table(sweeps: Iterable[SweepRecord]) -> Table:
    """Sweeps for people."""
    table = Table(title="Sweeps", title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in ("rule", "source", "result"):
        table.add_column(column)
    for column in ("matches", "selected", "queries"):
        table.add_column(column, justify="right")
    table.add_column("why")
    for sweep in sweeps:
        row = sweep_row(sweep)
        style = "green" if row["complete"] else "red"
        table.add_row(
            row["rule"],
            row["source"],
            f"[{style}]{row['state']}[/]",
            str(row["matches"]),
            str(row["selected"]),
            str(row["queries"]),
            row["reason"],
        )
    return table


def transfers_table(transfers: Iterable[Transfer], *, title: str = "Transfers") -> Table:
    """Transfers for people."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    table.add_column("id", justify="right")
    for column in ("rule", "from", "to", "study", "state"):
        table.add_column(column)
    table.add_column("there", justify="right")
    table.add_column("tries", justify="right")
    table.add_column("status")
    table.add_column("why", overflow="fold")
    for transfer in transfers:
        row = transfer_row(transfer)
        expected = "?" if transfer.expected is None else str(transfer.expected)
        table.add_row(
            str(transfer.id),
            transfer.rule,
            transfer.intent.source,
            transfer.intent.destination,
            short(transfer.intent.study_instance_uid, transfer.intent.series_instance_uid),
            f"[{STYLES.get(transfer.state, 'cyan')}]{transfer.state}[/]",
            f"{transfer.completed}/{expected}",
            str(transfer.attempts),
            row["status"] or "",
            "" if transfer.state is State.COMPLETE else transfer.reason,
        )
    return table


def short(study: str, series: str = "") -> str:
    """The end of a UID, which tells studies apart in a table; `--format json` has the whole."""
    ends = [uid if len(uid) <= _SHORT else "…" + uid[1 - _SHORT :] for uid in (study, series) if uid]
    return " / ".join(ends)
