"""What was asked for: whether a study may still come from a node, in every ledger, whichever process asked."""

from __future__ import annotations

from datetime import datetime

import pytest

from router.domain.quarantine import GRACE_SECONDS
from router.domain.transfer import Finish, Happening, State
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after, claim, intent, new, queue

HERE = intent(1, destination="local")


def asked(
    ledger: SqlLedger, at: datetime = NOW, *, study: str = HERE.study_instance_uid, source: str = "archive"
) -> bool:
    return ledger.was_asked({source}, {"local"}, study, after((at - NOW).total_seconds() - GRACE_SECONDS))


def test_what_only_waits_was_not_asked_for_and_what_is_claimed_was(ledger: SqlLedger) -> None:
    """The claim is written before the C-MOVE goes out: what comes is never too early."""
    assert not asked(ledger)
    queue(ledger, [new(HERE)])
    assert not asked(ledger)
    assert not asked(ledger, study="")
    claim(ledger)
    assert asked(ledger)
    assert asked(ledger, study=""), "anything at all"


def test_another_process_knows_it_too(ledger: SqlLedger, url: str) -> None:
    queue(ledger, [new(HERE)])
    claim(ledger)
    with SqlLedger.open(url) as other:
        assert asked(other)


def test_another_study_source_or_destination_was_not_asked_for(ledger: SqlLedger) -> None:
    queue(ledger, [new(HERE), new(intent(2, destination="ws"))])
    claim(ledger)
    claim(ledger)
    assert not asked(ledger, study=intent(2).study_instance_uid)
    assert not asked(ledger, study=intent(3).study_instance_uid)
    assert not asked(ledger, source="other")
    assert not asked(ledger, study="", source="other")


def test_one_series_is_asked_for_under_its_study(ledger: SqlLedger) -> None:
    queue(ledger, [new(intent(1, destination="local", series="1.2.3"))])
    claim(ledger)
    assert asked(ledger)


@pytest.mark.parametrize("happening", [Happening.RETRY, Happening.FAIL])
def test_a_source_may_go_on_sending_for_a_while_after_a_run_that_ended(ledger: SqlLedger, happening: Happening) -> None:
    queue(ledger, [new(HERE)])
    finish = Finish(happening=happening, cause="timeout", reason="It took too long.", next_at=after(10 * GRACE_SECONDS))
    ended = ledger.finish(claim(ledger), finish, NOW, after(30))
    assert ended is not None
    assert ended.state in (State.QUEUED, State.FAILED)
    assert asked(ledger, after(29 + GRACE_SECONDS))
    assert asked(ledger, after(29 + GRACE_SECONDS), study="")
    assert not asked(ledger, after(31 + GRACE_SECONDS))
    assert not asked(ledger, after(31 + GRACE_SECONDS), study="")


def test_what_a_person_tries_again_counts_as_asked_for_before_it_is_claimed(ledger: SqlLedger) -> None:
    queue(ledger, [new(HERE)])
    finish = Finish(happening=Happening.FAIL, cause="timeout", reason="It took too long.")
    ended = ledger.finish(claim(ledger), finish, NOW, after(30))
    assert ended is not None
    ledger.apply(ended.id, Happening.AGAIN, after(40))
    assert asked(ledger, after(50))


def test_a_claim_whose_worker_is_gone_still_counts(ledger: SqlLedger) -> None:
    """The archive does not know that the router was killed."""
    queue(ledger, [new(HERE)])
    claim(ledger)
    assert ledger.expire_leases(after(LEASE + 1)) == 1
    assert asked(ledger, after(LEASE + 100))
