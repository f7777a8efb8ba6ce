"""From the rows of a sweep that passed its keys and condition to the studies or series it selects. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.rule import Move, Sweep
from router.domain.selection import Candidate

_PATIENT_ID = known_tag("PatientID")
_AVAILABILITY = known_tag("InstanceAvailability")
_STUDY_INSTANCE_UID = known_tag("StudyInstanceUID")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")
_STUDY_INSTANCES = known_tag("NumberOfStudyRelatedInstances")
_SERIES_INSTANCES = known_tag("NumberOfSeriesRelatedInstances")

_Values = tuple[str | Identifier, ...]

Count = Callable[[Identifier, str, str], int | None]
"""Finds out how many instances a study (or series) has whose row does not say it: the row, study and series UID."""


def divides(sweep: Sweep, move: Move) -> bool:
    """Whether what the sweep finds are studies, of which the rule moves each series."""
    return move.level is QueryRetrieveLevel.SERIES and sweep.level is QueryRetrieveLevel.STUDY


def candidates(rows: Iterable[Identifier], sweep: Sweep, move: Move, count: Count) -> list[Candidate]:
    """What is to be decided about, each study or series once. The rows are series where the rule moves series."""
    by_series = move.level is QueryRetrieveLevel.SERIES
    counted = _SERIES_INSTANCES if by_series else _STUDY_INSTANCES
    often = by_series or sweep.level is QueryRetrieveLevel.SERIES
    found = []
    seen: set[tuple[str, str]] = set()
    for row in rows:
        study = text_of(row, _STUDY_INSTANCE_UID)
        series = text_of(row, _SERIES_INSTANCE_UID) if by_series else ""
        if often:
            if (study, series) in seen:
                continue
            seen.add((study, series))
        elements = row.elements
        number = _number_in(elements.get(counted, ()))
        found.append(
            Candidate(
                study_instance_uid=study,
                series_instance_uid=series,
                instance_count=count(row, study, series) if number is None else number,
                patient_id=text_of(row, _PATIENT_ID),
                availability=_word_in(elements.get(_AVAILABILITY, ())),
            )
        )
    return found


def text_of(row: Identifier, tag: int) -> str:
    """`Identifier.text` for the tag of an attribute: a sweep asks very many rows the same."""
    values = row.elements.get(tag)
    first = values[0] if values else ""
    return first.strip() if isinstance(first, str) else ""


def _word_in(values: _Values) -> str:
    """The first value of an attribute that has few different ones; empty where it is no text."""
    try:
        return _word(values)
    except TypeError:  # a sequence where none belongs: items cannot be looked up
        return ""


def _number_in(values: _Values) -> int | None:
    """The same as `Identifier.number` for the values of an attribute; counts come again and again."""
    try:
        return _number(values)
    except TypeError:
        return None


@lru_cache(maxsize=4096)
def _word(values: _Values) -> str:
    first = values[0] if values else ""
    return first.strip() if isinstance(first, str) else ""


@lru_cache(maxsize=4096)
def _number(values: _Values) -> int | None:
    text = _word(values)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None
