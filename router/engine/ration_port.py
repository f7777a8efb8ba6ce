"""What sharing the slots of nodes needs of the ledger, and what the slots need of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from enum import Enum
from typing import Protocol, TypeVar

from router.domain.node_state import NodeState, Obstacle
from router.domain.ration import Ration, RationLook, Request, Return
from router.domain.rule import Node

_Decision = TypeVar("_Decision")

States = Mapping[str, tuple[int, NodeState]]
"""Node -> the version of its shared state, and the state by the ledger's clock (seconds since 1970)."""


class RationLedger(Protocol):
    """The shared states of nodes. Raises only LedgerError. Every method is one transaction; thread-safe."""

    def ration(
        self, nodes: Collection[str] | None, decision: Callable[[Ration], _Decision], now: datetime
    ) -> tuple[_Decision, dict[str, tuple[int, NodeState]]]:
        """Have it decided about these nodes (None: all, and the circle), and write what the decision changed."""

    def ration_look(self, known: Mapping[str, int], now: datetime) -> RationLook:
        """The circle, when each of it was seen, and what is of another version than is known."""

    def tell(self) -> None:
        """Tell the other services that there is something to look at. Raises nothing."""


class Count(Enum):
    """Who counts the slots."""

    ALONE = "alone"
    """This process for itself: it is the only one."""
    CHANGING = "changing"
    """It is being agreed: nothing new is granted."""
    SHARED = "shared"
    """All services on the ledger, in the ledger."""


class Shares(Protocol):
    """Slots that are shared with other services."""

    @property
    def count(self) -> Count:
        """Who counts; read and changed under the lock of the slots only."""

    @property
    def owner(self) -> str:
        """Whose slots these are."""

    def fresh(self) -> bool:
        """Whether the ledger was heard of lately: who may be taken for dead begins nothing."""

    def take(self, request: Request) -> tuple[Obstacle | None, States]:
        """Ask for a slot; until when an obstacle stands is by the ledger's clock. Raises LedgerError."""

    def give_back(self, node: Node, one: Return, room: int) -> None:
        """Give a slot back. `room`: associations to the node that may stand then. Raises nothing: it is done later."""

    def forget(self, nodes: Collection[str]) -> None:
        """These nodes are tried anew."""

    def offset(self) -> float:
        """What the ledger's clock shows more than that of the slots, in seconds."""

    def wake(self) -> None:
        """Somebody waits."""
