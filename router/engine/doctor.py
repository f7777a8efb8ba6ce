"""`doctor`: examines nodes one step after the other, over ports; what each finding means stands in `domain.checkup*`.

Gently: one association to a node at a time, a handful of queries of which each is cancelled after a few matches, at
most one image. Nothing is written, neither to the ledger nor to the store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from router.domain import checkup_move, checkup_node, checkup_wire
from router.domain.allowance import allowance, opens_at
from router.domain.checkup import (
    STORAGE_CLASSES,
    WORKLIST_SOP_CLASS,
    Around,
    Check,
    Needs,
    Result,
    Where,
    needs_of,
    ok,
    patient,
    skipped,
    warn,
)
from router.domain.commitment import STORAGE_COMMITMENT_SOP_CLASS
from router.domain.dicom import Identifier, InformationModel
from router.domain.route import StoppedRoute
from router.domain.rule import Node, RuleSet
from router.engine.doctor_move import MoveCheck
from router.engine.doctor_port import Machine, Probe
from router.engine.doctor_query import Questions
from router.engine.ports import Clock, Peers
from router.errors import WireError

NODE_SECONDS = 180.0
"""After so many seconds no further step is begun with a node; each that is under way has deadlines of its own."""
THREADS = 4

_RETRIEVAL = tuple(uid for model in InformationModel for uid in (model.find, model.move, model.get))


class Knowledge(msgspec.Struct, frozen=True, kw_only=True):
    """What is known before a node is asked: from the ledger and the running service."""

    caps: dict[str, int] = {}
    stopped: Sequence[StoppedRoute] = ()
    left_alone: frozenset[str] = frozenset()


class Doctor:
    """Examines the nodes of a configuration. Thread-safe."""

    def __init__(
        self,
        rules: RuleSet,
        where: Where,
        *,
        probe: Probe,
        peers: Peers,
        mover: MoveCheck,
        machine: Machine,
        clock: Clock,
        knowledge: Knowledge,
    ) -> None:
        self._rules = rules
        self._where = where
        self._probe = probe
        self._peers = peers
        self._mover = mover
        self._machine = machine
        self._clock = clock
        self._knowledge = knowledge
        self.cancelled = threading.Event()

    def examine(self, names: Sequence[str]) -> dict[str, list[Check]]:
        """The checks of these nodes, several nodes at a time, in the order of the names."""
        with ThreadPoolExecutor(THREADS, "doctor") as pool:
            try:
                return dict(zip(names, pool.map(self.node, names), strict=True))
            except BaseException:  # the person has had enough: what is under way ends soon, nothing new begins
                self.cancelled.set()
                self._mover.cancel()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def node(self, name: str) -> list[Check]:
        """The checks of one node."""
        return _Examination(self, self._rules.nodes[name]).run()


class _Examination:
    """One node, from its name to the one image."""

    def __init__(self, doctor: Doctor, node: Node) -> None:
        self._doctor = doctor
        self._node = patient(node)
        self._now = doctor._clock.now()
        self._deadline = time.monotonic() + NODE_SECONDS
        self._accepted: dict[str, bool] = {}
        self._checks: list[Check] = []
        router = doctor._rules.router
        self._around = Around(
            node=self._node,
            needs=needs_of(doctor._rules, node),
            ae_title=router.ae_title,
            host="this machine",
            port=router.listen_port,
            listen_host=router.listen_host,
            where=doctor._where,
            retains=router.retention is not None,
            named=bool(router.replica),
        )

    @property
    def _needs(self) -> Needs:
        return self._around.needs

    def run(self) -> list[Check]:
        """All checks, those too that were not made."""
        open_now = self._window()
        steps: list[tuple[str, Callable[[], bool]]] = [
            ("name", self._name),
            ("connect", self._connect),
            ("tls", self._tls),
            ("echo", self._echo),
            ("contexts", self._contexts),
            ("query", self._query),
        ]
        failed = ""
        for name, step in steps:
            if not failed and not open_now and name in ("contexts", "query"):
                self._checks.append(skipped(name, "closed", "Not tried: its windows are closed now."))
            elif failed:
                self._checks.append(skipped(name, "earlier", f"Not tried: {failed} failed."))
            elif time.monotonic() > self._deadline or self._doctor.cancelled.is_set():
                self._checks.append(skipped(name, "no-time", "Not tried: what came before took too long."))
            elif not step():
                failed = name
        if failed or not open_now:
            why = f"{failed} failed" if failed else "its windows are closed now"
            self._checks.append(skipped("move", "earlier" if failed else "closed", f"Not tried: {why}."))
        tried = any(check.check == "move" and check.result is not Result.SKIPPED for check in self._checks)
        if self._around.unheard and self._needs.brings and not tried:
            self._checks.append(checkup_move.unheard(self._around))
        self._routes()
        return self._checks

    def _window(self) -> bool:
        node, windows = self._node, self._doctor._rules.windows
        if allowance(node, windows, self._now).open:
            return True
        opens = opens_at(node, windows, self._now)
        until = f"until {opens.astimezone():%m-%d %H:%M %Z}" if opens else "and do not open any more"
        self._checks.append(
            warn(
                "window",
                "closed",
                f"Its windows are closed {until}: it gets a C-ECHO only.",
                f"ask again then, or change {self._around.at('windows')}",
            )
        )
        return False

    # how it is reached --------------------------------------------------------------------------------------------

    def _try(self, check: str, step: Callable[[], Check]) -> bool:
        """Do a step; whether what follows makes sense."""
        try:
            done = step()
        except WireError as error:
            done = checkup_wire.broken(check, error.cause, str(error), self._around)
            self._checks.append(done)
            return False
        self._checks.append(done)
        return done.result is not Result.FAIL

    def _name(self) -> bool:
        def step() -> Check:
            found = self._doctor._probe.resolve(self._node)
            if found == [self._node.host]:
                return ok("name", "address", f"{self._node.host} is an address: there is no name to resolve.")
            return ok("name", "resolved", f"{self._node.host} is {', '.join(found[:3])}.")

        return self._try("name", step)

    def _connect(self) -> bool:
        def step() -> Check:
            reached = self._doctor._probe.connect(self._node)
            host = self._doctor._rules.router.listen_host
            if host in ("0.0.0.0", "::", ""):
                host = reached.own_address
            self._around = msgspec.structs.replace(self._around, host=host)
            return checkup_wire.connected(reached, self._around)

        return self._try("connect", step)

    def _tls(self) -> bool:
        node, probe = self._node, self._doctor._probe
        if node.tls is None:
            self._checks.append(ok("tls", "plain", "It is asked without TLS."))
            return True
        own = self._doctor._machine.certificate(node.tls.certificate)
        self._checks.append(
            checkup_wire.expiring(
                "own certificate",
                f"This router's certificate {node.tls.certificate}",
                own.last if own is not None else None,
                self._now,
                f"renew the file certificate in {self._around.own_certificate(self._doctor._rules.router.tls)}",
            )
        )
        renew = f"at {node.name}: renew its certificate"
        try:
            seen = probe.secure(node)
        except WireError as error:
            self._checks.append(checkup_wire.broken("tls", error.cause, str(error), self._around))
            valid = probe.certificate(node) if error.cause != "tls-not-spoken" else None
            if valid is not None:
                self._checks.append(
                    checkup_wire.expiring("certificate", "Its certificate", valid.last, self._now, renew)
                )
            return False
        self._checks.append(checkup_wire.secured(seen))
        self._checks.append(checkup_wire.expiring("certificate", "Its certificate", seen.expires_at, self._now, renew))
        return True

    def _echo(self) -> bool:
        def step() -> Check:
            started = time.monotonic()
            self._doctor._probe.echo(self._node)
            return ok("echo", "answered", f"It answers a C-ECHO ({(time.monotonic() - started) * 1000:.0f} ms).")

        node = self._node
        try:
            self._checks.append(step())
            return True
        except WireError as error:
            if error.cause == "no-context":  # the association came about, which is what counts
                self._checks.append(warn("echo", "no-echo", str(error), f"at {node.name}: switch Verification on"))
                return True
            unspoken = error.cause in ("connection-lost", "protocol", "negotiation-timeout")
            if node.tls is None and unspoken and self._doctor._probe.speaks_tls(node):
                peer = f"{node.host}:{node.port}"
                sentence = f"{peer} speaks TLS, but it is asked without."
                self._checks.append(checkup_wire.broken("echo", "tls-wanted", sentence, self._around))
            else:
                self._checks.append(checkup_wire.broken("echo", error.cause, str(error), self._around))
            return False

    # what it offers -----------------------------------------------------------------------------------------------

    def _propose(self, sop_classes: Sequence[str]) -> dict[str, bool]:
        accepted = self._doctor._probe.accepted(self._node, sop_classes)
        found = {uid: uid in accepted for uid in sop_classes}
        self._accepted |= found
        return found

    def _contexts(self) -> bool:
        needs, around = self._needs, self._around
        retrieval = not needs.used or needs.queried or needs.moved or needs.fetched or needs.evidence or needs.required
        proposals: list[tuple[str, bool, Sequence[str], Callable[[dict[str, bool]], list[Check]]]] = [
            ("find context", bool(retrieval), _RETRIEVAL, lambda got: checkup_wire.retrieval_contexts(got, around)),
            (
                "worklist context",
                bool(needs.worklist),
                (WORKLIST_SOP_CLASS,),
                lambda got: [checkup_wire.worklist_context(got, around)],
            ),
            (
                "storage contexts",
                bool(needs.stores),
                tuple(STORAGE_CLASSES),
                lambda got: [checkup_wire.storage_contexts(got, around)],
            ),
            (
                "commitment context",
                bool(needs.committed),
                (STORAGE_COMMITMENT_SOP_CLASS,),
                lambda got: [checkup_wire.commitment_context(got, around)],
            ),
        ]
        for check, wanted, sop_classes, judge in proposals:
            if not wanted:
                continue
            try:
                self._checks += judge(self._propose(sop_classes))
            except WireError as error:
                self._checks.append(checkup_wire.broken(check, error.cause, str(error), around))
        return True

    # what it answers ----------------------------------------------------------------------------------------------

    def _query(self) -> bool:
        doctor, needs, around = self._doctor, self._needs, self._around
        questions = Questions(doctor._peers, around, self._now, doctor.cancelled)
        if needs.worklist and self._accepted.get(WORKLIST_SOP_CLASS):
            self._checks.append(questions.worklist())
        asked = bool(needs.queried or not needs.used)
        accepted = any(self._accepted.get(model.find) for model in InformationModel)
        rows: list[Identifier] | None = []
        if accepted and (asked or needs.evidence):
            found, rows = questions.studies(doctor._knowledge.caps.get(self._node.name), thorough=asked)
            self._checks += found
        elif not needs.worklist:
            why, code = ("it accepts no C-FIND", "not-accepted") if asked else ("no rule asks it", "not-needed")
            self._checks.append(skipped("query", code, f"Not tried: {why}."))
        left = self._deadline - time.monotonic()
        if rows is None:
            self._checks.append(skipped("move", "earlier", "Not tried: query failed."))
        elif left <= 0:
            self._checks.append(skipped("move", "no-time", "Not tried: what came before took too long."))
        else:
            self._checks += doctor._mover.run(around, rows, questions, left)
        return True

    def _routes(self) -> None:
        known = self._doctor._knowledge
        name = self._node.name
        stopped = [one for one in known.stopped if name in (one.route.source, one.route.destination)]
        self._checks.append(checkup_node.routes(stopped, name in known.left_alone, self._around))
