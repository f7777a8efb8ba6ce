"""A slot of a node while it is held: what its holder hears, and what that says about the node."""

from __future__ import annotations

import threading

from router.domain.breaker import Sign, sign_of_error, sign_of_status
from router.domain.node_state import MOVES_SECONDS as MOVES_SECONDS
from router.domain.node_state import Key, Lesson
from router.domain.node_state import Obstacle as Obstacle
from router.domain.node_state import Purpose as Purpose
from router.domain.rule import Node
from router.errors import WireError


class Slot:
    """A slot that is held. Its holder says what was heard; without a word, and without an error, it was an answer."""

    def __init__(
        self, key: Key, node: Node, to: Node | None, purpose: Purpose, began: float, cancelled: threading.Event | None
    ) -> None:
        """`cancelled` ends its request; None: it is a probe, which ends soon by itself."""
        self.key = key
        self.node = node
        self.to = to if purpose is Purpose.MOVE else None
        self.purpose = purpose
        self.began = began
        self.cancelled = cancelled
        self.status = 0
        self.has_heard = False
        self.ending = False
        """Its request has ended; its association may stand yet."""

    @property
    def to_name(self) -> str:
        """The name of the destination; empty: none."""
        return self.to.name if self.to is not None else ""

    def heard(self) -> None:
        """Something came: it is no silent node, whatever becomes of the request."""
        self.has_heard = True

    def ended(self, status: int) -> None:
        """The final status."""
        self.status = status

    def sign(self, failure: BaseException | None) -> Sign:
        """What the end of the request says about the node."""
        if failure is None:
            return sign_of_status(self.status)
        if isinstance(failure, WireError):
            return sign_of_error(failure.cause, heard=self.has_heard)
        return Sign.NOTHING

    def lesson(self, failure: BaseException | None) -> Lesson:
        """What is to be learned from the end of the request."""
        return Lesson(
            self.sign(failure),
            failure is not None,
            self.status,
            failure.cause if isinstance(failure, WireError) else "",
            str(failure),
            self.purpose,
            self.began,
            self.cancelled is None,
        )
