"""The parts that pass on what arrived, put together: what decides, what sends, and the store that it sends from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence

from router.decompression import Decompressor
from router.domain.dicom import Identifier
from router.domain.receipt import Receipt
from router.domain.rule import RuleSet
from router.domain.stores import is_own
from router.elsewhere import Elsewhere
from router.engine.forward_port import stored_of
from router.engine.forwarder import Forwarder, StorePeers
from router.engine.kit import Kit
from router.engine.passing import Passer, ReadHeaders
from router.errors import RouterError
from router.ledger.ledger import SqlLedger
from router.object_headers import header_in, of_each
from router.objects import ObjectStore
from router.shelf import StoreShelf


class Forwarding:
    """Wires them and decides nothing."""

    def __init__(
        self,
        rules: Callable[[], RuleSet],
        kit: Kit,
        peers: StorePeers,
        store: ObjectStore,
        ledger: SqlLedger,
        elsewhere: Elsewhere,
    ) -> None:
        """Raises StoreError where the store cannot be used."""
        self._shelf = StoreShelf(store, ledger, rules, Decompressor(), elsewhere)
        self.forwarder = Forwarder(rules, kit, peers, self._shelf)
        self.passer = Passer(
            rules=rules,
            ledger=ledger,
            slots=kit.slots,
            headers=_headers(store, elsewhere),
            clock=kit.clock,
            observer=kit.observer,
            store=store.name,
        )

    def close(self) -> None:
        """Nothing is passed on any more."""
        self._shelf.close()


def _headers(store: ObjectStore, elsewhere: Elsewhere) -> ReadHeaders:
    """Reads the headers of instances, of those of other replicas over the network; what cannot be read is left out."""
    own = of_each(store.root)

    def read(receipts: Sequence[Receipt], wanted: Collection[int]) -> dict[str, Identifier]:
        found = own([one for one in receipts if is_own(one, store.name)], wanted)
        for one in receipts:
            if not is_own(one, store.name):
                with contextlib.suppress(RouterError), elsewhere.reading(stored_of(one)) as file:
                    header = header_in(file, wanted)
                    if header is not None:
                        found[one.sop_instance_uid] = header
        return found

    return read
