"""What has arrived and is to be passed on, as the ledger keeps it: durable, once, and for each rule by itself."""

from __future__ import annotations

from datetime import UTC

import msgspec
import pytest

from router.domain.arriving import ArrivalDue, counting, dues, of_pieces, quiet, taken
from router.domain.condition import Condition, Evaluation
from router.domain.forward import Choice, Forward, Group
from router.domain.forward_choice import Health
from router.domain.forwarding import FELL_BACK, Passage, decide
from router.domain.passing import ArrivalReport, ArrivalState, PendingArrival
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL, Move, Node, RouterSettings, Rule, RuleSet
from router.domain.transfer import Finish, Happening, Instance, Intent, State, Transfer
from router.domain.triggers import Arrival, Unit
from router.ledger.arrivals import PAUSE
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after

STUDY = "1.2.826.1"
DONE = ArrivalReport()


def rule(name: str, *groups: Group, level: Unit = Unit.STUDY, **more: object) -> Rule:
    settings = {"enabled": True} | more
    return Rule(
        name=name,
        arrival=Arrival(stable=60.0, level=level),
        where=Condition(),
        move=Move(to=()),
        forward=Forward(to=groups, level=level),
        **settings,  # type: ignore[arg-type]
    )


def to(*nodes: str, choice: Choice = Choice.ALL_OF) -> Group:
    return Group(choice=choice, nodes=nodes)


def rule_set(*rules: Rule) -> RuleSet:
    nodes = [Node(name=name, ae_title=name.upper(), host="h", port=104) for name in ("ct", "a", "b")]
    return RuleSet(
        router=RouterSettings(),
        nodes={one.name: one for one in nodes},
        rules={one.name: one for one in rules},
        content_hash="x",
    )


def receipt(number: int, at: float = 0.0, series: str = "1", title: str = "CT") -> Receipt:
    return Receipt(
        study_instance_uid=STUDY,
        series_instance_uid=f"{STUDY}.{series}",
        sop_instance_uid=f"{STUDY}.{series}.{number}",
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2.1",
        calling_ae_title=title,
        size=1,
        path=f"{series}/{number}",
        received_at=after(at),
    )


def arrive(ledger: SqlLedger, rules: RuleSet, *receipts: Receipt) -> None:
    ledger.add_receipts(receipts, dues(receipts, rules))


def begin(ledger: SqlLedger, at: float) -> PendingArrival:
    """Claim the next study; there must be one."""
    pending = ledger.claim_arrival(after(at), LEASE)
    assert pending is not None
    return pending


def decided(
    ledger: SqlLedger, rules: RuleSet, pending: PendingArrival, at: float, health: dict[str, Health] | None = None
) -> list[Passage]:
    """What a look decides."""
    one = rules.rules[pending.rule]
    assert one.arrival is not None
    assert one.forward is not None
    counted = counting(ledger.receipts_of(pending.study_instance_uid), one.arrival, rules.callers)
    there = of_pieces(counted, one.arrival.level, quiet(counted, one.arrival, after(at)).there)
    takes = taken(one.where, one.forward.level, there, {}, Evaluation(after(at), UTC))
    return decide(
        rule=one,
        consignments=takes.consignments,
        known=ledger.known_of(pending.study_instance_uid),
        health=health or {},
        studies=ledger.given(one.name),
        callers=rules.callers,
    )


def look(
    ledger: SqlLedger, rules: RuleSet, at: float, health: dict[str, Health] | None = None, report: ArrivalReport = DONE
) -> PendingArrival:
    """A whole look at the next study."""
    pending = begin(ledger, at)
    assert ledger.finish_arrival(pending, report, decided(ledger, rules, pending, at, health), after(at))
    return pending


def transfers(ledger: SqlLedger) -> dict[str, State]:
    return {one.intent.destination: one.state for one in ledger.transfers(source=LOCAL)}


def carried(ledger: SqlLedger, destination: str, series: str = "") -> set[str]:
    """Numbers of the instances that a transfer is to carry."""
    known = ledger.known_of(STUDY)[Intent(LOCAL, STUDY, series, destination)]
    return {uid.rpartition(".")[2] for uid in known.wanted}


def run(ledger: SqlLedger, happening: Happening, at: float, delivered: int = 0) -> Transfer:
    """Claim the next transfer from `local` and end it."""
    transfer = ledger.claim_transfer([LOCAL], after(at), LEASE)
    assert transfer is not None
    expected = ledger.expected_instances(transfer.id) or []
    if delivered:
        ledger.set_delivered(transfer, expected[:delivered])
    ended = ledger.finish(transfer, Finish(happening=happening, next_at=after(at + 1)), after(at), after(at))
    assert ended is not None
    return ended


def states(ledger: SqlLedger) -> list[ArrivalState]:
    return [one.state for one in ledger.arrivals()]


ALL = rule_set(rule("r", to("a")))
ANY = rule_set(rule("r", to("a", "b", choice=Choice.ANY_OF)))


# --- Noting -----------------------------------------------------------------------------------------------------------


def test_what_arrives_is_noted_with_its_receipt_and_survives_the_process(url: str) -> None:
    with SqlLedger.open(url) as ledger:
        arrive(ledger, ALL, receipt(1), receipt(2, at=5))
    with SqlLedger.open(url) as ledger:
        [one] = ledger.arrivals()
        assert (one.rule, one.study_instance_uid, one.state) == ("r", STUDY, ArrivalState.WAITING)
        assert one.due_at == after(65)
        assert ledger.claim_arrival(after(64), LEASE) is None
        assert ledger.claim_arrival(after(65), LEASE) is not None
        assert len(ledger.receipts_of(STUDY)) == 2


def test_no_receipt_is_there_without_its_note(ledger: SqlLedger) -> None:
    broken = ArrivalDue(None, STUDY, NOW)  # type: ignore[arg-type]  # what the table does not take
    with pytest.raises(Exception, match="ledger"):
        ledger.add_receipts([receipt(1)], [broken])
    assert ledger.receipts_of(STUDY) == []


def test_each_further_instance_puts_off_the_look_at_a_whole_study(ledger: SqlLedger) -> None:
    for second in (0, 30, 90):
        arrive(ledger, ALL, receipt(second, at=second))
    [one] = ledger.arrivals()
    assert (one.due_at, one.noted_at, one.news) == (after(150), NOW, 3)


def test_a_series_by_itself_waits_for_no_other(ledger: SqlLedger) -> None:
    rules = rule_set(rule("r", to("a"), level=Unit.SERIES))
    arrive(ledger, rules, receipt(1))
    arrive(ledger, rules, receipt(1, at=50, series="2"))
    assert [one.due_at for one in ledger.arrivals()] == [after(60)]
    look(ledger, rules, 60, report=ArrivalReport(due_at=after(110)))
    assert {(one.intent.series_instance_uid) for one in ledger.transfers()} == {f"{STUDY}.1"}
    look(ledger, rules, 110)
    assert len(ledger.transfers()) == 2


def test_instances_by_themselves_are_due_at_once_and_then_gathered(ledger: SqlLedger) -> None:
    rules = rule_set(rule("r", to("a"), level=Unit.INSTANCE))
    arrive(ledger, rules, receipt(1))
    look(ledger, rules, 0)
    arrive(ledger, rules, receipt(2))
    assert [one.due_at for one in ledger.arrivals()] == [NOW + PAUSE]


def test_only_rules_that_wait_for_the_sender_are_told(ledger: SqlLedger) -> None:
    of_ct = msgspec.structs.replace(rule("ct", to("a")), arrival=Arrival(senders=("ct",)))
    rules = rule_set(of_ct, rule("all", to("a")), rule("off", to("a"), enabled=False))
    arrive(ledger, rules, receipt(1, title="B"))
    assert [one.rule for one in ledger.arrivals()] == ["all"]
    arrive(ledger, rules, receipt(2))
    assert [one.rule for one in ledger.arrivals()] == ["all", "ct"]
    assert [one.rule for one in ledger.arrivals(rule="ct")] == ["ct"]
    assert ledger.arrivals(states=[ArrivalState.DONE]) == []
    assert ledger.arrivals(study="1.2") == []


# --- Looks ------------------------------------------------------------------------------------------------------------


def test_a_look_queues_transfers_with_what_they_are_to_carry(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1), receipt(2))
    look(ledger, ALL, 60)
    assert transfers(ledger) == {"a": State.QUEUED}
    assert carried(ledger, "a") == {"1", "2"}
    [one] = ledger.arrivals()
    assert (one.state, one.nodes, one.finished_at) == (ArrivalState.DONE, ("a",), after(60))
    assert ledger.claim_arrival(after(9999), LEASE) is None


def test_what_arrives_while_it_is_looked_at_makes_it_due_again(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1))
    pending = begin(ledger, 60)
    passages = decided(ledger, ALL, pending, 60)
    arrive(ledger, ALL, receipt(2, at=61))
    assert states(ledger) == [ArrivalState.LOOKING]
    assert ledger.finish_arrival(pending, DONE, passages, after(62))
    assert [(one.state, one.due_at) for one in ledger.arrivals()] == [(ArrivalState.WAITING, after(121))]
    look(ledger, ALL, 121)
    assert carried(ledger, "a") == {"1", "2"}
    assert states(ledger) == [ArrivalState.DONE]


def test_a_look_whose_worker_is_gone_is_anothers_and_what_it_decided_counts_no_more(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1))
    lost = begin(ledger, 60)
    passages = decided(ledger, ALL, lost, 60)
    assert ledger.renew_arrival(lost, after(70), LEASE)
    assert ledger.claim_arrival(after(129), LEASE) is None
    other = begin(ledger, 130)
    assert not ledger.renew_arrival(lost, after(131), LEASE)
    assert not ledger.finish_arrival(lost, DONE, passages, after(131))
    assert ledger.transfers() == []
    assert ledger.finish_arrival(other, DONE, passages, after(131))
    assert transfers(ledger) == {"a": State.QUEUED}


def test_leases_that_run_out_are_ended_with_all_others(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1))
    begin(ledger, 60)
    assert ledger.expire_leases(after(100)) == 0
    assert ledger.expire_leases(after(200)) == 1
    assert states(ledger) == [ArrivalState.WAITING]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_a_service_that_begins_alone_ends_the_leases_of_the_dead_one(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1))
    begin(ledger, 200)
    assert ledger.attend(after(201)) == 1
    assert states(ledger) == [ArrivalState.WAITING]


def test_a_decision_about_a_transfer_that_has_begun_meanwhile_is_made_anew(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1))
    look(ledger, ALL, 60)
    arrive(ledger, ALL, receipt(2, at=61))
    pending = begin(ledger, 121)
    passages = decided(ledger, ALL, pending, 121)
    assert passages[0].decision.code == "grew"
    assert ledger.claim_transfer([LOCAL], after(121), LEASE) is not None
    assert not ledger.finish_arrival(pending, DONE, passages, after(122))
    assert carried(ledger, "a") == {"1"}, "a worker sends it"
    assert states(ledger) == [ArrivalState.WAITING]
    [passage] = decided(ledger, ALL, begin(ledger, 123), 123)
    assert (passage.decision.code, passage.open) == ("under-way", True)


def test_what_has_grown_carries_what_it_carried_before_and_knows_what_is_there(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1), receipt(2))
    look(ledger, ALL, 60)
    assert run(ledger, Happening.PROVEN, 61).state is State.COMPLETE
    ledger.forget_receipts([receipt(1)])
    arrive(ledger, ALL, receipt(3, at=100))
    look(ledger, ALL, 160)
    assert transfers(ledger) == {"a": State.QUEUED}
    assert carried(ledger, "a") == {"1", "2", "3"}
    [known] = ledger.known_of(STUDY).values()
    assert {uid.rpartition(".")[2] for uid in known.there} == {"1", "2"}
    [number] = [one.id for one in ledger.transfers()]
    assert len(ledger.delivered_instances(number)) == 2, "so they are not sent again"


def test_two_rules_add_to_what_one_transfer_carries(ledger: SqlLedger) -> None:
    first = msgspec.structs.replace(rule("first", to("a")), arrival=Arrival(senders=("ct",)))
    second = msgspec.structs.replace(rule("second", to("a")), arrival=Arrival(senders=("b",)))
    rules = rule_set(first, second)
    arrive(ledger, rules, receipt(1), receipt(2, title="B"))
    one, other = begin(ledger, 60), begin(ledger, 60)
    made = [decided(ledger, rules, pending, 60) for pending in (one, other)]
    assert ledger.finish_arrival(one, DONE, made[0], after(60))
    assert not ledger.finish_arrival(other, DONE, made[1], after(60)), "it thought that there was none yet"
    look(ledger, rules, 62)
    assert carried(ledger, "a") == {"1", "2"}


@pytest.mark.parametrize(
    ("happening", "delivered", "there"),
    [
        (Happening.PROVEN, 0, 2),
        (Happening.NO_EVIDENCE, 1, 1),
        (Happening.NO_EVIDENCE, 0, 0),
        (Happening.FAIL, 0, 0),
        (Happening.RETRY, 1, 1),
    ],
)
def test_what_is_there_is_what_is_proven_or_was_acknowledged(
    ledger: SqlLedger, happening: Happening, delivered: int, there: int
) -> None:
    arrive(ledger, ALL, receipt(1), receipt(2))
    look(ledger, ALL, 60)
    run(ledger, happening, 61, delivered)
    [known] = ledger.known_of(STUDY).values()
    assert (len(known.wanted), len(known.there)) == (2, there)


def test_what_is_known_to_be_missing_is_not_there(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1), receipt(2))
    look(ledger, ALL, 60)
    transfer = ledger.claim_transfer([LOCAL], after(61), LEASE)
    assert transfer is not None
    ledger.set_delivered(transfer, ledger.expected_instances(transfer.id) or [])
    ledger.set_missing(transfer, [Instance(f"{STUDY}.1", f"{STUDY}.1.1")])
    for happening in (Happening.SOME_MISSING, None):
        [known] = ledger.known_of(STUDY).values()
        assert known.there == {f"{STUDY}.1.2"}
        if happening is not None:
            ledger.finish(transfer, Finish(happening=happening), after(62), after(62))


# --- Groups -----------------------------------------------------------------------------------------------------------


def test_what_waits_for_one_node_in_vain_goes_to_another_in_one_step(ledger: SqlLedger) -> None:
    arrive(ledger, ANY, receipt(1))
    look(ledger, ANY, 60, report=ArrivalReport(due_at=after(65)))
    assert transfers(ledger) == {"a": State.QUEUED}
    look(ledger, ANY, 65, {"a": Health.DOWN})
    assert transfers(ledger) == {"a": State.CANCELLED, "b": State.QUEUED}
    [cancelled] = ledger.transfers(destination="a")
    assert cancelled.cause == FELL_BACK
    assert cancelled.finished_at == after(65)
    assert carried(ledger, "b") == {"1"}
    assert [one.nodes for one in ledger.arrivals()] == [("b",)]


def test_what_has_begun_is_not_withdrawn(ledger: SqlLedger) -> None:
    arrive(ledger, ANY, receipt(1))
    look(ledger, ANY, 60, report=ArrivalReport(due_at=after(65)))
    pending = begin(ledger, 65)
    passages = decided(ledger, ANY, pending, 65, {"a": Health.DOWN})
    assert ledger.claim_transfer([LOCAL], after(65), LEASE) is not None
    assert not ledger.finish_arrival(pending, DONE, passages, after(65))
    assert transfers(ledger) == {"a": State.MOVING}


def test_a_transfer_that_another_rule_wants_as_well_is_not_withdrawn(ledger: SqlLedger) -> None:
    rules = rule_set(rule("any", to("a", "b", choice=Choice.ANY_OF)), rule("each", to("a")))
    arrive(ledger, rules, receipt(1))
    look(ledger, rules, 60, report=ArrivalReport(due_at=after(65)))
    look(ledger, rules, 60)
    look(ledger, rules, 65, {"a": Health.DOWN})
    assert transfers(ledger) == {"a": State.QUEUED, "b": State.QUEUED}


def test_a_decision_that_relied_on_what_was_withdrawn_meanwhile_is_made_anew(ledger: SqlLedger) -> None:
    rules = rule_set(rule("any", to("a", "b", choice=Choice.ANY_OF)), rule("each", to("a")))
    arrive(ledger, rules, receipt(1))
    look(ledger, rules, 60, report=ArrivalReport(due_at=after(60)))
    claimed = {one.rule: one for one in (begin(ledger, 60), begin(ledger, 60))}
    each, again = claimed["each"], claimed["any"]
    passages = decided(ledger, rules, each, 60)
    assert ledger.finish_arrival(again, DONE, decided(ledger, rules, again, 60, {"a": Health.DOWN}), after(60))
    assert transfers(ledger) == {"a": State.CANCELLED, "b": State.QUEUED}
    assert not ledger.finish_arrival(each, DONE, passages, after(60))
    look(ledger, rules, 62)
    assert transfers(ledger) == {"a": State.QUEUED, "b": State.QUEUED}


def test_a_node_that_failed_gives_way_to_the_next(ledger: SqlLedger) -> None:
    arrive(ledger, ANY, receipt(1))
    look(ledger, ANY, 60, report=ArrivalReport(due_at=after(65)))
    run(ledger, Happening.FAIL, 61)
    look(ledger, ANY, 65)
    assert transfers(ledger) == {"a": State.FAILED, "b": State.QUEUED}


def test_who_got_none_for_a_while_is_level_after_one(ledger: SqlLedger) -> None:
    rules = rule_set(rule("r", to("a", "b", choice=Choice.ROUND_ROBIN)))
    order = []
    for number in range(12):
        one = msgspec.structs.replace(receipt(1), study_instance_uid=f"1.{number}")
        arrive(ledger, rules, one)
        look(ledger, rules, 60, {"a": Health.DOWN} if number < 6 else {})
        [queued] = ledger.transfers(study_instance_uid=f"1.{number}")
        order.append(queued.intent.destination)
    assert order == [*"bbbbbb", *"aababa"]
    assert ledger.given("r") == {"a": 9, "b": 8}
    assert ledger.given("other") == {}


# --- Upkeep -----------------------------------------------------------------------------------------------------------


def test_what_was_decided_long_ago_is_forgotten_and_what_waits_is_not(ledger: SqlLedger) -> None:
    arrive(ledger, ALL, receipt(1))
    assert ledger.forget_arrivals(after(9999)) == 0
    look(ledger, ALL, 60)
    assert ledger.forget_arrivals(after(60)) == 0
    assert ledger.forget_arrivals(after(61)) == 1
    assert ledger.arrivals() == []


def test_a_person_may_have_a_study_looked_at(ledger: SqlLedger) -> None:
    ledger.note_arrivals([], NOW)
    ledger.note_arrivals([ArrivalDue("r", STUDY, NOW)], NOW)
    assert ledger.claim_arrival(NOW, LEASE) is not None
