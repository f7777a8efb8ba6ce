"""What is pushed is told once, by sender and study, with every instance in it, whatever comes in which order."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from router.domain.audit import Counted, Party
from router.domain.audit_arrived import MOST_BATCHES, MOST_INSTANCES, QUIET, Batches, Retrieved
from router.domain.receipt import Receipt

NOW = datetime(2026, 11, 28, 10, 0, tzinfo=UTC)
OWN, SENDER = Party("ROUTER"), Party("scanner")
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def receipt(study: str = "1.2", title: str = "CT1", sop_class: str = CT, at: datetime = NOW) -> Receipt:
    return Receipt(
        study_instance_uid=study,
        series_instance_uid=f"{study}.1",
        sop_instance_uid=f"{study}.1.1",
        sop_class_uid=sop_class,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title=title,
        size=1,
        path=f"{study}/1/1.dcm",
        received_at=at,
    )


def batches() -> Batches:
    return Batches(lambda one: f"P{one.study_instance_uid}")


def test_a_batch_is_told_when_it_is_quiet_and_what_comes_then_is_another() -> None:
    open_ = batches()
    first = open_.add(receipt(), NOW)
    assert open_.add(receipt(sop_class=MR), NOW + QUIET / 2) is first
    assert open_.due(NOW + QUIET) == []
    assert open_.due(NOW + QUIET * 1.5) == [first]
    message = first.message(OWN, SENDER)
    assert [one.id for one in message.objects] == ["1.2", "P1.2"]
    assert message.objects[0].counted == (Counted(1, CT), Counted(1, MR))
    assert open_.add(receipt(), NOW + QUIET * 2).number != first.number


def test_a_batch_that_is_full_is_told_though_more_comes() -> None:
    open_ = batches()
    for _ in range(MOST_INSTANCES):
        batch = open_.add(receipt(), NOW)
    assert open_.due(NOW) == [batch]
    assert open_.close() == []


def test_no_more_batches_are_open_than_there_may_be_and_the_quietest_goes_first() -> None:
    open_ = batches()
    for number in range(MOST_BATCHES):
        open_.add(receipt(f"1.{number}"), NOW)
    open_.add(receipt("1.0"), NOW)
    assert open_.due(NOW) == []
    open_.add(receipt("2.1"), NOW)
    assert [one.key for one in open_.due(NOW)] == [("CT1", "1.1")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1.1", "1.2", "1.3"]),
            st.sampled_from(["CT1", "MR1"]),
            st.sampled_from([CT, MR]),
            st.integers(0, 45),
        ),
        max_size=60,
    )
)
def test_every_instance_is_told_once(arrivals: list[tuple[str, str, str, int]]) -> None:
    open_, now, told = batches(), NOW, Counter[tuple[str, str, str]]()
    closed = []
    for study, title, sop_class, pause in arrivals:
        now += timedelta(seconds=pause)
        closed += open_.due(now)
        open_.add(receipt(study, title, sop_class), now)
    closed += open_.close()
    assert len({one.number for one in closed}) == len(closed)
    for batch in closed:
        for counted in batch.message(OWN, SENDER).objects[0].counted:
            told[batch.key[1], batch.key[0], counted.sop_class_uid] += counted.instances
    assert told == Counter((study, title, sop_class) for study, title, sop_class, _ in arrivals)


def test_retrievals_of_a_study_that_overlap_are_told_apart() -> None:
    retrieved = Retrieved()
    one = retrieved.begin(["CT1"], "1.2", NOW)
    other = retrieved.begin(["MR1"], "1.2", NOW + timedelta(seconds=20))
    retrieved.end(one, NOW + timedelta(seconds=30))
    late = NOW + timedelta(minutes=2)
    assert retrieved.brought(receipt(at=NOW + timedelta(seconds=25)))
    assert not retrieved.brought(receipt(at=late))
    assert retrieved.brought(receipt(title="MR1", at=late))
    retrieved.end(other, late)
    assert retrieved.brought(receipt(title="MR1", at=late))
