"""The ways of an explained study: each decision about it with the gates before its move, and what comes of it."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from router.domain.arriving import zone_of
from router.domain.dicom import InformationModel
from router.domain.gates import HOUR, Gate, Present, Standing, conclude, own_gates, shared_gates
from router.domain.restraint import Restraint
from router.domain.rule import LOCAL, Node, Rule, RuleSet
from router.domain.selection import Action, Decision
from router.domain.transfer import LIMIT_HOLDS, Intent, Transfer
from router.engine.explained import WayExplained
from router.engine.ports import Ledger
from router.engine.query import Inquiry
from router.engine.restraint import MOST_HELD
from router.engine.slots import Urgency
from router.errors import WireError


class Ways:
    """What the ledger and the destinations say of one study. Not thread-safe."""

    def __init__(
        self,
        study_instance_uid: str,
        *,
        rules: RuleSet,
        ledger: Ledger,
        inquiry: Inquiry,
        now: datetime,
        left_alone: Collection[str],
        offline: bool,
    ) -> None:
        """`left_alone`: nodes that a running service leaves alone. Raises LedgerError."""
        self._study = study_instance_uid
        self._rules = rules
        self._ledger = ledger
        self._inquiry = inquiry
        self._left_alone = left_alone
        self._offline = offline
        self._never = threading.Event()
        self._present: dict[tuple[str, str], Present] = {}
        self.now = now
        self.transfers = {one.intent: one for one in ledger.transfers(study_instance_uid=study_instance_uid)}
        """Those of the study and of its series."""
        self._stopped = {one.route: one for one in ledger.stopped_routes()}
        self._moves: dict[str, list[datetime]] = {}
        for route, at in ledger.moves_since(self.now - HOUR):
            for name in set(route):
                self._moves.setdefault(name, []).append(at)

    def patient_id(self, source: Node) -> str:
        """What a Patient Root node wants to be told, where the ledger knows it."""
        if source.root is not InformationModel.PATIENT_ROOT:
            return ""
        return next((one.patient_id for one in self.transfers.values() if one.patient_id), "")

    def of(self, rule: Rule, decisions: Iterable[Decision], quiet: Gate | None = None) -> tuple[WayExplained, ...]:
        """Decisions that are alike together, each with the gates on its way; `quiet` is before what is held for it."""
        alike: dict[tuple[str, str, str], list[Decision]] = {}
        for one in decisions:
            alike.setdefault((one.destination, one.code, one.reason), []).append(one)
        found = []
        for (destination, _, _), some in alike.items():
            standing = self._standing(rule, some[0])
            prior = some[0].prior
            led = destination and (prior is None or prior.taken)
            gates = own_gates(standing) if led else []
            waits = [quiet] if quiet is not None and some[0].action is Action.HOLD else []
            found.append(
                WayExplained(
                    destination=destination,
                    decision=some[0],
                    series=tuple(one.series_instance_uid for one in some if one.series_instance_uid),
                    gates=tuple(gates),
                    conclusion=conclude(standing, [*shared_gates(standing), *waits, *gates]),
                )
            )
        return tuple(found)

    def shared(self, rule: Rule, decisions: Sequence[Decision] = ()) -> tuple[Gate, ...]:
        """The gates of a rule and its source."""
        decided = next((one for one in decisions if one.action is Action.HOLD), None)
        return tuple(shared_gates(self._standing(rule, decided or next(iter(decisions), None))))

    def _standing(self, rule: Rule, decision: Decision | None) -> Standing:
        source = self._rules.node(rule.source)
        name = decision.destination if decision is not None else ""
        restraint = self.restraint(rule)
        limited = rule.limits.studies_per_sweep is not None or rule.limits.instances_per_day is not None
        transfer = self._transfer(rule, decision)
        return Standing(
            now=self.now,
            zone=restraint.zone,
            rule=rule,
            source=source,
            destination=name,
            node=self._rules.node(name),
            windows=self._rules.windows,
            decision=decision,
            transfer=transfer,
            moves=self._moves,
            queued_today=restraint.queued_today,
            waiting=self._waiting(rule) if limited else 0,
            present=self._presence(rule, decision, transfer) if decision is not None and name else None,
            stopped=next((one for route, one in self._stopped.items() if route == (rule.source, name)), None),
            left_alone=self._left_alone,
            next_sweep_at=self.due(rule),
        )

    def restraint(self, rule: Rule) -> Restraint:
        """How the rule is restrained now. Raises LedgerError."""
        restraint = Restraint.of(rule, now=self.now, seen_at=self.now, zone=zone_of(self._rules, rule))
        if rule.limits.instances_per_day is None:
            return restraint
        return restraint.having_queued(self._ledger.queued_on(rule.name, restraint.day))

    def _waiting(self, rule: Rule) -> int:
        held = self._ledger.held(rule.name, rule.source, self.now, MOST_HELD)
        return sum(one.cause in LIMIT_HOLDS and one.intent.study_instance_uid != self._study for one in held)

    def _transfer(self, rule: Rule, decision: Decision | None) -> Transfer | None:
        if decision is None or not decision.destination:
            return None
        series = decision.series_instance_uid
        return self.transfers.get(Intent(rule.source, self._study, series, decision.destination))

    def due(self, rule: Rule) -> datetime | None:
        """When the rule's next sweep is; None where it has no schedule."""
        return min((tier.schedule.next_due(self.now) for tier in rule.tiers), default=None)

    def _presence(self, rule: Rule, decision: Decision, transfer: Transfer | None) -> Present | None:
        """What the destination holds, asked once; None where it is not to be asked."""
        name, series = decision.destination, decision.series_instance_uid
        not_taken = decision.prior is not None and not decision.prior.taken
        if rule.forward is not None or not_taken or not rule.move.skip_present or (self._offline and name != LOCAL):
            return None
        if (name, series) not in self._present:
            self._present[name, series] = self._ask_presence(name, series, transfer)
        return self._present[name, series]

    def _ask_presence(self, name: str, series: str, transfer: Transfer | None) -> Present:
        if name == LOCAL:
            return Present(count=len(self._ledger.received(self._study, series)))
        node = self._rules.node(name)
        if node is None:
            return Present(note=f"The configuration has no node {name}.")
        patient_id = transfer.patient_id if transfer is not None else self.patient_id(node)
        try:
            count = self._inquiry.count(node, self._study, series, patient_id, Urgency.VERIFY, self._never)
        except WireError as error:
            return Present(note=str(error))
        return Present(count=count)
