"""The parts that pass on what arrived, put together: what decides, what sends, and the store that it sends from."""

from __future__ import annotations

from collections.abc import Callable

from router.decompression import Decompressor
from router.domain.rule import RuleSet
from router.engine.forwarder import Forwarder, StorePeers
from router.engine.kit import Kit
from router.engine.passing import Passer
from router.ledger.ledger import SqlLedger
from router.object_headers import of_each
from router.objects import ObjectStore
from router.shelf import StoreShelf


class Forwarding:
    """Wires them and decides nothing."""

    def __init__(
        self, rules: Callable[[], RuleSet], kit: Kit, peers: StorePeers, store: ObjectStore, ledger: SqlLedger
    ) -> None:
        """Raises StoreError where the store cannot be used."""
        self._shelf = StoreShelf(store, ledger, rules, Decompressor())
        self.forwarder = Forwarder(rules, kit, peers, self._shelf)
        self.passer = Passer(
            rules=rules,
            ledger=ledger,
            slots=kit.slots,
            headers=of_each(store.root),
            clock=kit.clock,
            observer=kit.observer,
        )

    def close(self) -> None:
        """Nothing is passed on any more."""
        self._shelf.close()
