"""A study whose arrival a rule waits for, and what a look at it comes to: done, or when it is looked at again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from router.domain.forward_choice import Health, health_of
from router.domain.forwarding import Passage
from router.domain.route import StoppedRoute
from router.domain.rule import LOCAL, Node, RuleSet

SOONEST, LATEST = timedelta(seconds=5), timedelta(minutes=5)
"""Between two looks at what is under way, at least and at most; else a tenth of the time since it was noted."""

PATIENCE = timedelta(days=1)
"""How long files that cannot be read are tried again: a file server that is away is no reason to leave a study."""

RULE_REMOVED, GONE, NOT_TAKEN, DISABLED = "rule-removed", "gone", "not-taken", "disabled"

CAUSES: dict[str, str] = {
    RULE_REMOVED: "The configuration has no rule of that name any more that passes on what arrives.",
    GONE: "The store holds nothing of it any more that the rule's senders sent.",
    NOT_TAKEN: "The rule's condition leaves it.",
    DISABLED: "The rule is disabled; it is looked at again when it is not.",
}
"""Why a look passed nothing on; where it did, or what is there is known already, there is no cause."""


class ArrivalState(StrEnum):
    """Where a study stands with a rule that passes it on."""

    WAITING = "waiting"
    LOOKING = "looking"
    DONE = "done"


class PendingArrival(msgspec.Struct, frozen=True, kw_only=True):
    """A study of which something has arrived, for one rule, as the ledger holds it."""

    rule: str
    study_instance_uid: str
    due_at: datetime
    noted_at: datetime
    """When the first was noted of what has not been decided about."""
    state: ArrivalState
    news: int = 0
    """How often something was noted."""
    fence: int = 0
    nodes: tuple[str, ...] = ()
    """Who gets it, as far as that was decided."""
    cause: str = ""
    """A word of CAUSES."""
    reason: str = ""
    finished_at: datetime | None = None
    """When it was last decided about as a whole."""


class ArrivalReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a look ended; `due_at` is set where it is to be looked at again."""

    due_at: datetime | None = None
    cause: str = ""
    reason: str = ""

    @property
    def state(self) -> ArrivalState:
        """Where the study stands now."""
        return ArrivalState.DONE if self.due_at is None else ArrivalState.WAITING


def again_at(noted_at: datetime, now: datetime) -> datetime:
    """When something that is under way is looked at again."""
    return now + min(LATEST, max(SOONEST, (now - noted_at) / 10))


def report_of(
    *,
    noted_at: datetime,
    now: datetime,
    quiet_at: datetime | None,
    there: int,
    reason: str,
    passages: Collection[Passage],
    unread: bool = False,
) -> ArrivalReport:
    """What a look comes to.

    `quiet_at`: when the next of what is not quiet yet will be. `there`: instances that are. `reason`: why nothing of
    them is taken. `unread`: whether headers that it depends on could not be read.
    """
    moments = [] if quiet_at is None else [quiet_at]
    if any(one.open for one in passages) or (unread and now - noted_at < PATIENCE):
        moments.append(again_at(noted_at, now))
    due_at = min(moments, default=None)
    if there and not passages:
        return ArrivalReport(due_at=due_at, cause=NOT_TAKEN, reason=reason)
    if not there and quiet_at is None:
        return ArrivalReport(cause=GONE, reason=CAUSES[GONE])
    return ArrivalReport(due_at=due_at)


def unwell(
    names: Iterable[str],
    rules: RuleSet,
    stopped: Iterable[StoppedRoute],
    *,
    left_alone: Callable[[Node], bool],
    open_now: Callable[[Node], bool],
) -> dict[str, Health]:
    """The health of those nodes that cannot take anything now, by what this router knows of them."""
    closed = {one.route.destination for one in stopped if one.route.source == LOCAL}
    found: dict[str, Health] = {}
    for name in names:
        node = rules.node(name)
        health = health_of(
            configured=node is not None,
            stopped=name in closed,
            left_alone=node is not None and left_alone(node),
            open_now=node is not None and open_now(node),
        )
        if health is not Health.READY:
            found[name] = health
    return found
