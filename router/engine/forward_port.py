"""What the forwarder needs of the outside: who takes instances, and the object store that it sends them from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from router.domain.exchange import StoredObject, StoreOutcome, StoreResult
from router.domain.forward import Syntax
from router.domain.receipt import Receipt
from router.domain.rule import Node
from router.domain.store_outcome import InstanceFate
from router.domain.transfer import Transfer

OpenObject = Callable[[StoredObject], tuple[int, int]]


class StorePeers(Protocol):
    """Requests to store. Deadlines are those of the node's settings."""

    def store(
        self,
        node: Node,
        objects: Iterable[StoredObject],
        *,
        open_object: OpenObject,
        on_outcome: Callable[[StoreOutcome], None],
        cancelled: threading.Event,
    ) -> StoreResult:
        """C-STORE of all; each gets exactly one outcome. What fails on the wire is in the result, not raised."""


class Shelf(Protocol):
    """The object store, as the source of what is passed on."""

    def wanted(self, transfer: Transfer) -> Sequence[Receipt]:
        """What a transfer is to carry, as far as it is here: each instance once, none that the destination itself sent.

        Raises LedgerError.
        """

    def open(self, stored: StoredObject) -> tuple[int, int]:
        """A descriptor positioned at the data set, and the data set's size.

        Raises StoreError, OSError; StoreAway where another replica has it and cannot be asked now.
        """

    def away(self, objects: Sequence[StoredObject]) -> tuple[frozenset[str], str]:
        """SOP Instance UIDs of those that other replicas have and cannot be had now, and why, as a sentence."""

    def decompressed(self, stored: StoredObject, syntax: Syntax) -> StoredObject | None:
        """The same instance in a temporary file in Explicit or Implicit VR Little Endian; None where that fails.

        Raises StoreError where it cannot be tried now.
        """

    def release(self, stored: StoredObject) -> None:
        """A temporary file is not needed any more."""

    def note(self, transfer: Transfer, fates: Sequence[InstanceFate]) -> None:
        """Remember why the destination did not take which instances, in place of what was before."""


def stored_of(receipt: Receipt) -> StoredObject:
    """What is sent of a receipt."""
    return StoredObject(
        path=receipt.path,
        sop_class_uid=receipt.sop_class_uid,
        sop_instance_uid=receipt.sop_instance_uid,
        transfer_syntax_uid=receipt.transfer_syntax_uid,
        size=receipt.size,
        store=receipt.store,
    )
