"""The router's Store SCP, in processes of its own as the service starts them, without the service.

`python -m bench.receiver PORT STORE DURABILITY [PROCESSES]`; prints the process ids. What it reports is dropped: the
whole service, with its ledger, is a contender of its own.
"""

from __future__ import annotations

import signal
import sys
import threading

from bench.receivers import CALLERS
from router.dimse.store_scp import ServerSettings
from router.domain.access import Admission
from router.receiver_words import ReceiverSettings
from router.receiving import Receivers


def main(port: int, store: str, durability: str, processes: int = 1) -> None:
    """Receive until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    receivers = Receivers(
        ReceiverSettings(
            ae_title="ROUTER",
            server=ServerSettings(host="127.0.0.1", port=port),
            store=store,
            durability=durability,
            minimum_free=0,
            callers=dict.fromkeys(CALLERS, Admission(node="sender")),
        ),
        processes,
        on_receipts=lambda receipts: None,
        asked=lambda calling, study: True,
        observer=lambda event: None,
        on_loss=ended.set,
        trouble=lambda where, error: ended.set(),
    )
    receivers.start()
    print(*receivers.pids, flush=True)
    ended.wait()
    receivers.stop(5.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
