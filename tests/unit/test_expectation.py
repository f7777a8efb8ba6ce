"""What a source is expected to hold, whatever it says at which level, and the requests for what is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.schema import schema_at
from router.domain.expectation import (
    AS_A_WHOLE,
    BY_INSTANCE,
    BY_SERIES,
    TRUSTS,
    Expectation,
    Listing,
    Portion,
    expect,
    portions,
    requests,
)
from router.domain.outcome import Evidence, all_there, judge, missing_instances, short_series
from router.domain.rule import FindSettings, MoveSettings
from router.domain.transfer import Happening, Instance

FULL = Listing(counts={"1": 2, "2": 1}, instances={"1": ("1.1", "1.2"), "2": ("2.1",)})
REPORTS_UNLISTED = Listing(counts={"1": 2, "2": 1}, instances={"1": ("1.1", "1.2"), "2": ()})
NOTHING_SAID = Listing(counts={"1": None, "2": None}, instances={"1": ("1.1", "1.2"), "2": ()})
CUT_SHORT = Listing(counts={"1": 5, "2": 1}, instances={"1": ("1.1", "1.2"), "2": ("2.1",)})
NO_LISTS = Listing(counts={"1": 2, "2": 1}, instances={})


@pytest.mark.parametrize(
    ("trust", "listing", "count", "size", "in_full"),
    [
        ("auto", FULL, 3, 3, True),
        ("auto", FULL, None, 3, True),
        ("auto", FULL, 4, 4, False),
        ("auto", REPORTS_UNLISTED, 3, 3, False),
        ("auto", CUT_SHORT, 3, 6, False),
        ("auto", NO_LISTS, None, 3, False),
        ("auto", None, 7, 7, False),
        ("auto", None, None, None, False),
        ("auto", Listing(counts={}, instances={}), 0, 0, False),
        ("auto", NOTHING_SAID, 3, 3, False),
        ("auto", NOTHING_SAID, None, None, False),
        ("auto", NOTHING_SAID, 1, None, False),
        ("image", FULL, 4, 3, True),
        ("image", CUT_SHORT, 9, 3, True),
        ("image", REPORTS_UNLISTED, 9, 3, False),
        ("image", NOTHING_SAID, None, None, False),
        ("series", NO_LISTS, 9, 3, False),
        ("study", None, 9, 9, False),
        ("none", FULL, 3, None, False),
    ],
)
def test_the_order_of_trust(
    trust: str, listing: Listing | None, count: int | None, size: int | None, in_full: bool
) -> None:
    expectation = expect(trust, listing, count)
    assert (expectation.size, expectation.listed_in_full) == (size, in_full)


def test_an_empty_list_of_a_series_is_unknown_not_none() -> None:
    unknown = expect("auto", NOTHING_SAID, None)
    assert unknown.size is None
    there = Evidence(kind="receipts", present=frozenset({"1.1", "1.2"}), series={"1": 2})
    assert judge(unknown, there, "success").happening is Happening.NO_EVIDENCE


def found(**series: int) -> Evidence:
    """A destination that lists so many instances of each series."""
    numbers = {name.removeprefix("s"): number for name, number in series.items()}
    present = frozenset(f"{name}.{one + 1}" for name, number in numbers.items() for one in range(number))
    return Evidence(kind="find", present=present, series=numbers)


@pytest.mark.parametrize(
    ("evidence", "short", "happening", "there"),
    [
        (found(s1=2, s2=1), set(), Happening.PROVEN, 3),
        (found(s1=1, s2=1), {"1"}, Happening.CONTRADICTION, 2),
        (found(s1=3), {"2"}, Happening.CONTRADICTION, 2),
        (found(s9=7), {"1", "2"}, Happening.CONTRADICTION, 0),
    ],
)
def test_series_are_compared_where_the_source_lists_no_instances(
    evidence: Evidence, short: set[str], happening: Happening, there: int
) -> None:
    expectation = expect("auto", NO_LISTS, 3)
    verdict = judge(expectation, evidence, "success")
    assert short_series(expectation, evidence) == short == verdict.short
    assert (verdict.happening, verdict.there) == (happening, there)


def test_a_series_that_the_destination_counts_but_does_not_list_is_neither_missing_nor_proven() -> None:
    expectation = expect("auto", FULL, 3)
    evidence = Evidence(
        kind="find", present=frozenset({"1.1", "1.2"}), series={"1": 2, "2": 1}, unlisted=frozenset({"2"})
    )
    assert missing_instances(expectation, evidence) == frozenset()
    assert not all_there(expectation, evidence)
    assert judge(expectation, evidence, "success").happening is Happening.NO_EVIDENCE
    fewer = Evidence(kind="find", present=frozenset({"1.1", "1.2"}), series={"1": 2, "2": 0}, unlisted=frozenset({"2"}))
    assert judge(expectation, fewer, "success").short == {"2"}


# requests -----------------------------------------------------------------------------------------------------------

ALL = expect("auto", FULL, 3)
ONE, TWO, REPORT = Instance("1", "1.1"), Instance("1", "1.2"), Instance("2", "2.1")


def asked(portions: list[Portion]) -> list[tuple[tuple[str, ...], tuple[str, ...], int | None]]:
    return [(one.series_instance_uids, one.sop_instance_uids, one.size) for one in portions]


@pytest.mark.parametrize(
    ("missing", "smallness", "wanted"),
    [
        (None, AS_A_WHOLE, [((), (), 3)]),
        (frozenset({ONE, TWO, REPORT}), AS_A_WHOLE, [((), (), 3)]),
        (frozenset({ONE, TWO, REPORT}), BY_SERIES, [(("1",), (), 2), (("2",), (), 1)]),
        (frozenset({ONE, TWO, REPORT}), BY_INSTANCE, [(("1",), ("1.1", "1.2"), 2), (("2",), ("2.1",), 1)]),
        (frozenset({TWO, REPORT}), AS_A_WHOLE, [(("2",), (), 1), (("1",), ("1.2",), 1)]),
        (None, BY_SERIES, [(("1",), (), 2), (("2",), (), 1)]),
        (None, BY_INSTANCE, [(("1",), ("1.1", "1.2"), 2), (("2",), ("2.1",), 1)]),
    ],
)
def test_requests_are_as_large_as_the_gap_or_as_small_as_asked(
    missing: frozenset[Instance] | None, smallness: int, wanted: list[object]
) -> None:
    assert asked(requests(ALL, missing, None, 50, smallness)) == wanted


@pytest.mark.parametrize(
    ("short", "smallness", "wanted"),
    [
        (None, AS_A_WHOLE, [((), (), 3)]),
        (frozenset(), AS_A_WHOLE, [((), (), 3)]),
        (frozenset({"2"}), AS_A_WHOLE, [(("2",), (), 1)]),
        (frozenset({"1", "2"}), AS_A_WHOLE, [((), (), 3)]),
        (frozenset({"1", "2"}), BY_SERIES, [(("1",), (), 2), (("2",), (), 1)]),
        (frozenset({"2"}), BY_INSTANCE, [(("2",), (), 1)]),
    ],
)
def test_without_lists_series_that_are_not_whole_are_asked_for(
    short: frozenset[str] | None, smallness: int, wanted: list[object]
) -> None:
    assert asked(requests(expect("auto", NO_LISTS, 3), None, short, 50, smallness)) == wanted


def test_what_nothing_is_known_of_is_asked_for_as_a_whole() -> None:
    assert asked(requests(Expectation(), None, None, 50, BY_INSTANCE)) == [((), (), None)]


SERIES = st.sampled_from(["1.1", "1.2", "1.3"])
INSTANCES = st.builds(lambda s, n: Instance(s, f"{s}.{n}"), SERIES, st.integers(0, 30))


@given(st.frozensets(INSTANCES, min_size=1), st.data(), st.integers(1, 7), st.sampled_from((0, 1, 2)))
def test_portions_ask_for_exactly_what_is_missing(
    expected: frozenset[Instance], data: st.DataObject, limit: int, smallness: int
) -> None:
    missing = data.draw(st.frozensets(st.sampled_from(sorted(expected))))
    asked_for: list[Instance] = []
    for portion in portions(missing, expected, limit, smallness):
        assert 1 <= max(len(portion.series_instance_uids), len(portion.sop_instance_uids)) <= limit
        if portion.sop_instance_uids:
            (series,) = portion.series_instance_uids
            some = [Instance(series, uid) for uid in portion.sop_instance_uids]
        else:
            some = [i for i in expected if i.series_instance_uid in portion.series_instance_uids]
        assert portion.size == len(some)
        asked_for += some
    assert sorted(asked_for) == sorted(missing)


LISTINGS = st.dictionaries(SERIES, st.none() | st.integers(0, 5)).flatmap(
    lambda counts: st.fixed_dictionaries(
        {series: st.lists(st.integers(0, 9), unique=True, max_size=5) for series in counts}
    ).map(
        lambda lists: Listing(
            counts=counts,
            instances={series: tuple(f"{series}.{one}" for one in uids) for series, uids in lists.items()},
        )
    )
)


@given(st.sampled_from(TRUSTS), st.none() | LISTINGS, st.none() | st.integers(0, 20))
def test_no_less_is_expected_than_is_listed(trust: str, listing: Listing | None, count: int | None) -> None:
    expectation = expect(trust, listing, count)
    if expectation.size is not None:
        assert expectation.size >= len(expectation.instances or ())
        assert expectation.size >= sum((expectation.by_series or {}).values())
    if expectation.listed_in_full and listing is not None:
        assert expectation.instances == frozenset(listing.listed)


@given(
    st.none() | LISTINGS, st.none() | LISTINGS, st.none() | st.integers(0, 20), st.sampled_from(["success", "timeout"])
)
def test_complete_is_only_what_is_there(
    source: Listing | None, destination: Listing | None, count: int | None, cause: str
) -> None:
    """Whatever the levels say: a verdict of complete has every listed instance, and every counted series, there."""
    expectation = expect("auto", source, count)
    there = destination.instances if destination is not None else {}
    evidence = Evidence(
        kind="receipts",
        present=frozenset(uid for uids in there.values() for uid in uids),
        series={series: len(uids) for series, uids in there.items()},
    )
    if judge(expectation, evidence, cause).happening is Happening.PROVEN:
        assert {one.sop_instance_uid for one in expectation.instances or ()} <= (evidence.present or set())
        assert all(len(there.get(series, ())) >= number for series, number in (expectation.by_series or {}).items())
        assert len(evidence.present or ()) >= (expectation.size or 0)


# deadlines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instances", "nearline", "deadlines"),
    [
        (None, False, (600.0, 7200.0)),
        (100, False, (600.0, 7200.0)),
        (3000, False, (600.0, 15000.0)),
        (None, True, (3600.0, 7200.0)),
    ],
)
def test_large_studies_and_tapes_may_take_longer(
    instances: int | None, nearline: bool, deadlines: tuple[float, float]
) -> None:
    assert MoveSettings().deadlines(instances, nearline=nearline) == deadlines


def test_patience_near_line_is_never_less_than_otherwise() -> None:
    settings = MoveSettings(inactivity=30.0, total=60.0, nearline_inactivity=10.0)
    assert settings.deadlines(None, nearline=True) == (30.0, 60.0)
    assert MoveSettings(inactivity=30.0, total=60.0).deadlines(None, nearline=True) == (3600.0, 3600.0)


def test_the_configuration_offers_these_and_no_others() -> None:
    schema = schema_at(("nodes", "archive", "find", "expected"))
    assert schema is not None
    assert tuple(schema["enum"]) == TRUSTS
    assert schema["default"] == FindSettings().expected
