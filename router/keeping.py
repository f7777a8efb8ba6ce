"""Wires what keeps store and ledger small: retention lets studies leave the store, the historian clears the ledger."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime

from router.domain.events import CapLearned
from router.domain.retention import Disk, HeldStudy, Leaving, leaving, within
from router.domain.rule import RouterSettings, RuleSet
from router.domain.surroundings import Space
from router.engine.caps import Caps
from router.engine.departure_port import Files
from router.engine.historian import Historian
from router.engine.ports import Clock, Observer, Pseudonym
from router.engine.retention import Retainer
from router.errors import LedgerError
from router.ledger.clock import ahead
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from router.observe import logs
from router.removal import Remover

_PAGE = 500
"""Studies that are read at once."""


def retainer(
    rules: Callable[[], RuleSet],
    ledger: SqlLedger,
    store: ObjectStore,
    clock: Clock,
    observer: Observer,
    pseudonym: Pseudonym,
    audited: Callable[[Files], Files],
) -> Retainer:
    """Retention for this store, not yet started; `audited` has removals told. Raises StoreError."""
    return Retainer(
        rules=rules,
        ledger=ledger,
        files=audited(Remover(store.root, durability=rules().router.durability, ahead=lambda: ahead(clock.now))),
        space=store.space,
        clock=clock,
        observer=observer,
        pseudonym=pseudonym,
        trouble=logs.trouble,
        store=store.name,
    )


def historian(rules: Callable[[], RuleSet], ledger: SqlLedger, clock: Clock, leads: Callable[[], bool]) -> Historian:
    """The historian of this ledger, not yet started; it works while this service `leads`."""
    return Historian(keep=lambda: rules().router.history, ledger=ledger, leads=leads, clock=clock, trouble=logs.trouble)


def remembered_caps(ledger: SqlLedger, observer: Observer) -> Caps:
    """At how many matches nodes cut their answers, as the ledger remembers it; what cannot be written is learned again.

    Raises LedgerError.
    """

    def shown(node: str, matches: int) -> None:
        observer(CapLearned(node=node, matches=matches))

    def learned(node: str, matches: int) -> None:
        shown(node, matches)
        try:
            ledger.learn_cap(node, matches)
        except LedgerError as error:
            logs.trouble("caps", error)

    return Caps(ledger.caps(), learned, shown)


def foreseen(
    ledger: SqlLedger, settings: RouterSettings, space: Space, now: datetime, only: Sequence[str] | None = None
) -> Leaving | None:
    """What would leave the store now, and why the rest stays: of all, or `only` these studies. Read in pages.

    None where nothing ever leaves. Raises LedgerError.
    """
    if settings.retention is None:
        return None
    disk = Disk(size=space.size, used=max(space.size - space.free, 0))
    retention = within(settings.retention, disk, settings.minimum_free, begun=False)
    uids = iter(ledger.stored_uids() if only is None else only)
    held: list[HeldStudy] = []
    while page := list(itertools.islice(uids, _PAGE)):
        held += ledger.held_studies(page, now)
    return leaving(held, retention, disk, now)
