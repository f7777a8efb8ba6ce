"""Object stores of several replicas: which of them count as evidence, and which copy of an instance is taken. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta

import msgspec

from router.domain.receipt import Receipt

COUNTS_FOR = timedelta(days=1)
"""How long what a store holds counts as held after the last replica that has it was seen."""


class StoreSeen(msgspec.Struct, frozen=True, kw_only=True):
    """An object store, as the services that have it announced it."""

    name: str
    replica: str
    """The name of the replica that had it last."""
    seen_at: datetime
    """When a service last said that it has it."""


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What went with a store that is gone for good."""

    instances: int
    lost: tuple[int, ...] = ()
    """The numbers of the transfers to our stores that have lost instances by it."""


def counting(stores: Iterable[StoreSeen], own: str, now: datetime) -> frozenset[str]:
    """The names of the other stores whose receipts count as evidence, though their files cannot be looked at."""
    return frozenset(one.name for one in stores if one.name != own and one.seen_at > now - COUNTS_FOR)


def chosen(receipts: Iterable[Receipt], own: str, reachable: Collection[str] = ()) -> list[Receipt]:
    """One copy of each instance: that of the own store, else of one that is reachable, else that which came last."""
    best: dict[tuple[str, str], Receipt] = {}
    for one in receipts:
        key = one.series_instance_uid, one.sop_instance_uid
        before = best.get(key)
        if before is None or _worth(one, own, reachable) > _worth(before, own, reachable):
            best[key] = one
    return list(best.values())


def _worth(receipt: Receipt, own: str, reachable: Collection[str]) -> tuple[bool, bool, datetime]:
    return is_own(receipt, own), receipt.store in reachable, receipt.received_at


def is_own(receipt: Receipt, own: str) -> bool:
    """Whether its file is in the store of that name: also where nobody ever said which store it is in."""
    return receipt.store in ("", own)
