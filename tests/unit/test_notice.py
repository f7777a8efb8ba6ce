"""What is told of trouble, to whom and when: decided from values, whatever comes in whatever order."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.condition import Condition
from router.domain.events import (
    BreakerClosed,
    BreakerOpened,
    CertificateExpires,
    ConfigurationLoaded,
    DiskSpace,
    Event,
    InstanceStored,
    LookEnded,
    PriorEnded,
    RouteResumed,
    RouteStopped,
    SweepEnded,
    TransferEnded,
)
from router.domain.notice import KINDS, SEVERITIES, Key, Notice, hearers, notice_of, size_text
from router.domain.notice_delivery import Delivery, tried_again_at
from router.domain.notice_group import (
    MOST_EXAMPLES,
    MOST_PARTS,
    MOST_RULES,
    SUMMARY,
    Group,
    Notification,
    Turn,
    merged,
    single,
    turn,
)
from router.domain.notice_template import TemplateFault, check, render_json, samples
from router.domain.notice_text import Sender, discreet, document_of, text_of, title_of
from router.domain.notify import WORDS, Mail, NotifySettings, RuleNotify
from router.domain.rule import Move, RouterSettings, Rule, RuleSet, Sweep

NOW = datetime(2026, 11, 28, 2, 0, tzinfo=UTC)
MAIL = Mail(to=("a@x.example",), sender="r@x.example", host="mail", port=587)
SETTINGS = NotifySettings(channels={"on-call": MAIL})
UID = "1.2.826.0.1.3680043.8.498.4711"


def ended(number: int = 1, *, verdict: str = "failed", rule: str = "ct", to: str = "ws", reason: str = "") -> Event:
    return TransferEnded(
        transfer=number,
        study="0c5ae3c9b1f4",
        rule=rule,
        source="archive",
        destination=to,
        verdict=verdict,
        reason=reason,
        duration_seconds=1,
        seen_to_verified_seconds=1,
    )


def swept(result: str, **more: str) -> Event:
    return SweepEnded(rule="ct", source="archive", result=result, duration_seconds=1, **more)  # type: ignore[arg-type]


def said(event: Event) -> Notice:
    found = notice_of(event)
    assert found is not None
    return found


# --- What events say --------------------------------------------------------------------------------------------------

SAYS: list[tuple[Event, Key, str, str]] = [
    (ended(), ("transfers", "archive", "ws"), "failed", "error"),
    (ended(verdict="partial"), ("transfers", "archive", "ws"), "partial", "error"),
    (ended(verdict="contradicted", rule="mr"), ("transfers", "archive", "ws"), "contradicted", "error"),
    (RouteStopped(source="archive", destination="ws", cause="x"), ("route", "archive", "ws"), "route-stopped", "error"),
    (RouteResumed(source="archive", destination="ws"), ("route", "archive", "ws"), "", "error"),
    (BreakerOpened(node="ws", failures=5, pause_seconds=30), ("node", "ws"), "node-down", "error"),
    (BreakerClosed(node="ws", open_seconds=30), ("node", "ws"), "", "error"),
    (swept("failed"), ("sweep", "ct", "archive"), "sweep-failed", "error"),
    (swept("incomplete"), ("sweep", "ct", "archive"), "sweep-incomplete", "warning"),
    (swept("complete"), ("sweep", "ct", "archive"), "", "error"),
    (
        LookEnded(rule="ct", source="archive", appointment=1, result="failed"),
        ("look", "ct", "archive"),
        "look-failed",
        "error",
    ),
    (PriorEnded(rule="ct", result="late"), ("priors", "ct"), "priors-late", "warning"),
    (PriorEnded(rule="ct", result="missing"), ("priors", "ct"), "priors-late", "error"),
    (ConfigurationLoaded(successful=False), ("configuration",), "reload-failed", "error"),
    (ConfigurationLoaded(successful=True), ("configuration",), "", "error"),
    (DiskSpace(state="low", free=2, size=9, minimum=1), ("disk",), "disk-low", "warning"),
    (DiskSpace(state="full", free=0, size=9, minimum=1), ("disk",), "disk-low", "critical"),
    (DiskSpace(state="ok", free=9, size=9, minimum=1), ("disk",), "", "error"),
    (
        CertificateExpires(certificate="router.tls.ca", state="expiring", expires_at=NOW),
        ("certificate", "router.tls.ca"),
        "certificate-expiring",
        "warning",
    ),
    (
        CertificateExpires(certificate="router.tls.ca", state="unreadable"),
        ("certificate", "router.tls.ca"),
        "certificate-expiring",
        "critical",
    ),
    (CertificateExpires(certificate="router.tls.ca", state="ok"), ("certificate", "router.tls.ca"), "", "error"),
]


@pytest.mark.parametrize(("event", "key", "word", "severity"), SAYS, ids=map(str, range(len(SAYS))))
def test_an_event_says_what_happened_to_which_group(event: Event, key: Key, word: str, severity: str) -> None:
    notice = said(event)
    assert (notice.key, notice.word, notice.severity) == (key, word, severity)
    assert len(notice.names) == len(KINDS[notice.kind].fields)


def test_every_word_is_said_by_some_event_and_every_end_is_known() -> None:
    assert {word for _, _, word, _ in SAYS if word} == set(WORDS)
    assert {key[0] for _, key, word, _ in SAYS if not word} == {kind for kind, known in KINDS.items() if known.ends}
    assert {key[0] for _, key, _, _ in SAYS} == set(KINDS)


@pytest.mark.parametrize(
    "event",
    [
        *(ended(verdict=verdict) for verdict in ("complete", "nothing", "unproven", "cancelled")),
        swept("failed", cause="cancelled"),
        swept("failed", cause="rule-removed"),
        LookEnded(rule="ct", source="archive", appointment=1, result="again"),
        PriorEnded(rule="ct", result="on_time"),
        InstanceStored(calling="ws", status=0xA700),
    ],
    ids=("complete", "nothing", "unproven", "cancelled", "broken off", "rule removed", "again", "on time", "refused"),
)
def test_nobody_is_told_of_what_is_as_it_should_be_or_was_wanted(event: Event) -> None:
    assert notice_of(event) is None


def test_diagnostics_of_a_rejected_configuration_are_told_and_not_without_end() -> None:
    lines = tuple(f"site.yaml:{number}:1: error DR010 there is no key" for number in range(9))
    detail = said(ConfigurationLoaded(successful=False, diagnostics=lines)).detail
    assert detail.count("DR010") == 5
    assert detail.endswith("and more; see dicom-router validate")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 30, "1 GiB"), (5 << 29, "2.5 GiB"), (4000 << 40, "4000 TiB")]
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert size_text(size) == text


# --- Who hears --------------------------------------------------------------------------------------------------------


def rule(name: str, **more: Any) -> Rule:
    return Rule(
        name=name,
        sweep=Sweep(source="archive", tiers=()),
        where=Condition(),
        move=Move(to=("ws",)),
        **more,
    )


def ruled(*rules: Rule, **notify: Any) -> RuleSet:
    channels = dict.fromkeys(("on-call", "chat", "it"), MAIL)
    router = RouterSettings(notify=NotifySettings(channels=channels, **notify))  # type: ignore[arg-type]
    return RuleSet(router=router, nodes={}, rules={one.name: one for one in rules}, content_hash="x")


def heard(event: Event, rules: RuleSet) -> set[str]:
    return set(hearers(said(event), rules))


STOPPED = RouteStopped(source="archive", destination="ws", cause="x")
DOWN = BreakerOpened(node="ws", failures=5, pause_seconds=30)


def test_without_more_all_channels_hear_of_everything() -> None:
    rules = ruled(rule("ct"))
    for event, _, word, _ in SAYS:
        if word:
            assert heard(event, rules) == {"on-call", "chat", "it"}


def test_a_rules_own_wishes_count_for_its_own_work() -> None:
    rules = ruled(
        rule("ct", notify=RuleNotify(to=("chat",))),
        rule("mr", notify=RuleNotify(on=("partial",))),
        rule("us", notify=RuleNotify(to=())),
        to=("on-call",),
        on=("failed", "node-down"),
    )
    assert heard(ended(rule="ct"), rules) == {"chat"}
    assert heard(ended(rule="ct", verdict="partial"), rules) == set()
    assert heard(ended(rule="mr"), rules) == set()
    assert heard(ended(rule="mr", verdict="partial"), rules) == {"on-call"}
    assert heard(ended(rule="us"), rules) == set()
    assert heard(ended(rule="removed"), rules) == {"on-call"}
    assert heard(DOWN, rules) == {"on-call"}


def test_of_a_stopped_route_those_hear_whose_rules_use_it() -> None:
    chat = rule("ct", notify=RuleNotify(to=("chat",)))
    silent = rule("us", notify=RuleNotify(to=()))
    assert heard(STOPPED, ruled(chat, silent, to=("on-call",))) == {"chat"}
    assert heard(STOPPED, ruled(chat, rule("mr"), to=("on-call",))) == {"chat", "on-call"}
    assert heard(STOPPED, ruled(silent)) == set()
    assert heard(STOPPED, ruled(to=("it",))) == {"it"}


def test_a_channel_that_is_not_there_hears_nothing() -> None:
    assert heard(ended(), ruled(rule("ct", notify=RuleNotify(to=("new", "chat"))))) == {"chat"}


# --- When ------------------------------------------------------------------------------------------------------------


class Desk:
    """Groups over time, as the ledger holds them; everything that is told, with its time."""

    def __init__(self, settings: NotifySettings = SETTINGS) -> None:
        self.settings = settings
        self.now = NOW
        self.groups: dict[tuple[str, Key], Group] = {}
        self.told: list[tuple[datetime, Notification]] = []
        self.confirmed: set[Key] = set()
        self.next_at: datetime | None = None

    def after(self, seconds: float) -> Desk:
        """Let time pass, with a turn whenever one is due."""
        end = self.now + timedelta(seconds=seconds)
        while self.next_at is not None and self.next_at <= end:
            self.now = self.next_at
            self.turn()
        self.now = end
        return self

    def happens(self, *events: Event) -> Turn:
        """These happen now, and a turn follows."""
        news: dict[tuple[str, Key], Group] = {}
        over: dict[Key, datetime] = {}
        for event in events:
            notice = said(event)
            if notice.word:
                if KINDS[notice.kind].ends:
                    self.confirmed.add(notice.key)
                for channel in self.settings.heard_by:
                    name = (channel, notice.key)
                    news[name] = merged(news.get(name), single(channel, notice, self.now))
            else:
                self.confirmed.discard(notice.key)
                over[notice.key] = self.now
        return self.turn(news.values(), over)

    def turn(self, news: Iterable[Group] = (), over: dict[Key, datetime] | None = None) -> Turn:
        made: dict[str, list[datetime]] = {}
        for at, told in self.told:
            made.setdefault(told.channel, []).append(at)
        done = turn(self.groups.values(), news, over or {}, made, self.settings, self.now, self.confirmed)
        for name in done.forgotten:
            del self.groups[name]
        # As the ledger keeps them.
        self.groups |= {
            (one.channel, one.key): msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Group)
            for one in done.changed
        }
        self.told += [(self.now, one) for one in done.notifications]
        assert done.next_at is None or done.next_at > self.now
        self.next_at = done.next_at
        return done

    @property
    def titles(self) -> list[str]:
        return [title_of(one) for _, one in self.told]

    @property
    def minutes(self) -> list[float]:
        return [(at - NOW).total_seconds() / 60 for at, _ in self.told]


def test_what_happens_within_the_wait_is_told_at_once_and_then_not_for_long() -> None:
    desk = Desk()
    for number in range(30):
        desk.happens(ended(number, verdict="partial" if number % 3 else "failed"))
        desk.after(1)
    desk.after(29)
    assert desk.told == []
    desk.after(1)
    assert desk.titles == ["archive -> ws: 10 transfers failed, 20 transfers partial"]
    desk.happens(*(ended(number) for number in range(100)))
    desk.after(3600 * 3)
    assert len(desk.told) == 1
    desk.after(3600 * 2)
    assert desk.titles[1:] == ["archive -> ws: 100 transfers failed"]
    assert desk.minutes == [1, 241]
    desk.after(3600 * 24)
    assert len(desk.told) == 2, "nothing happened any more"
    desk.happens(ended())
    desk.after(61)
    assert len(desk.told) == 3


def test_a_group_is_forgotten_when_there_is_nothing_left_to_be_quiet_about() -> None:
    desk = Desk()
    desk.happens(ended(), DOWN)
    desk.after(600)
    desk.happens(BreakerClosed(node="ws", open_seconds=1))
    desk.after(3600 * 5)
    desk.turn()
    assert desk.groups == {}


def test_what_goes_on_is_told_once_and_once_that_it_is_over() -> None:
    desk = Desk()
    desk.happens(DOWN)
    for _ in range(10):
        desk.after(600)
        desk.happens(DOWN)
    assert desk.titles == ["ws does not answer"]
    desk.happens(BreakerClosed(node="ws", open_seconds=1))
    desk.after(120)
    assert desk.titles == ["ws does not answer", "ws answers again"]
    assert desk.told[1][1].counts == {"node-down": 10}
    assert [one.number for _, one in desk.told] == [1, 2]
    assert len({one.thread for _, one in desk.told}) == 1


def test_what_is_over_before_it_was_told_is_told_in_one() -> None:
    desk = Desk()
    desk.happens(DOWN)
    desk.after(20)
    desk.happens(BreakerClosed(node="ws", open_seconds=1))
    desk.after(3600)
    assert desk.titles == ["ws answers again"]
    assert desk.told[0][1].counts == {"node-down": 1}


def test_what_stands_is_reminded_of_until_it_is_over() -> None:
    desk = Desk()
    desk.happens(STOPPED)
    desk.after(3600 * 13)
    assert desk.titles == ["archive -> ws: route stopped"] * 4
    assert desk.minutes == [1, 241, 481, 721]
    assert "Still so" in text_of(desk.told[1][1], Sender("ROUTER"))
    desk.happens(RouteResumed(source="archive", destination="ws"))
    desk.after(3600 * 13)
    assert desk.titles[4:] == ["archive -> ws: route works again"]


def test_after_a_restart_it_is_reminded_of_only_what_is_seen_to_go_on() -> None:
    desk = Desk()
    desk.happens(STOPPED)
    desk.after(60)
    desk.confirmed.clear()
    desk.turn()
    desk.after(3600 * 24)
    assert len(desk.told) == 1
    desk.confirmed.add(said(STOPPED).key)
    desk.turn()
    desk.after(1)
    assert len(desk.told) == 2
    desk.confirmed.clear()
    desk.turn()
    desk.after(3600 * 24 * 8)
    desk.turn()
    assert desk.groups == {}, "nobody has heard of it for a week"


def test_what_gets_worse_is_told_at_once() -> None:
    desk = Desk()
    desk.happens(DiskSpace(state="low", free=2, size=9, minimum=1))
    desk.after(600)
    desk.happens(DiskSpace(state="full", free=0, size=9, minimum=1))
    desk.after(600)
    assert desk.titles == ["the store is nearly full", "the store is full: instances are refused"]
    desk.happens(DiskSpace(state="low", free=2, size=9, minimum=1))
    desk.after(600)
    assert len(desk.told) == 2, "better, and not good"
    desk.happens(DiskSpace(state="ok", free=9, size=9, minimum=1))
    desk.after(600)
    assert desk.titles[2:] == ["the store has room again"]
    desk.happens(DiskSpace(state="low", free=2, size=9, minimum=1))
    desk.after(600)
    assert desk.titles[3:] == ["the store is nearly full"], "it was over in between"


def test_what_comes_and_goes_is_told_less_and_less_and_what_comes_back_to_stay_is_told() -> None:
    desk = Desk()
    for _ in range(24 * 6):
        desk.happens(DOWN)
        desk.after(300)
        desk.happens(BreakerClosed(node="ws", open_seconds=1))
        desk.after(300)
    assert 4 <= len(desk.told) <= 24, "in a day"
    desk.happens(DOWN)
    desk.after(3600 * 4)
    assert desk.titles[-1] == "ws does not answer"


def test_more_than_is_allowed_is_told_in_a_summary() -> None:
    desk = Desk(msgspec.structs.replace(SETTINGS, at_most=3))
    done = desk.happens(
        *(ended(to=f"ws{number}") for number in range(50)), DiskSpace(state="full", free=0, size=9, minimum=1)
    )
    desk.after(60)
    assert done.notifications == ()
    assert [one.kind for _, one in desk.told] == ["disk", "transfers", "summary"]
    summary = desk.told[2][1]
    assert (len(summary.parts), summary.unnamed, summary.counts) == (MOST_PARTS, 49 - MOST_PARTS, {"failed": 49})
    assert title_of(summary) == "49 things at once: 49 transfers failed"
    assert f"and {49 - MOST_PARTS} more" in text_of(summary, Sender("ROUTER"))
    desk.happens(BreakerOpened(node="late", failures=5, pause_seconds=30), DOWN)
    desk.after(3598)
    assert len(desk.told) == 3, "nothing more in this hour"
    desk.after(3)
    assert desk.titles[3:] == ["late does not answer", "ws does not answer"]


def test_a_channel_that_is_gone_takes_its_groups_with_it() -> None:
    desk = Desk()
    desk.happens(ended())
    desk.settings = NotifySettings(channels={"other": MAIL})
    desk.turn()
    assert desk.groups == {}
    assert desk.next_at is None


def test_a_group_stays_small_whatever_happens() -> None:
    notices = [said(ended(number, rule=f"r{number % 200}", reason="x" * 5000)) for number in range(2000)]
    group = None
    for notice in notices:
        group = merged(group, single("on-call", notice, NOW))
    assert group is not None
    assert (group.counts, len(group.examples)) == ({"failed": 2000}, MOST_EXAMPLES)
    assert len(group.rules) == MOST_RULES
    assert sum(group.rules.values()) == 2000
    assert len(msgspec.msgpack.encode(group)) < 5000


# --- Whatever comes ---------------------------------------------------------------------------------------------------

EVENTS: list[Event] = [event for event, _, _, _ in SAYS] + [
    ended(to="ws2"),
    BreakerOpened(node="b", failures=1, pause_seconds=1),
]
STEPS = st.lists(
    st.tuples(st.lists(st.sampled_from(EVENTS), max_size=4), st.sampled_from((0, 1, 30, 61, 600, 3600, 15000))),
    max_size=25,
)
WAYS = st.builds(
    lambda wait, again, at_most: msgspec.structs.replace(SETTINGS, wait=wait, again=again, at_most=at_most),
    st.sampled_from((0.0, 60.0, 300.0)),
    st.sampled_from((1200.0, 3600.0, 14400.0)),
    st.integers(1, 6),
)


def counted(desk: Desk) -> Counter[str]:
    """What was told and what is still to be told, by word."""
    found: Counter[str] = Counter()
    for one in (*(told for _, told in desk.told), *desk.groups.values()):
        found.update(one.counts)
    return found


@settings(max_examples=60)
@given(STEPS, WAYS)
def test_nothing_is_lost_and_never_is_more_told_than_is_allowed(
    steps: list[tuple[list[Event], int]], way: NotifySettings
) -> None:
    desk = Desk(way)
    happened: Counter[str] = Counter()
    for events, pause in steps:
        desk.happens(*events)
        happened.update(word for event in events if (word := said(event).word))
        assert counted(desk) == happened
        desk.after(pause)
    desk.after(86400)
    assert counted(desk) == happened
    times = [at for at, _ in desk.told]
    for index in range(len(times) - way.at_most):
        assert times[index + way.at_most] - times[index] >= timedelta(hours=1)
    assert not any(group.counts for group in desk.groups.values()), "in the end everything is told"


@settings(max_examples=60)
@given(STEPS, WAYS)
def test_a_group_is_told_again_early_only_when_it_is_over_came_back_or_got_worse(
    steps: list[tuple[list[Event], int]], way: NotifySettings
) -> None:
    desk = Desk(msgspec.structs.replace(way, at_most=1000))
    for events, pause in steps:
        desk.happens(*events)
        desk.after(pause)
    again = timedelta(seconds=way.again)
    by_group: dict[Key, list[tuple[datetime, Notification]]] = {}
    for at, told in desk.told:
        assert told.kind != SUMMARY
        by_group.setdefault((told.kind, *told.names), []).append((at, told))
    for key, messages in by_group.items():
        for (before_at, before), (at, told) in itertools.pairwise(messages):
            worse = SEVERITIES.index(told.severity) > SEVERITIES.index(before.severity)
            assert at - before_at >= again or told.over or before.over or worse, key
        if not KINDS[key[0]].ends:
            assert not any(told.over for _, told in messages)
        # What comes and goes has to last longer each time: so it is told a few times, however often it does.
        most = 2 * (3 + math.log2(max(2.0, way.again / max(way.wait, 1.0)))) + 2 * len(SEVERITIES)
        if way.wait:
            for index, (start, _) in enumerate(messages):
                assert sum(at - start < again for at, _ in messages[index:]) <= most, key


# --- Texts ------------------------------------------------------------------------------------------------------------


@given(st.sampled_from(EVENTS), st.text(max_size=200))
def test_no_uid_gets_out_whatever_a_reason_says(event: Event, text: str) -> None:
    notice = said(event)
    if not notice.word:
        return
    reason = f"{text} {UID} {text}"
    desk = Desk()
    group = single("on-call", msgspec.structs.replace(notice, detail=reason), NOW)
    desk.turn([group])
    desk.after(7200)
    for _, told in desk.told:
        document = document_of(told, Sender(f"ROUTER {UID}"))
        assert UID not in document["text"] + document["title"] + document["detail"]
        assert all(UID not in one["reason"] for one in document["transfers"])
        assert "\n" not in document["title"]
        assert all(character.isprintable() or character == "\n" for character in document["text"])


def test_a_uid_stands_there_only_where_it_is_handed_in() -> None:
    desk = Desk()
    desk.happens(ended(7), ended(8))
    desk.after(60)
    ((_, told),) = desk.told
    assert f"transfer 7, study {UID}: failed" in text_of(told, Sender("ROUTER"), {7: UID})
    assert "transfer 8, study 0c5ae3c9b1f4: failed" in text_of(told, Sender("ROUTER"), {7: UID})
    first, second = document_of(told, Sender("ROUTER"), {7: UID})["transfers"]
    assert first["study_instance_uid"] == UID
    assert "study_instance_uid" not in second
    assert UID not in str(document_of(told, Sender("ROUTER")))


def test_what_looks_like_a_uid_is_taken_out_and_addresses_stay() -> None:
    assert discreet(f"of {UID}, 2.25.123 at 10.0.0.5:104\x1b[31m") == "of …, … at 10.0.0.5:104 [31m"


def test_every_kind_has_a_title_and_a_text_as_trouble_and_as_its_end() -> None:
    documents = samples()
    assert {(one["kind"], one["status"]) for one in documents} >= {
        (kind, status)
        for kind, known in KINDS.items()
        for status in (("firing", "resolved") if known.ends else ("firing",))
    }
    titles = [one["title"] for one in documents]
    assert len(set(titles)) == len(titles)
    assert all(one["text"].startswith(f"{one['title']}.\n") for one in documents)


# --- Templates --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        '{"text": {{ text | tojson }}}',
        '{"a": [{% for one in transfers %}{{ one.id }}{{ "," if not loop.last }}{% endfor %}]}',
        '{"event_action": "{{ "resolve" if status == "resolved" else "trigger" }}"}',
    ],
)
def test_a_template_may_make_any_json(template: str) -> None:
    check(template, makes_json=True)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ txt }}", "asks for txt, which is not there; there are: version"),
        ("{% if %}", "is no template: line 1"),
        ('{"text": {{ text }}}', "makes no JSON: line 1"),
        ('{"text": NaN}', "makes no JSON"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ transfers[5].id }}", "asks for something that is not there"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'etc/passwd' %}", "cannot be used"),
        ("{{ 'x' * 300000 }}", "more than 256 KiB"),
        ("{{ 10 ** 9 ** 9 }}", "powers are not worked out"),
        ("{% for i in range(9999) %}{{ text }}{% endfor %}", "more than 256 KiB"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "counts to more than 10000"),
        ("{{ lipsum(n=1000000) }}", "asks for lipsum"),
        ("x" * 70000, "longer than 64 KiB"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(template: str, says: str) -> None:
    with pytest.raises(TemplateFault, match=says):
        check(template, makes_json=True)


def test_a_template_cannot_change_what_others_see() -> None:
    document = samples()[0]
    with pytest.raises(TemplateFault):
        render_json("{{ counts.clear() }}", document)
    assert document["counts"]


# --- Deliveries -------------------------------------------------------------------------------------------------------


def delivery(attempts: int) -> Delivery:
    told = Notification(channel="on-call", kind="disk", severity="warning")
    return Delivery(id=1, notification=told, made_at=NOW, attempts=attempts)


def test_attempts_get_rarer_and_end_after_a_day() -> None:
    now, attempts = NOW, 0
    pauses = []
    while True:
        attempts += 1
        again = tried_again_at(delivery(attempts), now)
        if again is None:
            break
        pauses.append((again - now).total_seconds())
        now = again
    assert pauses[:4] == [30, 60, 120, 240]
    assert max(pauses) == 1800
    assert timedelta(hours=24) <= now - NOW < timedelta(hours=25)


def test_who_asks_to_be_left_alone_is_but_not_for_ever() -> None:
    assert tried_again_at(delivery(1), NOW, 600) == NOW + timedelta(seconds=600)
    assert tried_again_at(delivery(1), NOW, 1) == NOW + timedelta(seconds=30)
    assert tried_again_at(delivery(1), NOW, math.inf) == NOW + timedelta(hours=2)


def test_a_message_that_is_itself_refused_does_not_hold_up_the_others_for_long() -> None:
    assert tried_again_at(delivery(4), NOW, refused=True) is not None
    assert tried_again_at(delivery(5), NOW, refused=True) is None
