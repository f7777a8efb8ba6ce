"""Which studies may leave the store: never one that is needed, the oldest first, no more than must."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.retention import (
    Disk,
    HeldStudy,
    Retention,
    Watermark,
    Why,
    again_at,
    leaving,
    pressed,
    within,
)

NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
WEEK = 7 * 86400.0
KEEP = Retention(keep=WEEK)
FULL = Retention(keep=WEEK, watermark=Watermark(high=0.9, low=0.8))
DISK = Disk(size=1000, used=950)


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


def study(number: int = 1, **changes: Any) -> HeldStudy:
    """One that was sent on long ago, and that nothing needs."""
    usual: dict[str, Any] = {
        "size": 100,
        "last_received_at": days_ago(30),
        "forwards": 2,
        "proven_forwards": 2,
        "proven_at": days_ago(20),
    }
    return HeldStudy(study_instance_uid=f"1.2.{number}", **{**usual, **changes})


def test_a_study_that_was_sent_on_and_kept_long_enough_leaves() -> None:
    decided = leaving([study()], KEEP, DISK, NOW)
    assert decided.leave == (study(),)
    assert decided.stay == ()


@pytest.mark.parametrize(
    ("changes", "why", "said"),
    [
        ({"transfers": 2}, Why.TRANSFERS, "Transfers under way need it: 2."),
        ({"appointments": 1}, Why.APPOINTMENTS, "prior for appointments to come: 1."),
        ({"forwards": 0, "proven_forwards": 0, "proven_at": None}, Why.NOT_SENT_ON, "Nothing sends it on"),
        ({"proven_forwards": 1}, Why.UNPROVEN, "1 of 2 forwards"),
        ({"proven_forwards": 0, "proven_at": None}, Why.UNPROVEN, "2 of 2 forwards"),
        ({"arrivals": 1}, Why.ARRIVALS, "not yet decided about what came in: 1."),
        ({"unsent": 3}, Why.UNSENT, "Instances that nothing sends on: 3."),
        ({"last_received_at": days_ago(19), "left_before": True}, Why.RETURNED, "came again after it had left"),
        ({"last_received_at": days_ago(6)}, Why.KEEP, "kept until 2026-05-05 12:00 UTC"),
        ({"proven_at": days_ago(6)}, Why.KEEP, "kept until 2026-05-05 12:00 UTC"),
    ],
)
def test_a_study_stays_and_says_why_however_full_the_disk_is(changes: dict[str, Any], why: Why, said: str) -> None:
    for retention in (KEEP, FULL):
        decided = leaving([study(**changes)], retention, Disk(size=1000, used=1000), NOW)
        (stay,) = decided.stay
        assert decided.leave == ()
        assert stay.why is why
        assert said in stay.reason


def test_a_study_that_waits_for_its_time_only_says_when_that_is() -> None:
    (stay,) = leaving([study(proven_at=days_ago(6))], KEEP, DISK, NOW).stay
    assert stay.until == NOW + timedelta(days=1)
    assert leaving([study(proven_at=days_ago(6))], KEEP, DISK, NOW + timedelta(days=1)).stay == ()


def test_below_the_high_watermark_all_stay() -> None:
    decided = leaving([study()], FULL, Disk(size=1000, used=899), NOW)
    assert decided.leave == ()
    assert [stay.why for stay in decided.stay] == [Why.ROOM]


def test_above_it_the_oldest_leave_until_the_low_one_is_reached() -> None:
    held = [study(number, last_received_at=days_ago(30 + number)) for number in range(5)]
    decided = leaving(held, FULL, DISK, NOW)
    assert [one.study_instance_uid for one in decided.leave] == ["1.2.4", "1.2.3"]  # 150 bytes are too many
    assert decided.lacking == 0


def test_what_may_leave_does_not_suffice_and_that_is_said() -> None:
    decided = leaving([study(1), study(2, transfers=1)], FULL, DISK, NOW)
    assert decided.leave == (study(1),)
    assert decided.lacking == 50


def test_a_study_that_stays_is_looked_at_again_when_that_may_help() -> None:
    whys = {
        study(1, proven_at=days_ago(6)): timedelta(days=1),
        study(2, transfers=1): timedelta(minutes=10),
        study(3, forwards=0, proven_forwards=0, proven_at=None): timedelta(hours=1),
    }
    for one, after in whys.items():
        (stay,) = leaving([one], KEEP, DISK, NOW).stay
        assert again_at(stay, NOW) == NOW + after
    (roomy,) = leaving([study()], FULL, Disk(size=1000, used=1), NOW).stay
    assert again_at(roomy, NOW) == NOW


def test_room_is_made_down_to_the_low_watermark_and_before_instances_are_refused() -> None:
    half_full = Disk(size=1000, used=850)
    assert not pressed(within(FULL, half_full, 0, begun=False), half_full)
    assert pressed(within(FULL, half_full, 0, begun=True), half_full), "it has begun, and is not done"
    assert pressed(within(FULL, half_full, 150, begun=False), half_full), "the next instance might be refused"
    assert within(FULL, half_full, 150, begun=False).watermark == Watermark(high=0.85, low=0.8)
    assert within(FULL, half_full, 5000, begun=False).watermark == Watermark(high=0, low=0)
    assert within(KEEP, half_full, 150, begun=True) == KEEP
    assert pressed(KEEP, Disk(size=1000, used=0)), "without a watermark all leave that may"


# whatever the store holds ---------------------------------------------------------------------------------------------


@st.composite
def held_studies(draw: st.DrawFn) -> list[HeldStudy]:
    moments = st.integers(0, 40).map(days_ago)
    count = st.integers(0, 2)
    found = []
    for number in range(draw(st.integers(0, 8))):
        forwards = draw(st.integers(0, 3))
        proven = draw(st.integers(0, forwards))
        found.append(
            HeldStudy(
                study_instance_uid=f"1.2.{number}",
                size=draw(st.integers(0, 400)),
                last_received_at=draw(moments),
                transfers=draw(st.one_of(st.just(0), count)),
                appointments=draw(st.one_of(st.just(0), count)),
                forwards=forwards,
                proven_forwards=proven,
                proven_at=draw(moments) if proven else None,
                unsent=draw(st.one_of(st.just(0), count)),
                arrivals=draw(st.one_of(st.just(0), count)),
                left_before=draw(st.booleans()),
            )
        )
    return found


shares = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda two: Watermark(low=min(two), high=max(two)))
retentions = st.builds(
    Retention, keep=st.integers(0, 30).map(lambda days: days * 86400.0), watermark=st.none() | shares
)
disks = st.integers(0, 1000).map(lambda used: Disk(size=1000, used=used))


@given(held_studies(), retentions, disks)
def test_each_study_leaves_or_stays_once(held: list[HeldStudy], retention: Retention, disk: Disk) -> None:
    decided = leaving(held, retention, disk, NOW)
    told = [*decided.leave, *(stay.study for stay in decided.stay)]
    assert sorted(one.study_instance_uid for one in told) == [one.study_instance_uid for one in held]


@given(held_studies(), retentions, disks)
def test_nothing_leaves_that_is_needed_unproven_or_too_young(
    held: list[HeldStudy], retention: Retention, disk: Disk
) -> None:
    for one in leaving(held, retention, disk, NOW).leave:
        assert not one.transfers
        assert not one.appointments
        assert one.forwards == one.proven_forwards > 0
        assert one.proven_at is not None
        assert not one.unsent
        assert not one.arrivals
        assert not one.left_before or one.last_received_at <= one.proven_at
        assert (NOW - one.proven_at).total_seconds() >= retention.keep
        assert (NOW - one.last_received_at).total_seconds() >= retention.keep


@given(held_studies(), retentions, disks)
def test_no_study_stays_for_the_room_there_is_that_is_older_than_one_that_leaves(
    held: list[HeldStudy], retention: Retention, disk: Disk
) -> None:
    decided = leaving(held, retention, disk, NOW)
    left = [one.last_received_at for one in decided.leave]
    roomy = [stay.study.last_received_at for stay in decided.stay if stay.why is Why.ROOM]
    assert left == sorted(left)
    assert not left or not roomy or left[-1] <= roomy[0]


@given(held_studies(), retentions, disks)
def test_no_more_leave_than_must_and_no_fewer_than_may(held: list[HeldStudy], retention: Retention, disk: Disk) -> None:
    decided = leaving(held, retention, disk, NOW)
    roomy = [stay for stay in decided.stay if stay.why is Why.ROOM]
    if retention.watermark is None:
        assert not roomy
        assert decided.lacking == 0
        return
    low, high = retention.watermark.low * disk.size, retention.watermark.high * disk.size
    if disk.used < high:
        assert not decided.leave
        return
    after = disk.used - sum(one.size for one in decided.leave)
    if decided.leave:
        assert after + decided.leave[-1].size > low, "the last one need not have left"
    if after > low + 1:  # a part of a byte is none
        assert not roomy, "there was more that might leave"
        assert decided.lacking > 0


@given(held_studies(), retentions, disks, st.randoms())
def test_the_order_in_which_studies_are_found_changes_nothing(
    held: list[HeldStudy], retention: Retention, disk: Disk, chance: Any
) -> None:
    shuffled = list(held)
    chance.shuffle(shuffled)
    assert leaving(shuffled, retention, disk, NOW) == leaving(held, retention, disk, NOW)
