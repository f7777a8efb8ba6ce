"""What the doctor makes of what it sees: every finding has a code, and says what to change and where."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain import checkup_move, checkup_node, checkup_wire
from router.domain.checkup import (
    STORAGE_CLASSES,
    Around,
    Caller,
    Check,
    Landed,
    Needs,
    Reached,
    Result,
    Secured,
    needs_of,
    patient,
)
from router.domain.checkup_node import Answer
from router.domain.condition import Condition
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.exchange import FindResult, MoveProgress, MoveRequest, MoveResult, SubOperationCounts
from router.domain.forward import Forward, Group
from router.domain.route import StoppedRoute
from router.domain.rule import (
    CommitmentSettings,
    FindSettings,
    Move,
    MoveSettings,
    Node,
    NodeLimits,
    RouterSettings,
    Rule,
    RuleSet,
    Sweep,
    Timeouts,
    TlsSettings,
    Worklist,
)
from router.domain.transfer import Route
from router.engine.doctor import Doctor, Knowledge
from router.engine.doctor_move import MoveCheck
from router.engine.doctor_query import QUERIES
from router.errors import AssociationRejected, ConfigurationError, ConnectionFailed, ConnectionLost, WireError
from tests.support.fake_peers import FakeClock

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
DAY = "20261122"


def where(*keys: str) -> str:
    return f"{'.'.join(keys)} in rules/site.yaml:7"


def around(node: Node | None = None, **needs: tuple[str, ...]) -> Around:
    node = node or Node(name="archive", ae_title="PACS", host="pacs.example", port=104, timezone="Europe/Berlin")
    return Around(node=node, needs=Needs(**needs), ae_title="ROUTER", host="10.0.0.7", port=11112, where=where)


def rule(name: str = "r", *, source: str = "archive", to: tuple[str, ...] = ("local",), **more: Any) -> Rule:
    move = Move(to=to, **more.pop("move", {}))
    sweep = None if "worklist" in more else Sweep(source=source, level=QueryRetrieveLevel.STUDY, keys=(), tiers=())
    return Rule(name=name, sweep=sweep, where=Condition(), move=move, **more)


def rules(*found: Rule, nodes: Sequence[Node] = ()) -> RuleSet:
    return RuleSet(
        router=RouterSettings(),
        nodes={node.name: node for node in nodes},
        rules={one.name: one for one in found},
        content_hash="x",
    )


# what rules need ------------------------------------------------------------------------------------------------------

ARCHIVE = Node(name="archive", ae_title="PACS", host="127.0.0.1", port=104)
WARD = Node(name="ws", ae_title="WS", host="127.0.0.1", port=105)


class TestNeeds:
    def test_a_source_of_this_router_is_queried_and_moved_from_and_stores_here(self) -> None:
        found = needs_of(rules(rule()), ARCHIVE)
        assert found == Needs(queried=("r",), moved=("r",), brings=("r",))
        assert found.used
        assert not found.only_receives

    def test_a_source_by_c_get_needs_no_c_move_unless_somebody_else_is_a_destination(self) -> None:
        node = msgspec.structs.replace(ARCHIVE, move=MoveSettings(via="get"))
        assert needs_of(rules(rule()), node) == Needs(queried=("r",), fetched=("r",))
        both = needs_of(rules(rule(to=("local", "ws"))), node)
        assert (both.fetched, both.moved, both.brings) == (("r",), ("r",), ())
        overruled = needs_of(rules(rule(move={"via": "move"})), node)
        assert (overruled.fetched, overruled.brings) == ((), ("r",))

    def test_a_destination_is_stored_to_and_asked_what_it_holds(self) -> None:
        found = needs_of(rules(rule(to=("ws",))), WARD)
        assert found == Needs(stores=("r",), evidence=("r",))
        assert found.only_receives
        sends = rule(to=("ws",), forward=Forward(to=(Group(nodes=("ws",)),)))
        assert needs_of(rules(sends), WARD) == Needs(stores=("r",), passed=("r",), evidence=("r",))
        assert not needs_of(rules(sends), WARD).only_receives
        silent = needs_of(rules(rule(to=("ws",), move={"verify": "none", "skip_present": False})), WARD)
        assert silent == Needs(stores=("r",))
        assert not needs_of(rules(rule(to=("ws",), move={"verify": "find"})), WARD).only_receives

    def test_commitment_and_worklist(self) -> None:
        node = msgspec.structs.replace(WARD, commitment=CommitmentSettings())
        assert needs_of(rules(rule(to=("ws",))), node).committed == ("r",)
        ris = msgspec.structs.replace(WARD, name="ris")
        listed = rule(worklist=Worklist(source="ris", keys=(), tiers=()))
        assert needs_of(rules(listed), ris) == Needs(worklist=("r",))

    def test_a_rule_that_is_not_enabled_needs_nothing(self) -> None:
        assert not needs_of(rules(rule(enabled=False)), ARCHIVE).used


# how it is reached ----------------------------------------------------------------------------------------------------


class TestErrorsOfTheWire:
    @pytest.mark.parametrize("code", sorted(checkup_wire.REMEDIES))
    def test_every_known_code_says_what_to_change_and_leaves_nothing_open(self, code: str) -> None:
        check = checkup_wire.broken("echo", code, "It failed.", around(queried=("r",)))
        assert check.code == code
        assert check.result is (Result.WARN if code in checkup_wire.PASSING else Result.FAIL)
        assert check.remedy
        assert "{" not in check.remedy
        assert any(place in check.remedy for place in ("archive", "rules/site.yaml:7", "again later"))

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (AssociationRejected(1, 1, 3), "rejected-calling-ae-title"),
            (AssociationRejected(1, 1, 7), "rejected-called-ae-title"),
            (AssociationRejected(2, 3, 2), "rejected-local-limit"),
            (AssociationRejected(1, 3, 2), "rejected-busy-permanent"),
            (ConnectionFailed("x", "name-unresolved"), "name-unresolved"),
            (ConnectionLost("x"), "connection-lost"),
        ],
    )
    def test_an_error_is_told_by_its_cause(self, error: WireError, code: str) -> None:
        assert checkup_wire.broken("echo", error.cause, "x", around(queried=("r",))).code == code

    def test_a_stranger_learns_what_the_node_must_know(self) -> None:
        said = checkup_wire.remedy("rejected-1-1-3", around())
        assert said.startswith("at archive: add an application entity with AE title ROUTER, host 10.0.0.7, port 11112")

    def test_a_wrong_title_of_the_node_is_ours_to_mend(self) -> None:
        assert "nodes.archive.ae_title in rules/site.yaml:7" in checkup_wire.remedy("rejected-1-1-7", around())

    def test_a_destination_that_only_knows_the_archive_is_a_warning(self) -> None:
        check = checkup_wire.broken("echo", "rejected-1-1-3", "No.", around(stores=("r",), evidence=("r",)))
        assert check.result is Result.WARN
        assert "stays unproven" in check.message

    def test_a_destination_that_this_router_itself_stores_to_has_to_know_it(self) -> None:
        sends = around(stores=("r",), passed=("r",), evidence=("r",))
        assert checkup_wire.broken("echo", "rejected-1-1-3", "No.", sends).result is Result.FAIL

    def test_a_node_that_only_pushes_may_answer_nobody(self) -> None:
        scanner = msgspec.structs.replace(ARCHIVE, push="allow")
        check = checkup_wire.broken("connect", "connection-refused", "No.", around(scanner))
        assert check.result is Result.WARN
        assert check.remedy.startswith("none, if it only sends; else start archive's")
        assert checkup_wire.broken("connect", "unheard-of", "No.", around(scanner)).remedy == "none, if it only sends"
        assert checkup_wire.broken("connect", "connection-refused", "No.", around()).result is Result.FAIL
        assert checkup_wire.broken("connect", "x", "No.", around(scanner, stores=("r",))).result is Result.FAIL

    @given(st.text(max_size=40))
    def test_no_code_makes_it_fail(self, code: str) -> None:
        assert checkup_wire.broken("echo", code, "x", around()).result in (Result.FAIL, Result.WARN)


class TestCertificates:
    @pytest.mark.parametrize(
        ("days", "result", "code"),
        [(-1, Result.FAIL, "expired"), (0, Result.WARN, "expires-soon"), (29, Result.WARN, "expires-soon"),
         (30, Result.OK, "valid"), (400, Result.OK, "valid")],
    )  # fmt: skip
    def test_the_days_left_decide(self, days: int, result: Result, code: str) -> None:
        check = checkup_wire.expiring("certificate", "Its certificate", NOW + timedelta(days=days), NOW, "renew it")
        assert (check.result, check.code) == (result, code)
        assert check.remedy == ("" if result is Result.OK else "renew it")
        assert f"{NOW + timedelta(days=days):%Y-%m-%d}" in check.message

    def test_one_without_a_readable_date_is_not_judged(self) -> None:
        assert checkup_wire.expiring("certificate", "It", None, NOW, "x").result is Result.SKIPPED


def test_the_certificate_that_a_node_is_shown_stands_where_it_is_named() -> None:
    ours = TlsSettings(ca="ca", certificate="us", key="key")
    for shown, place in ((ours, "router.tls"), (msgspec.structs.replace(ours, certificate="x"), "nodes.archive.tls")):
        found = around(msgspec.structs.replace(ARCHIVE, tls=shown)).own_certificate(ours)
        assert found == f"{place} in rules/site.yaml:7"


def test_a_slow_connection_is_warned_of() -> None:
    assert checkup_wire.connected(Reached(seconds=0.01, own_address="10.0.0.7"), around()).result is Result.OK
    slow = checkup_wire.connected(Reached(seconds=3.0, own_address="10.0.0.7"), around())
    assert (slow.result, slow.code) == (Result.WARN, "slow")
    assert checkup_wire.secured(Secured(version="TLSv1.3")).message.startswith("It speaks TLSv1.3")


# contexts -------------------------------------------------------------------------------------------------------------

STUDY, PATIENT = "1.2.840.10008.5.1.4.1.2.2.{}", "1.2.840.10008.5.1.4.1.2.1.{}"


def accepted(*numbers: int, root: str = STUDY) -> dict[str, bool]:
    return {one.format(n): one == root and n in numbers for one in (STUDY, PATIENT) for n in (1, 2, 3)}


class TestContexts:
    def judged(self, got: dict[str, bool], **needs: tuple[str, ...]) -> dict[str, tuple[str, str]]:
        checks = checkup_wire.retrieval_contexts(got, around(**needs))
        return {check.check.partition(" ")[0]: (check.result.value, check.code) for check in checks}

    def test_what_is_needed_and_not_offered_fails(self) -> None:
        found = self.judged(accepted(), queried=("r",), moved=("r",), fetched=("q",))
        assert found == dict.fromkeys(("find", "move", "get"), ("fail", "not-accepted"))

    def test_what_is_not_needed_does_not(self) -> None:
        assert self.judged(accepted(1), queried=("r",)) == {
            "find": ("ok", "accepted"),
            "move": ("ok", "not-needed"),
            "get": ("ok", "not-needed"),
        }

    def test_the_other_root_serves_with_a_warning(self) -> None:
        found = self.judged(accepted(1, 2, root=PATIENT), queried=("r",), moved=("r",))
        assert (found["find"], found["move"]) == (("warn", "other-root"), ("warn", "other-root"))

    def test_a_destination_without_c_find_leaves_things_unproven(self) -> None:
        assert self.judged(accepted(), stores=("r",), evidence=("r",))["find"] == ("warn", "no-evidence")
        required = self.judged(accepted(), stores=("r",), evidence=("r",), required=("r",))
        assert required["find"] == ("fail", "not-accepted")

    def test_what_commits_itself_needs_no_c_find(self) -> None:
        committed = self.judged(accepted(), stores=("r",), evidence=("r",), committed=("r",))
        assert committed["find"] == ("ok", "not-needed")

    def test_with_retention_it_says_that_nothing_leaves_and_how_it_could(self) -> None:
        sends = around(stores=("r",), passed=("r",), evidence=("r",))
        (find, _, _) = checkup_wire.retrieval_contexts(accepted(), msgspec.structs.replace(sends, retains=True))
        assert "router.retention never lets it go" in find.message
        assert find.remedy.endswith("or set commitment: true in nodes.archive in rules/site.yaml:7, if it offers that")
        (find, _, _) = checkup_wire.retrieval_contexts(accepted(), sends)
        assert ("retention" in find.message, find.remedy[-28:]) == (False, "set verify: none in the rule")

    def test_storage_classes_by_name(self) -> None:
        everything = dict.fromkeys(STORAGE_CLASSES, True)
        assert checkup_wire.storage_contexts(everything, around(stores=("r",))).result is Result.OK
        some = checkup_wire.storage_contexts(everything | {"1.2.840.10008.5.1.4.1.1.4": False}, around(stores=("r",)))
        assert (some.result, some.code) == (Result.WARN, "some-storage")
        assert "does not take MR." in some.message
        none = checkup_wire.storage_contexts({}, around(stores=("r",)))
        assert (none.result, none.code) == (Result.FAIL, "no-storage")
        assert "at archive" in none.remedy

    def test_commitment_that_is_not_offered_names_the_key(self) -> None:
        check = checkup_wire.commitment_context({}, around(committed=("r",)))
        assert check.result is Result.FAIL
        assert "nodes.archive.commitment in" in check.remedy


# answers --------------------------------------------------------------------------------------------------------------


def row(**attributes: str) -> Identifier:
    return Identifier.of(**{"StudyInstanceUID": "1.2.3", "StudyDate": DAY, "StudyTime": "100000", **attributes})


def answer(*rows: Identifier, status: int = 0, asked: int = 101, **more: Any) -> Answer:
    result = FindResult(identifiers=list(rows), status=status, **more)
    return Answer(result=result, asked=asked, seconds=0.2, first=DAY, last=DAY)


class TestQuery:
    def test_an_answer(self) -> None:
        check = checkup_node.answered(answer(row(), row()), around())
        assert (check.result, check.code) == (Result.OK, "answered")
        assert "(2 studies)" in check.message

    def test_more_than_asked_for_is_no_failure(self) -> None:
        check = checkup_node.answered(answer(row(), row(), row(), status=0xFE00, asked=3), around())
        assert check.result is Result.OK
        assert "more than 2 studies" in check.message

    @pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xC001, 0x0110])
    def test_a_failure_says_who_is_to_change_what(self, status: int) -> None:
        check = checkup_node.answered(answer(status=status, error_comment="no patient Doe^Jane 1234567"), around())
        assert (check.result, check.code) == (Result.FAIL, "query-failed")
        assert f"{status:04X}" in check.message
        assert "at archive" in check.remedy
        assert "Doe" not in check.message
        assert "1234567" not in check.message

    def test_other_days_than_were_asked_for(self) -> None:
        check = checkup_node.answered(answer(row(), row(StudyDate="20010101")), around())
        assert (check.result, check.code) == (Result.WARN, "date-ignored")
        assert checkup_node.answered(answer(row(StudyDate="2026.11.22")), around()).result is Result.OK

    def test_answers_that_cannot_be_read(self) -> None:
        assert checkup_node.answered(answer(row(), undecodable=1), around()).code == "undecodable"

    def test_a_worklist_without_steps_fails(self) -> None:
        assert checkup_node.answered_worklist(answer(row()), around()).result is Result.FAIL
        assert checkup_node.answered_worklist(answer(), around()).result is Result.OK
        assert checkup_node.answered_worklist(answer(status=0xC000), around()).code == "query-failed"


class TestAttributes:
    FULL: dict[str, str] = {"NumberOfStudyRelatedInstances": "3", "ModalitiesInStudy": "CT"}  # noqa: RUF012

    def test_what_comes_back(self) -> None:
        assert checkup_node.returned([row(**self.FULL)], around()).result is Result.OK
        less = checkup_node.returned([row(ModalitiesInStudy="CT", NumberOfStudyRelatedInstances="")], around())
        assert (less.result, less.code) == (Result.WARN, "not-returned")
        assert "NumberOfStudyRelatedInstances" in less.message
        assert "not return ModalitiesInStudy" not in less.message

    def test_one_row_that_has_it_is_enough(self) -> None:
        assert checkup_node.returned([row(), row(**self.FULL)], around()).result is Result.OK

    def test_character_sets(self) -> None:
        assert "ISO_IR 192" in checkup_node.encoded([row(SpecificCharacterSet="ISO_IR 192")], around()).message
        assert checkup_node.encoded([row()], around()).code == "default"
        odd = checkup_node.encoded([row(PatientName="M\ufffdller")], around())
        assert (odd.result, odd.code) == (Result.WARN, "not-named")
        assert "nodes.archive.find.assume_character_set in" in odd.remedy
        assert "ller" not in odd.message
        node = msgspec.structs.replace(ARCHIVE, find=FindSettings(assume_character_set="ISO_IR 100"))
        assert checkup_node.encoded([row(PatientName="M\ufffdller")], around(node)).code == "assumed"


class TestClock:
    def test_a_study_of_this_morning_is_plausible(self) -> None:
        check = checkup_node.timed([row(StudyTime="103000.123")], around(), NOW)  # 11:00 in Berlin
        assert (check.result, check.code) == (Result.OK, "plausible")
        assert "30 min old" in check.message

    def test_one_that_is_hours_ahead_points_to_the_time_zone(self) -> None:
        check = checkup_node.timed([row(), row(StudyTime="1305")], around(), NOW)
        assert (check.result, check.code) == (Result.WARN, "ahead")
        assert "2 h 5 min" in check.message
        assert check.remedy.startswith("is nodes.archive.timezone in rules/site.yaml:7 right?")

    def test_one_that_is_ahead_by_no_whole_hours_points_to_a_clock(self) -> None:
        check = checkup_node.timed([row(StudyTime="113000")], around(), NOW)
        assert check.result is Result.WARN
        assert "clock of archive" in check.remedy

    def test_a_few_minutes_are_what_modalities_do(self) -> None:
        assert checkup_node.timed([row(StudyTime="111000")], around(), NOW).result is Result.OK

    def test_without_times_it_is_not_to_be_told(self) -> None:
        for rows in ([], [row(StudyTime="")], [row(StudyTime="9975")], [row(StudyDate="")]):
            assert checkup_node.timed(rows, around(), NOW).code == "not-told"

    def test_an_offset_that_it_names_is_compared(self) -> None:
        assert checkup_node.timed([row(TimezoneOffsetFromUTC="+0100")], around(), NOW).result is Result.OK
        check = checkup_node.timed([row(TimezoneOffsetFromUTC="-0500")], around(), NOW)
        assert (check.result, check.code) == (Result.FAIL, "zone-differs")
        assert "nodes.archive.timezone in" in check.remedy

    @given(st.text(max_size=20), st.text(max_size=20))
    def test_no_value_makes_it_fail(self, day: str, time: str) -> None:
        assert checkup_node.timed([row(StudyDate=day, StudyTime=time)], around(), NOW).check == "clock"


class TestCap:
    def judged(self, seen: Answer | None, learned: int | None, configured: int | None = None) -> tuple[str, str]:
        node = msgspec.structs.replace(ARCHIVE, find=FindSettings(max_results=configured))
        check = checkup_node.capped(seen, learned, around(node))
        assert check.remedy or check.result is Result.OK
        return check.result.value, check.code

    def test_what_is_known_against_what_is_configured(self) -> None:
        assert self.judged(answer(row()), None) == ("ok", "none-seen")
        assert self.judged(answer(row()), 500) == ("ok", "learned")
        assert self.judged(answer(row()), 500, 500) == ("ok", "configured")
        assert self.judged(answer(row()), 200, 500) == ("fail", "lower")
        assert self.judged(answer(row()), 200, 0) == ("fail", "denied")
        assert self.judged(None, None, 500) == ("ok", "configured")

    def test_what_is_seen(self) -> None:
        hundred = [row()] * 100
        assert self.judged(answer(*hundred), None) == ("warn", "suspicious")
        assert self.judged(answer(*hundred[:99]), None) == ("ok", "none-seen")
        assert self.judged(answer(*hundred[:40], status=0xFE00), None) == ("warn", "suspicious")
        assert self.judged(answer(*hundred[:40], status=0xFE00), None, 50) == ("fail", "lower")
        assert self.judged(answer(status=0xA700), None) == ("warn", "refuses")
        assert self.judged(answer(*hundred, row(), status=0xFE00), None) == ("ok", "none-seen"), "we ended it"


# the one image --------------------------------------------------------------------------------------------------------


def caller(called: str = "ROUTER") -> Caller:
    return Caller(calling_ae_title="PACS", called_ae_title=called, ip_address="10.0.0.5")


CAME = Landed(calling_ae_title="PACS", called_ae_title="ROUTER", callers=(caller(),))


class TestImage:
    def judged(self, seen: Landed, status: int = 0, comment: str = "", node: Node | None = None) -> list[Check]:
        return checkup_move.landed(seen, status, comment, 1.0, around(node))

    def test_it_came_as_configured(self) -> None:
        assert [(c.check, c.result.value) for c in self.judged(CAME)] == [("move", "ok"), ("stores from", "ok")]

    def test_it_came_from_another_title(self) -> None:
        node = msgspec.structs.replace(ARCHIVE, sends_as=("PACS_1",))
        found = self.judged(msgspec.structs.replace(CAME, calling_ae_title="PACS_2"), node=node)[1]
        assert (found.result, found.code) == (Result.FAIL, "other-ae-title")
        assert found.remedy == "set sends_as: [PACS_1, PACS_2] at nodes.archive.sends_as in rules/site.yaml:7"

    def test_it_came_for_another_title(self) -> None:
        found = self.judged(msgspec.structs.replace(CAME, called_ae_title="ROUTER2"))[0]
        assert (found.result, found.code) == (Result.FAIL, "wrong-called-ae-title")
        assert "at archive: correct the move destination" in found.remedy

    def test_more_came_than_was_asked_for(self) -> None:
        assert self.judged(msgspec.structs.replace(CAME, others=3))[0].code == "more-than-asked"

    @pytest.mark.parametrize(
        ("seen", "status", "code"),
        [
            (Landed(), 0xA801, "destination-unknown"),
            (Landed(), 0x0000, "sent-elsewhere"),
            (Landed(), 0xA702, "move-suboperations-impossible"),
            (Landed(), 0xC001, "move-unable-to-process"),
            (Landed(), 0x0124, "not-authorised"),
            (Landed(), 0x0122, "class-not-supported"),
            (Landed(callers=(caller(),)), 0xB000, "nothing-stored"),
            (Landed(callers=(caller("OTHER"),)), 0xB000, "wrong-called-ae-title"),
            (Landed(tls_trouble="tls-not-spoken"), 0xA702, "tls-to-us"),
            (Landed(tls_trouble="tls-unwanted"), 0xA702, "tls-to-us"),
        ],
    )
    def test_it_did_not_come(self, seen: Landed, status: int, code: str) -> None:
        (found,) = self.judged(seen, status, "see study 1.2.3.4567")
        assert (found.result, found.code) == (Result.FAIL, code)
        assert found.remedy.startswith("at archive: ")
        assert "4567" not in found.message

    @pytest.mark.parametrize("cause", ["aborted", "aborted-2-0", "connection-lost", "timeout-total"])
    def test_a_request_that_broke_may_be_a_destination_that_is_not_known(self, cause: str) -> None:
        found = checkup_move.move_broken(cause, "It broke.", around())
        assert found.result is Result.FAIL
        assert "AE title ROUTER, host 10.0.0.7, port 11112" in found.remedy


def test_stopped_routes_and_a_node_that_is_left_alone() -> None:
    stop = StoppedRoute(
        route=Route("archive", "ws"), cause="destination-unknown", reason="It does not know it.", stopped_at=NOW,
        probe_at=NOW,
    )  # fmt: skip
    assert checkup_node.routes([], False, around()).result is Result.OK
    assert checkup_node.routes([stop], False, around()).code == "stopped"
    assert checkup_node.routes([stop], True, around()).code == "left-alone"


def test_small_things_that_are_online_go_first() -> None:
    rows = [
        row(StudyInstanceUID="1.1", NumberOfStudyRelatedInstances="900"),
        row(StudyInstanceUID="1.2", NumberOfStudyRelatedInstances="2", InstanceAvailability="NEARLINE"),
        row(StudyInstanceUID="1.3", NumberOfStudyRelatedInstances="0"),
        row(StudyInstanceUID="1.4"),
        row(StudyInstanceUID="1.5", NumberOfStudyRelatedInstances="4", InstanceAvailability="ONLINE"),
        row(StudyInstanceUID="", NumberOfStudyRelatedInstances="1"),
    ]
    found = checkup_node.choose(rows, "NumberOfStudyRelatedInstances", "StudyInstanceUID")
    assert [one.text("StudyInstanceUID") for one in found] == ["1.5", "1.1", "1.4"]


def test_patience_only_shortens_deadlines() -> None:
    node = msgspec.structs.replace(ARCHIVE, timeouts=Timeouts(connect=2.0, negotiation=200.0))
    shortened = patient(node)
    assert shortened.timeouts.connect == 2.0
    assert shortened.timeouts.negotiation < 60.0
    assert shortened.move.total <= 120.0
    assert shortened.find.total <= 60.0


# the doctor over fakes ------------------------------------------------------------------------------------------------


class FakeWire:
    """A node that answers, and counts what it is asked; `fault` raises in the step of that name."""

    def __init__(self) -> None:
        self.faults: dict[str, WireError] = {}
        self.steps: list[str] = []
        self.own_address = "10.0.0.7"
        self.studies = [row(NumberOfStudyRelatedInstances="2", ModalitiesInStudy="CT")]
        self.result = MoveResult(status=0, counts=SubOperationCounts(0, 1, 0, 0))

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name in self.faults:
            raise self.faults[name]

    def resolve(self, node: Node) -> list[str]:
        self._step("resolve")
        return [node.host]

    def connect(self, node: Node) -> Reached:
        self._step("connect")
        return Reached(seconds=0.001, own_address=self.own_address)

    def secure(self, node: Node) -> Secured:
        self._step("secure")
        return Secured(version="TLSv1.3", expires_at=NOW + timedelta(days=100))

    def certificate(self, node: Node) -> None:
        return None

    def speaks_tls(self, node: Node) -> bool:
        self.steps.append("speaks_tls")
        return False

    def echo(self, node: Node) -> None:
        self._step("echo")

    def accepted(self, node: Node, sop_classes: Sequence[str]) -> Collection[str]:
        self._step("accepted")
        return set(sop_classes)

    def find(self, node: Node, level: QueryRetrieveLevel, keys: Identifier, **_: Any) -> FindResult:
        self._step(f"find {level}")
        found = {
            QueryRetrieveLevel.STUDY: self.studies if keys.text("StudyDate") == DAY else [],
            QueryRetrieveLevel.SERIES: [Identifier.of(SeriesInstanceUID="1.2.3.1", NumberOfSeriesRelatedInstances=2)],
            QueryRetrieveLevel.IMAGE: [Identifier.of(SOPInstanceUID="1.2.3.1.1", SOPClassUID="1.2")],
        }
        return FindResult(identifiers=list(found[level]), status=0)

    def move(self, node: Node, request: MoveRequest, *, on_response: Any, **_: Any) -> MoveResult:
        self._step("move")
        self.request = request
        on_response(MoveProgress(status=0, counts=self.result.counts))
        return self.result

    def worklist(self, *_: Any, **__: Any) -> FindResult:
        self._step("find worklist")
        return FindResult(identifiers=[], status=0)

    def get(self, node: Node, request: MoveRequest, *, on_response: Any, **_: Any) -> MoveResult:
        self._step("get")
        on_response(MoveProgress(status=0, counts=self.result.counts))
        return self.result

    def commit(self, *_: Any, **__: Any) -> None:
        raise AssertionError("nothing is committed")


class FakeLanding:
    """The image comes, unless it does not."""

    def __init__(self, seen: Landed) -> None:
        self.seen = seen
        self.waited: list[float] = []

    def expect(self, sop_instance_uid: str) -> None:
        self.expected = sop_instance_uid

    def last_arrival(self) -> float:
        return 0.0

    def wait(self, seconds: float) -> Landed:
        self.waited.append(seconds)
        return self.seen


class Office:
    """A doctor with everything faked."""

    def __init__(self, *, node: Node = ARCHIVE, wanted: bool | None = None, to: tuple[str, ...] = ("local",)) -> None:
        self.wire = FakeWire()
        self.landing: FakeLanding | None = FakeLanding(CAME)
        self.rules = rules(rule(to=to), nodes=(node, WARD))
        self.wanted = wanted
        self.knowledge = Knowledge()

    def _land(self, listen: bool) -> FakeLanding:
        if self.landing is None:
            raise ConfigurationError("The Store SCP cannot listen.")
        return self.landing

    def doctor(self) -> Doctor:
        clock = FakeClock()
        mover = MoveCheck(
            peers=self.wire, landing=self._land, memory=None, metrics=None, clock=clock, wanted=self.wanted
        )
        return Doctor(
            self.rules,
            where,
            probe=self.wire,
            peers=self.wire,
            mover=mover,
            machine=None,  # type: ignore[arg-type]  asked for certificates only
            clock=clock,
            knowledge=self.knowledge,
        )

    def examine(self, name: str = "archive") -> dict[str, Check]:
        return {check.check: check for check in self.doctor().node(name)}


def limited(queries: int) -> Office:
    """An office whose archive allows so many queries a minute."""
    return Office(node=msgspec.structs.replace(ARCHIVE, limits=NodeLimits(queries_per_minute=queries)))


class TestDoctor:
    def test_all_is_well(self) -> None:
        office = Office()
        found = office.examine()
        assert {check.result for check in found.values()} == {Result.OK}
        assert office.wire.request.sop_instance_uids == ("1.2.3.1.1",)
        assert office.wire.request.level is QueryRetrieveLevel.IMAGE
        assert office.landing is not None
        assert office.landing.expected == "1.2.3.1.1"

    @pytest.mark.parametrize(
        ("step", "error", "check", "after"),
        [
            ("resolve", ConnectionFailed("x", "name-unresolved"), "name", "connect tls echo contexts query move"),
            ("connect", ConnectionFailed("x", "connection-refused"), "connect", "tls echo contexts query move"),
            ("echo", AssociationRejected(1, 1, 3), "echo", "contexts query move"),
        ],
    )
    def test_what_makes_no_sense_any_more_is_not_tried(
        self, step: str, error: WireError, check: str, after: str
    ) -> None:
        office = Office()
        office.wire.faults[step] = error
        found = office.examine()
        assert found[check].result is Result.FAIL
        for name in after.split():
            assert found[name].result is Result.SKIPPED
            assert f"{check} failed" in found[name].message
        assert office.wire.steps[-1] in (step, "speaks_tls")
        assert found["routes"].result is Result.OK

    def test_the_ledger_is_told_of_even_where_nothing_answers(self) -> None:
        office = Office()
        office.wire.faults["connect"] = ConnectionFailed("x", "connection-refused")
        office.knowledge = Knowledge(left_alone=frozenset({"archive"}))
        assert office.examine()["routes"].code == "left-alone"

    def test_a_node_with_few_queries_a_minute_gets_no_more(self) -> None:
        for allowed in (1, 2, 3, 100):
            office = Office(node=msgspec.structs.replace(ARCHIVE, limits=NodeLimits(queries_per_minute=allowed)))
            office.examine()
            asked = sum(step.startswith("find ") for step in office.wire.steps)
            assert 0 < asked <= min(allowed, QUERIES)

    @pytest.mark.parametrize("allowed", [1, 2, 3, 4, 5, 6, 100])
    def test_a_worklist_query_counts_as_one_of_them(self, allowed: int) -> None:
        office = limited(allowed)
        office.rules = rules(
            rule(), rule("w", worklist=Worklist(source="archive", keys=())), nodes=tuple(office.rules.nodes.values())
        )
        for studies in (office.wire.studies, []):
            office.wire.studies, office.wire.steps = studies, []
            found = office.examine()
            assert found["worklist query"].result is Result.OK
            asked = sum(step.startswith("find ") for step in office.wire.steps)
            assert 0 < asked <= min(allowed, QUERIES)

    def test_what_was_not_asked_is_not_said_to_be_missing(self) -> None:
        """The node has a study, but it is older than the queries that are allowed reach back."""
        for allowed, days in ((1, "today"), (2, "the last 7 days")):
            office = limited(allowed)
            office.wire.studies = []
            found = office.examine()
            for name in ("attributes", "character set"):
                assert (found[name].result, found[name].code) == (Result.SKIPPED, "no-more")
                assert f"no study of {days}, and was not asked further back" in found[name].message
                assert f"queries_per_minute allows no more than {allowed}" in found[name].message
            assert found["move"].code == "no-more"
            assert "limits.queries_per_minute in rules/site.yaml:7" in found["move"].remedy

    def test_an_image_that_could_not_be_looked_for_is_not_said_to_be_missing(self) -> None:
        office = limited(2)
        move = office.examine()["move"]
        assert (move.result, move.code) == (Result.SKIPPED, "no-more")
        assert "queries_per_minute allows no more than 2" in move.message

    def test_all_days_that_were_asked_for_are_said_to_have_no_study(self) -> None:
        office = Office()
        office.wire.studies = []
        found = office.examine()
        assert "no study of the last 30 days." in found["attributes"].message
        assert "no image of the last 30 days" in found["move"].message
        assert not any("queries_per_minute" in check.message for check in found.values())

    def test_a_node_reached_over_ipv6_cannot_send_where_only_ipv4_is_listened_to(self) -> None:
        office = Office()
        office.wire.own_address, office.landing = "fd00::7", FakeLanding(Landed())
        listens = 'set listen: "[::]:11112" (IPv6 and IPv4) at router.listen in rules/site.yaml:7; then at archive: '
        for status, code in ((0xA702, "not-listening"), (0xA801, "destination-unknown"), (0, "sent-elsewhere")):
            office.wire.result = MoveResult(status=status, counts=SubOperationCounts())
            move = office.examine()["move"]
            assert (move.result, move.code) == (Result.FAIL, code)
            assert move.remedy.startswith(listens)
            assert "host fd00::7" in move.remedy
        office.wire.faults["move"] = ConnectionLost("It closed the connection.")
        assert office.examine()["move"].remedy.startswith(listens)

    def test_that_only_ipv4_is_listened_to_is_told_too_where_no_image_is_asked_for(self) -> None:
        office = Office(wanted=False)
        office.wire.own_address = "fd00::7"
        found = office.examine()["move address"]
        assert (found.result, found.code) == (Result.WARN, "not-listening")
        assert "IPv4 only" in found.message
        assert 'set listen: "[::]:11112"' in found.remedy
        office = Office(wanted=True, to=("ws",))
        office.wire.own_address = "fd00::7"
        assert "move address" not in office.examine("ws"), "it need not reach this router"

    @pytest.mark.parametrize(
        ("listen", "own"),
        [("0.0.0.0", "10.0.0.7"), ("0.0.0.0", "::ffff:10.0.0.7"), ("::", "fd00::7"), ("::", "10.0.0.7")],
    )
    def test_an_address_that_is_listened_to_is_no_reason(self, listen: str, own: str) -> None:
        office = Office()
        office.rules = msgspec.structs.replace(office.rules, router=RouterSettings(listen_host=listen))
        office.wire.own_address, office.landing = own, FakeLanding(Landed())
        office.wire.result = MoveResult(status=0xA702, counts=SubOperationCounts())
        found = office.examine()
        assert found["move"].code == "move-suboperations-impossible"
        assert f"host {own}" in found["move"].remedy
        assert "move address" not in found

    def test_no_study_is_not_a_fault(self) -> None:
        office = Office()
        office.wire.studies = []
        found = office.examine()
        assert not any(check.result is Result.FAIL for check in found.values())
        assert found["move"].code == "no-image"
        assert "move" not in office.wire.steps

    def test_without_a_port_of_ours_no_image_is_asked_for(self) -> None:
        office = Office()
        office.landing = None
        assert office.examine()["move"].code == "no-port"
        assert "move" not in office.wire.steps

    def test_a_request_for_one_that_moves_more_is_cancelled(self) -> None:
        office = Office()
        office.wire.result = MoveResult(status=0, counts=SubOperationCounts(5, 2, 0, 0))
        seen: list[threading.Event] = []
        move = office.wire.move

        def watched(node: Node, request: MoveRequest, *, cancelled: threading.Event, **more: Any) -> MoveResult:
            seen.append(cancelled)
            return move(node, request, **more)

        office.wire.move = watched  # type: ignore[method-assign, assignment]
        office.examine()
        assert [one.is_set() for one in seen] == [True]

    def test_an_image_that_came_over_a_request_that_broke_still_tells_the_title(self) -> None:
        office = Office()
        office.wire.faults["move"] = ConnectionLost("It closed the connection.")
        found = office.examine()
        assert (found["move"].result, found["move"].code) == (Result.WARN, "ended-badly")
        assert found["stores from"].result is Result.OK

    def test_a_source_by_c_get_is_asked_for_an_image_by_c_get(self) -> None:
        office = Office(node=msgspec.structs.replace(ARCHIVE, move=MoveSettings(via="get")))
        assert office.examine()["move"].code == "arrived"
        assert "move" not in office.wire.steps
        office.landing = FakeLanding(Landed())
        office.wire.result = MoveResult(status=0xC000, counts=SubOperationCounts(), error_comment="for Doe^J 12345")
        check = office.examine()["move"]
        assert (check.result, check.code) == (Result.FAIL, "get-unable-to-process")
        assert "at archive: allow ROUTER to use C-GET" in check.remedy
        assert "Doe" not in check.message
        office.wire.faults["get"] = ConnectionLost("It closed the connection.")
        assert office.examine()["move"].result is Result.FAIL

    def test_a_destination_is_not_asked_for_an_image(self) -> None:
        office = Office(to=("ws",))
        assert office.examine("ws")["move"].code == "not-needed"
        assert office.examine("archive")["move"].code == "not-needed"

    def test_several_nodes_come_in_the_order_they_were_named(self) -> None:
        assert list(Office().doctor().examine(["ws", "archive"])) == ["ws", "archive"]

    def test_nobody_is_asked_any_more_once_the_person_has_had_enough(self) -> None:
        office = Office()
        doctor = office.doctor()
        doctor.cancelled.set()
        found = {check.check: check for check in doctor.node("archive")}
        assert {found[name].result for name in ("name", "connect", "echo", "query")} == {Result.SKIPPED}
        assert not office.wire.steps
