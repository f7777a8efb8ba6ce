"""The part of the ledger in which services share what they hold of nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import TypeVar

from router.domain.node_state import NodeState
from router.domain.ration import Ration, RationLook
from router.ledger import node_states
from router.ledger.database import Database

_Decision = TypeVar("_Decision")


class NodeStateBook:
    """The shared states of nodes: `engine.ration_port.RationLedger`. Raises only LedgerError; thread-safe."""

    _database: Database

    def ration(
        self, nodes: Collection[str] | None, decision: Callable[[Ration], _Decision], now: datetime
    ) -> tuple[_Decision, dict[str, tuple[int, NodeState]]]:
        """Have it decided about these nodes (None: all, and the circle) under their locks, in one transaction.

        What the decision changed is written. Returns it, and the version and state of each node then.
        """
        with self._database.write(beside=True) as connection:
            return node_states.decide(connection, nodes, decision, now, self._database.lost_at(now))

    def ration_look(self, known: Mapping[str, int], now: datetime) -> RationLook:
        """The circle, when each of it was seen, and what is of another version than is known."""
        with self._database.read() as connection:
            return node_states.look(connection, known, self._database.lost_at(now))

    def tell(self) -> None:
        """Tell the other services that there is something to look at. Raises nothing."""
        self._database.tell()
