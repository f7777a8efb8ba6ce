"""The board, made of what the ledger holds, what a running service knows and the configuration. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from router.domain.allowance import allowance, opens_at
from router.domain.board import Board, NodeSeen, QueueSeen, ReplicaSeen, RuleSeen, SweepSeen, TransferSeen
from router.domain.board_ends import Mark, ends_at
from router.domain.overview import ArrivingRow, BacklogRow, Overview, ServiceInfo
from router.domain.pseudonym import Pseudonyms
from router.domain.replicas import is_silent
from router.domain.route import StoppedRoute, said_of, waits_for
from router.domain.rule import LOCAL, Node, Rule, RuleSet
from router.domain.sweep import SweepRecord, SweepState
from router.domain.transfer import Route, State, Transfer
from router.domain.transfer_seen import transfer_seen
from router.domain.waiting import closed_nodes, explained


class NodeNow(msgspec.Struct, frozen=True, kw_only=True):
    """What a running service knows of a node."""

    up: bool | None = None
    """The last exchange worked; None: there was none yet."""
    left_alone: bool = False
    """Its breaker is open."""
    probe_at: datetime | None = None
    """When it is tried again, where it is left alone."""
    associations: int = 0
    """In use."""
    associations_allowed: int = 1
    """By limits, windows and rejections."""
    waiting: int = 0
    """Requests that wait for a slot."""
    moves_left: bool = True
    """It has not had all its moves of the hour."""


class ServiceNow(msgspec.Struct, frozen=True, kw_only=True):
    """What only a running service knows."""

    nodes: dict[str, NodeNow] = {}
    planned: dict[str, datetime] = {}
    """When what is scheduled comes due next, by `RULE/N`."""
    problems: dict[str, str] = {}
    """What is not ready, by part."""
    quarantined: int = 0
    """Objects in the quarantine."""
    owner: str = ""
    """Of this service."""
    services: tuple[ServiceInfo, ...] = ()
    """Those that live on the ledger."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a board is made of."""

    rules: RuleSet
    now: datetime
    overview: Overview
    service: ServiceNow | None = None
    """None: none runs."""
    marks: dict[int, Mark] = {}
    """Where the moves under way stood when they were seen first."""


def drawn(moment: Moment, pseudonyms: Pseudonyms, *, identifiers: bool) -> Board:
    """The board of a moment; without `identifiers` pseudonyms stand for those of studies and patients."""
    overview, now = moment.overview, moment.now
    closed = closed_nodes(moment.rules, now)
    stopped = {one.route: one for one in overview.stopped}

    def seen(transfers: Iterable[Transfer]) -> tuple[TransferSeen, ...]:
        return tuple(
            msgspec.structs.replace(
                transfer_seen(one, pseudonyms, identifiers=identifiers, stopped=waits_for(one, stopped) is not None),
                ends_at=ends_at(one, moment.marks.get(one.id)),
            )
            for one in explained(transfers, stopped, closed, now)
        )

    states = Counter({str(state): 0 for state in State})
    for row in overview.backlog:
        states[str(row.state)] += row.count
    return Board(
        at=now,
        identifiers=identifiers,
        served=moment.service is not None,
        states=dict(states),
        live=seen(overview.live),
        queues=_queues(moment, stopped, closed),
        rules=_rules(moment),
        nodes=_nodes(moment, closed),
        failures=seen(overview.failures),
        activity=seen(overview.activity),
        problems=moment.service.problems if moment.service is not None else {},
        quarantined=moment.service.quarantined if moment.service is not None else 0,
        replicas=_replicas(moment) if moment.service is not None else (),
    )


def _replicas(moment: Moment) -> tuple[ReplicaSeen, ...]:
    assert moment.service is not None
    return tuple(
        ReplicaSeen(
            name=one.replica or one.owner,
            address=one.address,
            here=one.owner == moment.service.owner,
            leads=one.leads,
            store=one.store,
            started_at=one.started_at,
            seen_at=one.seen_at,
            silent=is_silent(one, moment.now),
            other_configuration=one.work_hash != moment.rules.work_hash,
        )
        for one in moment.service.services
    )


# queues ---------------------------------------------------------------------------------------------------------------

_COUNTED = (State.QUEUED, State.HELD, State.MOVING, State.VERIFYING)


def _queues(moment: Moment, stopped: Mapping[Route, StoppedRoute], closed: Mapping[str, str]) -> tuple[QueueSeen, ...]:
    """The ways on which something is under way, the one with the most that waits first."""
    routes: dict[Route, dict[State, BacklogRow]] = defaultdict(dict)
    for row in moment.overview.backlog:
        if row.state in _COUNTED:
            routes[Route(row.source, row.destination)][row.state] = row
    found = []
    for route, rows in routes.items():
        queued = rows.get(State.QUEUED)
        found.append(
            QueueSeen(
                source=route.source,
                destination=route.destination,
                **{str(state): row.count for state, row in rows.items()},
                oldest_queued_at=queued.oldest_queued_at if queued is not None else None,
                why=_why_queued(moment, route, queued, stopped, closed) if queued is not None else "",
                stopped=queued is not None and route in stopped,
            )
        )
    return tuple(sorted(found, key=lambda one: (-one.queued, -one.moving, -one.held, one.source, one.destination)))


def _why_queued(
    moment: Moment,
    route: Route,
    queued: BacklogRow,
    stopped: Mapping[Route, StoppedRoute],
    closed: Mapping[str, str],
) -> str:
    """Why what is queued on a way waits: what lasts longest first."""
    for name in route:
        if name != LOCAL and name not in moment.rules.nodes:
            return f"{name} is not in the configuration any more."
    if (stop := stopped.get(route)) is not None:
        return said_of(stop, _at(stop.probe_at, moment.now))
    for name in route:
        if name in closed:
            return closed[name]
    known = {name: one for name in route if (one := _node_now(moment, name)) is not None}
    for name, one in known.items():
        if sentence := _unanswered(name, one, moment.now) or _spent(name, one):
            return sentence
    if queued.next_at is not None and queued.next_at > moment.now:
        first = "It" if queued.count == 1 else "The first of them"
        return f"{first} is tried again {_at(queued.next_at, moment.now)}."
    source = known.get(route.source)
    if source is not None and source.associations >= source.associations_allowed:
        return f"{route.source} is busy: {source.associations} of {source.associations_allowed} associations in use."
    return ""


def _node_now(moment: Moment, name: str) -> NodeNow | None:
    return moment.service.nodes.get(name) if moment.service is not None else None


def _unanswered(name: str, node: NodeNow, now: datetime) -> str:
    if not node.left_alone:
        return ""
    again = f", and tried again {_at(node.probe_at, now)}" if node.probe_at is not None else ""
    return f"{name} does not answer; it is left alone{again}."


def _spent(name: str, node: NodeNow) -> str:
    return "" if node.moves_left else f"{name} has had all its moves of this hour (limits.moves_per_hour)."


def _at(moment: datetime, now: datetime) -> str:
    """`at 14:05`, with the date where it is another day; `at once` where it has passed."""
    if moment <= now:
        return "at once"
    local = moment.astimezone()
    return f"at {local:%H:%M %Z}" if local.date() == now.astimezone().date() else f"on {local:%m-%d at %H:%M %Z}"


# nodes ----------------------------------------------------------------------------------------------------------------


def _nodes(moment: Moment, closed: Mapping[str, str]) -> tuple[NodeSeen, ...]:
    queued: Counter[str] = Counter()
    for row in moment.overview.backlog:
        if row.state is State.QUEUED:
            for name in {row.source, row.destination}:
                queued[name] += row.count
    return tuple(_node(moment, node, closed, queued[node.name]) for node in moment.rules.nodes.values())


def _node(moment: Moment, node: Node, closed: Mapping[str, str], queued: int) -> NodeSeen:
    now, is_open = _node_now(moment, node.name), node.name not in closed
    live: dict[str, Any] = {}
    if now is not None:
        live = {
            "up": now.up,
            "left_alone": now.left_alone,
            "associations": now.associations,
            "associations_allowed": now.associations_allowed if is_open else 0,
            "waiting": now.waiting,
        }
    return NodeSeen(
        name=node.name,
        ae_title=node.ae_title,
        address=f"{node.host}:{node.port}",
        window_open=is_open,
        opens_at=None if is_open else opens_at(node, moment.rules.windows, moment.now),
        queued=queued,
        why=_why_held_back(moment, node, closed),
        **live,
    )


def _why_held_back(moment: Moment, node: Node, closed: Mapping[str, str]) -> str:
    if node.name in closed:
        return closed[node.name]
    now = _node_now(moment, node.name)
    if now is None:
        return ""
    if sentence := _unanswered(node.name, now, moment.now) or _spent(node.name, now):
        return sentence
    most = allowance(node, moment.rules.windows, moment.now).associations
    if now.associations_allowed < most:
        return f"{node.name} takes no more: only {now.associations_allowed} of {most} associations are used for now."
    return ""


# rules ----------------------------------------------------------------------------------------------------------------

_FIRST = {SweepState.RUNNING: 0, SweepState.DUE: 1}
"""Which sweep of a rule is shown: the one that runs, else one that waits for its turn, else the last that ended."""


def _rules(moment: Moment) -> tuple[RuleSeen, ...]:
    failed = Counter(one.rule for one in moment.overview.failures)
    sweeps: dict[str, SweepRecord] = {}
    for sweep in sorted(moment.overview.sweeps, key=lambda one: _FIRST.get(one.state, 2)):
        sweeps.setdefault(sweep.due.rule, sweep)
    planned = moment.service.planned if moment.service is not None else {}
    due: dict[str, datetime] = {}
    for name, at in planned.items():
        rule = name.rpartition("/")[0]
        due[rule] = min(at, due.get(rule, at))
    arriving = {one.rule: one for one in moment.overview.arriving}
    return tuple(
        _rule(rule, sweeps.get(rule.name), due.get(rule.name), failed[rule.name], arriving.get(rule.name))
        for rule in moment.rules.rules.values()
    )


def _rule(
    rule: Rule, sweep: SweepRecord | None, next_at: datetime | None, failed: int, arriving: ArrivingRow | None
) -> RuleSeen:
    return RuleSeen(
        name=rule.name,
        description=rule.description,
        owner=rule.owner,
        enabled=rule.enabled,
        trigger=rule.trigger,
        source=rule.asked,
        destinations=rule.move.to,
        last=_sweep(sweep) if sweep is not None else None,
        next_at=arriving.next_at if arriving is not None and next_at is None else next_at,
        failed_recently=failed,
        arriving=arriving.count if arriving is not None else 0,
    )


def _sweep(sweep: SweepRecord) -> SweepSeen:
    began, ended, report = sweep.started_at, sweep.finished_at, sweep.report
    seen = SweepSeen(state=str(sweep.state), at=ended or began or sweep.due.due_at)
    if report is None:
        return seen
    return msgspec.structs.replace(
        seen,
        duration_seconds=(ended - began).total_seconds() if began is not None and ended is not None else None,
        matches=report.matches,
        selected=report.selected,
        queries=report.queries,
        reason=f"{report.reason} {report.account}".strip(),
    )
