"""The pages in a real browser: what they show while simulated PACS work, and what can be done on them."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.browser import SECONDS, Screen, chromium, faint
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

TOKEN = "a-token-for-tests-and-nothing-else"
RULE = {
    "description": "CT studies of the year to the workstation.",
    "sweep": {"source": "archive", "cron": "0 0 1 1 *", "keys": {"StudyDate": "20240101..20241231"}},
    "move": {"to": ["workstation"]},
}
SLOW = Behaviour(suboperation_delay_seconds=0.5)
LONG = 200
"""Instances of a study that, sent slowly, is still under way when a test is through, on a busy machine too."""
REFUSING = Behaviour(refuse_move_status=0xA900)
PATHS = ("/", "/transfers", "/transfers/1", "/explain", "/configuration", "/login", "/nowhere")

expect.set_options(timeout=SECONDS * 1000)


class Hospital:
    """An archive, a workstation, and a router between them that runs in a process of its own."""

    def __init__(self, directory: Path, stack: ExitStack, *, token: bool = True, identifiers: bool = False) -> None:
        self.workstation = stack.enter_context(SimulatedPacs("WS"))
        self.archive = stack.enter_context(
            SimulatedPacs("ARCHIVE", destinations={"WS": (self.workstation.host, self.workstation.port)})
        )
        self.token = directory / "token"
        self.token.write_text(TOKEN)
        self.site = Site(
            directory,
            nodes={
                "archive": node("ARCHIVE", self.archive.port, limits={"associations": 1}),
                "workstation": node("WS", self.workstation.port),
            },
            rules={"ct": RULE},
            router={
                "drain": "1s",  # nobody waits for a slow move when a test ends
                **({"token": {"file": str(self.token)}} if token else {}),
                "page": {"identifiers": identifiers},
            },
        )
        self.stack = stack
        self.router: RunningRouter = stack.enter_context(self.site.run())

    def studies(self, count: int, instances: int = 12) -> list[str]:
        """Put studies into the archive; their UIDs."""
        made = [make_study(seed=f"page-{number}", instances=instances) for number in range(count)]
        for study in made:
            self.archive.add(study)
        return [str(study[0].StudyInstanceUID) for study in made]

    def sweep(self) -> None:
        """Sweep, and move everything, from the command line."""
        self.site.call("apply", "--rule", "ct")

    def states(self) -> dict[int, str]:
        """{number: state} of all transfers."""
        return {one["id"]: one["state"] for one in self.site.json("transfers", "list")["transfers"]}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all."""
    with chromium() as one:
        yield one


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Ends what a test began."""
    with ExitStack() as one:
        yield one


@pytest.fixture
def hospital(tmp_path: Path, stack: ExitStack) -> Hospital:
    """One with a token."""
    return Hospital(tmp_path, stack)


@pytest.fixture
def window(browser: Browser, stack: ExitStack) -> Callable[..., Screen]:
    """Open windows; in the end none of them has anything to complain of."""

    def open_window(hospital: Hospital, **settings: object) -> Screen:
        one = Screen(browser, hospital.site.http_port, **settings)
        stack.callback(check, one)
        return one

    def check(one: Screen) -> None:
        one.close()
        assert one.complaints == []

    return open_window


def bar_of(screen: Screen, transfer: int) -> int:
    """How far the bar of a transfer is; -1 where it is not among those that move."""
    bar = screen.page.locator(f"#live [role=progressbar][aria-label='Transfer {transfer}']")
    value = bar.first.get_attribute("aria-valuenow") if bar.count() else None
    return -1 if value is None else int(value)


# --- What it shows ---------------------------------------------------------------------------------------------------


def test_the_bar_moves_while_a_slow_archive_sends(hospital: Hospital, window: Callable[..., Screen]) -> None:
    hospital.studies(1, instances=40)  # long enough to be watched, and at its end within SECONDS
    hospital.archive.behaviour = SLOW
    screen = window(hospital)
    screen.log_in(TOKEN)
    page = screen.page
    expect(page.locator("#live")).to_contain_text("Nothing moves now.")
    expect(page.locator("#connection")).to_have_text("live")
    screen.press("rules-ct-sweep", by_keyboard=False)
    screen.said("The rule ct is swept as soon as its node lets it.")
    seen: list[int] = []

    def moved() -> bool:
        now = bar_of(screen, 1)
        if now >= 0 and (not seen or now != seen[-1]):
            seen.append(now)
        return len(seen) >= 4

    wait_for(moved, "the bar moves", SECONDS, interval=0.1)
    assert seen == sorted(seen)
    expect(page.locator("#activity")).to_contain_text("complete")
    expect(page.locator("#live")).to_contain_text("Nothing moves now.")
    expect(page.locator("#rules")).to_contain_text("1 match, 1 to move")
    expect(page.locator("#nodes")).to_contain_text("up")


def test_what_waits_says_why(hospital: Hospital, window: Callable[..., Screen]) -> None:
    hospital.studies(3, instances=LONG)
    hospital.archive.behaviour = SLOW
    screen = window(hospital)
    screen.log_in(TOKEN)
    screen.press("rules-ct-sweep", by_keyboard=False)
    expect(screen.page.locator("#queues")).to_contain_text("archive is busy: 1 of 1 associations in use.")
    screen.page.locator("#queues a").first.click()
    expect(screen.page.locator("h1")).to_have_text("Transfers")
    assert "state=queued" in screen.page.url


def test_a_failed_transfer_says_why_and_a_retry_completes_it(hospital: Hospital, window: Callable[..., Screen]) -> None:
    hospital.studies(1)
    hospital.archive.behaviour = REFUSING
    screen = window(hospital)
    page = screen.go("/")
    hospital.sweep()
    failures = page.locator("#failures")
    expect(failures).to_contain_text("The source does not accept the identifier (A900).")
    expect(page.locator("h1")).to_contain_text("1 warning")
    expect(page.locator("#activity")).to_contain_text("Nothing has ended yet.")
    assert page.get_by_role("button").count() == 0
    hospital.archive.behaviour = Behaviour()
    screen.log_in(TOKEN)
    page.get_by_role("button", name="Retry transfer 1").click()
    screen.said("Transfer 1 is queued now.")
    expect(page.locator("#activity")).to_contain_text("complete")
    expect(failures).to_contain_text("Nothing failed.")
    expect(page.locator("h1")).to_have_text(re.compile("All is well"))
    assert hospital.states() == {1: "complete"}


def test_what_is_open_and_has_the_focus_stays_so_when_its_section_changes(
    hospital: Hospital, window: Callable[..., Screen]
) -> None:
    hospital.studies(2, instances=LONG)
    hospital.archive.behaviour = SLOW
    screen = window(hospital)
    screen.log_in(TOKEN)
    screen.press("rules-ct-sweep", by_keyboard=False)
    page = screen.page
    page.locator("#live-1-ask").click()
    page.locator("#live-1-cancel").focus()
    before = wait_for(lambda: bar_of(screen, 1) > 0 and bar_of(screen, 1), "something is moved", SECONDS)
    wait_for(lambda: bar_of(screen, 1) > before, "more is moved", SECONDS)
    assert page.evaluate("[document.activeElement.id, document.getElementById('live-1-sure').open]") == [
        "live-1-cancel",
        True,
    ]
    page.locator("a[href='/transfers/1']").first.focus()
    before = bar_of(screen, 1)
    wait_for(lambda: bar_of(screen, 1) > before, "still more is moved", SECONDS)
    assert page.evaluate("document.activeElement.getAttribute('href')") == "/transfers/1", "a link has no id"
    page.locator("#live-1-cancel").focus()
    page.keyboard.press("Enter")
    screen.said("cancelled")
    wait_for(lambda: hospital.states()[1] == "cancelled", "it is cancelled", SECONDS)


def test_times_are_relative_and_pass(hospital: Hospital, window: Callable[..., Screen]) -> None:
    hospital.studies(1, instances=1)
    hospital.sweep()
    screen = window(hospital)
    page = screen.go("/")
    time = page.locator("#activity time").first
    expect(time).to_have_text(re.compile(r"^\d+ (s|min) ago$"))
    before = time.text_content()
    wait_for(lambda: time.text_content() != before, "time passes", SECONDS)
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d \S+", time.get_attribute("title") or "")
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", time.get_attribute("datetime") or "")


# --- What can be done ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_keyboard", [False, True], ids=["mouse", "keyboard"])
def test_everything_can_be_done_by(by_keyboard: bool, hospital: Hospital, window: Callable[..., Screen]) -> None:
    uids = hospital.studies(3, instances=LONG)
    hospital.archive.behaviour = SLOW
    screen = window(hospital)
    page = screen.go("/login")

    def press(identity: str) -> None:
        screen.press(identity, by_keyboard=by_keyboard)

    page.get_by_label("Token").fill(TOKEN)
    press("enter")
    expect(page.locator("#logout")).to_be_visible()
    press("rules-ct-sweep")
    screen.said("The rule ct is swept as soon as its node lets it.")
    wait_for(lambda: len(hospital.states()) == 3, "the sweep is done", SECONDS)
    (waits,) = [number for number, state in hospital.states().items() if number == 3]
    page.goto(f"{screen.origin}/transfers?source=archive")
    press(f"transfers-{waits}-hold")
    screen.said(f"Transfer {waits} is held now.")
    assert page.url.endswith("/transfers?source=archive")
    press(f"transfers-{waits}-release")
    screen.said(f"Transfer {waits} is queued now.")
    page.goto(f"{screen.origin}/transfers/{waits}")
    assert page.locator(f"#transfer-{waits}-cancel").is_visible() is False
    press(f"transfer-{waits}-ask")
    press(f"transfer-{waits}-cancel")
    screen.said(f"Transfer {waits} is cancelled now.")
    press(f"transfer-{waits}-retry")
    screen.said(f"Transfer {waits} is queued now.")
    page.goto(f"{screen.origin}/configuration")
    press("reload")
    screen.said("The configuration is the same as before.")
    page.goto(f"{screen.origin}/explain")
    page.get_by_label("Study Instance UID").fill(uids[0])
    page.get_by_label("Ask no node").check()
    press("explain")
    expect(page.locator("main")).to_contain_text("Its transfers")
    page.goto(f"{screen.origin}/transfers")
    page.get_by_label("Study Instance UID").fill(uids[0])
    press("find")
    expect(page.locator("#list-heading")).to_have_text("1 transfer")
    press("logout")
    expect(page.locator("#login")).to_be_visible()
    assert page.locator("main form[method=post]").count() == 0


def test_a_click_on_what_is_about_to_change_is_not_lost(hospital: Hospital, window: Callable[..., Screen]) -> None:
    hospital.studies(1, instances=300)
    hospital.archive.behaviour = replace(SLOW, suboperation_delay_seconds=0.2)
    screen = window(hospital)
    screen.log_in(TOKEN)
    screen.press("rules-ct-sweep", by_keyboard=False)
    page = screen.page
    button = page.locator("#live-1-hold")
    button.wait_for()
    wait_for(lambda: bar_of(screen, 1) > 0, "it moves", SECONDS)
    box = button.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.wait_for_timeout(2500)  # the section changes each second
    page.mouse.up()
    screen.said("held")


def test_without_a_script_the_page_shows_and_does_the_same(hospital: Hospital, window: Callable[..., Screen]) -> None:
    hospital.studies(1, instances=LONG)
    hospital.archive.behaviour = REFUSING
    screen = window(hospital, java_script_enabled=False)
    screen.log_in(TOKEN)
    page = screen.page
    expect(page.locator("#connection")).to_have_text("reload to refresh")
    hospital.sweep()
    page.reload()
    expect(page.locator("#failures")).to_contain_text("The source does not accept the identifier (A900).")
    expect(page.locator("#failures time").first).to_have_text(re.compile(r"^\d+ (s|min) ago$"))
    hospital.archive.behaviour = SLOW
    page.locator("#failures-1-retry").click()
    screen.said("Transfer 1 is queued now.")
    page.goto(f"{screen.origin}/transfers/1")
    page.locator("#transfer-1-ask").click()
    page.locator("#transfer-1-cancel").click()
    screen.said("cancelled")
    wait_for(lambda: hospital.states()[1] == "cancelled", "it is cancelled", SECONDS)


# --- Who may ---------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused(hospital: Hospital, window: Callable[..., Screen]) -> None:
    screen = window(hospital)
    screen.log_in("another token")
    expect(screen.page.locator("#problem")).to_have_text("That is not the token that router.token names.")
    screen.go("/")
    expect(screen.page.locator("#login")).to_be_visible()
    assert screen.page.locator("form").count() == 0
    assert [one for one in screen.complaints if "403" not in one] == []
    screen.complaints.clear()  # of the refusal


@pytest.mark.parametrize("token", [True, False], ids=["a token", "no token"])
def test_who_has_not_shown_the_token_is_offered_nothing_and_changes_nothing(
    token: bool, tmp_path: Path, stack: ExitStack, window: Callable[..., Screen]
) -> None:
    hospital = Hospital(tmp_path, stack, token=token)
    (uid,) = hospital.studies(1)
    hospital.archive.behaviour = REFUSING
    hospital.sweep()
    before = hospital.states()
    assert before == {1: "failed"}
    screen = window(hospital)
    for path in PATHS[:-1]:
        page = screen.go(path)
        posts = [one.get_attribute("action") for one in page.locator("form[method=post]").all()]
        assert posts == (["/login"] if (path, token) == ("/login", True) else [])
        assert uid not in page.content()
    page = screen.go("/")
    paths = ["/transfers/1/retry", "/transfers/1/cancel", "/rules/ct/sweep", "/reload", "/logout"]
    paths += ["/api/v1/transfers/1/retry", "/api/v1/rules/ct/sweep", "/-/reload"] if token else []
    statuses = page.evaluate(
        "(paths) => Promise.all(paths.map(async (path) => (await fetch(path, {method: 'POST'})).status))", paths
    )
    assert {status in (401, 403) for status in statuses} == {True}
    assert hospital.states() == before
    if not token:
        expect(page.locator("footer")).to_contain_text("router.token")
        expect(screen.go("/login").locator("main")).to_contain_text("nobody can log in")
    screen.complaints.clear()  # of the refusals


def test_identifiers_are_shown_to_who_has_logged_in_where_the_configuration_allows_it(
    tmp_path: Path, stack: ExitStack, window: Callable[..., Screen]
) -> None:
    hospital = Hospital(tmp_path, stack, identifiers=True)
    (uid,) = hospital.studies(1, instances=1)
    hospital.sweep()
    screen = window(hospital)
    page = screen.go("/")
    expect(page.locator("#activity")).to_contain_text("complete")
    assert uid not in page.content()
    screen.log_in(TOKEN)
    expect(page.locator("#activity")).to_contain_text(uid)
    page.locator("#activity a").first.click()
    page.get_by_role("button", name="Explain this study").click()
    expect(page.locator("main")).to_contain_text("What the sources say")


# --- The connection --------------------------------------------------------------------------------------------------


def test_the_page_says_when_the_router_is_gone_and_goes_on_when_it_is_back(
    hospital: Hospital, window: Callable[..., Screen]
) -> None:
    screen = window(hospital)
    screen.log_in(TOKEN)
    page = screen.page
    expect(page.locator("#connection")).to_have_text("live")
    hospital.router.stop()
    expect(page.locator("#connection")).to_have_text("connection lost, trying again")
    expect(page.locator("#stale")).to_contain_text("The connection to the router is lost.")
    hospital.router = hospital.stack.enter_context(hospital.site.run())
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#stale")).to_be_hidden()
    expect(page.locator("#changed")).to_contain_text("Your session has changed")
    hospital.studies(1, instances=1)
    hospital.sweep()
    expect(page.locator("#activity")).to_contain_text("complete")
    assert page.locator("main form").count() == 0
    assert [one for one in screen.complaints if "/api/v1/events" not in one and "ERR_CONN" not in one] == []
    screen.complaints.clear()  # that nobody answered for a while


def test_a_connection_without_a_word_counts_as_lost(hospital: Hospital, window: Callable[..., Screen]) -> None:
    screen = window(hospital)
    screen.page.clock.install()
    page = screen.go("/")
    expect(page.locator("#connection")).to_have_text("live")
    hospital.router.send_signal(signal.SIGSTOP)
    try:
        page.clock.fast_forward(30_000)
        expect(page.locator("#connection")).to_have_text("connection lost, trying again")
    finally:
        hospital.router.send_signal(signal.SIGCONT)
    page.clock.fast_forward(30_000)
    expect(page.locator("#connection")).to_have_text("live")


# --- How it looks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """One with something moving, something waiting, failures, and a configuration that was refused."""
    with ExitStack() as stack:
        hospital = Hospital(tmp_path_factory.mktemp("busy"), stack)
        hospital.studies(2)
        hospital.archive.behaviour = REFUSING
        hospital.sweep()
        hospital.archive.behaviour = replace(SLOW, suboperation_delay_seconds=1.0)
        hospital.archive.add(make_study(seed="long", instances=300))
        hospital.archive.add(make_study(seed="waits", instances=300))
        hospital.site.call("apply", "--rule", "ct", "--timeout", "1s")
        broken = hospital.site.rules_directory / "broken.yaml"
        broken.write_text("rules:\n  x: {sweep: {source: nowhere, every: 5x}, move: {to: [local]}}\n")
        wait_for(lambda: "refused" in hospital.router.get("/"), "the page tells of the mistake", SECONDS)
        yield hospital


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_can_be_read_and_none_is_wider_than_the_window(
    scheme: str, width: int, busy: Hospital, window: Callable[..., Screen]
) -> None:
    screen = window(busy, viewport={"width": width, "height": 780}, color_scheme=scheme)
    for logged_in in (False, True):
        if logged_in:
            screen.log_in(TOKEN)
        for path in PATHS:
            page = screen.go(path)
            if path == "/":
                expect(page.locator("#connection")).to_have_text("live")
            assert (path, screen.overflow()) == (path, 0)
            assert (path, faint(page)) == (path, [])
    screen.complaints[:] = [one for one in screen.complaints if "404" not in one]


def test_the_first_thing_a_keyboard_reaches_leads_past_the_head(busy: Hospital, window: Callable[..., Screen]) -> None:
    screen = window(busy)
    page = screen.go("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    expect(page.get_by_text("Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
