"""What our Store SCP holds."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is durably in the object store.

    `path` is relative to the store's root; `size` counts the bytes of the data set. `store` is the name of the object
    store that holds it; empty where only one store was ever known.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae_title: str
    size: int
    path: str
    received_at: datetime
    store: str = ""


SKEW = timedelta(seconds=1)
"""By how much a machine's clock may differ from that of all services of a ledger before it matters."""


def by_clock(receipts: Iterable[Receipt], ahead: timedelta) -> list[Receipt]:
    """The same by another clock, which is so far ahead; where it is less than `SKEW` they stay as they are."""
    by = skew(ahead)
    if not by:
        return list(receipts)
    return [msgspec.structs.replace(one, received_at=one.received_at + by) for one in receipts]


def skew(ahead: timedelta) -> timedelta:
    """By how much times of another clock, which is so far ahead, are later: nothing where it is less than `SKEW`."""
    return ahead if abs(ahead) >= SKEW else timedelta()
