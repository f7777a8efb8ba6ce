"""Studies in an object store that were passed on and proven, without a network: what retention lets go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from router.domain.forwarding import FELL_BACK
from router.domain.rule import LOCAL
from router.domain.transfer import Finish, Happening, Instance, Intent, NewTransfer, Transfer
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, queue


def pass_on(
    ledger: SqlLedger,
    study: str,
    at: datetime,
    *,
    to: str = "ws",
    carried: Sequence[Instance] | None = None,
    happening: Happening | None = Happening.PROVEN,
    again: Happening | None = None,
) -> Transfer:
    """A transfer from the store of all it holds of a study (or of what is `carried`), ended so; None: it runs."""
    intent = Intent(LOCAL, study, "", to)
    instances = ledger.received_instances(study) if carried is None else list(carried)
    new = NewTransfer(intent=intent, rule="on", priority=0, instance_count=len(instances) + 1000, happening=again)
    queue(ledger, [new], at)
    claimed = ledger.claim_transfer([LOCAL], at, LEASE)
    assert claimed is not None
    assert claimed.intent == intent
    ledger.set_expected(claimed, instances)
    if happening is None:
        return claimed
    cause = FELL_BACK if happening is Happening.CANCEL else ""
    ended = ledger.finish(claimed, Finish(happening=happening, cause=cause), at, at)
    assert ended is not None
    return ended
