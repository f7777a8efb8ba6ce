"""Tells people of what goes wrong: takes events, has the domain decide, and has a postman deliver.

An event costs its teller a few microseconds: it is added to what its group has collected, in memory. A second later
that goes into the ledger, all of it in one transaction, and there it is decided what is told. So a restart repeats
nothing and loses nothing, and several processes may work on one ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from router.domain.events import Event, NodeReachability
from router.domain.events_people import NotificationEnded, NotificationsWaiting
from router.domain.notice import KINDS, NODE, ROUTE, Key, Notice, hearers, is_used, notice_of
from router.domain.notice_delivery import FAILED, GIVEN_UP, SENT, SUPPRESSED, Delivery, tried_again_at
from router.domain.notice_group import Group, Turn, ended, merged, single, turn
from router.domain.notice_text import Sender
from router.domain.rule import RuleSet
from router.domain.transfer import Route
from router.errors import LedgerError, NotDelivered
from router.ledger.ledger import SqlLedger
from router.observe import logs
from router.observe.postman import DEADLINE, Postman

COLLECTED_SECONDS = 1.0
"""What has happened is in the ledger after so long."""
LEASE_SECONDS = 4 * DEADLINE
_IDLE_SECONDS = 60.0
"""How often the ledger is looked at where nothing is due: another process may have told it something."""
_TROUBLE_SECONDS = 5.0
_STOP_SECONDS = 5.0


class Notifier:
    """An observer of events that notifies people; thread-safe, never blocks and never raises.

    `rules` gives the running configuration, `now` the time (aware); `observer` is told what becomes of notifications.
    """

    def __init__(
        self,
        *,
        rules: Callable[[], RuleSet],
        ledger: SqlLedger,
        postman: Postman,
        now: Callable[[], datetime],
        observer: Callable[[Event], None],
    ) -> None:
        self._rules = rules
        self._ledger = ledger
        self._postman = postman
        self._now = now
        self._observer = observer
        self._changed = threading.Condition()
        self._news: dict[tuple[str, Key], Group] = {}
        self._over: dict[Key, datetime] = {}
        self._confirmed: set[Key] = set()
        """What goes on, as this process has seen it."""
        self._going_on: frozenset[Key] | None = None
        """What goes on by the ledger; None: it was not looked at yet."""
        self._next_at: datetime | None = None
        self._to_deliver = threading.Event()
        self._stopping = threading.Event()
        self._waiting: dict[str, int] = {}
        self._threads: list[threading.Thread] = []

    # what happens -----------------------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Take an event."""
        try:
            if isinstance(event, NodeReachability):
                self._reached(event)
                return
            notice = notice_of(event)
            if notice is not None:
                self._take(notice)
        except Exception as error:  # noqa: BLE001  a defect of ours must not cost the work that told of it
            logs.trouble("notify", error)

    def _take(self, notice: Notice) -> None:
        rules = self._rules()
        now = self._now()
        with self._changed:
            if not notice.word:
                self._note_end(notice.key, now)
                return
            if KINDS[notice.kind].ends:
                self._confirmed.add(notice.key)
            for channel in hearers(notice, rules):
                name = (channel, notice.key)
                self._news[name] = merged(self._news.get(name), single(channel, notice, now))
            if self._news:
                self._changed.notify()

    def _reached(self, event: NodeReachability) -> None:
        """A node answers. That says something only of one that did not before a restart: no breaker closes then."""
        key = (NODE, event.node)
        with self._changed:
            if event.up and key not in self._confirmed and (self._going_on is None or key in self._going_on):
                self._note_end(key, self._now())

    def _note_end(self, key: Key, now: datetime) -> None:
        known = self._going_on is None or key in self._going_on or key in self._confirmed
        self._confirmed.discard(key)
        if not known or not self._rules().router.notify.channels:
            return
        self._over[key] = now
        for name, group in self._news.items():
            if name[1] == key:
                self._news[name] = ended(group, now)
        self._changed.notify()

    # life -------------------------------------------------------------------------------------------------------------

    def start(self, stopped: Iterable[Route] = ()) -> None:
        """Begin to tell. `stopped`: the routes that are stopped now; others that were are not any more."""
        with self._changed:
            self._confirmed |= {(ROUTE, route.source, route.destination) for route in stopped}
        for work, name in ((self._collecting, "notify"), (self._delivering, "postman")):
            thread = threading.Thread(target=work, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Write down what has happened and stop; what is not delivered yet is delivered after the next start."""
        self._stopping.set()
        self._to_deliver.set()
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))
        self._postman.end()
        for thread in self._threads:
            thread.join(1.0)

    # collecting -------------------------------------------------------------------------------------------------------

    def _collecting(self) -> None:
        while not self._stopping.is_set():
            with self._changed:
                begins = self._going_on is None and bool(self._rules().router.notify.channels)
                if not (begins or self._news or self._over or self._stopping.is_set()):
                    self._changed.wait(self._idle_seconds())
                pause = COLLECTED_SECONDS if self._news or self._over else 0.0
            if pause:
                self._stopping.wait(pause)
            if not self._turned():
                self._stopping.wait(_TROUBLE_SECONDS)
        if self._news or self._over:
            self._turned()

    def _idle_seconds(self) -> float:
        if self._next_at is None:
            return _IDLE_SECONDS
        return min(_IDLE_SECONDS, max(0.05, (self._next_at - self._now()).total_seconds()))

    def _turned(self) -> bool:
        """One turn: what has happened goes into the ledger. False where that did not work."""
        rules = self._rules()
        settings = rules.router.notify
        with self._changed:
            news, self._news = self._news, {}
            over, self._over = self._over, {}
            now = self._now()
            if not settings.channels:
                return True  # nobody is told, and nobody will be
            known = {*self._confirmed, *(self._going_on or ()), *over}
            unused = {key for key in known if not is_used(key, rules)}
            confirmed = frozenset(self._confirmed - unused)
            gone = {key for key in unused if key[0] != ROUTE}  # a route may hold transfers of a rule that is gone
            self._confirmed -= gone
            over = dict.fromkeys(gone, now) | over
        try:
            done = self._ledger.turn_notices(
                lambda groups, made: turn(groups, news.values(), over, made, settings, now, confirmed, unused), now
            )
        except Exception as error:  # noqa: BLE001  whatever it was, what has happened must not be lost
            logs.trouble("notify", error)
            self._put_back(news, over)
            return False
        with self._changed:
            if self._going_on is None:  # routes that were stopped before the start, and are not any more
                resumed = {key for key in done.going_on if key[0] == ROUTE} - self._confirmed
                self._over |= dict.fromkeys(resumed, now)
            self._going_on = done.going_on
            self._next_at = done.next_at
        self._tell_of(done)
        return True

    def _put_back(self, news: dict[tuple[str, Key], Group], over: dict[Key, datetime]) -> None:
        with self._changed:
            for name, group in news.items():
                later = self._news.get(name)
                self._news[name] = group if later is None else merged(group, later)
            for key, at in over.items():
                self._over.setdefault(key, at)

    def _tell_of(self, done: Turn) -> None:
        for channel, count in done.summarised.items():
            self._observer(NotificationEnded(channel=channel, result=SUPPRESSED, count=count))
        if done.notifications:
            self._to_deliver.set()

    # delivering -------------------------------------------------------------------------------------------------------

    def _delivering(self) -> None:
        while not self._stopping.is_set():
            self._to_deliver.clear()
            pause = _IDLE_SECONDS
            try:
                self._show_waiting()
                while not self._stopping.is_set() and self._deliver_next():
                    self._show_waiting()
                due = self._ledger.next_notification()
                if due is not None:
                    pause = min(pause, max(1.0, (due - self._now()).total_seconds()))
            except LedgerError as error:
                logs.trouble("notify", error)
                pause = _TROUBLE_SECONDS
            except Exception as error:  # noqa: BLE001  a defect of ours must not end the telling
                logs.trouble("notify", error)
            self._to_deliver.wait(pause)

    def _deliver_next(self) -> bool:
        """Deliver one. False where none is due."""
        delivery = self._ledger.claim_notification(self._now(), LEASE_SECONDS)
        if delivery is None:
            return False
        settings = self._rules().router.notify
        told = delivery.notification
        channel = settings.channels.get(told.channel)
        if channel is None:
            self._end(delivery, GIVEN_UP, "The channel is not configured any more.")
            return True
        sender = sender_of(self._rules())
        try:
            remark = self._postman.deliver(channel, told, sender, self._identifiers(delivery))
        except NotDelivered as error:
            self._not_delivered(delivery, error)
        except Exception as error:  # noqa: BLE001  a defect of ours is an attempt that failed: others wait behind it
            logs.trouble("notify", error)
            self._not_delivered(delivery, NotDelivered(f"unforeseen {type(error).__name__}", refused=True))
        else:
            self._end(delivery, SENT, remark)
        return True

    def _identifiers(self, delivery: Delivery) -> dict[int, str]:
        """Number of a transfer -> its Study Instance UID, where people may read it: looked up when it is sent."""
        if not self._rules().router.notify.identifiers:
            return {}
        found = {one.transfer: self._ledger.transfer(one.transfer) for one in delivery.notification.examples}
        return {number: one.intent.study_instance_uid for number, one in found.items() if one is not None}

    def _not_delivered(self, delivery: Delivery, error: NotDelivered) -> None:
        now = self._now()
        again = tried_again_at(delivery, now, error.retry_after, refused=error.refused)
        if self._stopping.is_set():
            again = now + timedelta(seconds=1)  # it was broken off
        if again is None:
            self._end(delivery, GIVEN_UP, str(error))
            return
        if self._ledger.put_off_notification(delivery, again, str(error)):
            self._say(delivery, FAILED, str(error))

    def _end(self, delivery: Delivery, result: str, message: str) -> None:
        if self._ledger.finish_notification(delivery, result, self._now(), message):
            self._say(delivery, result, message)

    def _say(self, delivery: Delivery, result: str, message: str) -> None:
        told = delivery.notification
        self._observer(NotificationEnded(channel=told.channel, kind=told.kind, result=result, message=message))

    def _show_waiting(self) -> None:
        counts = self._ledger.notifications_waiting()
        for channel in {*counts, *self._waiting, *self._rules().router.notify.channels}:
            count = counts.get(channel, 0)
            if self._waiting.get(channel) != count:
                self._waiting[channel] = count
                self._observer(NotificationsWaiting(channel=channel, count=count))


def sender_of(rules: RuleSet) -> Sender:
    """Who tells: this router, with times as its machine has them."""
    router = rules.router
    return Sender(router.ae_title, router.notify.link, lambda at: f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}")
