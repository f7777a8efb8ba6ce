"""Which nodes of a group get a study that is passed on. Pure: from what is known of the nodes to a choice.

A group other than `all_of` gives a whole study to one node:

* Who sent it is no candidate.
* A node that has begun to get the study, or where a person has held or cancelled it, gets all of it, come what may:
  no study is torn apart.
* Else the one it waits for, as long as no other is better off.
* Else the one that is best off, of equals the first (`any_of`) or the one with the fewest studies (`round_robin`). One
  that failed the study comes after all others, whatever their health.

Where none can take it now the best of them has it, and it waits there. A later look may choose another.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import NamedTuple

from router.domain.forward import Choice, Group


class Health(StrEnum):
    """Whether a node can take something now. The order is that of preference."""

    READY = "ready"
    CLOSED = "closed"
    """None of its windows is open."""
    DOWN = "down"
    """It does not answer, and is left alone for a while."""
    STOPPED = "stopped"
    """The route to it is stopped: something must be changed there or here."""
    REMOVED = "removed"
    """The configuration no longer has it."""


WORDS: dict[Health, str] = {
    Health.READY: "can take it",
    Health.CLOSED: "has no window open",
    Health.DOWN: "does not answer",
    Health.STOPPED: "is on a route that is stopped",
    Health.REMOVED: "is no longer configured",
}

_RANK = {health: rank for rank, health in enumerate(Health)}


def health_of(*, configured: bool, stopped: bool, left_alone: bool, open_now: bool) -> Health:
    """The health of a node; what lasts longest is said first."""
    signs = (
        (not configured, Health.REMOVED),
        (stopped, Health.STOPPED),
        (left_alone, Health.DOWN),
        (not open_now, Health.CLOSED),
    )
    return next((health for sign, health in signs if sign), Health.READY)


class Bond(StrEnum):
    """What there is between a study and a node. The order is that of strength."""

    NONE = "none"
    SPOILED = "spoiled"
    """The node got none of it, and it will not be tried again by itself."""
    WAITS = "waits"
    """It is queued for the node, nothing has been sent."""
    BOUND = "bound"
    """The node has some of it, is getting it, or a person has spoken."""


class Chosen(NamedTuple):
    """Who gets the study."""

    nodes: tuple[str, ...]
    """Empty where all of the group sent it themselves."""
    withdrawn: tuple[str, ...] = ()
    """Nodes that it waits for in vain: another has it now."""
    note: str = ""
    """Why it is not the first of them, or what it waits for; empty where there is nothing to say."""


def choose(
    group: Group,
    *,
    senders: Collection[str],
    bonds: Mapping[str, Bond],
    health: Mapping[str, Health],
    studies: Mapping[str, int],
) -> Chosen:
    """Who of the group gets a study.

    `bonds` may leave out a node that has none, `health` one that is ready. `studies`: how many each node has got of
    this rule, which is what `round_robin` counts by.
    """
    candidates = [name for name in group.nodes if name not in senders]
    if group.choice is Choice.ALL_OF or not candidates:
        return Chosen(tuple(candidates))

    def rank(name: str) -> tuple[bool, int]:
        return bonds.get(name) is Bond.SPOILED, _RANK[health.get(name, Health.READY)]

    def order(name: str) -> tuple[tuple[bool, int], int, int]:
        turn = studies.get(name, 0) if group.choice is Choice.ROUND_ROBIN else 0
        return rank(name), turn, candidates.index(name)

    bound = [name for name in candidates if bonds.get(name) is Bond.BOUND]
    waiting = [name for name in candidates if bonds.get(name) is Bond.WAITS]
    best = min(candidates, key=order)
    chosen = bound[0] if bound else next((name for name in waiting if rank(name) <= rank(best)), best)
    withdrawn = tuple(name for name in waiting if name != chosen)
    return Chosen((chosen,), withdrawn, _note(chosen, group, candidates, bool(bound), bonds, health))


def _note(
    chosen: str,
    group: Group,
    candidates: list[str],
    bound: bool,
    bonds: Mapping[str, Bond],
    health: Mapping[str, Health],
) -> str:
    standing = health.get(chosen, Health.READY)
    if standing is not Health.READY:
        return f"{chosen} {WORDS[standing]}: it waits" if bound else f"no node of the group can take it: {chosen} waits"
    first = candidates[0]
    if bound or chosen == first or group.choice is not Choice.ANY_OF:
        return ""
    if bonds.get(first) is Bond.SPOILED:
        return f"{first} did not take it: {chosen} gets it"
    before = health.get(first, Health.READY)
    return f"{first} {WORDS[before]}: {chosen} gets it" if before is not Health.READY else ""
