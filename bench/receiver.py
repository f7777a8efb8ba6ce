"""The router's Store SCP in a process of its own: `StoreServer` and `ObjectStore` as the product wires them.

`python -m bench.receiver PORT STORE DURABILITY`. Receipts are counted, not indexed: the whole service, with its
ledger, is a contender of its own.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from router.dimse.services import Accepted
from router.dimse.store_scp import ServerSettings, StoreServer
from router.objects import ObjectStore


def main(port: int, store: Path, durability: str) -> None:
    """Receive until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    objects = ObjectStore(store, durability=durability)
    server = StoreServer(
        ServerSettings(host="127.0.0.1", port=port),
        objects,
        policy=lambda calling, called, address: Accepted("other"),
        on_receipt=lambda receipt: None,
        observer=lambda event: None,
    )
    server.start()
    ended.wait()
    server.stop(5.0)
    objects.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
