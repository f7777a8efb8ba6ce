"""Which label values the metrics may have: names of the configuration, finite vocabularies, and `other`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from router.domain import access
from router.domain.appointment import TRIGGERS, News
from router.domain.commitment import RESULTS as COMMITMENT_RESULTS
from router.domain.events import TIMELINESS
from router.domain.events_people import AUDIT_RESULTS
from router.domain.hl7 import ACCEPT, ERROR, REJECT, WORDS
from router.domain.notice_delivery import RESULTS as NOTIFICATION_RESULTS
from router.domain.outcome import MOVE_STATUSES
from router.domain.quarantine import MEANINGS, NOT_ASKED_FOR, UNKNOWN
from router.domain.relevance import OLDEST
from router.domain.rule import Node, Rule, RuleSet
from router.domain.safety import REFUSALS as VALUE_REFUSALS
from router.domain.surroundings import certificates
from router.domain.sweep import SWEEP_ENDED
from router.domain.transfer import ENDED, State
from router.domain.triggers import ADMISSION_EVENTS, MERGE_EVENT, ORDER_EVENTS

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
STORE_STATUSES = ("0x0000", "0xB000", "0xA700", "0xA900", "0xC000", "0x0110", "0x0117", "0x0122", "0x0124")
REFUSALS = (
    access.ADDRESS,
    access.STRANGER,
    "class",
    "conflict",
    "empty",
    "invalid-uid",
    "ledger",
    "mismatch",
    "missing-uid",
    NOT_ASKED_FOR,
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
    "tls-unwanted",
    "tls-version",
    access.WRONG_CERTIFICATE,
    *access.QUOTAS,
    "unparseable",
    OTHER,
)
"""Reasons of a StoreRefusal."""

QUARANTINED = (*(reason for reason in MEANINGS if reason != UNKNOWN), OTHER)
"""Why an instance is put into the quarantine."""

COMMITMENTS = (*COMMITMENT_RESULTS, OTHER)
"""What can happen to a storage commitment transaction."""

NEWS = tuple(News)
LOOK_RESULTS = ("done", "again", "failed")
VALUES_REFUSED = (TRIGGERS, VALUE_REFUSALS)
"""Triggers with reasons of a ValueRefused."""
PRIOR_RESULTS = TIMELINESS
MESSAGE_EVENTS = (*ORDER_EVENTS, *ADMISSION_EVENTS, MERGE_EVENT, OTHER)
MESSAGE_CODES = (ACCEPT, ERROR, REJECT)
ACCEPTED_MESSAGES = ("accepted", "repeated", "ignored")
"""Words of HL7 messages that were taken, or that there was nothing to do for."""
MESSAGE_REFUSALS = tuple(word for word in WORDS if word not in ACCEPTED_MESSAGES)
"""Why an HL7 message was not taken."""

AUDITED = AUDIT_RESULTS
"""What can become of audit messages."""
NOTIFICATIONS = NOTIFICATION_RESULTS
"""What can become of a notification."""

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
        self.sweeps: dict[Labels, None] = {(rule.name, rule.asked): None for rule in each}
        self.routes: dict[Labels, None] = {(r.name, r.source, to): None for r in each for to in r.move.to}
        self.pairs: dict[Labels, None] = {route[1:]: None for route in self.routes}
        self.groups: dict[Labels, None] = {}
        self.appointments: dict[Labels, None] = {}
        self.looks: dict[Labels, None] = {}
        for rule in each:
            if rule.priors is not None:
                named = (*(group.name for group in rule.priors.groups), OLDEST)
                self.groups |= dict.fromkeys((rule.name, group) for group in named)
                self.appointments[rule.name, _trigger(rule)] = None
                self.looks[rule.name, rule.source] = None
        self.certificates: dict[Labels, None] = {(key,): None for key in (certificates(rules) if rules else ())}
        self.channels: dict[Labels, None] = {(name,): None for name in (rules.router.notify.channels if rules else ())}
        self.paced: dict[Labels, None] = {
            (name,): None for name, node in (rules.nodes.items() if rules else ()) if _paced(node)
        }
        self.prefetches: dict[Labels, None] = {labels[:1]: None for labels in self.looks}
        self.prior_sources: dict[Labels, None] = {labels[1:]: None for labels in self.looks}

    def node(self, name: str) -> str:
        """A node's name."""
        return name if (name,) in self.nodes else OTHER

    def sweep(self, rule: str, source: str) -> Labels:
        """Rule and source."""
        return (rule, source) if (rule, source) in self.sweeps else (OTHER, OTHER)

    def group(self, rule: str, group: str) -> Labels:
        """Rule and group of its priors."""
        return (rule, group) if (rule, group) in self.groups else (OTHER, OTHER)

    def appointment(self, rule: str, trigger: str) -> Labels:
        """Rule and trigger."""
        known = (rule, trigger) in self.appointments
        return (rule, trigger) if known else (OTHER, one_of(trigger, TRIGGERS))

    def look(self, rule: str, source: str) -> Labels:
        """Rule and source of its priors."""
        return (rule, source) if (rule, source) in self.looks else (OTHER, OTHER)

    def prefetch(self, rule: str) -> str:
        """A rule that has priors."""
        return rule if (rule,) in self.prefetches else OTHER

    def pair(self, source: str, destination: str) -> Labels:
        """Source and destination."""
        return (source, destination) if (source, destination) in self.pairs else (OTHER, OTHER)

    def route(self, rule: str, source: str, destination: str) -> Labels:
        """Rule, source and destination."""
        route = (rule, source, destination)
        return route if route in self.routes else (OTHER, *self.pair(source, destination))


def _paced(node: Node) -> bool:
    limits = [node.limits.moves_per_hour, *(use.moves_per_hour for use in node.windows)]
    return any(limit is not None for limit in limits)


def _trigger(rule: Rule) -> str:
    return next((name for name in TRIGGERS if getattr(rule, name) is not None), OTHER)
