"""Associations to nodes: opening, reusing while idle for a moment, releasing; their events. Thread-safe."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence, Set
from typing import NamedTuple

from router.dimse.association import Association, Limits, Offer
from router.dimse.identifier import TRANSFER_SYNTAXES
from router.dimse.pdu import AssociateRequest, ProposedContext, RoleSelection
from router.dimse.tls_files import Renewed, requestor_context
from router.domain.dicom import VERIFICATION_SOP_CLASS, InformationModel
from router.domain.events import AssociationEnded, AssociationsActive, Event
from router.domain.rule import Node, TlsSettings
from router.errors import (
    AssociationRejected,
    Cancelled,
    ConnectionFailed,
    DeadlineExceeded,
    TlsError,
    TlsFileError,
    WireError,
)

_RELEASE_SECONDS = 5.0
_PERMANENT = 1
_PRESENTATION = 3
_ROOTS = (InformationModel.STUDY_ROOT, InformationModel.PATIENT_ROOT)
_SYNTAXES = (VERIFICATION_SOP_CLASS, *(uid for root in _ROOTS for uid in (root.find, root.move)))
_CONTEXTS = tuple(
    ProposedContext(2 * index + 1, abstract_syntax, TRANSFER_SYNTAXES)
    for index, abstract_syntax in enumerate(_SYNTAXES)
)
QUERY_OFFERS: frozenset[Offer] = frozenset(context[1:] for context in _CONTEXTS)
"""What most requests need; contexts of storage and of a worklist are another association's business."""
_MAXIMUM_LENGTH = 65536
"""Some old archives refuse more (queries and moves need no more)."""


def describe(node: Node) -> str:
    """A node in a sentence."""
    return f"{node.name} ({node.ae_title} at {node.host}:{node.port})"


def association_result(failure: WireError | None) -> str:
    """The `result` of an AssociationEnded event."""
    match failure:
        case None:
            return "accepted"
        case AssociationRejected(result=result, source=source):
            # Some archives call "no association left" permanent; it is not.
            permanent = result == _PERMANENT and source != _PRESENTATION
            return "rejected_permanent" if permanent else "rejected_transient"
        case ConnectionFailed():
            return "refused"
        case DeadlineExceeded():
            return "timeout"
        case _:
            return "aborted"


class _Idle(NamedTuple):
    association: Association
    node: Node
    since: float


class Pool:
    """The requestor's associations. A node that changed in the configuration gets new ones."""

    def __init__(self, calling_ae_title: str, observer: Callable[[Event], None], idle_seconds: float) -> None:
        self._calling = calling_ae_title
        self._observer = observer
        self._idle_seconds = idle_seconds
        self._condition = threading.Condition()
        self._idle: list[_Idle] = []
        self._open: Counter[str] = Counter()
        """By node: associations, from before they are requested until they are closed."""
        self._ending: Counter[str] = Counter()
        """Those of them that are being released."""
        self._contexts: dict[TlsSettings, Renewed] = {}
        self._reaper: threading.Thread | None = None
        self._closed = False

    def take(
        self, node: Node, offers: Set[Offer] = QUERY_OFFERS, roles: Sequence[RoleSelection] = ()
    ) -> Association | None:
        """An idle association that stands and was offered these contexts and just these roles; the last one used.

        For other contexts than QUERY_OFFERS: where none has them, an idle one to the node that is not for queries
        either is released, so that a node does not hold one for each set of contexts it was ever sent.
        """
        while True:
            with self._condition:
                idle = [entry for entry in reversed(self._idle) if _same(entry.node, node)]
                fit = [entry for entry in idle if entry.association.proposed_roles == tuple(roles)]
                found = next((entry for entry in fit if offers <= entry.association.offered.keys()), None)
                unfit = None
                if found is None and offers is not QUERY_OFFERS:
                    unfit = next((entry for entry in idle if entry.association.offered.keys() != QUERY_OFFERS), None)
                entry_to_end = found or unfit
                if entry_to_end is None:
                    return None
                self._idle.remove(entry_to_end)
                self._ending[node.name] += found is None
            if found is None:
                self._release(node, entry_to_end.association)
                continue
            if found.association.quiet:
                return found.association
            found.association.close()
            self._ended(node, None)

    def open(
        self,
        node: Node,
        contexts: tuple[ProposedContext, ...] = _CONTEXTS,
        *,
        operations: int = 1,
        roles: tuple[RoleSelection, ...] = (),
    ) -> Association:
        """A new association, for all services this router asks for or for these contexts. Raises WireError.

        `operations`: how many the asynchronous operations window proposes; 1 proposes none. `roles`: see PS3.7 section
        D.3.3.4; none proposes none.
        """
        if self._closed:
            raise Cancelled("The router is stopping.")
        request = AssociateRequest(
            node.ae_title, self._calling, contexts, _MAXIMUM_LENGTH, operations=operations, roles=roles
        )
        limits = Limits(
            connect=node.timeouts.connect,
            negotiation=node.timeouts.negotiation,
            pdu=node.timeouts.negotiation,
            maximum_length=_MAXIMUM_LENGTH,
        )
        self._make_room(node)
        try:
            association = Association.request(
                node.host,
                node.port,
                request,
                peer=describe(node),
                limits=limits,
                tls=self._tls(node),
                certificate_names=node.certificate_names,
            )
        except WireError as failure:
            self._forget(node)
            self._observer(AssociationEnded(node=node.name, role="requestor", result=association_result(failure)))
            raise
        except BaseException:
            self._forget(node)
            raise
        self._observer(AssociationsActive(node=node.name, role="requestor", change=1))
        return association

    def _make_room(self, node: Node) -> None:
        """Count one more to the node; idle ones are released first, and awaited, where there would be too many.

        So many requests to it as its limit allows may be under way at once, whoever asks sees to that.
        """
        self._shed(node, _room(node) - 1, open_one=True)

    def fit(self, node: Node, room: int) -> None:
        """Release idle associations to a node until no more than so many stand; they have ended when this returns.

        For where others need the slots: one that idles here is one too many for the node.
        """
        self._shed(node, room, open_one=False)

    def _shed(self, node: Node, most: int, *, open_one: bool) -> None:
        """Release idle ones to a node, and await their end, until no more than so many stand; then count one more."""
        deadline = time.monotonic() + 2 * _RELEASE_SECONDS
        while True:
            with self._condition:
                idle = next((one for one in self._idle if one.node.name == node.name), None)
                left = deadline - time.monotonic()
                if self._open[node.name] <= most or (idle is None and not self._ending[node.name]) or left <= 0:
                    if open_one:
                        self._open[node.name] += 1
                    return
                if idle is None:
                    self._condition.wait(left)
                    continue
                self._idle.remove(idle)
                self._ending[node.name] += 1
            self._release(idle.node, idle.association)

    def _forget(self, node: Node) -> None:
        """One less is open."""
        with self._condition:
            self._open[node.name] -= 1
            if not self._open[node.name]:
                del self._open[node.name]
            self._condition.notify_all()

    def _tls(self, node: Node) -> ssl.SSLContext | None:
        if node.tls is None:
            return None
        with self._condition:
            renewed = self._contexts.setdefault(node.tls, Renewed(requestor_context, node.tls))
        try:
            return renewed.get()
        except TlsFileError as fault:
            raise TlsError(f"{describe(node)} cannot be asked over TLS: {fault}", "tls-files") from fault

    def give_back(self, node: Node, association: Association) -> None:
        """Keep it for the next request, for a moment."""
        if not association.established:
            self._ended(node, None)
            return
        with self._condition:
            keep = not self._closed and self._idle_seconds > 0
            if keep:
                self._idle.append(_Idle(association, node, time.monotonic()))
                if self._reaper is None:
                    reaper = threading.Thread(target=self._reap, name="association-reaper", daemon=True)
                    with contextlib.suppress(RuntimeError):  # the system has no thread left: the next time, then
                        reaper.start()
                        self._reaper = reaper
                self._condition.notify_all()
        if not keep:
            self.release(node, association)

    def discard(self, node: Node, association: Association, failure: WireError | None) -> None:
        """End it after a failure."""
        if association.established:
            association.abort()
        self._ended(node, failure)

    def close(self) -> None:
        """Release all idle ones; those in use are released when they are given back."""
        with self._condition:
            self._closed = True
            idle, self._idle = self._idle, []
            self._ending.update(entry.node.name for entry in idle)
            reaper = self._reaper
            self._condition.notify_all()
        for entry in idle:
            self._release(entry.node, entry.association)
        if reaper is not None and reaper is not threading.current_thread():
            reaper.join(_RELEASE_SECONDS)

    def _reap(self) -> None:
        while True:
            with self._condition:
                if self._closed or not self._idle:
                    self._reaper = None
                    return
                wait = self._idle[0].since + self._idle_seconds - time.monotonic()
                if wait > 0:
                    self._condition.wait(wait)
                    continue
                entry = self._idle.pop(0)
                self._ending[entry.node.name] += 1
            self._release(entry.node, entry.association)

    def release(self, node: Node, association: Association) -> None:
        """End it in order."""
        with self._condition:
            self._ending[node.name] += 1
        self._release(node, association)

    def _release(self, node: Node, association: Association) -> None:
        """End one that is counted as ending."""
        try:
            with contextlib.suppress(WireError):
                association.release(_RELEASE_SECONDS)
            association.close()
        finally:
            with self._condition:
                self._ending[node.name] -= 1
                if not self._ending[node.name]:
                    del self._ending[node.name]
            self._ended(node, None)

    def _ended(self, node: Node, failure: WireError | None) -> None:
        self._forget(node)
        self._observer(AssociationsActive(node=node.name, role="requestor", change=-1))
        self._observer(AssociationEnded(node=node.name, role="requestor", result=association_result(failure)))


def _room(node: Node) -> int:
    """How many associations to the node may stand at any time, idle ones included: as many as it always allows."""
    own = node.limits.associations
    return min((use.associations or own for use in node.windows), default=own)


def _same(one: Node, other: Node) -> bool:
    return (one.name, one.ae_title, one.host, one.port, one.tls, one.certificate_names) == (
        other.name,
        other.ae_title,
        other.host,
        other.port,
        other.tls,
        other.certificate_names,
    )
