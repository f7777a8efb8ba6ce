"""What a sweep asks its source: the identifiers that go onto the wire, from a rule's keys and condition."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from router.domain.condition import Evaluation, KeyMatch
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.levels import RETURN_KEYS, asked_at
from router.domain.prefetching import CURRENT_KEYS
from router.domain.relevance import attributes_of
from router.domain.rule import Rule
from router.engine.query import unique_keys

MAXIMUM_QUERIES = 12
"""A list of values is asked value by value while that makes no more queries than this; else it is matched here only."""

_MODALITIES = known_tag("ModalitiesInStudy")


def questions(
    rule: Rule,
    keys: Sequence[KeyMatch],
    level: QueryRetrieveLevel,
    evaluation: Evaluation,
    study: Identifier | None = None,
) -> Iterator[Identifier]:
    """The identifiers to send: lists of values are asked one by one, as far as that stays a handful."""
    base = dict.fromkeys(RETURN_KEYS[level], ())
    if rule.priors is not None and level is QueryRetrieveLevel.STUDY:
        base |= dict.fromkeys(CURRENT_KEYS | attributes_of(rule.priors), ())
    for tag in rule.where.attributes:
        if asked_at(tag) is level:
            base[tag] = ()
    choices: list[list[tuple[int, tuple[str, ...]]]] = []
    number = 1
    for key in keys:
        if asked_at(key.tag) is not level:
            continue
        base.update(dict.fromkeys(key.attributes, ()))
        values = key.wire(evaluation)
        # A key that alone narrows the question is asked whatever it takes: without it the archive answers all.
        if values and (key.selective or len(values) * number <= MAXIMUM_QUERIES):
            choices.append([(key.tag, value) for value in values])
            number *= len(values)
    for choice in itertools.product(*choices):
        identifier = Identifier({**base, **dict(choice)})
        if study is not None:
            above = unique_keys(study.text("PatientID"), study.text("StudyInstanceUID"))
            identifier.elements.update(above.elements)
        yield identifier


def modalities_wanted(keys: Sequence[KeyMatch], evaluation: Evaluation) -> tuple[str, ...]:
    """The modalities of which a study must have one; none where any will do, or patterns say which."""
    for key in keys:
        if key.tag == _MODALITIES:
            values = [value for wire in key.wire(evaluation) for value in wire]
            return () if any("*" in value or "?" in value for value in values) else tuple(values)
    return ()
