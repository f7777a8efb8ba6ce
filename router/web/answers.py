"""What the API takes and answers, as types: its description (OpenAPI) is made of them."""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

import msgspec

from router.config import Diagnostic
from router.domain.board import NodeSeen, RuleSeen, TransferSeen
from router.domain.transfer import Attempt
from router.lookup import MissingSeen


class Problem(msgspec.Struct, frozen=True):
    """Why there is no other answer."""

    error: str
    """A sentence."""


class StateAnswer(TypedDict):
    """Whether the router works, or is ready."""

    status: str
    problems: dict[str, str]


class ReloadAnswer(TypedDict):
    """What came of a reload; `hash` is that of the running configuration."""

    reloaded: bool
    changed: bool
    hash: str
    restart_needed: list[str]
    diagnostics: list[Diagnostic]


class LastReload(TypedDict):
    """The latest attempt to load the configuration; the first one was the start."""

    at: datetime
    reloaded: bool
    changed: bool
    hash: str
    diagnostics: list[Diagnostic]
    diagnostics_total: int


class RunningConfiguration(TypedDict):
    """The configuration that runs, and the latest attempt to load another."""

    directory: str
    hash: str
    loaded_at: datetime
    files: list[str]
    rules: int
    nodes: int
    restart_needed: list[str]
    last_reload: LastReload


class ConfigurationAnswer(TypedDict):
    """How things stand with the configuration and the service."""

    version: str
    uptime_seconds: float
    configuration: RunningConfiguration
    health: StateAnswer
    readiness: StateAnswer


class RulesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of the board."""

    at: datetime
    rules: tuple[RuleSeen, ...]


class NodesAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of the board."""

    at: datetime
    nodes: tuple[NodeSeen, ...]


class TransfersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Transfers, the newest first."""

    transfers: tuple[TransferSeen, ...]


class ConsideredRow(TypedDict):
    """A decision about a study as a prior, with the appointment that it was made for."""

    rule: str
    appointment: int
    start: datetime | None
    study_instance_uid: str | None
    destination: str
    decision: str
    code: str
    reason: str
    group: str | None
    score: int | None
    breakdown: str
    age_days: int | None


class TransferAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer, with all that the ledger knows of it."""

    transfer: TransferSeen
    attempts: tuple[Attempt, ...]
    """The oldest first."""
    missing: MissingSeen | None
    """None where nobody can say without asking a node."""
    appointments: tuple[ConsideredRow, ...] | None
    """Those that it is a prior for, and why; None where the caller has not shown the token."""


class SaidAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a transfer is after a word was said to it."""

    transfer: TransferSeen


class SweepAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The sweep that will be done."""

    rule: str
    sweep: int
    """Its number in the ledger."""


class ExplainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The study that is to be explained."""

    study_instance_uid: str
    offline: bool = False
    """Ask no node; say what the ledger knows."""


class SourceRow(TypedDict):
    """What a source says of a study."""

    found: bool | None
    problem: str | None
    values: dict[str, list[str]]


class ClauseRow(TypedDict):
    """A clause of a rule, with its parts."""

    text: str
    passed: bool
    decides: bool
    seen: list[str]
    parts: list[ClauseRow]


class GateRow(TypedDict):
    """What lets the study through, keeps it or shuts it out; no destination: for the rule and its source."""

    gate: str
    destination: str | None
    series: list[str]
    state: str
    passed: bool
    reason: str
    opens_at: datetime | None


class _DecisionRow(TypedDict):
    destination: str | None
    series: list[str]
    decision: str
    code: str
    reason: str
    transfer: int | None
    conclusion: str
    opens_at: datetime | None


class DecisionRow(_DecisionRow, total=False):
    """What would be done for the study at a destination; the last four for rules with priors."""

    group: str | None
    score: int | None
    breakdown: str | None
    age_days: int | None


class RuleRow(TypedDict):
    """What a rule makes of the study."""

    rule: str
    trigger: str
    source: str
    found: bool | None
    clauses: list[ClauseRow]
    gates: list[GateRow]
    decisions: list[DecisionRow]
    next_sweep_at: datetime | None
    notes: list[str]
    problem: str | None


class ExplainAnswer(TypedDict):
    """What each rule makes of the study, and what the ledger knows of it."""

    study_instance_uid: str
    study: dict[str, SourceRow]
    rules: list[RuleRow]
    considered: list[ConsideredRow]
    transfers: list[TransferSeen]
