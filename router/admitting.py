"""What of an instance that comes in enters the store, and what is kept aside: between the Store SCP and the store.

A sink as the store is one. It asks whether a node may send what it sends, and puts what the store cannot take into the
quarantine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from router.domain.events import Event, InstanceQuarantined
from router.domain.quarantine import ALLOW, KEEP, NOT_ASKED_FOR, NOT_AUTHORIZED, is_kept
from router.domain.receipt import Receipt
from router.errors import StoreRefused
from router.objects import ObjectStore, Writer
from router.quarantine import Quarantine

_SAID = "; quarantined"
"""The end of an Error Comment (0000,0902), of at most 64 characters."""


class Sender(NamedTuple):
    """Who sends."""

    node: str
    """Its name, or the label of whom the configuration does not know (any more)."""
    push: str
    """A word of `router.domain.quarantine`: what becomes of what it sends unasked."""


Asked = Callable[[str, str], bool]
"""Takes a calling AE title and a Study Instance UID: whether the study was asked of who sends under that title, and for
an empty one whether anything was. Raises StoreRefused where that cannot be said now."""


class GuardedStore:
    """The store and the quarantine as one sink (PS3.4 annex B). Thread-safe.

    `sender` gives who is behind a calling AE title; `observer` is told what goes into the quarantine.
    """

    def __init__(
        self,
        store: ObjectStore,
        quarantine: Quarantine,
        *,
        sender: Callable[[str], Sender],
        asked: Asked,
        observer: Callable[[Event], None],
    ) -> None:
        self._store = store
        self.quarantine = quarantine
        self.sender = sender
        self.asked = asked
        self.observer = observer

    def begin(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> GuardedWriter:
        """Start an instance. Raises StoreRefused."""
        writer = self._store.begin(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title=calling_ae_title,
        )
        return GuardedWriter(self, writer, calling_ae_title)


class GuardedWriter:
    """One instance on its way into the store, the quarantine or nowhere."""

    def __init__(self, guarded: GuardedStore, writer: Writer, calling_ae_title: str) -> None:
        self._guarded = guarded
        self._writer = writer
        self._title = calling_ae_title
        self._sender = guarded.sender(calling_ae_title)
        self._admitted = self._sender.push == ALLOW
        self._objection: StoreRefused | None = None
        """Why it does not enter the store; set, it is written on for the quarantine."""

    def write(self, data: memoryview) -> None:
        """Append a part of the data set. Raises StoreRefused where nothing more of it is wanted."""
        if self._objection is not None:
            self._append(data)
            return
        try:
            self._writer.write(data)
        except StoreRefused as refusal:  # by what it looks like: this part is not written yet
            self._objection = self._kept(refusal)
            self._append(data)
            return
        try:
            self._admit(self._writer.study_instance_uid)
        except StoreRefused as refusal:
            self._objection = self._kept(refusal)

    def _append(self, data: memoryview) -> None:
        self._writer.append(data)
        if self._objection is not None and self._writer.size > self._guarded.quarantine.most:
            raise self._objection

    def commit(self) -> Receipt:
        """Make it durable, in the store. Raises StoreRefused for what does not enter it, kept aside or not."""
        if self._objection is None:
            try:
                if not self._admitted:
                    self._admit(self._writer.check().study_instance_uid)
                return self._writer.commit()
            except StoreRefused as refusal:
                self._objection = self._kept(refusal)
        raise self._aside(self._objection)

    def discard(self) -> None:
        """Clean up."""
        self._writer.discard()

    def _admit(self, study_instance_uid: str) -> None:
        """Raises StoreRefused where the node may not send this."""
        if self._admitted or not study_instance_uid:
            return
        if not self._guarded.asked(self._title, study_instance_uid):
            raise StoreRefused(NOT_AUTHORIZED, NOT_ASKED_FOR, "Nobody asked for this study, and pushes are refused")
        self._admitted = True

    def _kept(self, refusal: StoreRefused) -> StoreRefused:
        """The refusal of something that is kept aside; raises it for anything else."""
        push = self._sender.push
        if not self._guarded.quarantine.most or not is_kept(refusal.reason, push):
            raise refusal
        if not self._admitted and push != KEEP and not self._guarded.asked(self._title, ""):
            raise refusal  # its study cannot be read, and the node was asked for none
        return refusal

    def _aside(self, objection: StoreRefused) -> StoreRefused:
        """Keep it; what to answer.

        The status stays the failure (or for another version of what is held, the warning) that it is without a
        quarantine: a sender that was told Success would believe the image to be archived, and may delete it, while it
        is in no study and nobody looks at it. So it shows at the sender's side as well.
        """
        sender = self._sender.node
        kept = self._writer.size > 0 and self._guarded.quarantine.keep(
            self._writer, reason=objection.reason, node=sender, calling_ae_title=self._title
        )
        if not kept:
            return objection
        self._guarded.observer(InstanceQuarantined(calling=sender, reason=objection.reason))
        return StoreRefused(objection.status, objection.reason, f"{objection}{_SAID}")
