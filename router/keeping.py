"""Wires retention: what lets studies leave the object store of a running service, and what would leave it now."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import datetime

from router.domain.retention import Disk, HeldStudy, Leaving, leaving, within
from router.domain.rule import RouterSettings, RuleSet
from router.domain.surroundings import Space
from router.engine.departure_port import Files
from router.engine.ports import Clock, Observer, Pseudonym
from router.engine.retention import Retainer
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
        files=audited(Remover(store.root, durability=rules().router.durability)),
        space=store.space,
        clock=clock,
        observer=observer,
        pseudonym=pseudonym,
        trouble=logs.trouble,
    )


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
