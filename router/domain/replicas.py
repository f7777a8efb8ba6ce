"""Replicas: services that share a ledger. Which of them live, what they agree on, whether a name is free. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum

from router.domain.overview import ServiceInfo

ANNOUNCE_SECONDS = 2.0
"""How often a service says that it lives."""
LOST_SECONDS = 60.0
"""A service that has not been seen for so long is dead: its slots at nodes end."""
SILENT_SECONDS = 3 * ANNOUNCE_SECONDS
"""A service that shows no sign for so long while somebody watches has most likely ended."""
NAME_SECONDS = 30.0
"""How long a service that starts waits for the one that has its name: it may be stopping."""
MOST_NAMES = 100
"""Services on one host whose names are told apart by number, at most."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


def live(services: Iterable[ServiceInfo], now: datetime) -> list[ServiceInfo]:
    """Those that have been seen lately, by name."""
    since = now - timedelta(seconds=LOST_SECONDS)
    return sorted((one for one in services if one.seen_at >= since), key=lambda one: (one.replica, one.owner))


def is_silent(service: ServiceInfo, now: datetime) -> bool:
    """Whether it shows no sign: it has most likely ended, whatever it said last."""
    return now - service.seen_at >= timedelta(seconds=SILENT_SECONDS)


def leader(services: Iterable[ServiceInfo]) -> ServiceInfo | None:
    """Who leads; of several that said so last the one that said it later, for the others have died."""
    return max((one for one in services if one.leads), key=lambda one: one.seen_at, default=None)


def agreed(services: Iterable[ServiceInfo], owner: str, work_hash: str) -> bool:
    """Whether all other services have the configuration of this one, as far as it is about work.

    Where they have not, what one of them does not know may be another's: a new configuration is being rolled out.
    """
    return all(one.work_hash == work_hash for one in services if one.owner != owner)


class Standing(Enum):
    """How it stands with a name that a service would have."""

    FREE = "free"
    WAIT = "wait"
    """Another has it, that may be stopping or may have died."""
    TAKEN = "taken"


def standing(
    name: str,
    store: str,
    services: Iterable[ServiceInfo],
    owner: str,
    now: datetime,
    waited: float,
    patience: float = NAME_SECONDS,
) -> Standing:
    """Whether a service may be called so. `services`: those that live; `waited`: seconds since it asked first.

    Who had the name and the same store is its predecessor: once it is silent it has died, for of two that live one must
    have another name. One with another store has it until it counts as dead, or the new one waits no longer.
    """
    for one in services:
        if one.replica != name or one.owner == owner:
            continue
        if not (one.store == store and is_silent(one, now)):
            return Standing.WAIT if waited < patience else Standing.TAKEN
    return Standing.FREE


def named(
    configured: str, host: str, store: str, services: Sequence[ServiceInfo], owner: str, now: datetime, waited: float
) -> tuple[str, Standing]:
    """What a service is called: as configured, else as its host; a second one on that host `HOST-2`, and so on."""
    if configured:
        return configured, standing(configured, store, services, owner, now, waited)
    base = _of_host(host)
    for name in (base, *(f"{base}-{number}" for number in range(2, MOST_NAMES))):
        here = any(one.replica == name and one.store == store and one.owner != owner for one in services)
        found = standing(name, store, services, owner, now, waited, SILENT_SECONDS + ANNOUNCE_SECONDS if here else 0.0)
        if found is not Standing.TAKEN:
            return name, found
    return base, Standing.TAKEN


def _of_host(host: str) -> str:
    """What the first service on a host is called."""
    return (_NOT_IN_NAMES.sub("-", host).lstrip("-._") or "router")[:60]


def of_this(services: Iterable[ServiceInfo], configured: str, host: str, store: str) -> frozenset[str]:
    """The owners that are services of this configuration on this host; `store`: its object store, empty: none yet.

    Without a configured name the host's decides, else, as where one runs in a container, the object store. One that
    has no name, as of an older program, may be ours.
    """
    known = list(services)
    if configured:
        return frozenset(one.owner for one in known if one.replica in ("", configured))
    base = _of_host(host)
    found = [
        one
        for one in known
        if re.fullmatch(rf"{re.escape(base)}(-[0-9]+)?", one.replica) and (not store or one.store in ("", store))
    ]
    found = found or [one for one in known if store and one.store == store]
    return frozenset(one.owner for one in [*found, *(one for one in known if not one.replica)])


def to_ask(services: Iterable[ServiceInfo], own: frozenset[str], now: datetime) -> ServiceInfo | None:
    """Whom a person's question goes to, always the same: one of `own`, else who leads; one that shows signs of life.

    Another may have other files, and sees other nodes.
    """
    known = (one for one in services if one.address)
    return min(
        known, key=lambda one: (is_silent(one, now), one.owner not in own, not one.leads, one.owner), default=None
    )


def predecessors(name: str, services: Iterable[ServiceInfo], owner: str) -> list[str]:
    """The owners that had the name before: what they held is nobody's any more."""
    return [one.owner for one in services if one.replica == name and one.owner != owner]


def deposed(replica: str, started_at: datetime, services: Iterable[ServiceInfo], owner: str) -> bool:
    """Whether another service that started later has taken the name: this one was thought to be dead."""
    return any(
        one.replica == replica and one.started_at is not None and (one.started_at, one.owner) > (started_at, owner)
        for one in services
        if one.owner != owner
    )
