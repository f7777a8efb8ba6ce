"""The pages: what stands on them, whoever looks, whatever things are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.board import Board, NodeSeen, RuleSeen
from router.domain.transfer import State
from router.lookup import MissingSeen
from router.web import pages, shown
from router.web.pages import PageContext
from tests.support.html import Document
from tests.support.pages import (
    INSTANCE,
    KEY,
    NOW,
    PATIENT,
    REFUSED,
    RESTART,
    SERIES,
    STUDY,
    at,
    attempts,
    considered,
    context,
    explained,
    full_board,
    logged_in,
    overview,
    transfer,
)

EVIL = "<script>alert(1)</script>\"'&\x1b[31m\x00\u202e"
EMPTY = Board(at=NOW, states={})


def whole(look: PageContext, name: str = "", *, identifiers: bool = False) -> dict[str, str]:
    """Every page with something of everything on it; `name` is part of all names."""
    board = full_board(identifiers=identifiers, name=name)
    seen = transfer(21, "failed", identifiers=identifiers, rule=f"ct{name}", reason=f"It failed{name}.", cause="x")
    held = transfer(
        22, "held", identifiers=identifiers, next_at=at(60), deadline=at(600), wish="cancel", actions=("release",)
    )
    shown_missing = MissingSeen(count=2, sop_instance_uids=(INSTANCE, f"{INSTANCE}.1") if identifiers else None)
    appointments = [considered(identifiers=identifiers, name=name)]
    filters = {"state": "failed,held", "rule": f"ct{name}", "limit": "7"}
    return {
        "board": pages.board_page(board, look),
        "transfers": pages.transfers_page([*board.live, *board.failures, *board.activity], filters, look),
        "transfer": pages.transfer_page(seen, attempts(name), shown_missing, appointments, look),
        "held": pages.transfer_page(held, (), MissingSeen(count=0), None, look),
        "explain": pages.explain_page(STUDY if look.logged_in else "", explained(name), f"No{name}.", look),
        "configuration": pages.configuration_page(overview(name), look),
        "login": pages.login_page(f"No{name}.", look),
        "error": pages.error_page(503, f"No{name}.", look),
    }


def bare(look: PageContext) -> dict[str, str]:
    """Every page with as little on it as there can be."""
    return {
        "board": pages.board_page(EMPTY, look),
        "transfers": pages.transfers_page((), {}, look),
        "transfer": pages.transfer_page(transfer(1, "queued", expected=None), (), None, None, look),
        "explain": pages.explain_page("", None, "", look),
        "explained": pages.explain_page("", {"study": {}, "rules": [], "considered": [], "transfers": []}, "", look),
        "configuration": pages.configuration_page(overview(good=True), look),
        "login": pages.login_page("", look),
        "error": pages.error_page(404, "", look),
    }


LOOKS: dict[str, Callable[[], PageContext]] = {
    "anybody": context,
    "without a token": lambda: context(may_log_in=False),
    "logged in": logged_in,
    "with identifiers": lambda: logged_in(identifiers=True),
    "with a message": lambda: logged_in(message="Transfer 17 is queued now.", problems={"disk": "full"}),
}


# --- Written well ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("made", [whole, bare])
def test_every_page_is_written_well(look: str, made: Callable[[PageContext], dict[str, str]]) -> None:
    for name, html in made(LOOKS[look]()).items():
        document = Document.of(html)
        assert (name, document.mistakes) == (name, [])
        assert [len(document.all(tag)) for tag in ("html", "main", "h1", "nav", "title")] == [1] * 5, name
        assert html.startswith("<!doctype html>")


@pytest.mark.parametrize("look", [context(), logged_in()])
@pytest.mark.parametrize("board", [EMPTY, full_board(), full_board(identifiers=True)], ids=["empty", "full", "named"])
def test_every_section_is_written_well_and_fits_the_page(look: PageContext, board: Board) -> None:
    sections = pages.sections(board, look)
    assert set(sections) == {"live", "queues", "nodes", "replicas", "rules", "failures", "activity", "summary"}
    page = Document.of(pages.board_page(board, look))
    assert set(sections) <= {*page.ids}
    together = Document.of("".join(sections.values()))
    missing = {f"{name}-heading" for name in sections} - {*together.ids}
    assert (together.mistakes, missing) == ([], set())


# --- Names, whatever they are ----------------------------------------------------------------------------------------


def test_no_name_becomes_markup() -> None:
    for look in (context(), logged_in(identifiers=True, message=EVIL, problems={"disk": EVIL})):
        for name, html in whole(look, EVIL, identifiers=True).items():
            document = Document.of(html)
            assert (name, document.mistakes) == (name, [])
            assert [one.attributes["src"] for one in document.all("script")] == ["/static/page.js?v=1.2.3"]
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", html), name


@settings(max_examples=50)
@given(st.text(max_size=30))
def test_names_are_shown_as_they_are_but_for_what_has_no_picture(name: str) -> None:
    rule = RuleSeen(name=f"r{name}", trigger="sweep", source="a", destinations=("b",))
    document = Document.of(pages.sections(Board(at=NOW, states={}, rules=(rule,)), logged_in())["rules"])
    assert document.mistakes == []
    if name.isprintable():
        assert f"r{name}" in document.text


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=6))
def test_buttons_of_rules_have_ids_of_their_own(names: list[str]) -> None:
    rules = tuple(RuleSeen(name=name, trigger="sweep", source="a", destinations=("b",)) for name in names)
    document = Document.of(pages.sections(Board(at=NOW, states={}, rules=rules), logged_in())["rules"])
    assert document.mistakes == []
    assert len(document.all("button")) == len(names)


# --- Who sees what ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [context(), logged_in()])
def test_pages_without_identifiers_hold_none(look: PageContext) -> None:
    found = whole(look)
    asked_for = found.pop("explain")
    for name, html in {**found, **pages.sections(full_board(), look)}.items():
        assert not [one for one in (STUDY, SERIES, INSTANCE, PATIENT) if one in html], name
    assert PATIENT not in asked_for
    assert "pseudonyms" in found["board"]


def test_pages_with_identifiers_hold_them() -> None:
    found = whole(logged_in(identifiers=True), identifiers=True)
    assert f"{STUDY}.31" in found["board"]
    assert [one for one in (f"{STUDY}.21", SERIES, INSTANCE, PATIENT) if one not in found["transfer"]] == []
    assert f"study={transfer(21, 'failed').study}" in found["transfer"], "what the log calls it"


def test_who_has_not_logged_in_is_offered_no_action() -> None:
    for look in (context(), context(may_log_in=False)):
        for name, html in {**whole(look), **bare(look)}.items():
            changing = [form.action for form in Document.of(html).forms if form.method == "post"]
            assert changing == (["/login"] if name == "login" and look.may_log_in else []), name


def test_who_has_logged_in_is_offered_what_can_be_done_now_and_every_form_has_the_key() -> None:
    found: dict[str, set[str]] = {}
    for name, html in whole(logged_in()).items():
        forms = [form for form in Document.of(html).forms if form.method == "post"]
        assert {form.fields.get("form_key") for form in forms} == {KEY}, name
        found[name] = {form.action for form in forms} - {"/logout"}
    assert {"/transfers/31/hold", "/transfers/31/cancel", "/transfers/32/release"} <= found["board"]
    assert {"/transfers/21/retry", "/transfers/22/retry", "/transfers/23/retry"} <= found["board"]
    assert {"/rules/ct/sweep", "/rules/late/sweep", "/rules/runs/sweep"} <= found["board"]
    assert not {"/rules/off/sweep", "/rules/orders/sweep"} & found["board"]
    assert found["held"] == {"/transfers/22/release"}
    assert found["explain"] == {"/explain"}
    assert found["configuration"] == {"/reload"}
    assert "/transfers" in found["transfers"]


def test_what_is_sent_to_many_holds_the_key_of_nobody() -> None:
    sections = pages.sections(full_board(), logged_in())
    assert KEY not in "".join(sections.values())
    forms = Document.of("".join(sections.values())).forms
    assert {form.fields["form_key"] for form in forms} == {""}


def test_a_cancel_asks_first() -> None:
    buttons = Document.of(pages.board_page(full_board(), logged_in())).all("button")
    cancels = [one for one in buttons if one.attributes["id"].endswith("-cancel")]
    assert len(cancels) == 3
    assert all("details" in one.inside for one in cancels)


def test_the_page_says_how_one_may_act() -> None:
    assert 'href="/login"' in pages.board_page(EMPTY, context())
    without = pages.board_page(EMPTY, context(may_log_in=False))
    assert "/login" not in without
    assert "router.token" in Document.of(without).text
    assert "router.token" in Document.of(pages.login_page("", context(may_log_in=False))).text
    assert "Log out" in pages.board_page(EMPTY, logged_in())


# --- The board -------------------------------------------------------------------------------------------------------


def text_of(board: Board, section: str, look: PageContext | None = None) -> str:
    """The text of a section of the page, as people read it."""
    html = pages.board_page(board, look or context())
    inner = html.split(f'<section id="{section}"')[1].split("</section>")[0].partition(">")[2]
    return " ".join(Document.of(inner).text.split())


def test_a_board_on_which_nothing_is_wrong_says_so_first() -> None:
    assert text_of(EMPTY, "summary").startswith("✓ All is well")


def test_what_is_wrong_stands_first_with_what_to_do() -> None:
    said = text_of(full_board(), "summary", context(problems={"ledger": "locked"}, loaded=REFUSED))
    assert said.startswith("✕ 6 problems, 4 warnings ✕ Error disk: 1 bytes free")
    for part in (
        "ledger: locked. Look whether the disk",
        "was refused (2 errors); what ran before runs on. Mend the file that the configuration page names.",
        "research does not answer; it is left alone",
        "dicom-router doctor research says what to change",
        "Route archive -> research is stopped: The source does not know the destination",
        "The last sweep of failing failed: research does not answer.",
        "The last sweep of incomplete did not find everything: It is cut.",
        "A sweep of late is overdue.",
        "2 transfers have failed within 24 hours.",
    ):
        assert part in said
    assert "router.http, router.listen count only after a restart" in text_of(EMPTY, "summary", context(loaded=RESTART))


def test_a_board_that_is_not_to_be_had_says_why_and_nothing_of_what_it_does_not_know() -> None:
    sections = pages.troubled(f"The ledger {EVIL} is gone.", context(problems={"disk": "full"}))
    (html,) = sections.values()
    document = Document.of(html)
    assert (set(sections), document.mistakes, document.all("script")) == ({"summary"}, [], [])
    said = " ".join(document.text.split())
    assert said.startswith("✕ 2 problems ✕ Error disk: full.")
    assert said.endswith("What stands below is as it was before that.")
    assert "All is well" not in said


def test_moves_show_how_far_they_are() -> None:
    board = full_board()
    document = Document.of(pages.sections(board, context())["live"])
    bars = [one.attributes for one in document.elements if one.attributes.get("role") == "progressbar"]
    assert [(one.get("aria-valuenow"), one.get("aria-valuemax")) for one in bars] == [
        ("13", "40"),
        (None, None),
        ("40", "40"),
    ]
    parts = [(one.attributes["class"], one.attributes["width"]) for one in document.all("rect")]
    assert parts == [("done", "25.0"), ("warning", "5.0"), ("failed", "2.5"), ("done", "100.0")]
    said = text_of(board, "live")
    for part in ("12 of 40, 1 failed, 2 with a warning, 27 to go", "3 so far", "done in 1 min", "hold asked for"):
        assert part in said


def test_what_waits_says_why_and_for_how_long() -> None:
    said = text_of(full_board(), "queues")
    assert "archive → to workstation archive is busy: 2 of 2 associations in use. 9 0 30 min" in said
    assert "✕ stopped" in said
    assert "held: each says why 0 1" in said
    assert "backup" not in said


def test_nodes_say_how_they_stand_those_in_trouble_first() -> None:
    said = text_of(full_board(), "nodes")
    assert said.index("research") < said.index("old") < said.index("workstation") < said.index("ledger-only")
    for part in ("✕ left alone", "✕ down", "▲ closed opens in 2 h", "✓ up 2 of 2 3 wait", "○ not asked yet"):
        assert part in said


def test_replicas_say_who_leads_who_is_silent_and_whose_configuration_differs() -> None:
    document = Document.of(pages.sections(full_board(), context())["replicas"])
    head, *rows = document.text.split("router-")
    assert "Replicas 3" in " ".join(head.split())
    one, two, three = (" ".join(row.split()) for row in rows)
    assert one.startswith("1 this one10.0.0.1:9104")
    assert "works" in one
    assert "leads" in two
    assert "silent last seen" in three
    assert "It has another configuration" in three
    assert [part for part in (one, two) if "another configuration" in part or "silent" in part] == []
    assert "10.0.0.2:9104" in two
    assert document.all("a") == []  # what it announced may be its own machine's or behind a proxy


def test_rules_say_what_came_of_the_last_sweep_and_when_the_next_is() -> None:
    said = text_of(full_board(), "rules")
    for part in (
        "✓ complete 2 min ago 210 matches, 4 to move 2 failed recently in 2 min",
        "✕ failed 5 min ago 0 matches, 0 to move. research does not answer. now",
        "▲ incomplete 5 min ago 1 match, 1 to move. It is cut. in 5 s",
        "○ waits for its turn since 20 min ▲ overdue 20 min late",
        "▶ runs for 4 s",
        "an order starts it",
        "○ not enabled",
    ):
        assert part in said


def test_failures_are_kept_apart_from_the_rest_and_say_why() -> None:
    failures, activity = text_of(full_board(), "failures"), text_of(full_board(), "activity")
    for part in ("✕ failed 21", "archive cannot reach the destination", "0xA702", "✕ contradicted 23"):
        assert part in failures
        assert part not in activity
    assert "✓ complete 1 min ago" in activity
    assert "2 more" in activity


def test_many_rules_and_nodes_do_not_push_the_rest_off_the_page() -> None:
    rules = tuple(RuleSeen(name=f"r{one}", trigger="sweep", source="a", destinations=("b",)) for one in range(500))
    nodes = tuple(NodeSeen(name=f"n{one}", ae_title="A", address="a:104") for one in range(100))
    document = Document.of(pages.board_page(Board(at=NOW, states={}, rules=rules, nodes=nodes), logged_in()))
    closed = [one for one in document.all("tr") if "details" in one.inside]
    assert document.mistakes == []
    assert len(closed) == 500 - pages.MOST_ROWS + 100 - pages.MOST_ROWS + 2  # and two heads
    assert "470 more rules" in document.text


def test_sections_change_only_when_something_happens() -> None:
    board = full_board()
    later = msgspec.structs.replace(context(), now=at(30))
    assert pages.sections(board, context()) == pages.sections(board, later)
    assert pages.board_page(board, context()) != pages.board_page(board, later)


# --- Other pages -----------------------------------------------------------------------------------------------------


def test_the_list_keeps_what_was_asked_for() -> None:
    html = pages.transfers_page((), {"state": "failed,held", "rule": "ct", "limit": "7", "study": STUDY}, logged_in())
    document = Document.of(html)
    checked = {one.attributes["value"] for one in document.all("input") if "checked" in one.attributes}
    chosen = [one.attributes["value"] for one in document.all("option") if "selected" in one.attributes]
    assert (checked, chosen) == ({"failed", "held"}, ["7"])
    assert [one.attributes["value"] for one in document.all("option")] == ["7", "20", "100", "500", "1000"]
    values = {one.attributes.get("name"): one.attributes.get("value") for one in document.all("input")}
    assert (values["rule"], values["study"]) == ("ct", STUDY)
    unasked = Document.of(pages.transfers_page((), {}, context()))
    assert [one.attributes["value"] for one in unasked.all("option") if "selected" in one.attributes] == ["100"]


def test_a_transfer_says_all_that_is_known_of_it() -> None:
    text = " ".join(Document.of(whole(context())["transfer"]).text.split())
    for part in ("It failed.", "2 instances are not there", "retry 0xA702", "some missing", "No instance could be"):
        assert part in text
    assert "Nobody can say without asking a node" in bare(context())["transfer"]


def test_an_explanation_says_what_decides() -> None:
    document = Document.of(whole(logged_in())["explain"])
    text = " ".join(document.text.split())
    for part in (
        "archive ✓ found",
        "away ✕ problem",
        "✕ does not hold StudyDescription: Lung*",
        "▲ waits window closed",
    ):
        assert part in text
    assert "▲ hold to workstation: it would be moved later" in text
    assert "(empty)" in text


def test_an_explanation_does_not_promise_a_move_where_the_source_could_not_be_asked() -> None:
    given = explained()
    given["rules"] = [{**given["rules"][0], "found": None, "problem": "It does not answer."}]
    text = " ".join(Document.of(pages.explain_page(STUDY, given, "", logged_in())).text.split())
    assert "to workstation: if the rule finds it: it would be moved later" in text
    assert "▲ hold" not in text


def test_the_configuration_page_names_each_mistake() -> None:
    document = Document.of(whole(context())["configuration"])
    text = " ".join(document.text.split())
    assert "✕ Error DR011 rules/.yaml:8:42 there is no node ''" in text
    for part in ("and 5 more", "restart needed for changes of router.http, router.listen", "1 d 2 h", "✕ failing"):
        assert part in text
    assert "No mistakes and no warnings." in bare(context())["configuration"]


# --- Words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86400, "1 d"),
        (183600, "2 d 3 h"),
    ],
)
def test_durations_are_spelled_in_their_largest_units(seconds: float, said: str) -> None:
    assert shown.spelled(seconds) == said


@pytest.mark.parametrize(
    ("form", "seconds", "said"),
    [
        ("ago", 90, "1 min ago"),
        ("ago", -90, "in 1 min"),
        ("due", -170, "in 2 min"),
        ("due", 20, "now"),
        ("due", 600, "10 min late"),
        ("age", 600, "10 min"),
    ],
)
def test_times_are_told_from_now(form: str, seconds: float, said: str) -> None:
    assert shown.Clock(NOW, relative=True).told(at(-seconds), form) == said


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_shape_beside_its_colour(state: State) -> None:
    look = shown.of_state(str(state))
    assert (look.word, look.shape in shown.SHAPES.values()) == (str(state), True)


@given(st.integers(0, 500), st.integers(0, 50), st.integers(0, 50), st.one_of(st.none(), st.integers(0, 500)))
def test_bars_are_never_longer_than_their_track(
    completed: int, failed: int, warning: int, expected: int | None
) -> None:
    values: dict[str, Any] = {"completed": completed, "failed": failed, "warning": warning, "expected": expected}
    bar = shown.bar_of(transfer(1, **values))
    assert all(part.start >= 0 and part.length > 0 for part in bar.parts)
    assert sum(part.length for part in bar.parts) <= 100.05
    assert (bar.total is None) == (expected is None)
