"""Matching keys: what goes onto the wire, and the same key applied to what comes back."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from router.domain.condition import Evaluation, KeyMatch
from router.domain.dicom import Identifier, tag_of
from router.domain.problem import ExpressionError, Kind
from router.domain.timing import DateExpression

NOW = Evaluation(datetime(2026, 11, 23, 11, 0, tzinfo=UTC), ZoneInfo("Europe/Berlin"))  # 12:00 in Berlin

WIRE = [
    ("StudyDate", ["today-2d..today"], (("20261121-20261123",),)),
    ("StudyDate", ["today"], (("20261123",),)),
    ("StudyDate", ["today", "today-7d"], (("20261123",), ("20261116",))),
    ("StudyDate", ["now-13h..now"], (("20261122-20261123",),)),
    ("StudyTime", ["07:00..19:00"], ()),  # never asked for: archives match it apart from the date
    ("Modality", ["CT"], (("CT",),)),
    ("ModalitiesInStudy", ["CT", "MR", "CT"], (("CT",), ("MR",))),  # no list but of UIDs is portable
    ("StudyInstanceUID", ["1.2", "1.3"], (("1.2", "1.3"),)),
    ("PatientID", ["00123"], (("00123",),)),
    ("PatientName", ["Doe*"], (("Doe*",),)),
    ("PatientName", ["*"], ()),
    ("PatientName", [""], ()),
    ("PatientName", [], ()),
    ("ModalitiesInStudy", ["CT", "*"], ()),
    ("ProcedureCodeSequence", [""], ()),
    ("SeriesNumber", ["3"], (("3",),)),
]


@pytest.mark.parametrize(("name", "texts", "expected"), WIRE, ids=[f"{row[0]}={row[1]}" for row in WIRE])
def test_wire(name: str, texts: list[str], expected: tuple[tuple[str, ...], ...]) -> None:
    assert KeyMatch.of(name, *texts).wire(NOW) == expected


ROW = Identifier.of(
    StudyDate="20261123",
    StudyTime="101530",
    ModalitiesInStudy=["CT", "SR"],
    PatientName="DOE^JOHN^^",
    PatientID="0042",
    StudyInstanceUID="1.2.3\0",
    SeriesNumber="03",
    StudyDescription="",
    AccessionNumber="A1",
)

MATCHES = [
    ("StudyDate", ["today"], True),
    ("StudyDate", ["yesterday"], False),
    ("StudyDate", ["yesterday", "today"], True),
    ("StudyDate", ["now-2h..now"], True),
    ("StudyDate", ["now-1h..now"], False),  # the archive matched the day; the hour is judged here
    ("StudyDate", ["20261122..20261123"], True),
    ("StudyTime", ["07:00..19:00"], True),
    ("StudyTime", ["22:00..06:00"], False),
    ("ModalitiesInStudy", ["SR"], True),
    ("ModalitiesInStudy", ["MR"], False),
    ("ModalitiesInStudy", ["MR", "SR"], True),
    ("ModalitiesInStudy", ["S?"], True),
    ("PatientName", ["doe^john"], True),
    ("PatientName", ["doe*"], True),
    ("PatientName", ["Smith*"], False),
    ("PatientID", ["42"], False),
    ("PatientID", ["00*"], True),
    ("AccessionNumber", ["a1"], False),
    ("StudyInstanceUID", ["1.2.3"], True),
    ("StudyInstanceUID", ["1.2", "1.2.3"], True),
    ("SeriesNumber", ["3"], True),
    ("StudyDescription", ["CHEST"], None),  # it came back empty: nobody can say
    ("BodyPartExamined", ["CHEST"], None),  # it did not come back
    ("StudyDescription", [], True),
    ("BodyPartExamined", ["*"], True),
]


@pytest.mark.parametrize(("name", "texts", "expected"), MATCHES, ids=[f"{row[0]}={row[1]}" for row in MATCHES])
def test_matches(name: str, texts: list[str], expected: bool | None) -> None:
    assert KeyMatch.of(name, *texts).matches(ROW, NOW) is expected


WRONG = [
    ("Studydate", ["today"], Kind.ATTRIBUTE),
    ("StudyInstanceUID", ["1.2.*"], Kind.UID_WILDCARD),
    ("StudyInstanceUID", ["1.2.x"], Kind.VALUE),
    ("StudyDate", ["2026*"], Kind.VALUE),
    ("StudyDate", ["today.."], Kind.DATE),
    ("SeriesNumber", ["1?"], Kind.VALUE),
    ("SeriesNumber", ["one"], Kind.VALUE),
    ("PatientID", ["a\\b"], Kind.VALUE),
    ("PatientID", ["a\nb"], Kind.VALUE),
    ("PatientID", ["a", ""], Kind.VALUE),
    ("PatientID", ["x" * 2000], Kind.VALUE),
    ("ProcedureCodeSequence", ["1"], Kind.KEY),
    ("PixelData", ["1"], Kind.KEY),
    ("AcquisitionDateTime", ["now-2h..now"], Kind.DATE),
]


@pytest.mark.parametrize(("name", "texts", "kind"), WRONG, ids=[f"{row[0]}={str(row[1])[:20]}" for row in WRONG])
def test_keys_that_cannot_be_asked_for(name: str, texts: list[str], kind: Kind) -> None:
    with pytest.raises(ExpressionError) as caught:
        KeyMatch.of(name, *texts)
    assert caught.value.kind is kind


def test_which_value_of_a_list_is_wrong() -> None:
    with pytest.raises(ExpressionError) as caught:
        KeyMatch.of("StudyDate", "today", "tomorow")
    assert caught.value.path == (1,)


def test_lists_and_selectivity() -> None:
    assert KeyMatch.of("ModalitiesInStudy", "CT", "MR").is_list
    assert not KeyMatch.of("StudyInstanceUID", "1.2", "1.3").is_list
    assert KeyMatch.of("StudyDate", "today").selective
    assert not KeyMatch.of("StudyDate").selective
    assert not KeyMatch.of("PatientID", "*").selective
    assert not KeyMatch.of("ModalitiesInStudy", "CT").selective  # an archive may ignore it and send everything


def test_a_date_key_asks_for_its_time_where_it_counts() -> None:
    date_tag, time_tag = tag_of("StudyDate"), tag_of("StudyTime")
    assert KeyMatch.of("StudyDate", "now-2h..now").attributes == {date_tag, time_tag}
    assert KeyMatch.of("StudyDate", "today").attributes == {date_tag}


def test_a_look_back_is_a_date_key() -> None:
    key = KeyMatch.of_date("StudyDate", DateExpression.looking_back(13 * 3600))
    assert key.wire(NOW) == (("20261122-20261123",),)
    assert key.matches(ROW, NOW) is True
    assert key.matches(Identifier.of(StudyDate="20261122", StudyTime="2250"), NOW) is False
    assert key.selective


def test_a_date_is_judged_with_the_time_beside_it_each_time() -> None:
    key = KeyMatch.of("StudyDate", "now-2h..now")
    for time, expected in (("1130", True), ("0930", False), ("1130", True)):
        assert key.matches(Identifier.of(StudyDate="20261123", StudyTime=time), NOW) is expected


def test_a_sequence_where_none_belongs_is_no_value() -> None:
    tag = tag_of("StudyDescription")
    assert tag is not None
    for _ in range(2):
        assert KeyMatch.of("StudyDescription", "CHEST").matches(Identifier({tag: (Identifier(),)}), NOW) is None


def test_an_empty_range_asks_for_one_day_and_takes_nothing() -> None:
    key = KeyMatch.of("StudyDate", "today..20240101")
    assert key.wire(NOW) == (("20240101",),)
    assert key.matches(Identifier.of(StudyDate="20240101"), NOW) is False


def test_the_representation_holds_no_value() -> None:
    assert repr(KeyMatch.of("PatientID", "0042")) == "KeyMatch(PatientID)"
    assert KeyMatch.of("PatientID", "0042") == KeyMatch.of("(0010,0020)", "0042") != KeyMatch.of("PatientID", "43")
