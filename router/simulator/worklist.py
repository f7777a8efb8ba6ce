"""The modality worklist SCP (PS3.4 annex K): what of its items answers a question. No network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import UID

from .behaviour import Behaviour
from .encoding import element_of, encode, text_of
from .matching import matches
from .query import Query, copied

_STEPS = "ScheduledProcedureStepSequence"
_TIME = "ScheduledProcedureStepStartTime"


def steps_found(items: Iterable[Dataset], query: Query, behaviour: Behaviour) -> list[Dataset]:
    """The items that satisfy all keys: one for each scheduled step (PS3.4 section K.4.1.3.1), or whole ones."""
    single = [one for item in items for one in _apart(item, behaviour)]
    if behaviour.worklist_ignores_keys:
        return single
    return [
        item
        for item in single
        if all(
            matches(
                key,
                element_of(item, key.tag),
                value_lists=behaviour.match_value_lists,
                exact_names=behaviour.names_case_sensitive,
            )
            for key in query.keys
        )
    ]


def encode_step(query: Query, item: Dataset, behaviour: Behaviour, transfer_syntax: UID) -> bytes:
    """The bytes of one response: every key that was asked for, inside the sequences too."""
    row = _row(query.identifier, item)
    row.SpecificCharacterSet = item.get("SpecificCharacterSet", "")
    for step in row.get(_STEPS, ()):
        if behaviour.worklist_empty_times and _TIME in step:
            step[_TIME].value = ""
    if behaviour.worklist_without_sequence:
        row.pop(_STEPS, None)
    return encode(row, transfer_syntax, text_of(row, "SpecificCharacterSet"))


def _apart(item: Dataset, behaviour: Behaviour) -> Sequence[Dataset]:
    steps = item.get(_STEPS) or []
    if behaviour.worklist_steps_together or len(steps) < 2:
        return [item]
    parts = []
    for step in steps:
        part = copy.deepcopy(item)
        part.ScheduledProcedureStepSequence = [copy.deepcopy(step)]
        parts.append(part)
    return parts


def _row(keys: Dataset, item: Dataset) -> Dataset:
    """What a data set has of what was asked for; a sequence with an item in the key is answered item by item."""
    row = Dataset()
    for tag in sorted(keys.keys()):
        key, value = element_of(keys, tag), element_of(item, tag)
        if key is None or key.keyword == "SpecificCharacterSet":
            continue
        if key.VR == "SQ" and value is not None and key.value and len(key.value[0]):
            setattr(row, key.keyword, [_row(key.value[0], one) for one in value.value])
        else:
            row.add(copied(key, value))
    return row
