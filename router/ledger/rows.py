"""From a row of the ledger to a value of the domain, where several modules need it."""

from __future__ import annotations

from typing import Any

from router.domain.transfer import Intent, State, Transfer


def transfer_of(row: Any) -> Transfer:
    """A transfer from a row with all columns of its table."""
    return Transfer(
        id=row.id,
        intent=Intent(row.source, row.study_instance_uid, row.series_instance_uid, row.destination),
        rule=row.rule,
        priority=row.priority,
        state=State(row.state),
        instance_count=row.instance_count,
        patient_id=row.patient_id,
        expected=row.expected,
        completed=row.completed,
        failed=row.failed,
        warning=row.warning,
        attempts=row.attempts,
        rounds=row.rounds,
        looks=row.looks,
        status=row.status,
        cause=row.cause,
        reason=row.reason,
        fence=row.fence,
        queued_at=row.queued_at,
        started_at=row.started_at,
        next_at=row.next_at,
        finished_at=row.finished_at,
        updated_at=row.updated_at,
        lease_until=row.lease_until,
        wish=row.wish,
        availability=row.availability,
        deadline_at=row.deadline_at,
    )
