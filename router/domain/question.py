"""Questions to a source as they go onto the wire, and which answer serves which question. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from router.domain.dicom import Identifier, tag_of
from router.domain.timing import parse_da_range

_STUDY_DATE = tag_of("StudyDate")


def keys_of(question: Identifier) -> dict[int, tuple[object, ...]]:
    """The matching keys of a question: what has a value. The others only ask for their attribute back."""
    return {tag: values for tag, values in question.elements.items() if any(values)}


def covers(wider: Identifier, narrower: Identifier) -> frozenset[int] | None:
    """Whether the answer to `wider` holds all that the answer to `narrower` would; None where it may not.

    The tags are those of the keys by which its rows have still to be matched here; none where the two ask the same.
    Both must ask back what the narrower one asks back: see `asking_back`.
    """
    ours, theirs = keys_of(wider), keys_of(narrower)
    narrowed = set(theirs) - set(ours)
    for tag, values in ours.items():
        if theirs.get(tag) == values:
            continue
        if tag == _STUDY_DATE and tag in theirs and _within(_text(theirs[tag]), _text(values)):
            narrowed.add(tag)
            continue
        return None
    return frozenset(narrowed)


def asking_back(question: Identifier, others: Iterable[Identifier]) -> Identifier:
    """The same question that also asks back what these others need of each match."""
    elements = dict(question.elements)
    for other in others:
        for tag in other.elements:
            elements.setdefault(tag, ())
    return Identifier(elements)


def asks_back(question: Identifier, needed: Identifier) -> bool:
    """Whether a question asks back all attributes that another one does."""
    return needed.elements.keys() <= question.elements.keys()


def _text(values: tuple[object, ...]) -> str:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _within(inner: str, outer: str) -> bool:
    """Whether a DA matching value (a day, or a range with both ends) lies within another one."""
    inside, around = parse_da_range(inner), parse_da_range(outer)
    return inside is not None and around is not None and around[0] <= inside[0] and inside[1] <= around[1]
