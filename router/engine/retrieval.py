"""How the instances of one attempt are asked for: by C-MOVE, or by C-GET into this router's own store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from router.domain.rule import GET, LOCAL, Move, Node
from router.domain.transfer import Transfer
from router.engine.arrivals import Arrivals
from router.engine.detours import Detours
from router.engine.guard import Purpose
from router.engine.ports import MoveProgress, MoveRequest, MoveResult, Peers
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots, Urgency
from router.errors import DeadlineExceeded


class Asking(NamedTuple):
    """What it takes to ask."""

    peers: Peers
    inquiry: Inquiry
    slots: NodeSlots
    arrivals: Arrivals
    detours: Detours


class Retrieval:
    """The requests of one attempt. Raises WireError."""

    def __init__(
        self,
        asking: Asking,
        transfer: Transfer,
        move: Move,
        source: Node,
        destination: Node | None,
        cancelled: threading.Event,
    ) -> None:
        self._asking = asking
        self._transfer = transfer
        self._source = source
        self._destination = destination
        self._cancelled = cancelled
        self._by_get = transfer.intent.destination == LOCAL and (move.via or source.move.via) == GET
        self._sop_classes: frozenset[str] | None = None

    def run(
        self, request: MoveRequest, on_response: Callable[[MoveProgress], None], begin: Callable[[], object]
    ) -> MoveResult:
        """One request until its final response; `begin` is called when it is about to be sent."""
        asking = self._asking
        known = self._known_sop_classes() if self._by_get else frozenset()
        route = self._transfer.route
        with asking.slots.hold(
            self._source,
            Urgency.MOVE,
            self._cancelled,
            purpose=Purpose.MOVE,
            to=self._destination,
            aside=lambda: asking.detours.wait(route),
        ) as slot:
            begin()

            def hear(response: MoveProgress) -> None:
                slot.heard()
                on_response(response)

            if self._by_get:
                result = asking.peers.get(
                    self._source, request, sop_classes=known, on_response=hear, cancelled=self._cancelled
                )
            else:
                study = self._transfer.intent.study_instance_uid
                result = asking.peers.move(
                    self._source,
                    request,
                    on_response=hear,
                    last_arrival=lambda: asking.arrivals.last(study),
                    cancelled=self._cancelled,
                )
            slot.ended(result.status)
            return result

    def _known_sop_classes(self) -> frozenset[str]:
        """The SOP classes the source reports of the study, asked once; none where it cannot say."""
        if self._sop_classes is None:
            intent = self._transfer.intent
            try:
                self._sop_classes = self._asking.inquiry.sop_classes(
                    self._source,
                    intent.study_instance_uid,
                    intent.series_instance_uid,
                    self._transfer.patient_id,
                    Urgency.MOVE,
                    self._cancelled,
                )
            except (QueryFailed, DeadlineExceeded):
                self._sop_classes = frozenset()
        return self._sop_classes
