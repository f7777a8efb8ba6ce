"""Which label values the metrics may have: names of the configuration, finite vocabularies, and `other`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from router.domain.commitment import RESULTS as COMMITMENT_RESULTS
from router.domain.outcome import MOVE_STATUSES
from router.domain.rule import RuleSet
from router.domain.sweep import SWEEP_ENDED
from router.domain.transfer import ENDED, State

OTHER = "other"
"""What stands for everything that has no name of its own; unknown values come from outside and have no bound."""

SUBOPERATION_OUTCOMES = ("completed", "failed", "warning")
VERDICTS = tuple(sorted(ENDED))
STATES = tuple(State)
SWEEP_RESULTS = tuple(sorted(SWEEP_ENDED))
ROLES = ("requestor", "acceptor")
ASSOCIATION_RESULTS = ("accepted", "rejected_permanent", "rejected_transient", "aborted", "timeout", "refused")
RESPONSE_STATUSES = ("0xFF00", "0x0000", "0xB000", "0xFE00", "0xA702", "0xA801", "0xC000", OTHER)
"""Statuses whose series exist from the start; others of the outcome table appear when they occur."""
STORE_STATUSES = ("0x0000", "0xB000", "0xA700", "0xA900", "0xC000", "0x0110", "0x0117", "0x0122")
REFUSALS = (
    "association-rejected",
    "class",
    "conflict",
    "empty",
    "invalid-uid",
    "mismatch",
    "missing-uid",
    "not-indexed",
    "out-of-resources",
    "out-of-space",
    "storage-failure",
    "tls-certificate",
    "tls-expired",
    "tls-files",
    "tls-host-name",
    "tls-no-certificate",
    "tls-not-spoken",
    "tls-refused",
    "tls-unknown-ca",
    "tls-version",
    "too-many-associations",
    "unparseable",
    OTHER,
)
"""Reasons of a StoreRefusal."""

COMMITMENTS = (*COMMITMENT_RESULTS, OTHER)
"""What can happen to a storage commitment transaction."""

_MOVE_STATUSES = frozenset({f"0x{status:04X}" for status in MOVE_STATUSES} | set(RESPONSE_STATUSES))

Labels = tuple[str, ...]


def move_status(status: int) -> str:
    """The label of a C-MOVE status. All of Cxxx, unable to process, are one."""
    return _status(status, _MOVE_STATUSES)


def store_status(status: int) -> str:
    """The label of a C-STORE status. All of Cxxx, cannot understand, are one."""
    return _status(status, STORE_STATUSES)


def _status(status: int, known: Iterable[str]) -> str:
    text = "0xC000" if 0xC000 <= status <= 0xCFFF else f"0x{status:04X}"
    return text if text in known else OTHER


def one_of(value: str, vocabulary: Iterable[str]) -> str:
    """The value if the vocabulary has it, else `other`."""
    return value if value in vocabulary else OTHER


class Names:
    """The label sets that a configuration makes exist. What is not among them is counted under `other`.

    Work may outlive its rule or route: it still counts, but brings no removed name back.
    """

    def __init__(self, rules: RuleSet | None = None) -> None:
        each = list(rules.rules.values()) if rules else []
        self.nodes: dict[Labels, None] = {(name,): None for name in (rules.nodes if rules else ())}
        self.sweeps: dict[Labels, None] = {(rule.name, rule.sweep.source): None for rule in each}
        self.routes: dict[Labels, None] = {(r.name, r.sweep.source, to): None for r in each for to in r.move.to}
        self.pairs: dict[Labels, None] = {route[1:]: None for route in self.routes}

    def node(self, name: str) -> str:
        """A node's name."""
        return name if (name,) in self.nodes else OTHER

    def sweep(self, rule: str, source: str) -> Labels:
        """Rule and source."""
        return (rule, source) if (rule, source) in self.sweeps else (OTHER, OTHER)

    def pair(self, source: str, destination: str) -> Labels:
        """Source and destination."""
        return (source, destination) if (source, destination) in self.pairs else (OTHER, OTHER)

    def route(self, rule: str, source: str, destination: str) -> Labels:
        """Rule, source and destination."""
        route = (rule, source, destination)
        return route if route in self.routes else (OTHER, *self.pair(source, destination))
