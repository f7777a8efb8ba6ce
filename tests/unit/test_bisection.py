"""Sweeps of archives that cut their answers: what is called complete is complete."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.bisection import Cut, Dimension, Seen, cut, outside, split
from router.domain.dicom import Identifier, QueryRetrieveLevel
from router.domain.rule import FindSettings, Node
from router.engine.caps import Caps
from router.engine.enumeration import Budget, Enumerator, Found
from router.engine.ports import FindResult
from router.engine.query import Inquiry, QueryFailed
from router.engine.slots import NodeSlots

STUDY = QueryRetrieveLevel.STUDY
JANUARY = "20240101-20240131"


class Archive:
    """An archive that matches honestly by date, time and accession number, and answers no more than `cap` matches."""

    def __init__(self, studies: Sequence[Identifier], cap: int | None, how: int = 0) -> None:
        self.studies = studies
        self.cap = cap
        self.how = how
        self.unmatched: set[str] = set()
        self.asked: list[Identifier] = []

    def find(
        self, node: Node, level: QueryRetrieveLevel, keys: Identifier, *, maximum: int, cancelled: threading.Event
    ) -> FindResult:
        self.asked.append(keys)
        rows = [one for one in self.studies if self._matches(one, keys)]
        if self.cap is None or len(rows) <= self.cap:
            return FindResult(identifiers=rows, status=0)
        if self.how == 0xA700:
            return FindResult(identifiers=[], status=0xA700)
        return FindResult(identifiers=rows[: self.cap], status=self.how)

    def _matches(self, study: Identifier, keys: Identifier) -> bool:
        for name in ("StudyDate", "StudyTime"):
            wanted, value = keys.text(name), study.text(name)
            if wanted and name not in self.unmatched:
                low, _, high = wanted.partition("-")
                if not value or not low <= value <= (high or low):
                    return False
        accession = keys.text("AccessionNumber")
        if accession and "AccessionNumber" not in self.unmatched:
            value = study.text("AccessionNumber")
            if not (value.startswith(accession[:-1]) if accession.endswith("*") else value == accession):
                return False
        modality = keys.text("ModalitiesInStudy")
        return not modality or modality in study.values("ModalitiesInStudy")


def study(number: int, day: int, time: str = "", accession: str = "", modality: str = "CT") -> Identifier:
    return Identifier.of(
        StudyInstanceUID=f"1.2.{number}",
        StudyDate=f"202401{day:02d}",
        StudyTime=time,
        AccessionNumber=accession,
        ModalitiesInStudy=modality,
    )


def node(**find: object) -> Node:
    return Node(name="pacs", ae_title="PACS", host="h", port=104, find=FindSettings(**find))  # type: ignore[arg-type]


def everything(
    archive: Archive,
    question: Identifier | None = None,
    *,
    caps: Caps | None = None,
    queries: int = 5000,
    **more: object,
) -> Found:
    find: dict[str, object] = {"max_queries": queries} | more
    modalities = find.pop("modalities", ())
    enumerator = Enumerator(Inquiry(archive, NodeSlots(), caps))  # type: ignore[arg-type]
    asked = question if question is not None else Identifier.of(StudyDate=JANUARY, StudyInstanceUID="", StudyTime="")
    return enumerator.all(
        node(**find),
        STUDY,
        asked,
        modalities=modalities,
        budget=Budget(queries),
        cancelled=threading.Event(),  # type: ignore[arg-type]
    )


def uids(found: Found) -> set[str]:
    return {row.text("StudyInstanceUID") for row in found.rows}


def spread(number: int, days: int) -> list[Identifier]:
    return [study(n, 1 + n % days, f"{n % 24:02d}{n % 60:02d}{n // 60 % 60:02d}", f"A{n:04d}") for n in range(number)]


@pytest.mark.parametrize("how", [0x0000, 0xFE00, 0xA700])
def test_an_answer_that_is_cut_is_asked_in_parts_until_all_is_found(how: int) -> None:
    found = everything(Archive(spread(700, 12), 100, how))
    assert len(uids(found)) == 700
    assert found.complete, found.reason
    assert found.queries > 7
    assert "by Study Date" in found.account


def test_a_silent_cap_is_learned_and_known_the_next_time() -> None:
    learned: list[tuple[str, int]] = []
    caps = Caps(learn=lambda name, number: learned.append((name, number)))
    everything(Archive(spread(700, 12), 100), caps=caps)
    assert learned == [("pacs", 100)]
    # An answer with more shows that the cap is gone.
    everything(Archive(spread(170, 1), None), caps=caps)
    assert learned[-1] == ("pacs", 0)


def test_a_suspicious_number_that_is_no_cap_costs_one_division() -> None:
    archive = Archive(spread(100, 12), None)
    found = everything(archive)
    assert found.complete
    assert len(archive.asked) == found.queries == 3
    assert "no cut" in found.account


def test_a_round_number_is_looked_into_each_time_for_it_may_have_become_a_cap() -> None:
    archive = Archive(spread(100, 12), 100)
    enumerator = Enumerator(Inquiry(archive, NodeSlots()))  # type: ignore[arg-type]
    question = Identifier.of(StudyDate=JANUARY, StudyInstanceUID="")

    def ask() -> Found:
        return enumerator.all(node(), STUDY, question, budget=Budget(99), cancelled=threading.Event())

    assert [ask().queries for _ in range(2)] == [3, 3]
    archive.studies = spread(107, 12)
    found = ask()
    assert len(found.rows) == 107
    assert found.complete


def test_chance_is_not_looked_into_again() -> None:
    archive = Archive(spread(68, 2), None)
    enumerator = Enumerator(Inquiry(archive, NodeSlots()))  # type: ignore[arg-type]
    taken = [
        enumerator.all(
            node(),
            STUDY,
            Identifier.of(StudyDate=day, StudyInstanceUID=""),
            budget=Budget(99),
            cancelled=threading.Event(),
        ).queries
        for day in ("20240101", "20240102", "20240101", "20240102")
    ]
    assert taken == [1, 3, 1, 1]


def test_what_came_before_the_cap_was_learned_is_looked_at_again() -> None:
    day = [study(n, 1, f"{n % 24:02d}00", modality="CT") for n in range(200)]
    archive = Archive([*day, *(study(500 + n, 1, f"{n % 24:02d}00", modality="MR") for n in range(190))], 137)
    enumerator = Enumerator(Inquiry(archive, NodeSlots()))  # type: ignore[arg-type]
    questions = [
        Identifier.of(StudyDate="20240101", StudyInstanceUID="", ModalitiesInStudy=one) for one in ("CT", "MR")
    ]

    def ask(question: Identifier) -> Found:
        return enumerator.all(node(), STUDY, question, budget=Budget(99), cancelled=threading.Event())

    first, second = map(ask, questions)
    assert len(first.rows) == 137
    assert not enumerator.stands(node(), first)
    assert enumerator.stands(node(), second)
    again = ask(questions[0])
    assert len(again.rows) == 200
    assert again.complete
    assert enumerator.stands(node(), again)


def test_a_part_that_returns_less_than_the_whole_did_proves_nothing() -> None:
    class First(Archive):
        """By modality it finds the first match only."""

        def find(self, *args: object, **more: object) -> FindResult:
            result = super().find(*args, **more)  # type: ignore[arg-type]
            if args[2].text("ModalitiesInStudy"):  # type: ignore[attr-defined]
                return FindResult(identifiers=result.identifiers[:1], status=0)
            return result

    archive = First([study(n, 5, f"{n % 24:02d}{n % 60:02d}00") for n in range(90)], 40, 0xFE00)
    found = everything(archive, modalities=("CT", "MR"))
    assert len(found.rows) == 90
    assert found.complete
    assert "Study Time" in found.account


def test_of_what_cannot_be_divided_more_is_found_by_modality() -> None:
    modalities = ("CT", "MR", "US", "CR")
    archive = Archive([study(n, 5, "120000", modality=modalities[n % 4]) for n in range(120)], 40, 0xFE00)
    found = everything(archive)
    assert not found.complete
    assert len(found.rows) == 120


def test_a_cap_that_a_node_speaks_of_is_shown_and_no_other_number_doubted() -> None:
    told: list[tuple[str, int]] = []
    caps = Caps(tell=lambda name, number: told.append((name, number)))
    everything(Archive(spread(60, 12), 25, 0xFE00), caps=caps)
    assert told == [("pacs", 25)]
    assert caps.known() == {}
    assert everything(Archive(spread(25, 1), 25, 0xFE00), caps=caps).queries == 1
    everything(Archive(spread(40, 1), None), caps=caps)
    assert told[-1] == ("pacs", 0)


def test_below_the_most_matches_that_ever_came_no_number_is_suspicious() -> None:
    archive = Archive(spread(130, 12), None)
    enumerator = Enumerator(Inquiry(archive, NodeSlots()))  # type: ignore[arg-type]
    for days, queries in (("20240101-20240131", 1), ("20240101-20240109", 1)):
        question = Identifier.of(StudyDate=days, StudyInstanceUID="")
        found = enumerator.all(node(), STUDY, question, budget=Budget(9), cancelled=threading.Event())
        assert found.complete
        assert found.queries == queries


def test_the_same_number_for_different_questions_is_suspicious() -> None:
    studies = [study(n, 1, f"{n % 24:02d}00") for n in range(200)] + [
        study(500 + n, 20, f"{n % 24:02d}00") for n in range(190)
    ]
    archive = Archive(studies, 137)
    enumerator = Enumerator(Inquiry(archive, NodeSlots()))  # type: ignore[arg-type]
    first, second = (
        enumerator.all(
            node(),
            STUDY,
            Identifier.of(StudyDate=day, StudyInstanceUID=""),
            budget=Budget(99),
            cancelled=threading.Event(),
        )
        for day in ("20240101", "20240120")
    )
    assert len(first.rows) == 137  # nobody could know
    assert len(second.rows) == 190
    assert second.complete


@pytest.mark.parametrize(
    ("studies", "unmatched", "reason"),
    [
        ([study(n, 5, "120000", f"A{n}") for n in range(120)], {"AccessionNumber"}, "100 matches"),
        ([study(n, 5, "120000") for n in range(120)], set(), "100 matches"),
        ([study(n, 5, "" if n % 2 else f"{n % 24:02d}0000") for n in range(220)], set(), "Study Time"),
    ],
    ids=["not matched by anything finer", "no accession numbers", "no times"],
)
def test_what_cannot_be_proven_is_incomplete(studies: list[Identifier], unmatched: set[str], reason: str) -> None:
    archive = Archive([*studies, *(study(9000 + n, 20, f"{n % 24:02d}0000") for n in range(130))], 100)
    archive.unmatched = unmatched
    found = everything(archive)
    assert not found.complete
    assert reason in found.reason


def test_an_archive_that_does_not_match_by_time_is_asked_by_accession_number() -> None:
    archive = Archive([study(n, 5, f"{n % 24:02d}0000", f"{n % 10}{n:04d}") for n in range(150)], 100)
    archive.unmatched = {"StudyTime"}
    found = everything(archive, max_results=100)
    assert len(found.rows) == 150
    assert found.complete


def test_an_archive_that_passes_over_the_time_and_does_not_return_it_is_soon_found_out() -> None:
    archive = Archive([study(n, 5, "", f"{n % 10}{n:04d}") for n in range(150)], 100)
    archive.unmatched = {"StudyTime"}
    found = everything(archive)
    assert len(found.rows) == 150
    assert found.queries < 100
    archive.unmatched |= {"AccessionNumber"}
    found = everything(archive)
    assert not found.complete
    assert found.queries < 20
    assert "no cut" not in found.account


def test_modalities_that_are_wanted_anyway_divide_a_day() -> None:
    archive = Archive([study(n, 5, "12", modality=("CT", "MR", "US")[n % 3]) for n in range(90)], 40, 0xFE00)
    found = everything(archive, modalities=("CT", "MR"))
    assert len(found.rows) >= 60
    assert found.complete
    assert "by modality" in found.account


def test_none_means_never_cut_and_a_number_means_cut() -> None:
    assert everything(Archive(spread(100, 1), None), max_results=0).queries == 1
    found = everything(Archive(spread(30, 3), None), max_results=30)
    assert found.complete
    assert found.queries > 1


def test_the_queries_of_a_sweep_are_bounded() -> None:
    archive = Archive(spread(700, 12), 10, 0xFE00)
    found = everything(archive, queries=20)
    assert not found.complete
    assert "find.max_queries" in found.reason
    assert len(archive.asked) <= 20


def test_without_a_date_studies_without_one_may_be_missed() -> None:
    question = Identifier.of(PatientID="4711", StudyInstanceUID="", StudyDate="")
    found = everything(Archive(spread(60, 12), 20, 0xFE00), question)
    assert len(found.rows) == 60
    assert not found.complete
    assert "Study Date" in found.reason


def test_what_is_refused_and_shows_nothing_in_parts_is_not_complete() -> None:
    hidden = [study(n, 5, "120000") for n in range(30)]
    with pytest.raises(QueryFailed, match="A700"):
        everything(Archive(hidden, 20, 0xA700))
    shown = [study(100 + n, 5, "120000", f"A{n}") for n in range(15)]
    found = everything(Archive([*hidden, *shown, *(study(200 + n, 9) for n in range(18))], 20, 0xA700))
    assert not found.complete


def test_a_failure_is_no_answer() -> None:
    class Refusing(Archive):
        def find(self, *args: object, **more: object) -> FindResult:
            return FindResult(identifiers=[], status=0xA900)

    with pytest.raises(QueryFailed):
        everything(Refusing([], None))


def test_what_cannot_be_used_is_dropped_and_counted() -> None:
    good = study(1, 1)
    elsewhere = Identifier({**study(2, 1).elements, **Identifier.of(QueryRetrieveLevel="SERIES").elements})
    found = everything(Archive([good, good, elsewhere, Identifier.of(StudyDate="20240101")], None))
    assert uids(found) == {"1.2.1"}
    assert {name: count for name, count in found.dropped.items() if count} == {"duplicate": 1, "level": 1, "uid": 1}
    assert not found.complete


times = st.one_of(
    st.just(""), st.builds(lambda s: f"{s // 3600:02d}{s // 60 % 60:02d}{s % 60:02d}", st.integers(0, 86399))
)
archives = st.lists(
    st.tuples(st.integers(1, 4), times, st.text("AB12", max_size=3), st.sampled_from(["CT", "MR"])), max_size=60
)


@settings(max_examples=150, deadline=None)
@given(
    archives,
    st.integers(2, 12),
    st.sampled_from([0x0000, 0xFE00, 0xA700]),
    st.sets(st.sampled_from(["StudyDate", "StudyTime", "AccessionNumber"])),
)
def test_whatever_is_called_complete_holds_all(
    rows: list[tuple[int, str, str, str]], cap: int, how: int, unmatched: set[str]
) -> None:
    studies = [study(n, day, time, accession, modality) for n, (day, time, accession, modality) in enumerate(rows)]
    archive = Archive(studies, cap, how)
    archive.unmatched = unmatched
    try:
        found = everything(archive, max_results=cap if how == 0 else None)
    except QueryFailed:
        assert how == 0xA700
        assert len(studies) > cap, "only what is refused, and shows nothing in parts, is a failure"
        return
    known = {one.text("StudyInstanceUID") for one in studies}
    assert uids(found) <= known
    # A study without a time or an accession number that never came cannot be asked for, and nobody knows of it.
    missed = [one for one in studies if one.text("StudyInstanceUID") not in uids(found)]
    if found.complete:
        assert all(not one.text("StudyTime") or not one.text("AccessionNumber") for one in missed)


@given(st.integers(0, 60), st.integers(0, 86399))
def test_the_halves_of_a_day_cover_it(cut_short: int, second: int) -> None:
    question = Identifier.of(StudyDate="20240105", StudyInstanceUID="")
    time = f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"
    row = study(1, 5, time)
    for _ in range(cut_short % 18):
        division = split(question, [row], (), frozenset())
        if division is None or division.dimension is not Dimension.TIME:
            break
        inside = [part for part in division.parts if not outside(part, Dimension.TIME, row)]
        assert inside
        question = inside[0]


@pytest.mark.parametrize(
    ("status", "count", "more", "expected"),
    [
        (0xFE00, 3, {}, Cut.YES),
        (0, 100, {}, Cut.MAYBE),
        (0, 101, {}, Cut.NO),
        (0, 100, {"configured": 0}, Cut.NO),
        (0, 30, {"configured": 30}, Cut.YES),
        (0, 100, {"configured": 500}, Cut.NO),
        (0, 37, {"learned": 37}, Cut.YES),
        (0, 100, {"learned": 137}, Cut.NO),
        (0, 100, {"seen": Seen(137)}, Cut.NO),
        (0, 37, {"seen": Seen(37, alike=True)}, Cut.MAYBE),
        (0, 12, {"seen": Seen(12, alike=True)}, Cut.NO),
    ],
)
def test_what_an_answer_looks_like(status: int, count: int, more: dict[str, object], expected: Cut) -> None:
    given: dict[str, object] = {"configured": None, "learned": None, "seen": Seen()} | more
    assert cut(status, count, **given) is expected  # type: ignore[arg-type]
