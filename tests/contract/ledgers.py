"""What the tests of the ledger share: opening every adapter, and short ways to fill one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from router.domain.sweep import SweepDue, SweepRecord, SweepReport, SweepState
from router.domain.transfer import SETTLING, Happening, Hold, Intent, NewTransfer, Transfer
from router.ledger.ledger import SqlLedger
from tests.support import postgres

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
LEASE = 60.0


@contextlib.contextmanager
def _file(directory: Path, _: bool) -> Iterator[str]:
    yield f"sqlite:///{directory}/data/ledger.db"


@contextlib.contextmanager
def _on_server(_: Path, made: bool) -> Iterator[str]:
    with postgres.ledger_database() if made else postgres.server().database() as url:
        yield url


ADAPTERS: dict[str, Callable[[Path, bool], AbstractContextManager[str]]] = {"sqlite": _file, "postgresql": _on_server}
"""Every database the ledger runs on: its name, and the URL of an empty one; whether the ledger may be there already."""


def after(seconds: float) -> datetime:
    """A time so many seconds after NOW."""
    return NOW + timedelta(seconds=seconds)


def intent(number: int, *, source: str = "archive", destination: str = "ws", series: str = "") -> Intent:
    """The intent of the study of that number."""
    return Intent(source, f"1.2.826.{number}", series, destination)


def new(
    wanted: Intent,
    *,
    count: int | None = 5,
    priority: int = 1,
    rule: str = "ct",
    happening: Happening | None = None,
    hold: Hold | None = None,
    charge: int = 0,
) -> NewTransfer:
    """A decision to move, or to hold."""
    return NewTransfer(
        intent=wanted,
        rule=rule,
        priority=priority,
        instance_count=count,
        patient_id="P1",
        happening=happening,
        hold=hold,
        charge=charge,
    )


def hold(cause: str = SETTLING, since: datetime = NOW, seconds: float = 600) -> Hold:
    """Why a rule holds something back."""
    return Hold(cause=cause, reason=f"Held: {cause}.", since=since, next_at=since + timedelta(seconds=seconds))


def running_sweep(
    ledger: SqlLedger, at: datetime = NOW, *, source: str = "archive", rule: str = "ct", manual: bool = False
) -> SweepRecord:
    """A sweep that was made due and claimed at that time."""
    (number,) = ledger.add_sweeps([SweepDue(rule=rule, source=source, due_at=at, manual=manual)])
    claimed = ledger.claim_sweep([source], at, LEASE)
    assert claimed is not None
    assert claimed.id == number
    return claimed


def queue(
    ledger: SqlLedger, selected: Sequence[NewTransfer], at: datetime = NOW, *, under_way: Sequence[int] = ()
) -> SweepRecord:
    """A whole sweep that selected these."""
    sweep, tier = None, 0
    while sweep is None:  # the first tier that was not swept at this instant before
        ledger.add_sweeps([SweepDue(rule="ct", source="archive", due_at=at, tier=tier)])
        sweep = ledger.claim_sweep(["archive"], at, LEASE)
        tier += 1
    report = SweepReport(state=SweepState.COMPLETE, matches=len(selected), selected=len(selected), queries=1)
    assert ledger.finish_sweep(sweep, report, selected, under_way, at)
    return sweep


def claim(ledger: SqlLedger, at: datetime = NOW, source: str = "archive") -> Transfer:
    """Claim the next transfer of a source; there must be one."""
    claimed = ledger.claim_transfer([source], at, LEASE)
    assert claimed is not None
    return claimed


def look(ledger: SqlLedger, at: datetime = NOW, destination: str = "ws") -> Transfer:
    """Claim the next verification at a destination; there must be one."""
    claimed = ledger.claim_verification([destination], at, LEASE)
    assert claimed is not None
    return claimed
