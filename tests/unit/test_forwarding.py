"""Passing on what arrived: when it is quiet, what is taken, who gets it, what is still to be sent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.arriving import Consignment, Piece, Taken, counting, quiet, tags_of, taken, to_read
from router.domain.condition import Condition, Evaluation
from router.domain.dicom import Identifier, known_tag
from router.domain.forward import Choice, Forward, Group
from router.domain.forward_choice import Bond, Health, choose, health_of
from router.domain.forwarding import FELL_BACK, Known, Passage, decide
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL, Move, Rule
from router.domain.selection import Action
from router.domain.transfer import Happening, Instance, Intent, State, TransferFact
from router.domain.triggers import Arrival, Unit

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
CALLERS = {"CT1": "ct1", "MR1": "mr1", "A1": "a", "B1": "b"}


def receipt(number: int, *, study: str = "1", series: str = "1.1", title: str = "CT1", at: float = 0.0) -> Receipt:
    return Receipt(
        study_instance_uid=study,
        series_instance_uid=series,
        sop_instance_uid=f"{series}.{number}",
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2.1",
        calling_ae_title=title,
        size=1,
        path=f"{study}/{series}/{number}",
        received_at=NOW + timedelta(seconds=at),
    )


# --- Quiet ------------------------------------------------------------------------------------------------------------


def there(receipts: list[Receipt], arrival: Arrival, at: float) -> tuple[Piece, ...]:
    return quiet(counting(receipts, arrival, CALLERS), arrival, NOW + timedelta(seconds=at)).there


def test_a_study_is_there_once_nothing_of_it_came_for_a_while() -> None:
    arrival = Arrival(stable=60.0)
    some = [receipt(1), receipt(2, at=50), receipt(1, study="2", series="2.1", at=-100)]
    assert there(some, arrival, 0) == (Piece("2"),)
    assert there(some, arrival, 109) == (Piece("2"),)
    assert there(some, arrival, 110) == (Piece("2"), Piece("1"))
    assert quiet(some, arrival, NOW).next_at == NOW + timedelta(seconds=110)
    assert quiet(some, arrival, NOW + timedelta(seconds=110)).next_at is None


def test_a_series_is_there_by_itself_and_an_instance_at_once() -> None:
    some = [receipt(1), receipt(2, series="1.2", at=50)]
    assert there(some, Arrival(level=Unit.SERIES, stable=60.0), 60) == (Piece("1", "1.1"),)
    assert there(some, Arrival(level=Unit.INSTANCE, stable=60.0), 50) == (
        Piece("1", "1.1", "1.1.1"),
        Piece("1", "1.2", "1.2.2"),
    )


def test_only_what_the_nodes_of_the_rule_sent_counts() -> None:
    some = [receipt(1), receipt(2, title="MR1"), receipt(3, title="STRANGER")]
    assert [one.sop_instance_uid for one in counting(some, Arrival(senders=("ct1",)), CALLERS)] == ["1.1.1"]
    assert len(counting(some, Arrival(), CALLERS)) == 3


def test_an_instance_that_comes_again_counts_once_with_its_last_arrival() -> None:
    [one] = counting([receipt(1, at=5), receipt(1, at=9), receipt(1, at=7)], Arrival(), CALLERS)
    assert one.received_at == NOW + timedelta(seconds=9)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 500)), min_size=1),
    st.floats(0, 1000),
    st.sampled_from(Unit),
)
def test_each_piece_is_either_there_or_will_be(rows: list[tuple[int, int, float]], at: float, level: Unit) -> None:
    some = [receipt(number, study=str(study), at=second) for study, number, second in rows]
    arrival, moment = Arrival(stable=100.0, level=level), NOW + timedelta(seconds=at)
    found = quiet(some, arrival, moment)
    assert len(set(found.there)) == len(found.there)
    if found.next_at is None:
        assert {piece.study_instance_uid for piece in found.there} == {one.study_instance_uid for one in some}
    else:
        assert found.next_at > moment
        assert len(quiet(some, arrival, found.next_at).there) > len(found.there)


# --- Taken ------------------------------------------------------------------------------------------------------------

STUDY = [receipt(1), receipt(2), receipt(1, series="1.2"), receipt(1, series="1.3")]
HEADERS = {
    "1.1.1": Identifier.of(Modality="CT", ImageType=("ORIGINAL", "PRIMARY"), StudyDescription="Thorax"),
    "1.1.2": Identifier.of(Modality="CT", ImageType=("DERIVED", "SECONDARY"), StudyDescription="Thorax"),
    "1.2.1": Identifier.of(Modality="SR", StudyDescription="Thorax"),
    "1.3.1": Identifier.of(Modality="PR", StudyDescription="Thorax"),
}


def take(where: Mapping[str, Any], unit: Unit, headers: Mapping[str, Identifier] = HEADERS) -> Taken:
    evaluation = Evaluation(NOW, UTC)
    return taken(Condition.of(where), unit, STUDY, headers, evaluation)


def uids(found: Taken) -> list[list[str]]:
    return [[one.sop_instance_uid for one in each.receipts] for each in found.consignments]


@pytest.mark.parametrize(
    ("where", "unit", "expected"),
    [
        ({}, Unit.STUDY, [["1.1.1", "1.1.2", "1.2.1", "1.3.1"]]),
        ({}, Unit.SERIES, [["1.1.1", "1.1.2"], ["1.2.1"], ["1.3.1"]]),
        ({}, Unit.INSTANCE, [["1.1.1", "1.1.2"], ["1.2.1"], ["1.3.1"]]),
        ({"Modality": "CT"}, Unit.STUDY, [["1.1.1", "1.1.2", "1.2.1", "1.3.1"]]),
        ({"Modality": "CT"}, Unit.SERIES, [["1.1.1", "1.1.2"]]),
        ({"Modality": ["CT", "SR"]}, Unit.SERIES, [["1.1.1", "1.1.2"], ["1.2.1"]]),
        ({"ImageType": "DERIVED"}, Unit.SERIES, [["1.1.1", "1.1.2"]]),
        ({"ImageType": "DERIVED"}, Unit.INSTANCE, [["1.1.2"]]),
        ({"not": {"Modality": "SR"}}, Unit.SERIES, [["1.1.1", "1.1.2"], ["1.3.1"]]),
        ({"not": {"ModalitiesInStudy": "SR"}}, Unit.STUDY, []),
        ({"ModalitiesInStudy": "SR", "Modality": "CT"}, Unit.SERIES, [["1.1.1", "1.1.2"]]),
        ({"NumberOfStudyRelatedInstances": "4"}, Unit.SERIES, [["1.1.1", "1.1.2"], ["1.2.1"], ["1.3.1"]]),
        ({"NumberOfStudyRelatedSeries": {"gt": "3"}}, Unit.SERIES, []),
        ({"NumberOfSeriesRelatedInstances": {"gte": "2"}}, Unit.SERIES, [["1.1.1", "1.1.2"]]),
    ],
)  # fmt: skip
def test_a_rule_takes_what_matches_and_with_it_what_its_level_says(
    where: Mapping[str, Any], unit: Unit, expected: list[list[str]]
) -> None:
    assert uids(take(where, unit)) == expected


def test_private_and_nested_attributes_are_asked_of_the_header() -> None:
    headers = dict(HEADERS)
    item = Identifier.of(CodeValue="T-D3000")
    headers["1.3.1"] = Identifier(
        {0x00091001: ("ACME 1",), 0x00091002: ("yes",), known_tag("AnatomicRegionSequence"): (item,)}
    )
    assert uids(take({"(0009,1002)": "yes"}, Unit.INSTANCE, headers)) == [["1.3.1"]]
    assert uids(take({"AnatomicRegionSequence.CodeValue": "T-D3000"}, Unit.INSTANCE, headers)) == [["1.3.1"]]


def test_headers_are_read_no_more_than_the_condition_needs() -> None:
    assert to_read(Condition.of({}), Unit.INSTANCE, STUDY) == []
    of_series = to_read(Condition.of({"Modality": "CT", "StudyDescription": "x"}), Unit.STUDY, STUDY)
    assert [one.sop_instance_uid for one in of_series] == ["1.1.1", "1.2.1", "1.3.1"]
    for where in ({"ImageType": "x"}, {"(0009,1002)": "x"}, {"KVP": "120"}):
        assert len(to_read(Condition.of(where), Unit.STUDY, STUDY)) == 4
    assert len(to_read(Condition.of({"Modality": "CT"}), Unit.INSTANCE, STUDY)) == 4
    assert tags_of(Condition.of({"ModalitiesInStudy": "CT", "NumberOfStudyRelatedInstances": "3"})) == {
        known_tag("Modality")
    }


def test_what_is_left_has_a_reason_without_any_value() -> None:
    found = take({"StudyDescription": "Abdomen"}, Unit.STUDY)
    assert found.consignments == ()
    assert "StudyDescription" in found.reason
    assert "Thorax" not in found.reason


def test_an_instance_that_cannot_be_read_satisfies_nothing() -> None:
    headers = {"1.2.1": HEADERS["1.2.1"]}
    assert uids(take({"not": {"Modality": "CT"}}, Unit.SERIES, headers)) == [["1.2.1"]]
    assert take({"Modality": "CT"}, Unit.STUDY, {}) == ((), "the headers of what arrived cannot be read")


# --- Groups -----------------------------------------------------------------------------------------------------------

A_OR_B = Group(choice=Choice.ANY_OF, nodes=("a", "b", "c"))
IN_TURN = Group(choice=Choice.ROUND_ROBIN, nodes=("a", "b", "c"))


def chosen(group: Group, **given: Any) -> tuple[str, ...]:
    return choose(group, **{"senders": (), "bonds": {}, "health": {}, "studies": {}, **given}).nodes


def test_any_of_is_the_first_that_can_take_it() -> None:
    assert chosen(A_OR_B) == ("a",)
    assert chosen(A_OR_B, health={"a": Health.DOWN}) == ("b",)
    assert chosen(A_OR_B, health={"a": Health.DOWN, "b": Health.CLOSED, "c": Health.STOPPED}) == ("b",)
    assert chosen(A_OR_B, senders={"a"}) == ("b",)
    assert chosen(A_OR_B, senders={"a", "b", "c"}) == ()


def test_round_robin_is_the_one_that_got_fewest() -> None:
    assert chosen(IN_TURN, studies={"a": 2, "b": 1, "c": 1}) == ("b",)
    assert chosen(IN_TURN, studies={"a": 2, "b": 1, "c": 1}, health={"b": Health.DOWN}) == ("c",)


def test_a_study_is_not_torn_apart() -> None:
    bonds = {"b": Bond.BOUND}
    for group in (A_OR_B, IN_TURN):
        assert chosen(group, bonds=bonds, health={"b": Health.DOWN}, studies={"b": 9}) == ("b",)


def test_what_waits_for_a_node_that_fails_goes_to_another_and_comes_back_for_nothing_less() -> None:
    waits = {"a": Bond.WAITS}
    fallen = choose(A_OR_B, senders=(), bonds=waits, health={"a": Health.DOWN}, studies={})
    assert fallen == (("b",), ("a",), "a does not answer: b gets it")
    assert chosen(A_OR_B, bonds={"b": Bond.WAITS}) == ("b",), "no to and fro"
    none = dict.fromkeys("abc", Health.DOWN)
    waiting = choose(A_OR_B, senders=(), bonds=waits, health=none, studies={})
    assert waiting == (("a",), (), "no node of the group can take it: a waits")


def test_a_node_that_failed_the_study_comes_after_all_others() -> None:
    assert chosen(A_OR_B, bonds={"a": Bond.SPOILED}, health={"b": Health.DOWN, "c": Health.STOPPED}) == ("b",)
    assert chosen(A_OR_B, bonds=dict.fromkeys("abc", Bond.SPOILED)) == ("a",)


@given(
    st.sampled_from([A_OR_B, IN_TURN, Group(nodes=("a", "b", "c"))]),
    st.sets(st.sampled_from("abc")),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(Bond)),
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(Health)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
)
def test_nothing_is_dropped_and_nothing_waits_where_another_could_take_it(
    group: Group,
    senders: set[str],
    bonds: dict[str, Bond],
    health: dict[str, Health],
    studies: dict[str, int],
) -> None:
    found = choose(group, senders=senders, bonds=bonds, health=health, studies=studies)
    candidates = {name for name in group.nodes if name not in senders}
    assert bool(found.nodes) is bool(candidates)
    assert set(found.nodes) <= candidates
    assert not set(found.nodes) & set(found.withdrawn)
    if group.choice is Choice.ALL_OF:
        assert set(found.nodes) == candidates
        return
    assert len(found.nodes) == bool(candidates)
    bound = {name for name in candidates if bonds.get(name) is Bond.BOUND}
    fresh = {name for name in candidates if bonds.get(name) is not Bond.SPOILED}
    ready = {name for name in fresh if health.get(name, Health.READY) is Health.READY}
    if bound:
        assert set(found.nodes) <= bound
    elif ready:
        assert set(found.nodes) <= ready
    assert {name for name in candidates - set(found.nodes) if bonds.get(name) is Bond.WAITS} == set(found.withdrawn)


def test_turns_are_even_where_all_can_take_it() -> None:
    studies: dict[str, int] = {}
    for _ in range(30):
        [node] = chosen(IN_TURN, studies=studies)
        studies[node] = studies.get(node, 0) + 1
    assert studies == {"a": 10, "b": 10, "c": 10}


def test_of_several_troubles_the_longest_lasting_is_said() -> None:
    fine = {"configured": True, "stopped": False, "left_alone": False, "open_now": True}
    assert health_of(**fine) is Health.READY
    assert health_of(**{**fine, "open_now": False}) is Health.CLOSED
    assert health_of(**{**fine, "open_now": False, "left_alone": True}) is Health.DOWN
    assert health_of(**{**fine, "left_alone": True, "stopped": True}) is Health.STOPPED
    assert health_of(**{**fine, "stopped": True, "configured": False}) is Health.REMOVED


# --- Sent -------------------------------------------------------------------------------------------------------------


def rule(*to: Group, level: Unit = Unit.STUDY) -> Rule:
    action = Forward(to=to or (Group(nodes=("a",)),), level=level)
    return Rule(
        name="onwards",
        arrival=Arrival(),
        where=Condition.of(),
        move=Move(to=action.nodes),
        forward=action,
        priority="urgent",
    )


def consignment(*receipts: Receipt, series: str = "") -> Consignment:
    study = receipts[0].study_instance_uid
    return Consignment(study_instance_uid=study, series_instance_uid=series, receipts=receipts)


def known(state: State, *, there: str = "", wanted: str = "", cause: str = "", number: int = 7) -> Known:
    return Known(
        fact=TransferFact(number, state, len(wanted.split()), cause),
        wanted=frozenset(wanted.split()),
        there=frozenset(there.split()),
    )


def passages(
    of: Rule, *sent: Consignment, before: Mapping[str, Known] | None = None, manual: bool = False, **health: Health
) -> list[Passage]:
    facts = {Intent(LOCAL, "1", "", node): one for node, one in (before or {}).items()}
    return decide(rule=of, consignments=sent, known=facts, health=health, studies={}, callers=CALLERS, manual=manual)


def told(found: list[Passage]) -> list[tuple[str, str, str]]:
    return [(one.decision.destination, str(one.decision.action), one.decision.code) for one in found]


def test_what_arrived_goes_to_each_destination_from_local() -> None:
    found = passages(rule(Group(nodes=("a",)), Group(nodes=("b", "c"))), consignment(receipt(1), receipt(2)))
    assert told(found) == [("a", "move", "new"), ("b", "move", "new"), ("c", "move", "new")]
    new = found[0].decision.new
    assert new is not None
    assert (new.intent, new.rule, new.priority, new.instance_count) == (Intent(LOCAL, "1", "", "a"), "onwards", 0, 2)
    assert found[0].wanted == found[0].missing == {Instance("1.1", "1.1.1"), Instance("1.1", "1.1.2")}


def test_who_sent_an_instance_does_not_get_it_back() -> None:
    [found] = passages(rule(), consignment(receipt(1), receipt(2, title="A1")))
    assert found.wanted == {Instance("1.1", "1.1.1")}
    [left] = passages(rule(), consignment(receipt(1, title="A1")))
    assert (left.decision.action, left.decision.code, left.decision.new) == (Action.SKIP, "sender", None)


def test_what_has_ended_is_not_said_to_wait_for_its_node() -> None:
    def reason(state: State) -> str:
        [found] = passages(
            rule(Group(choice=Choice.ANY_OF, nodes=("a", "b"))),
            consignment(receipt(1)),
            before={"a": known(state, wanted="1.1.1", there="1.1.1")},
            a=Health.DOWN,
        )
        return found.decision.reason

    assert reason(State.UNPROVEN) == "already unproven"
    assert reason(State.MOVING) == "already moving; a does not answer: it waits"


@pytest.mark.parametrize("state", [State.COMPLETE, State.UNPROVEN, State.PARTIAL, State.FAILED, State.QUEUED])
def test_what_comes_later_is_sent_later_and_that_alone(state: State) -> None:
    [found] = passages(
        rule(), consignment(receipt(1), receipt(2)), before={"a": known(state, wanted="1.1.1", there="1.1.1")}
    )
    assert told([found]) == [("a", "move", "grew")]
    assert found.decision.new is not None
    assert found.decision.new.happening is Happening.GREW
    assert found.missing == {Instance("1.1", "1.1.2")}
    assert found.decision.reason == "1 more instance has arrived"


@pytest.mark.parametrize(
    ("state", "cause", "code", "happening"),
    [
        (State.COMPLETE, "", "done", None),
        (State.UNPROVEN, "", "done", None),
        (State.CANCELLED, "cancelled", "done", None),
        (State.CANCELLED, FELL_BACK, "again", Happening.AGAIN),
        (State.NOTHING, "gone", "again", Happening.AGAIN),
        (State.FAILED, "wire", "failed-before", None),
        (State.QUEUED, "", "under-way", None),
        (State.MOVING, "", "under-way", None),
        (State.HELD, "", "held", None),
    ],
)
def test_what_did_not_grow_is_not_sent_again(state: State, cause: str, code: str, happening: Happening | None) -> None:
    [found] = passages(rule(), consignment(receipt(1)), before={"a": known(state, wanted="1.1.1", cause=cause)})
    assert found.decision.code == code
    assert (found.decision.new.happening if found.decision.new else None) is happening
    assert found.decision.transfer == 7


def test_a_person_has_failures_tried_again() -> None:
    before = {"a": known(State.PARTIAL, wanted="1.1.1", cause="store-failed")}
    [found] = passages(rule(), consignment(receipt(1)), before=before, manual=True)
    assert told([found]) == [("a", "move", "again")]


def test_what_is_being_sent_goes_on_and_the_rest_is_next() -> None:
    before = {"a": known(State.MOVING, wanted="1.1.1")}
    [found] = passages(rule(), consignment(receipt(1), receipt(2)), before=before)
    assert told([found]) == [("a", "skip", "under-way")]
    assert found.decision.reason == "already moving; 1 more instance has arrived, which goes next"


def test_a_study_that_waits_in_vain_falls_back_and_the_wait_is_withdrawn() -> None:
    before = {"a": known(State.QUEUED, wanted="1.1.1", number=41)}
    [found] = passages(rule(A_OR_B), consignment(receipt(1)), before=before, a=Health.DOWN)
    assert told([found]) == [("b", "move", "new")]
    assert found.withdrawn == (41,)
    assert found.decision.reason == "not forwarded before; a does not answer: b gets it"


def test_the_series_of_a_study_stay_together() -> None:
    sent = [consignment(receipt(1), series="1.1"), consignment(receipt(1, series="1.2"), series="1.2")]
    found = passages(rule(IN_TURN, level=Unit.SERIES), *sent)
    assert [one.decision.destination for one in found] == ["a", "a"]


def test_the_studies_of_one_look_take_turns() -> None:
    sent = [consignment(receipt(1, study=str(number), series=f"{number}.1")) for number in range(6)]
    found = passages(rule(IN_TURN), *sent)
    assert [one.decision.destination for one in found] == ["a", "b", "c", "a", "b", "c"]


STATES = st.sampled_from([None, *State])
INSTANCES = st.sets(st.sampled_from(["1.1.1", "1.1.2", "1.1.3"]))


@given(STATES, INSTANCES, INSTANCES, st.sets(st.integers(1, 3), min_size=1), st.booleans())
def test_all_that_arrived_is_there_or_missing_and_only_what_is_missing_is_sent(
    state: State | None, wanted: set[str], held: set[str], numbers: set[int], manual: bool
) -> None:
    before = {} if state is None else {"a": known(state, wanted=" ".join(wanted), there=" ".join(held))}
    sent = consignment(*[receipt(number) for number in sorted(numbers)])
    [found] = passages(rule(), sent, before=before, manual=manual)
    arrived = {f"1.1.{number}" for number in numbers}
    assert {one.sop_instance_uid for one in found.wanted} == arrived
    assert {one.sop_instance_uid for one in found.missing} == (arrived - held if before else arrived)
    assert "1.1" not in found.decision.reason
    fresh = arrived - wanted - held
    if before and fresh and state not in (State.MOVING, State.VERIFYING, State.CANCELLED):
        assert found.decision.new is not None, "what grew is never forgotten"
