"""Trying nodes that are left alone: one C-ECHO, then a cheap real query where the node is asked for studies."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Collection

from router.domain.dicom import QueryRetrieveLevel
from router.domain.rule import Node, RuleSet
from router.engine.guard import Purpose
from router.engine.ports import Peers, Trouble
from router.engine.query import unique_keys
from router.engine.slots import NodeSlots, Urgency
from router.errors import WireError

_JOIN_SECONDS = 2.0


class Prober:
    """Probes nodes whose time has come, a thread for each that is under way. What comes of it the slots know."""

    def __init__(self, peers: Peers, slots: NodeSlots, trouble: Trouble) -> None:
        self._peers = peers
        self._slots = slots
        self._trouble = trouble
        self._cancelled = threading.Event()
        self._running: dict[str, threading.Thread] = {}

    def look(self, rules: RuleSet) -> None:
        """Begin the probes that are due; a node is not tried while its windows are closed."""
        self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
        enabled = [rule for rule in rules.rules.values() if rule.enabled]
        # A worklist answers no query for a study.
        sources = {rule.source for rule in enabled} | {rule.sweep.source for rule in enabled if rule.sweep is not None}
        for name, node in rules.nodes.items():
            if name in self._running or not self._slots.probe_due(node) or not self._slots.allowance(node).open:
                continue
            thread = threading.Thread(target=self._run, args=(node, sources), name="probe", daemon=True)
            thread.start()
            self._running[name] = thread

    def stop(self) -> None:
        """Begin no more; end those that wait."""
        self._cancelled.set()
        for thread in self._running.values():
            thread.join(_JOIN_SECONDS)

    def _run(self, node: Node, sources: Collection[str]) -> None:
        try:
            with contextlib.suppress(WireError):
                self.probe(node, ask=node.name in sources)
        except Exception as error:  # noqa: BLE001  a defect here must not leave the node alone for ever
            self._trouble("probe", error)

    def probe(self, node: Node, *, ask: bool) -> None:
        """One probe; with `ask` it must also answer a query, for a study that does not exist. Raises WireError."""
        purpose = Purpose.QUERY if ask else Purpose.OTHER
        with self._slots.hold(node, Urgency.PROBE, self._cancelled, purpose=purpose):
            self._peers.echo(node)
            if ask:
                keys = unique_keys("", f"2.25.{uuid.uuid4().int}")
                self._peers.find(node, QueryRetrieveLevel.STUDY, keys, maximum=1, cancelled=self._cancelled)
