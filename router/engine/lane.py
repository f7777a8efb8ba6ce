"""One kind of work, as the dispatcher sees it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Generic, TypeVar

from router.domain.appointment import Appointment
from router.domain.passing import PendingArrival
from router.domain.rule import Node
from router.domain.sweep import SweepRecord
from router.domain.transfer import Transfer

Claim = TypeVar("Claim", SweepRecord, Transfer, Appointment, PendingArrival)


class Lane(Generic[Claim]):
    """One kind of work: which nodes have room, how it is claimed, how it is run."""

    def __init__(
        self,
        *,
        room: Callable[[str, Node | None], int],
        node_of: Callable[[Claim], str],
        claim: Callable[[Sequence[str], datetime, float], Claim | None],
        run: Callable[[Claim, threading.Event], datetime | None],
    ) -> None:
        self.room = room
        self.node_of: Callable[[Claim], str] = node_of
        self.claim: Callable[[Sequence[str], datetime, float], Claim | None] = claim
        self.run: Callable[[Claim, threading.Event], datetime | None] = run
        self.running: Counter[str] = Counter()
