"""What every ledger remembers of notifications: nothing is told twice or lost, whoever else works on it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
from sqlalchemy import update

from router.domain.events import TransferEnded
from router.domain.notice import notice_of
from router.domain.notice_delivery import GIVEN_UP, SENT
from router.domain.notice_group import Group, Turn, single, turn
from router.domain.notify import Mail, NotifySettings
from router.errors import LedgerError
from router.ledger import tables
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after

MAIL = Mail(to=("a@x.example",), sender="r@x.example", host="mail", port=587)
SETTINGS = NotifySettings(channels={"on-call": MAIL, "chat": MAIL}, wait=60)


def failure(number: int = 1, *, channel: str = "on-call", to: str = "ws", at: datetime = NOW) -> Group:
    notice = notice_of(
        TransferEnded(
            transfer=number,
            rule="ct",
            source="archive",
            destination=to,
            verdict="failed",
            duration_seconds=1,
            seen_to_verified_seconds=1,
        )
    )
    assert notice is not None
    return single(channel, notice, at)


def turned(ledger: SqlLedger, news: Sequence[Group] = (), at: datetime = NOW) -> Turn:
    """A turn as the service has it."""

    def decide(groups: Sequence[Group], made: Mapping[str, Sequence[datetime]]) -> Turn:
        return turn(groups, news, {}, made, SETTINGS, at)

    return ledger.turn_notices(decide, at)


def test_what_has_happened_waits_in_the_ledger_and_is_told_once_whoever_looks(url: str) -> None:
    with SqlLedger.open(url) as ledger:
        assert turned(ledger, [failure(1)]).next_at == after(60)
    with SqlLedger.open(url) as ledger, SqlLedger.open(url) as other:
        assert turned(other, [failure(2, at=after(5))], after(5)).notifications == ()
        (told,) = turned(ledger, (), after(60)).notifications
        assert (told.counts, [one.transfer for one in told.examples]) == ({"failed": 2}, [1, 2])
        assert turned(other, (), after(60)).notifications == ()
        assert turned(other, [failure(3)], after(61)).notifications == ()
    with SqlLedger.open(url) as ledger:
        assert turned(ledger, (), after(3600)).notifications == (), "not yet again, after a restart too"
        (again,) = turned(ledger, (), after(60 + 14400)).notifications
        assert (again.counts, again.number, again.thread) == ({"failed": 1}, 2, told.thread)


def test_many_that_tell_at_once_lose_nothing(url: str) -> None:
    with SqlLedger.open(url) as one, SqlLedger.open(url) as other, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: turned((one, other)[number % 2], [failure(number)]), range(64)))
        (told,) = turned(one, (), after(60)).notifications
        assert told.counts == {"failed": 64}


def test_a_turn_that_fails_changes_nothing(ledger: SqlLedger) -> None:
    turned(ledger, [failure()])

    def decide(groups: Sequence[Group], made: Mapping[str, Sequence[datetime]]) -> Turn:
        raise LedgerError("no")

    with pytest.raises(LedgerError):
        ledger.turn_notices(decide, NOW)
    (told,) = turned(ledger, (), after(60)).notifications
    assert told.counts == {"failed": 1}


def test_what_was_told_lately_counts_on_its_own_channel_only(ledger: SqlLedger) -> None:
    turned(ledger, [failure(), failure(channel="chat"), failure(to="ws2")])
    turned(ledger, (), after(60))
    seen: list[Mapping[str, Sequence[datetime]]] = []

    def decide(groups: Sequence[Group], made: Mapping[str, Sequence[datetime]]) -> Turn:
        seen.append(made)
        return Turn()

    ledger.turn_notices(decide, after(61))
    ledger.turn_notices(decide, after(60 + 3600))
    assert seen == [{"on-call": [after(60)] * 2, "chat": [after(60)]}, {}]


def told_of(ledger: SqlLedger, *groups: Group) -> None:
    """Have these be on their way."""
    turned(ledger, groups)
    turned(ledger, (), after(60))


def test_each_channel_has_its_notifications_in_order(ledger: SqlLedger) -> None:
    told_of(ledger, failure(), failure(channel="chat"), failure(to="ws2"))
    assert ledger.notifications_waiting() == {"on-call": 2, "chat": 1}
    first = ledger.claim_notification(after(60), LEASE)
    chat = ledger.claim_notification(after(60), LEASE)
    assert first is not None
    assert chat is not None
    assert [one.notification.channel for one in (first, chat)] == ["on-call", "chat"]
    assert ledger.claim_notification(after(60), LEASE) is None, "the second one follows the first"
    assert ledger.put_off_notification(first, after(90), "no answer")
    assert ledger.claim_notification(after(89), LEASE) is None
    assert ledger.next_notification() == after(60)
    assert ledger.finish_notification(chat, SENT, after(61))
    assert ledger.next_notification() == after(90)
    again = ledger.claim_notification(after(90), LEASE)
    assert again is not None
    assert (again.id, again.attempts, again.made_at) == (first.id, 2, after(60))
    assert ledger.finish_notification(again, GIVEN_UP, after(91))
    second = ledger.claim_notification(after(91), LEASE)
    assert second is not None
    assert second.notification.names == ("archive", "ws2")


def test_one_that_its_process_has_lost_is_delivered_by_another(ledger: SqlLedger) -> None:
    told_of(ledger, failure())
    lost = ledger.claim_notification(after(60), LEASE)
    assert lost is not None
    assert ledger.claim_notification(after(60 + LEASE), LEASE) is None
    taken = ledger.claim_notification(after(61 + LEASE), LEASE)
    assert taken is not None
    assert (taken.id, taken.attempts) == (lost.id, 2)
    assert not ledger.finish_notification(lost, SENT, after(70 + LEASE)), "it is not his any more"
    assert not ledger.put_off_notification(lost, after(999), "no")
    assert ledger.finish_notification(taken, SENT, after(70 + LEASE))
    assert not ledger.finish_notification(taken, SENT, after(70 + LEASE))


def test_only_one_of_many_delivers_it(url: str) -> None:
    with SqlLedger.open(url) as one, SqlLedger.open(url) as other, ThreadPoolExecutor(8) as pool:
        told_of(one, failure())
        ready = threading.Barrier(8)

        def claim(number: int) -> bool:
            ready.wait(30)
            return (one, other)[number % 2].claim_notification(after(60), LEASE) is not None

        assert sum(pool.map(claim, range(8))) == 1


def test_what_was_told_is_remembered_for_two_days(ledger: SqlLedger) -> None:
    told_of(ledger, failure())
    delivery = ledger.claim_notification(after(60), LEASE)
    assert delivery is not None
    ledger.put_off_notification(delivery, after(90), "mail:587 does not answer.")
    (waiting,) = ledger.notifications()
    assert (waiting.result, waiting.reason, waiting.next_at) == ("", "mail:587 does not answer.", after(90))
    delivery = ledger.claim_notification(after(90), LEASE)
    assert delivery is not None
    ledger.finish_notification(delivery, SENT, after(91))
    (told,) = ledger.notifications()
    assert (told.result, told.attempts, told.made_at, told.finished_at) == (SENT, 2, after(60), after(91))
    assert told.notification.counts == {"failed": 1}
    turned(ledger, (), after(91 + 2 * 86400))
    assert len(ledger.notifications()) == 1
    turned(ledger, (), after(92 + 2 * 86400))
    assert ledger.notifications() == []
    assert ledger.notifications_waiting() == {}
    assert ledger.next_notification() is None


def test_what_another_version_has_written_stands_in_nobodys_way(ledger: SqlLedger) -> None:
    told_of(ledger, failure(), failure(channel="chat"))
    with ledger._database.write() as connection:
        connection.execute(update(tables.notice_groups).values(state=b"\xc1"))
        broken = update(tables.notifications).where(tables.notifications.c.channel == "chat")
        connection.execute(broken.values(content=b"\xc1"))
    assert turned(ledger, [failure(2, at=after(61))], after(61)).notifications == ()
    (told,) = turned(ledger, (), after(1000)).notifications
    assert told.counts == {"failed": 1}
    found = {one.notification.channel for one in ledger.notifications()}
    delivered = [ledger.claim_notification(after(1000), LEASE) for _ in range(2)]
    assert found == {"on-call"}
    assert sum(one is not None for one in delivered) == 1
    assert ledger.notifications_waiting() == {"on-call": 2}
