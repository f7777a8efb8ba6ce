"""A transfer as the board, the page and the API show it. Pure."""

from __future__ import annotations

from router.domain.board import TransferSeen
from router.domain.pseudonym import Pseudonyms
from router.domain.transfer import Transfer
from router.domain.wishes import sayable


def transfer_seen(
    transfer: Transfer, pseudonyms: Pseudonyms, *, identifiers: bool, stopped: bool = False
) -> TransferSeen:
    """What is shown of a transfer, whose reason is the one that holds now (see `router.domain.waiting.explained`).

    `identifiers`: with its UIDs and patient ID. `stopped`: it waits for a stopped route.
    """
    intent = transfer.intent
    return TransferSeen(
        id=transfer.id,
        rule=transfer.rule,
        source=intent.source,
        destination=intent.destination,
        study=pseudonyms.of(intent.study_instance_uid),
        study_instance_uid=intent.study_instance_uid if identifiers else None,
        series_instance_uid=(intent.series_instance_uid or None) if identifiers else None,
        patient_id=(transfer.patient_id or None) if identifiers else None,
        state=str(transfer.state),
        verdict=str(transfer.state) if transfer.ended else None,
        expected=transfer.instance_count if transfer.expected is None else transfer.expected,
        completed=transfer.completed,
        failed=transfer.failed,
        warning=transfer.warning,
        attempts=transfer.attempts,
        status=f"0x{transfer.status:04X}" if transfer.status is not None else None,
        cause=transfer.cause or None,
        reason=transfer.reason,
        wish=transfer.wish,
        priority=transfer.priority,
        queued_at=transfer.queued_at,
        started_at=transfer.started_at,
        next_at=None if transfer.ended else transfer.next_at,
        updated_at=transfer.updated_at,
        finished_at=transfer.finished_at,
        deadline=transfer.deadline_at,
        actions=sayable(transfer, stopped=stopped),
    )
