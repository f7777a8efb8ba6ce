"""Under which rules a transfer began that is under way: an edit changes what begins after it."""

from __future__ import annotations

import threading
from collections import OrderedDict

from router.domain.rule import Move, Node, RuleSet
from router.domain.transfer import State, Transfer

MOST_REMEMBERED = 10_000
"""Transfers that are remembered; the oldest is forgotten first. It goes on under the rules of the moment."""


class Terms:
    """Remembers the rules of each attempt until its transfer has its verdict or waits for another one. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: OrderedDict[int, RuleSet] = OrderedDict()

    def begin(self, transfer: Transfer, rules: RuleSet) -> None:
        """An attempt begins."""
        with self._lock:
            self._begun[transfer.id] = rules
            self._begun.move_to_end(transfer.id)
            if len(self._begun) > MOST_REMEMBERED:
                self._begun.popitem(last=False)

    def ended(self, claimed: Transfer, transfer: Transfer | None) -> None:
        """A step of it ended; None: its claim was lost."""
        if transfer is None or transfer.state is not State.VERIFYING:
            with self._lock:
                self._begun.pop(claimed.id, None)

    def move(self, transfer: Transfer, rules: RuleSet) -> Move:
        """What the rule said of moving when the attempt began; the usual where the rule was gone then.

        `rules` are those of now: they hold where the attempt began before this service did.
        """
        rule = (self._of(transfer) or rules).rules.get(transfer.rule)
        return rule.move if rule is not None else Move(to=(transfer.intent.destination,))

    def node(self, name: str, transfer: Transfer, rules: RuleSet) -> Node | None:
        """A node as it is now, for a corrected address is to be used at once; as it was then where it is gone."""
        begun = self._of(transfer)
        return rules.node(name) or (begun.node(name) if begun is not None else None)

    def _of(self, transfer: Transfer) -> RuleSet | None:
        with self._lock:
            return self._begun.get(transfer.id)
