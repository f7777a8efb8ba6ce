"""What the workers of the engine are given to work with."""

from __future__ import annotations

from typing import NamedTuple

from router.engine.arrivals import Arrivals
from router.engine.detours import Detours
from router.engine.evidence import EvidenceGatherer
from router.engine.ports import Clock, Ledger, Observer, Peers, Pseudonym
from router.engine.query import Inquiry
from router.engine.routes import RouteWatch
from router.engine.slots import NodeSlots
from router.engine.tally import Tallies
from router.engine.terms import Terms


class Kit(NamedTuple):
    """What an attempt works with."""

    peers: Peers
    ledger: Ledger
    inquiry: Inquiry
    evidence: EvidenceGatherer
    slots: NodeSlots
    arrivals: Arrivals
    tallies: Tallies
    routes: RouteWatch
    terms: Terms
    detours: Detours
    clock: Clock
    observer: Observer
    pseudonym: Pseudonym
