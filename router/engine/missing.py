"""Which instances of a transfer are not there, as far as the ledger knows: no node is asked."""

from __future__ import annotations

from router.domain import outcome
from router.domain.outcome import Evidence, Expectation
from router.domain.retention import left_of
from router.domain.rule import LOCAL
from router.domain.transfer import State, Transfer
from router.engine.ports import Ledger


def missing_instances(ledger: Ledger, transfer: Transfer) -> list[str] | None:
    """SOP Instance UIDs that never came to our store, or that the last look at another destination did not find.

    None where nobody can say without asking a node. Raises LedgerError.
    """
    if transfer.intent.destination != LOCAL:
        found = ledger.missing_instances(transfer.id)
        if found or transfer.state is State.COMPLETE:
            return sorted(instance.sop_instance_uid for instance in found)
        return None
    expected = ledger.expected_instances(transfer.id)
    if not expected:
        return None
    study, series = transfer.intent.study_instance_uid, transfer.intent.series_instance_uid
    left = {one.sop_instance_uid for one in left_of(ledger.departed(study), series)}
    present = ledger.received(study, series) | left
    gap = outcome.missing_instances(
        Expectation(instances=frozenset(expected)), Evidence(kind="receipts", present=frozenset(present))
    )
    return sorted(instance.sop_instance_uid for instance in gap or ())
