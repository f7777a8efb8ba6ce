"""Waiting for sweeps and transfers with something to look at: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from router.cli.render import counted, explanation, new_table, size, styled
from router.cli.settings import plain
from router.domain.appointment import Appointment, AppointmentState
from router.domain.sweep import SWEEP_ENDED, SweepRecord, SweepState
from router.domain.transfer import State, Transfer

_POLL_SECONDS = 0.2
_SHARE = 4
"""Looking at the ledger may take one part in so many of the time: a big job must not be slowed by who watches it."""
_ALIVE_SECONDS = 1.0
_SUMMARY_SECONDS = 10.0
_ROWS = 20
_AROUND = 8
"""Lines of a terminal that are not rows of the table."""
_NARROW, _WIDE = 10, 24


class Ending(StrEnum):
    """Why waiting is over."""

    ENDED = "ended"
    DEADLINE = "deadline"
    ALONE = "alone"
    """Nobody works on the ledger any more."""


class Seen(NamedTuple):
    """What the ledger holds of a job."""

    sweeps: list[SweepRecord]
    transfers: list[Transfer]
    waiting: Collection[int] = ()
    """Transfers that wait for a stopped route: nothing becomes of them until somebody changes a configuration."""
    appointments: Sequence[Appointment] = ()
    """Current studies whose priors the job is about."""
    undecided: int = 0
    """Studies that are to be passed on, and have not been looked at yet."""

    @property
    def looking(self) -> int:
        """Appointments whose priors are still to be looked for; one that failed once is not waited for."""
        return sum(is_open(one) for one in self.appointments)


class View(Protocol):
    """Shows progress."""

    def show(self, seen: Seen) -> None:
        """What the ledger holds now."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


def wait(
    look: Callable[[], Seen], console: Console, deadline: float | None, alive: Callable[[], bool] = lambda: True
) -> tuple[Seen, Ending]:
    """Show progress until all is over, the deadline (monotonic) passes, or nobody is `alive` who works on it."""
    live = console.is_terminal and not console.is_dumb_terminal
    view: View = _LiveView(console) if live else _LineView(console)
    asked = time.monotonic()
    with view:
        while True:
            started = time.monotonic()
            seen = look()
            view.show(seen)
            if not _under_way(seen):
                return seen, Ending.ENDED
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return seen, Ending.DEADLINE
            if now - asked >= _ALIVE_SECONDS:
                asked = now
                if not alive():
                    return seen, Ending.ALONE
            pause = max(_POLL_SECONDS, (now - started) * _SHARE)
            time.sleep(pause if deadline is None else min(pause, deadline - now))


def is_open(appointment: Appointment) -> bool:
    """Whether its priors are still to be looked for now."""
    if appointment.state is AppointmentState.WAITING:
        return not appointment.attempts
    return appointment.state is AppointmentState.LOOKING


def _under_way(seen: Seen) -> bool:
    if seen.looking or seen.undecided:
        return True
    return any(s.state not in SWEEP_ENDED for s in seen.sweeps) or any(
        not t.ended and t.state is not State.HELD and t.id not in seen.waiting for t in seen.transfers
    )


class _Totals:
    """Sums over all transfers of a job."""

    def __init__(self, transfers: Sequence[Transfer]) -> None:
        self.transfers = len(transfers)
        self.ended = sum(t.ended for t in transfers)
        self.there = sum(t.completed for t in transfers)
        self.wanted = sum(size(t) or 0 for t in transfers)

    def __str__(self) -> str:
        return (
            f"{self.ended} of {counted(self.transfers, 'transfer')} ended, "
            f"{self.there} of {counted(self.wanted, 'instance')} there"
        )


class _LiveView:
    """A table that is drawn anew in its place and gone at the end, when the result takes its place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=5, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def show(self, seen: Seen) -> None:
        self._live.update(self._picture(seen))

    def _picture(self, seen: Seen) -> Group:
        running = [s.due.rule for s in seen.sweeps if s.state not in SWEEP_ENDED]
        parts: list[Text | Table] = [plain(f"asking: {', '.join(running)}", "cyan")] if running else []
        if seen.looking:
            parts.append(plain(f"looking for priors: {counted(seen.looking, 'appointment')}", "cyan"))
        if seen.undecided:
            parts.append(plain(f"looking at what has arrived: {counted(seen.undecided, 'study', 'studies')}", "cyan"))
        if seen.transfers:
            parts.append(self._head(_Totals(seen.transfers)))
            active = sorted((t for t in seen.transfers if _active(t)), key=lambda t: t.id)
            rows = max(1, min(_ROWS, self._console.size.height - _AROUND))
            if active:
                parts.append(self._table(active[:rows]))
            waiting = len(seen.transfers) - sum(t.ended for t in seen.transfers) - len(active[:rows])
            if waiting:
                parts.append(Text(f"and {waiting} waiting", "dim"))
        return Group(*parts)

    def _head(self, totals: _Totals) -> Table:
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(_bar(totals.there, totals.wanted, self._bar_width), Text(str(totals)))
        return grid

    @property
    def _bar_width(self) -> int:
        return _WIDE if self._console.width >= 100 else _NARROW

    def _table(self, transfers: Sequence[Transfer]) -> Table:
        warned = any(t.warning for t in transfers)
        numbers = ("id", "moved", "failed", *(["warning"] if warned else []))
        table = new_table("id", "rule", "from", "to", "state", "", *numbers[1:], right=numbers)
        table.columns[4].no_wrap = True
        for one in transfers:
            total = size(one)
            table.add_row(
                str(one.id),
                plain(one.rule),
                plain(one.intent.source),
                plain(one.intent.destination),
                styled(one.state),
                _bar(one.completed, total, self._bar_width),
                f"{one.completed}/{'?' if total is None else total}",
                str(one.failed),
                *([str(one.warning)] if warned else []),
            )
        return table


def _bar(done: int, total: int | None, width: int) -> ProgressBar:
    return ProgressBar(total=max(1, total or 0, done), completed=done, width=width, finished_style="green")


def _active(transfer: Transfer) -> bool:
    return transfer.state in (State.MOVING, State.VERIFYING) or (
        transfer.state is State.QUEUED and transfer.attempts > 0
    )


class _LineView:
    """A line when a sweep ends, when a transfer begins to move, when it ends or has to try again; and sums between."""

    _TOLD = frozenset({State.MOVING, State.QUEUED, State.HELD})

    def __init__(self, console: Console) -> None:
        self._console = console
        self._sweeps: set[int] = set()
        self._transfers: dict[int, tuple[State, int]] = {}
        self._summed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return

    def show(self, seen: Seen) -> None:
        for sweep in seen.sweeps:
            if sweep.state in SWEEP_ENDED and sweep.id not in self._sweeps:
                self._sweeps.add(sweep.id)
                self._line(_swept(sweep))
        for transfer in sorted(seen.transfers, key=lambda t: t.id):
            now = (transfer.state, transfer.attempts)
            if self._transfers.get(transfer.id) != now:
                self._transfers[transfer.id] = now
                if transfer.ended or (transfer.state in self._TOLD and (transfer.reason or _active(transfer))):
                    self._line(_moved(transfer))
        if seen.transfers and time.monotonic() - self._summed >= _SUMMARY_SECONDS:
            self._summed = time.monotonic()
            self._line(str(_Totals(seen.transfers)))

    def _line(self, text: str) -> None:
        self._console.print(plain(text), soft_wrap=True)


def _swept(sweep: SweepRecord) -> str:
    line = f"sweep {sweep.due.rule} of {sweep.due.source}: {sweep.state}"
    report = sweep.report
    if report is None or sweep.state is SweepState.FAILED:
        return f"{line}: {report.reason if report else ''}"
    return f"{line}, {counted(report.matches, 'match', 'matches')}, {report.selected} to move. {report.reason}".rstrip()


def _moved(transfer: Transfer) -> str:
    total = size(transfer)
    of = "?" if total is None else total
    head = f"transfer {transfer.id} {transfer.rule}: {transfer.intent.source} -> {transfer.intent.destination}"
    if transfer.state is State.MOVING:
        return f"{head}: moving {of} instances"
    return f"{head}: {transfer.state}, {transfer.completed} of {of} instances. {explanation(transfer)}".rstrip()
