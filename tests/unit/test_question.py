"""Which answer serves which question."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.dicom import Identifier, tag_of
from router.domain.question import asking_back, asks_back, covers

DATE, MODALITIES, NAME = (tag_of(name) for name in ("StudyDate", "ModalitiesInStudy", "PatientName"))


def question(**keys: str | list[str]) -> Identifier:
    return Identifier.of(StudyInstanceUID="", **keys)


@pytest.mark.parametrize(
    ("wider", "narrower", "left"),
    [
        ({}, {}, set()),
        ({"StudyDate": "20240101"}, {"StudyDate": "20240101"}, set()),
        ({"StudyDate": "20240101-20240131"}, {"StudyDate": "20240103"}, {DATE}),
        ({"StudyDate": "20240101-20240131"}, {"StudyDate": "20240101-20240130"}, {DATE}),
        ({"StudyDate": "20240101-20240131"}, {"StudyDate": "20231231-20240130"}, None),
        ({"StudyDate": "20240101"}, {}, None),
        ({}, {"StudyDate": "20240101"}, {DATE}),
        ({"StudyDate": "20240101"}, {"StudyDate": "20240101", "ModalitiesInStudy": "CT"}, {MODALITIES}),
        ({"ModalitiesInStudy": "CT"}, {"ModalitiesInStudy": "MR"}, None),
        ({"PatientName": "A*"}, {"PatientName": "AB*"}, None),
        ({"StudyDate": "junk-20240101"}, {"StudyDate": "20240101"}, None),
    ],
)
def test_an_answer_serves_a_question_it_covers(
    wider: dict[str, str], narrower: dict[str, str], left: set[int] | None
) -> None:
    found = covers(question(**wider), question(**narrower))
    assert (None if found is None else set(found)) == left


def test_return_keys_are_joined_and_never_change_what_is_matched() -> None:
    plain = question(StudyDate="20240101")
    joined = asking_back(plain, [question(StudyDescription=""), question(StudyDate="20230101", PatientName="X")])
    assert joined.text("StudyDate") == "20240101"
    assert joined.values("PatientName") == ()
    assert asks_back(joined, question(StudyDescription=""))
    assert not asks_back(plain, question(StudyDescription=""))
    assert covers(joined, plain) == covers(plain, joined) == frozenset()


days = st.dates(min_value=date(2023, 12, 1), max_value=date(2024, 2, 1))


@given(st.tuples(days, days), st.tuples(days, days), days)
def test_whoever_lies_in_the_narrower_range_lies_in_the_one_that_covers_it(a: tuple, b: tuple, day: object) -> None:  # type: ignore[type-arg]
    def text(ends: tuple) -> str:  # type: ignore[type-arg]
        return f"{min(ends):%Y%m%d}-{max(ends):%Y%m%d}"

    if covers(question(StudyDate=text(a)), question(StudyDate=text(b))) is not None and min(b) <= day <= max(b):
        assert min(a) <= day <= max(a)
