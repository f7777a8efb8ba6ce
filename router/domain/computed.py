"""Attributes that an archive computes and may leave out (PS3.4 section C.3.4): which they are, what says them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from router.domain.dicom import Identifier, known_tag

MODALITIES = known_tag("ModalitiesInStudy")
SERIES = known_tag("NumberOfStudyRelatedSeries")
INSTANCES = known_tag("NumberOfStudyRelatedInstances")
SOP_CLASSES = known_tag("SOPClassesInStudy")
NUMBERS = frozenset({SERIES, INSTANCES})

COMPUTED = frozenset({MODALITIES, SOP_CLASSES}) | NUMBERS
"""What can be found out where a study's row lacks it."""

_NOTHING: frozenset[int] = frozenset()


class Computing(Protocol):
    """Finds out what a study's row lacks."""

    def filled(self, row: Identifier, wanted: frozenset[int]) -> Identifier | None:
        """The row with these attributes as well, another object; None where one of them cannot be said."""

    def why(self, wanted: frozenset[int]) -> str:
        """The words for a study that is left out for it."""


def missing(row: Identifier, wanted: Iterable[int]) -> frozenset[int]:
    """Which of the computed attributes wanted a row has no usable value of."""
    get = row.elements.get
    absent = [tag for tag in wanted if tag in COMPUTED and not _says(tag, get(tag, ()))]
    return frozenset(absent) if absent else _NOTHING


def of_series(rows: Mapping[str, Identifier]) -> dict[int, tuple[str, ...] | None]:
    """What follows from all series of a study, by their UID; what they do not say is left out."""
    values: dict[int, tuple[str, ...] | None] = {SERIES: (str(len(rows)),)}
    if modalities := sorted({modality for row in rows.values() if (modality := row.text("Modality"))}):
        values[MODALITIES] = tuple(modalities)
    counts = [row.number("NumberOfSeriesRelatedInstances") for row in rows.values()]
    if None not in counts:
        values[INSTANCES] = (str(sum(count for count in counts if count is not None)),)
    return values


def _says(tag: int, values: tuple[str | Identifier, ...]) -> bool:
    """Whether these are a usable value: some come with blanks, or with something in place of a number."""
    try:
        return _usable(tag, values)
    except TypeError:  # a sequence where none belongs: items cannot be looked up
        return False


@lru_cache(maxsize=4096)
def _usable(tag: int, values: tuple[str | Identifier, ...]) -> bool:
    texts = [value.strip(" \0") for value in values if isinstance(value, str)]
    if tag in NUMBERS:
        return any(text.isascii() and text.isdigit() for text in texts)
    return any(texts)
