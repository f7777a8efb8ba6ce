"""The notifier with a real ledger and real sinks: few notifications whatever happens, none twice, none lost."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.domain.condition import Condition
from router.domain.events import (
    BreakerClosed,
    BreakerOpened,
    ConfigurationLoaded,
    Event,
    NodeReachability,
    RouteResumed,
    RouteStopped,
    SweepEnded,
    TransferEnded,
)
from router.domain.events_people import NotificationEnded, NotificationsWaiting
from router.domain.notify import Mail, NotifySettings, Webhook
from router.domain.rule import Move, Node, RouterSettings, Rule, RuleSet, Sweep
from router.domain.transfer import Route
from router.errors import LedgerError
from router.ledger.ledger import SqlLedger
from router.observe import logs
from router.observe.metrics import Metrics
from router.observe.notify import Notifier
from router.observe.postman import Postman
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.sinks import Answer, MailSink, WebhookSink

NOW = datetime(2026, 11, 28, 2, 0, tzinfo=UTC)
UID = "1.2.826.0.1.3680043.8.498.{}"


NODES = {name: Node(name=name, ae_title=name.upper(), host="h", port=104) for name in ("archive", "ws", "other")}
RULES = {
    "ct": Rule(
        name="ct",
        sweep=Sweep(source="archive", tiers=()),
        where=Condition(),
        move=Move(to=("ws", "other")),
    )
}


class Clock:
    """A clock that a test sets forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class Desk:
    """A notifier on a ledger in a directory, as a service has it; what it tells its observer."""

    def __init__(self, directory: Path, **notify: Any) -> None:
        self.url = f"sqlite:///{directory}/ledger.db"
        self.clock = Clock()
        self.events: list[Event] = []
        self.metrics = Metrics()
        self.log = io.StringIO()
        logs.configure(self.log, json=True)
        self._log = logs.LogObserver()
        self.rules = RuleSet(router=RouterSettings(), nodes=NODES, rules=RULES, content_hash="x")
        self.configure(**notify)
        self.ledger = SqlLedger.open(self.url)
        self.notifier = self._new()

    def configure(self, **notify: Any) -> None:
        router = RouterSettings(ae_title="ROUTER", notify=NotifySettings(**({"wait": 1.0} | notify)))
        self.rules = msgspec.structs.replace(self.rules, router=router)
        self.metrics.configure(self.rules)

    def _new(self) -> Notifier:
        return Notifier(
            rules=lambda: self.rules,
            ledger=self.ledger,
            postman=Postman(lambda secret: "secret", timeout=2, deadline=5),
            now=self.clock.now,
            observer=self.observe,
        )

    def observe(self, event: Event) -> None:
        self.events.append(event)
        self.metrics(event)
        self._log(event)
        self.notifier(event)

    def restart(self, stopped: tuple[Route, ...] = (), meanwhile: Callable[[], None] = lambda: None) -> None:
        self.close()
        meanwhile()
        self.ledger = SqlLedger.open(self.url)
        self.notifier = self._new()
        self.notifier.start(stopped)

    def close(self) -> None:
        self.notifier.stop()
        self.ledger.close()

    def ended(self, result: str) -> list[NotificationEnded]:
        return [one for one in self.events if isinstance(one, NotificationEnded) and one.result == result]

    def collected(self) -> None:
        """Wait until what has happened is in the ledger."""
        wait_for(lambda: not self.notifier._news and not self.notifier._over, "the ledger to know")


@pytest.fixture
def sink() -> Iterator[MailSink]:
    with MailSink() as opened:
        yield opened


@pytest.fixture
def web() -> Iterator[WebhookSink]:
    with WebhookSink() as opened:
        yield opened


@contextlib.contextmanager
def desk_at(directory: Path, **notify: Any) -> Iterator[Desk]:
    desk = Desk(directory, **notify)
    desk.notifier.start()
    try:
        yield desk
    finally:
        desk.close()


def mail(sink: MailSink, **more: Any) -> Mail:
    return Mail(to=("a@x.example",), sender="r@x.example", host="127.0.0.1", port=sink.port, encryption="none", **more)


def failed(number: int, *, to: str = "ws", verdict: str = "failed", rule: str = "ct") -> TransferEnded:
    return TransferEnded(
        transfer=number,
        study=f"{number:012x}",
        rule=rule,
        source="archive",
        destination=to,
        verdict=verdict,
        reason=f"The peer refused {UID.format(number)}: 0xA700.",
        duration_seconds=1,
        seen_to_verified_seconds=1,
    )


def test_ten_thousand_failures_in_a_minute_are_one_notification_for_each_route(
    tmp_path: Path, sink: MailSink, web: WebhookSink
) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink), "chat": Webhook(url=web.url)}, wait=20.0) as desk:
        writes: list[float] = []
        turn_notices = desk.ledger.turn_notices
        desk.ledger.turn_notices = lambda decide, now: (  # type: ignore[method-assign]
            writes.append(time.monotonic()),
            turn_notices(decide, now),
        )[1]
        most = 0
        verdicts = ("failed", "partial", "contradicted")
        begun = time.monotonic()
        for number in range(10_000):
            event = failed(number, to=f"ws{number % 3}", verdict=verdicts[number % 7 % 3], rule=f"rule-{number % 4}")
            desk.notifier(event)
            if not number % 100:
                most = max(most, len(msgspec.msgpack.encode(list(desk.notifier._news.values()))))
        seconds = time.monotonic() - begun
        assert most < 20_000, "bytes that are kept, however much happens"
        assert len(writes) <= seconds + 2, "a write a second, not one for each event"
        sink.wait(3)
        posts = web.wait(3)
        desk.collected()
        time.sleep(1.5)
        assert len(sink.mails) == len(web.posts) == 3
        documents = [post.json for post in posts]
        assert {one["destination"] for one in documents} == {"ws0", "ws1", "ws2"}
        assert sum(sum(one["counts"].values()) for one in documents) == 10_000
        assert sum(sum(one["rules"].values()) for one in documents) == 10_000
        assert all(len(one["transfers"]) == 5 for one in documents)
        assert all(set(one["rules"]) == {f"rule-{number}" for number in range(4)} for one in documents)
        for text in (*sink.texts, *(str(one) for one in documents)):
            assert not re.search(r"\d+(\.\d+){5}", text), "no UID gets out"
        assert len(desk.ledger.notifications()) == 6


def test_a_restart_repeats_nothing_and_loses_nothing(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(failed(1))
        sink.wait(1)
        wait_for(lambda: desk.ended("sent"), "the mail to be known as sent")
        desk.restart()
        desk.observe(failed(2))
        desk.collected()
        desk.configure(channels={"on-call": mail(sink)}, wait=3600.0)
        desk.observe(failed(3, to="other"))
        desk.restart()
        time.sleep(2)
        assert len(sink.mails) == 1, "the first is not told again yet, the second collects"
        desk.clock.ahead = timedelta(hours=5)
        desk.restart()
        sink.wait(3)
    assert sorted(sink.subjects[1:]) == [
        "[dicom-router ROUTER] archive -> other: 1 transfer failed",
        "[dicom-router ROUTER] archive -> ws: 1 transfer failed",
    ]


def test_what_happens_in_the_last_moment_is_in_the_ledger(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(failed(1))
        desk.restart()
        sink.wait(1)


def test_routes_that_flow_again_after_a_restart_are_over(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(RouteStopped(source="archive", destination="ws", cause="x"))
        desk.observe(RouteStopped(source="archive", destination="other", cause="x"))
        sink.wait(2)
        wait_for(lambda: len(desk.ended("sent")) == 2, "both to be known as sent")
        desk.restart((Route("archive", "ws"),))
        sink.wait(3)
        assert sink.subjects[2].endswith("archive -> other: route works again")
        desk.clock.ahead = timedelta(hours=5)
        desk.restart((Route("archive", "ws"),))
        sink.wait(4)
        assert sink.subjects[3].endswith("archive -> ws: route stopped"), "a reminder: it still is"
        desk.observe(RouteResumed(source="archive", destination="ws"))
        sink.wait(5)
        assert sink.subjects[4].endswith("archive -> ws: route works again")


def test_what_is_good_from_the_start_is_no_news_and_costs_no_write(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(failed(1))
        sink.wait(1)
        desk.collected()
        for _ in range(3):
            desk.observe(BreakerClosed(node="ws", open_seconds=1))
            desk.observe(ConfigurationLoaded(successful=True))
        assert not desk.notifier._over
        desk.observe(BreakerOpened(node="ws", failures=5, pause_seconds=30, message="It does not answer."))
        sink.wait(2)
        desk.observe(BreakerClosed(node="ws", open_seconds=1))
        sink.wait(3)
    assert [subject.partition("] ")[2] for subject in sink.subjects[1:]] == ["ws does not answer", "ws answers again"]
    assert "It was: It does not answer." in sink.texts[2].replace("\r", "")


def test_a_node_that_answers_after_a_restart_is_told_of_and_one_that_is_left_alone_is_not(
    tmp_path: Path, sink: MailSink
) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(BreakerOpened(node="ws", failures=5, pause_seconds=30))
        sink.wait(1)
        desk.observe(NodeReachability(node="ws", up=True))
        desk.observe(NodeReachability(node="other", up=True))
        assert not desk.notifier._over, "it answers, but not what it is asked"
        desk.restart()
        desk.observe(NodeReachability(node="ws", up=False))
        assert not desk.notifier._over
        desk.observe(NodeReachability(node="ws", up=True))
        sink.wait(2)
        wait_for(lambda: desk.notifier._going_on == frozenset(), "nothing to go on")
        desk.observe(NodeReachability(node="ws", up=True))
        assert not desk.notifier._over, "each exchange with each node says so: no write for it"
    assert sink.subjects[1].endswith("ws answers again")


def test_of_what_the_configuration_has_no_more_the_end_is_told_and_nobody_is_reminded(
    tmp_path: Path, sink: MailSink
) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(BreakerOpened(node="ws", failures=5, pause_seconds=30))
        desk.observe(SweepEnded(rule="ct", source="archive", result="failed", duration_seconds=1))
        desk.observe(RouteStopped(source="archive", destination="ws", cause="x"))
        sink.wait(3)
        wait_for(lambda: len(desk.ended("sent")) == 3, "all to be known as sent")
        desk.rules = msgspec.structs.replace(desk.rules, nodes={}, rules={})
        desk.observe(failed(1, to="other"))  # wakes it: else it looks each minute
        sink.wait(6)
        desk.clock.ahead = timedelta(hours=5)
        desk.observe(failed(2, to="other"))
        sink.wait(7)
    told = [subject.partition("] ")[2] for subject in sink.subjects[3:]]
    assert sorted(told[:3]) == [
        "archive -> other: 1 transfer failed",
        "rule ct, archive: not in the configuration any more",
        "ws: not in the configuration any more",
    ]
    assert told[3:] == ["archive -> other: 1 transfer failed"], "and no reminder of the route"


def test_a_ledger_that_is_away_at_the_start_keeps_no_end_from_being_told(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(RouteStopped(source="archive", destination="ws", cause="x"))
        sink.wait(1)
        wait_for(lambda: desk.ended("sent"), "the mail to be known as sent")
        desk.close()
        desk.ledger = SqlLedger.open(desk.url)
        turn_notices, broken = desk.ledger.turn_notices, [True]

        def turn(decide: Any, now: datetime) -> Any:
            if broken:
                broken.pop()
                raise LedgerError("The ledger is away.")
            return turn_notices(decide, now)

        desk.ledger.turn_notices = turn  # type: ignore[method-assign]
        desk.notifier = desk._new()
        desk.notifier.start()
        sink.wait(2)
        assert not broken
    assert sink.subjects[1].endswith("archive -> ws: route works again")


def test_without_channels_nothing_is_kept(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}, wait=60.0) as desk:
        desk.observe(failed(1))
        desk.configure()
        desk.collected()
        desk.observe(failed(2))
        assert not desk.notifier._news


def test_a_clock_that_is_set_back_keeps_nothing_from_being_told(tmp_path: Path, web: WebhookSink) -> None:
    with desk_at(tmp_path, channels={"chat": Webhook(url=web.url)}, at_most=1) as desk:
        desk.clock.ahead = timedelta(days=400)
        web.answers = [Answer(200), Answer(503, {"Retry-After": "3600"})]
        desk.observe(failed(1))
        web.wait(1)
        desk.clock.ahead += timedelta(hours=2)
        desk.observe(failed(2, to="other"))
        web.wait(2)
        wait_for(lambda: desk.ended("failed"), "the second to be put off")
        desk.clock.ahead = timedelta()
        desk.restart()
        web.wait(3)
        desk.clock.ahead = timedelta(hours=5)
        desk.observe(failed(3))
        assert web.wait(4)[3].json["destination"] == "ws"


def test_why_a_notification_was_given_up_and_what_there_is_to_remark_is_remembered_and_told(
    tmp_path: Path, sink: MailSink
) -> None:
    sink.refuses = {"b@x.example"}
    channel = msgspec.structs.replace(mail(sink), to=("a@x.example", "b@x.example"))
    gone = Webhook(url=f"http://127.0.0.1:{free_port()}/")
    with desk_at(tmp_path, channels={"on-call": channel, "old": gone}) as desk:
        desk.observe(failed(1))
        wait_for(lambda: desk.ended("failed") and desk.ended("sent"), "one sent and one not")
        desk.configure(channels={"on-call": channel})
        desk.clock.ahead = timedelta(minutes=1)
        desk.restart()
        wait_for(lambda: desk.ended("given_up"), "the old channel to be given up")
        reasons = {one.notification.channel: one.reason for one in desk.ledger.notifications()}
        assert [one["level"] for one in lines(desk) if one.get("result") == "sent"] == ["warning"]
    assert reasons == {
        "on-call": "1 of 2 recipients were refused",
        "old": "The channel is not configured any more.",
    }


def test_what_cannot_be_delivered_is_tried_again_in_order_and_told_in_the_log(tmp_path: Path, web: WebhookSink) -> None:
    channel = Webhook(url=f"http://127.0.0.1:{(port := free_port())}/very-secret")
    with desk_at(tmp_path, channels={"chat": channel}) as desk:
        desk.observe(failed(1))
        wait_for(lambda: desk.ended("failed"), "the first attempt")
        desk.observe(failed(2, to="other"))
        wait_for(lambda: desk.ledger.notifications_waiting() == {"chat": 2}, "the second to wait behind it")
        wait_for(lambda: 'notifications_waiting{channel="chat"} 2.0' in text_of(desk), "the metric")
        assert 'notifications_total{channel="chat",result="failed"} 1.0' in text_of(desk)
        (line,) = [one for one in lines(desk) if one["level"] == "warning"]
        assert line["detail"] == f"127.0.0.1:{port} cannot be reached (Connection refused)."
        assert (line["channel"], line["kind"], line["result"]) == ("chat", "transfers", "failed")
        desk.configure(channels={"chat": Webhook(url=web.url)})
        desk.clock.ahead = timedelta(minutes=1)
        desk.restart()
        first, second = web.wait(2)
        assert (first.json["destination"], second.json["destination"]) == ("ws", "other")
        wait_for(lambda: 'notifications_waiting{channel="chat"} 0.0' in text_of(desk), "the metric")
        assert 'notifications_total{channel="chat",result="sent"} 2.0' in text_of(desk)
        assert "very-secret" not in desk.log.getvalue()


def test_what_could_not_be_delivered_for_a_day_is_given_up_and_the_next_has_its_turn(
    tmp_path: Path, web: WebhookSink
) -> None:
    with desk_at(tmp_path, channels={"chat": Webhook(url=web.url)}) as desk:
        web.answers = [Answer(503, {"Retry-After": "60"}), Answer(503), Answer(200)]
        desk.observe(failed(1))
        wait_for(lambda: desk.ended("failed"), "the first attempt")
        desk.observe(failed(2, to="other"))
        wait_for(lambda: desk.ledger.notifications_waiting() == {"chat": 2}, "the second to wait behind it")
        desk.clock.ahead = timedelta(hours=25)
        desk.restart()
        web.wait(3)
        wait_for(lambda: desk.ended("sent"), "the second to be sent")
        (given_up,) = desk.ended("given_up")
        assert "answered with status 503" in given_up.message
        assert web.posts[2].json["destination"] == "other"
        assert [one["level"] for one in lines(desk) if one.get("result") == "given_up"] == ["error"]


def test_a_channel_that_is_not_configured_any_more_is_given_up(tmp_path: Path, web: WebhookSink) -> None:
    gone = Webhook(url=f"http://127.0.0.1:{free_port()}/")
    with desk_at(tmp_path, channels={"old": gone}) as desk:
        desk.observe(failed(1))
        wait_for(lambda: desk.ended("failed"), "the first attempt")
        desk.configure(channels={"chat": Webhook(url=web.url)})
        desk.clock.ahead = timedelta(minutes=1)
        desk.restart()
        wait_for(lambda: desk.ended("given_up"), "the old channel to be given up")
        desk.observe(failed(2))
        web.wait(1)


def test_two_services_on_one_ledger_tell_once(tmp_path: Path, sink: MailSink) -> None:
    with (
        desk_at(tmp_path, channels={"on-call": mail(sink)}, wait=5.0) as one,
        desk_at(tmp_path, channels={"on-call": mail(sink)}, wait=5.0) as other,
    ):
        for number in range(100):
            (one, other)[number % 2].notifier(failed(number))
        sink.wait(1)
        time.sleep(3)
    assert sink.subjects == ["[dicom-router ROUTER] archive -> ws: 100 transfers failed"]


def test_a_channel_that_hangs_keeps_nobody_from_collecting(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        released = threading.Event()
        deliver = desk.notifier._postman.deliver

        def hang(*arguments: Any) -> str:
            released.wait(60)
            return deliver(*arguments)

        desk.notifier._postman.deliver = hang  # type: ignore[method-assign]
        desk.observe(failed(1))
        wait_for(lambda: desk.ledger.notifications_waiting(), "one to be on its way")
        desk.observe(failed(2))
        desk.collected()
        released.set()
        sink.wait(1)


def test_a_ledger_that_fails_costs_no_event_and_nobody_who_tells_of_one(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        turn_notices, broken = desk.ledger.turn_notices, [True]

        def turn(decide: Any, now: datetime) -> Any:
            if broken:
                broken.pop()
                raise LedgerError("The ledger is away.")
            return turn_notices(decide, now)

        desk.ledger.turn_notices = turn  # type: ignore[method-assign]
        desk.observe(failed(1))
        wait_for(lambda: not broken, "the ledger to fail")
        desk.observe(failed(2))
        sink.wait(1)
    assert sink.subjects == ["[dicom-router ROUTER] archive -> ws: 2 transfers failed"]


def test_who_changes_the_settings_changes_what_is_told_from_then_on(
    tmp_path: Path, sink: MailSink, web: WebhookSink
) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(failed(1))
        sink.wait(1)
        desk.configure(channels={"chat": Webhook(url=web.url)}, on=("partial",))
        desk.observe(failed(2))
        desk.observe(failed(3, verdict="partial"))
        (post,) = web.wait(1)
    assert post.json["counts"] == {"partial": 1}


def text_of(desk: Desk) -> str:
    return desk.metrics.render("")[0].decode()


def lines(desk: Desk) -> list[dict[str, Any]]:
    return [json.loads(line) for line in desk.log.getvalue().splitlines()]


def test_waiting_is_told_when_it_changes_only(tmp_path: Path, sink: MailSink) -> None:
    with desk_at(tmp_path, channels={"on-call": mail(sink)}) as desk:
        desk.observe(failed(1))
        sink.wait(1)
        wait_for(lambda: desk.ended("sent"), "the mail to be known as sent")
        wait_for(
            lambda: [one.count for one in desk.events if isinstance(one, NotificationsWaiting)][-1:] == [0], "none left"
        )
        counts = [one.count for one in desk.events if isinstance(one, NotificationsWaiting)]
        assert counts in ([0], [0, 1, 0], [1, 0])
