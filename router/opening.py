"""What commands open for themselves: the ledger, requests to nodes, and what plans are made with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from router.dimse.peers import Peers
from router.domain.rule import RuleSet
from router.engine.caps import Caps
from router.engine.prefetch import Prefetcher
from router.engine.query import Inquiry
from router.engine.slots import NodeSlots
from router.engine.sweep import Sweeper
from router.errors import LedgerMissing
from router.ledger.ledger import SqlLedger
from router.object_headers import ObjectHeaders


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """The time, aware, UTC."""
        return datetime.now(UTC)


def open_ledger(rules: RuleSet, *, read_only: bool = False, create: bool = True) -> SqlLedger:
    """The configured ledger. Raises LedgerError; LedgerMissing where there is none and `create` is false."""
    return SqlLedger.open(rules.router.ledger, read_only=read_only, create=create)


@contextmanager
def open_peers(rules: RuleSet) -> Iterator[Peers]:
    """Requests to nodes, for a command that needs nothing else."""
    peers = Peers(rules.router.ae_title, lambda event: None)
    try:
        yield peers
    finally:
        peers.close()


class Planner(NamedTuple):
    """What can look, on a ledger that it cannot write to."""

    sweeper: Sweeper
    prefetcher: Prefetcher
    ledger: SqlLedger


@contextmanager
def planner(rules: RuleSet, say: Callable[[str], None]) -> Iterator[Planner]:
    """What plans are made with; that there is no ledger yet it says."""
    try:
        opened = open_ledger(rules, read_only=True, create=False)
    except LedgerMissing as missing:
        say(f"{missing} So nothing counts as moved before.")
        opened = open_ledger(rules, read_only=True)
    with opened as ledger, open_peers(rules) as peers:
        clock = SystemClock()
        inquiry = Inquiry(peers, NodeSlots(lambda: rules.windows, clock), Caps(ledger.caps()))
        headers = ObjectHeaders(rules.router.store)
        sweeper = Sweeper(rules=lambda: rules, ledger=ledger, inquiry=inquiry, clock=clock, observer=lambda event: None)
        prefetcher = Prefetcher(
            rules=lambda: rules,
            ledger=ledger,
            inquiry=inquiry,
            held=ledger.received,
            stored=lambda study, wanted: headers.study(ledger.receipt_paths(study), wanted),
            clock=clock,
            observer=lambda event: None,
        )
        yield Planner(sweeper, prefetcher, ledger)
