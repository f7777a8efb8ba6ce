"""Attributes that an archive computes and may leave out: they are found out from its series and instances.

PS3.4 section C.3.4: all of them are optional. One SERIES query for a study brings them together; only where its answer
does not say how many instances there are, or where SOP classes are wanted, its series are asked for their instances.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from router.domain.computed import INSTANCES, MODALITIES, NUMBERS, SOP_CLASSES, of_series
from router.domain.dicom import Identifier, QueryRetrieveLevel, is_uid, known_tag, name_of
from router.domain.rule import Node
from router.engine.ports import FindResult
from router.engine.query import Inquiry, QueryFailed, unique_keys
from router.engine.slots import Urgency

MAXIMUM_QUERIES = 2000
"""C-FIND requests that one sweep may take for it; what is over that cannot be said."""
MAXIMUM_FAILURES = 3
"""After so many in a row that the source failed, it is not asked any more in this sweep."""

_COUNTED_SECONDS = 3600.0
"""How long what was found out serves while the study's row has the same number of instances."""
_UNCOUNTED_SECONDS = 300.0
"""The same where the row gives no number (that a study has grown is not noticed so long), or the source did not say."""
_NUMBER_SECONDS = 10.0
"""The same for the numbers themselves: they say whether a study grows. Rules that ask at once still share them."""
_REMEMBERED = 20_000
"""Studies."""

_MODALITY = known_tag("Modality")
_SERIES_INSTANCE_UID = known_tag("SeriesInstanceUID")
_SERIES_INSTANCES = known_tag("NumberOfSeriesRelatedInstances")
_SOP_INSTANCE_UID = known_tag("SOPInstanceUID")
_SOP_CLASS_UID = known_tag("SOPClassUID")

Values = dict[int, tuple[str, ...] | None]
"""Of computed attributes; None: the source does not say."""


def _serves(tag: int, value: tuple[str, ...] | None, counted: int | None) -> float:
    """For how many seconds a value serves again."""
    if counted is not None and value is not None:
        return _COUNTED_SECONDS
    return _NUMBER_SECONDS if tag in NUMBERS and value is not None else _UNCOUNTED_SECONDS


class _Known(NamedTuple):
    """What was found out: when, with how many instances in the row."""

    at: float
    counted: int | None
    values: Values


class ComputedAttributes:
    """What was found out of studies, over sweeps and rules. Thread-safe; bounded."""

    def __init__(self, inquiry: Inquiry, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._inquiry = inquiry
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    def look(self, source: Node, cancelled: threading.Event) -> ComputedLook:
        """For one sweep of a source."""
        return ComputedLook(self, self._inquiry, source, cancelled)

    def recall(self, node: str, study: str, counted: int | None) -> Values:
        """What still serves for a study with so many instances in its row (None: not said)."""
        with self._lock:
            known = self._known.get((node, study))
        if known is None or known.counted != counted:
            return {}
        age = self._monotonic() - known.at
        return {tag: value for tag, value in known.values.items() if age <= _serves(tag, value, counted)}

    def remember(self, node: str, study: str, counted: int | None, values: Values) -> None:
        """Keep what was found out now."""
        with self._lock:
            self._known.pop((node, study), None)
            self._known[node, study] = _Known(self._monotonic(), counted, values)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


class ComputedLook:
    """Finding out for one sweep, within its bounds. Not thread-safe.

    Raises WireError where the source cannot be asked; a query that it fails leaves its study unsaid.
    """

    def __init__(self, memory: ComputedAttributes, inquiry: Inquiry, source: Node, cancelled: threading.Event) -> None:
        self._memory = memory
        self._inquiry = inquiry
        self._source = source
        self._cancelled = cancelled
        self._found: dict[str, Values] = {}
        self._failures = 0
        self._unsaid: dict[str, set[str]] = {}
        """Why -> the studies."""
        self.queries = 0
        """C-FIND requests sent."""

    def filled(self, row: Identifier, wanted: frozenset[int]) -> Identifier | None:
        """The row with these attributes as well, another object; None where one of them cannot be said."""
        study = row.text("StudyInstanceUID")
        values = self._found.get(study, {})
        if not wanted <= values.keys():
            counted = row.number("NumberOfStudyRelatedInstances")
            values = {**self._memory.recall(self._source.name, study, counted), **values}
            if not wanted <= values.keys():
                # What is known together is found out together, so that its age is one.
                values = self._ask(study, row.text("PatientID"), wanted | values.keys())
                self._memory.remember(self._source.name, study, counted, values)
            self._found[study] = values
        elements = dict(row.elements)
        for tag in wanted:
            if tag not in values:
                return None  # it could not be asked
            value = values[tag]
            if value is None:
                self._leave(study, f"{self._source.name} does not say it of the series and instances either")
                return None
            elements[tag] = value
        return Identifier(elements)

    @property
    def doubt(self) -> str:
        """Why the sweep cannot be complete, as a sentence; empty where all was found out."""
        if not self._unsaid:
            return ""
        count = len(set[str]().union(*self._unsaid.values()))
        studies = "1 study was" if count == 1 else f"{count} studies were"
        return f"{studies} left out, for what a key or condition needs cannot be said: {'; '.join(self._unsaid)}."

    @property
    def account(self) -> str:
        """What it took, as a sentence; empty where nothing had to be asked."""
        if not self.queries:
            return ""
        queries = "1 query" if self.queries == 1 else f"{self.queries} queries"
        return f"{queries} for what {self._source.name} leaves out of its answers."

    def why(self, wanted: frozenset[int]) -> str:
        """The words for a study that is left out."""
        names = ", ".join(sorted(map(name_of, wanted)))
        return f"{names} cannot be said: the source does not return it, and could not be asked for what it follows from"

    # asking -------------------------------------------------------------------------------------------------------

    def _ask(self, study: str, patient_id: str, wanted: frozenset[int]) -> Values:
        values: Values = {}
        try:
            rows = self._series(study, patient_id)
            if rows is not None:
                values = of_series(rows)
                if wanted - values.keys() - {MODALITIES}:
                    values |= self._of_instances(study, patient_id, list(rows))
            self._failures = 0
        except QueryFailed as error:
            self._failures += 1
            self._leave(study, f"{self._source.name} failed the query for it with status {error.status:04X}")
        except _Exhausted as error:
            self._leave(study, str(error))
        else:
            values = {**dict.fromkeys(wanted), **values}
        return values

    def _series(self, study: str, patient_id: str) -> dict[str, Identifier] | None:
        """The rows of a study's series by UID; None where that may not be all."""
        keys = unique_keys(patient_id, study)
        keys.elements.update({_SERIES_INSTANCE_UID: (), _MODALITY: (), _SERIES_INSTANCES: ()})
        result = self._find(QueryRetrieveLevel.SERIES, keys)
        rows = [row for row in result.identifiers if row.text("StudyInstanceUID") in ("", study)]
        series = {uid: row for row in rows if is_uid(uid := row.text("SeriesInstanceUID"))}
        usable = all(is_uid(row.text("SeriesInstanceUID")) for row in rows)
        return series if series and usable and self._inquiry.whole(self._source, result) else None

    def _of_instances(self, study: str, patient_id: str, series: list[str]) -> Values:
        """The number of instances and their SOP classes; without one where the source does not say it of every one."""
        classes: set[str] = set()
        instances: set[str] = set()
        for one in series:
            keys = unique_keys(patient_id, study, one)
            keys.elements.update({_SOP_INSTANCE_UID: (), _SOP_CLASS_UID: ()})
            result = self._find(QueryRetrieveLevel.IMAGE, keys)
            rows = [row for row in result.identifiers if row.text("SeriesInstanceUID") in ("", one)]
            if (
                not self._inquiry.whole(self._source, result)
                or not rows
                or not all(is_uid(row.text("SOPInstanceUID")) for row in rows)
            ):
                return {}
            instances.update(row.text("SOPInstanceUID") for row in rows)
            classes.update(row.text("SOPClassUID") for row in rows)
        values: Values = {INSTANCES: (str(len(instances)),)}
        if all(map(is_uid, classes)):
            values[SOP_CLASSES] = tuple(sorted(classes))
        return values

    def _find(self, level: QueryRetrieveLevel, keys: Identifier) -> FindResult:
        if self.queries >= MAXIMUM_QUERIES:
            raise _Exhausted(f"a sweep asks for it {MAXIMUM_QUERIES} times at most")
        if self._failures >= MAXIMUM_FAILURES:
            raise _Exhausted(f"{self._source.name} failed {MAXIMUM_FAILURES} queries for it in a row")
        self.queries += 1
        return self._inquiry.find(self._source, level, keys, Urgency.SWEEP, self._cancelled)

    def _leave(self, study: str, why: str) -> None:
        self._unsaid.setdefault(why, set()).add(study)


def uncounted(source: str, number: int) -> str:
    """A sentence about candidates whose size was not asked for."""
    those = "1 was" if number == 1 else f"{number} were"
    return (
        f"{source} does not say how many instances its matches have; {MAXIMUM_QUERIES} were counted by their lists, "
        f"{those} not, so that it is not seen whether they grew: narrower keys help."
    )


class _Exhausted(Exception):
    """No more queries in this sweep."""
