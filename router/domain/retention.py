"""Which studies may leave the object store, and why each other stays. Pure: it decides from values about the store.

A study leaves only when each of these holds: all of its instances were sent on, all of that is proven, no work on it is
open, and it was kept for as long as was promised. What nothing sends on stays for good: this store is where it was to
be. A full disk makes none of that untrue, so it is no reason to let go of more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

import msgspec

from router.domain.retention_settings import Retention as Retention
from router.domain.retention_settings import Watermark as Watermark
from router.domain.transfer import Instance

_LEAST = 0.02
"""Between the two watermarks, where `minimum_free` moves them."""


class HeldStudy(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a study in the store; `size` in bytes of data sets."""

    study_instance_uid: str
    size: int
    last_received_at: datetime
    transfers: int = 0
    """Transfers under way to or from the store."""
    arrivals: int = 0
    """Rules that have not yet decided whether to pass on what came in."""
    appointments: int = 0
    """Appointments to come for which it is a prior."""
    forwards: int = 0
    """Transfers from the store that rules wanted of it, whatever became of them; but for what another node got."""
    proven_forwards: int = 0
    """Those whose verdict is `complete`."""
    proven_at: datetime | None = None
    """When the last of them was proven."""
    unsent: int = 0
    """Instances that none of the proven ones carried."""
    left_before: bool = False
    """It has left the store before, and came again."""


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """A study that leaves, or has left: what came in until `last_received_at` goes."""

    study_instance_uid: str
    last_received_at: datetime
    left_at: datetime | None = None
    """When all of it was gone; None: it is leaving."""


class Departed(msgspec.Struct, frozen=True, kw_only=True):
    """What has left the store of a study, or is just leaving it, over time."""

    left_at: datetime | None
    """When it last left; None: it is leaving."""
    instances: frozenset[Instance]


def left_of(departed: Departed | None, series_instance_uid: str = "") -> set[Instance]:
    """The instances that have left: of a series, or (empty) of all."""
    found = departed.instances if departed is not None else frozenset()
    return {one for one in found if not series_instance_uid or one.series_instance_uid == series_instance_uid}


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """The file system that the store lies on, in bytes."""

    size: int
    used: int


class Why(StrEnum):
    """Why a study stays; the first that applies."""

    TRANSFERS = "transfers"
    ARRIVALS = "arrivals"
    APPOINTMENTS = "appointments"
    NOT_SENT_ON = "not-sent-on"
    UNPROVEN = "unproven"
    UNSENT = "unsent"
    RETURNED = "returned"
    KEEP = "keep"
    ROOM = "room"


_AGAIN: Mapping[Why, timedelta] = MappingProxyType(
    {
        Why.TRANSFERS: timedelta(minutes=10),
        Why.ARRIVALS: timedelta(minutes=10),
        Why.ROOM: timedelta(0),
    }
)
_SELDOM = timedelta(hours=1)


class Stay(msgspec.Struct, frozen=True, kw_only=True):
    """A study that stays, with the reason as a sentence."""

    study: HeldStudy
    why: Why
    reason: str
    until: datetime | None = None
    """When it may leave, where that is only a matter of time."""


class Leaving(msgspec.Struct, frozen=True, kw_only=True):
    """What may leave now, in this order, what stays, and how many bytes too few leave to come down to the watermark."""

    leave: tuple[HeldStudy, ...]
    stay: tuple[Stay, ...]
    lacking: int = 0


def leaving(studies: Iterable[HeldStudy], retention: Retention, disk: Disk, now: datetime) -> Leaving:
    """Decide about each study, once: the oldest leaves first, under the watermark no more of them than must."""
    free: list[HeldStudy] = []
    stay: list[Stay] = []
    for study in sorted(studies, key=_age):
        bound = _bound(study, retention, now)
        if bound is None:
            free.append(study)
        else:
            stay.append(bound)
    if retention.watermark is None:
        return Leaving(leave=tuple(free), stay=tuple(stay))
    wanted = _wanted(retention.watermark, disk)
    leave: list[HeldStudy] = []
    for study in free:
        if wanted > 0:
            wanted -= study.size
            leave.append(study)
        else:
            stay.append(
                Stay(study=study, why=Why.ROOM, reason="It may leave, once the disk is fuller than the watermark.")
            )
    return Leaving(leave=tuple(leave), stay=tuple(stay), lacking=max(wanted, 0))


def again_at(stay: Stay, now: datetime) -> datetime:
    """When a study that stays is worth another look."""
    return stay.until or now + _AGAIN.get(stay.why, _SELDOM)


def within(retention: Retention, disk: Disk, minimum_free: int, *, begun: bool) -> Retention:
    """The watermark as it counts now.

    Before instances are refused (`minimum_free`, bytes) what may leave does. `begun`: room is being made, until the
    low one is reached.
    """
    watermark = retention.watermark
    if watermark is None or not disk.size:
        return retention
    high = min(watermark.high, max(1 - minimum_free / disk.size, 0.0))
    low = min(watermark.low, max(high - _LEAST, 0.0))
    return msgspec.structs.replace(retention, watermark=Watermark(high=low if begun else high, low=low))


def pressed(retention: Retention, disk: Disk) -> bool:
    """Whether studies are to leave now that may: without a watermark always."""
    return retention.watermark is None or _wanted(retention.watermark, disk) > 0


def _age(study: HeldStudy) -> tuple[datetime, str]:
    return study.last_received_at, study.study_instance_uid


def _wanted(watermark: Watermark, disk: Disk) -> int:
    """Bytes that are to become free."""
    if disk.used < watermark.high * disk.size:
        return 0
    return max(disk.used - int(watermark.low * disk.size), 0)


def _bound(study: HeldStudy, retention: Retention, now: datetime) -> Stay | None:
    """Why a study cannot leave, however full the disk is."""

    def stay(why: Why, reason: str, until: datetime | None = None) -> Stay:
        return Stay(study=study, why=why, reason=reason, until=until)

    if study.transfers:
        return stay(Why.TRANSFERS, f"Transfers under way need it: {study.transfers}.")
    if study.arrivals:
        return stay(Why.ARRIVALS, f"Rules have not yet decided about what came in: {study.arrivals}.")
    if study.appointments:
        return stay(Why.APPOINTMENTS, f"It is a prior for appointments to come: {study.appointments}.")
    if not study.forwards:
        return stay(Why.NOT_SENT_ON, "Nothing sends it on: this store is where it is to be.")
    if study.proven_forwards < study.forwards or study.proven_at is None:
        lacking = study.forwards - study.proven_forwards
        return stay(Why.UNPROVEN, f"Not proven to have arrived elsewhere: {lacking} of {study.forwards} forwards.")
    if study.unsent:
        return stay(Why.UNSENT, f"Instances that nothing sends on: {study.unsent}.")
    if study.left_before and study.last_received_at > study.proven_at:
        # Nothing is left to compare it with: it may be another version under the same UIDs.
        return stay(Why.RETURNED, "It came again after it had left, and was not sent on again (transfers retry).")
    until = max(study.proven_at, study.last_received_at) + timedelta(seconds=retention.keep)
    if now < until:
        return stay(Why.KEEP, f"It is kept until {until:%Y-%m-%d %H:%M} UTC.", until)
    return None
