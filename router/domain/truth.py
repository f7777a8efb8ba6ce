"""Local truth: the keys and the condition of a rule, applied again to what a source returned. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from router.domain.computed import COMPUTED, Computing, missing
from router.domain.condition import Condition, Evaluation, KeyMatch
from router.domain.dicom import Identifier, QueryRetrieveLevel, filled_in
from router.domain.levels import MATCHED_BY_ALL, asked_at
from router.domain.matcher import TIMEZONE_OFFSET_FROM_UTC
from router.domain.partial import PartialCondition

KEY, CONDITION, UNKNOWN = "key", "condition", "unknown"
"""Why a match is left out, in one word."""

_REMEMBERED = 4096
"""Different values of the attributes of a condition that are remembered to fulfil it."""

Values = tuple[str | Identifier, ...]
Skip = Callable[[Identifier, str, str], None]
"""Takes a match that is left out, one of the words above, and the reason without any value."""


class LocalTruth:
    """Judges the matches of one sweep.

    Computed attributes that a match lacks are found out only if all else that is known speaks for it. `exists: false`
    on one of them speaks of the study, not of the answer: it is found out as well, and where that is not possible the
    study is left out, whatever the condition says.
    """

    def __init__(
        self,
        keys: tuple[KeyMatch, ...],
        condition: Condition,
        evaluation: Evaluation,
        computed: Computing,
        skip: Skip,
    ) -> None:
        self._keys = keys
        self._condition = condition
        self._evaluation = evaluation
        self._computed = computed
        self._skip = skip
        self._looked_at = (*condition.attributes, TIMEZONE_OFFSET_FROM_UTC)
        self._needed = COMPUTED & (condition.attributes | {key.tag for key in keys if key.values})
        self._deeper = frozenset(t for t in condition.attributes if asked_at(t) is not QueryRetrieveLevel.STUDY)
        # One for each set of attributes that matches lack: there are few such sets.
        self._partial = lru_cache(maxsize=64)(lambda unknown: PartialCondition(condition, evaluation, unknown))

    def by_keys(self, rows: list[Identifier], level: QueryRetrieveLevel) -> list[Identifier]:
        """Those that fit every key of the level: what a PACS cannot match it returns all the same."""
        keys = [(key, key.bind(self._evaluation)) for key in self._keys if asked_at(key.tag) is level]
        kept = []
        for row in rows:
            undecided: list[KeyMatch] = []
            for key, matches in keys:
                verdict = matches(row)
                if verdict:
                    continue
                if missing(row, (key.tag,)):
                    undecided.append(key)
                elif reason := _against(key, verdict):
                    self._skip(row, KEY, reason)
                    break
            else:
                found = self._found_out(row, undecided) if undecided else row
                if found is not None:
                    kept.append(found)
        return kept

    def by_condition(self, rows: list[Identifier]) -> list[Identifier]:
        """Those for which the condition holds."""
        holds = self._condition.bind(self._evaluation)
        needed = COMPUTED & self._condition.attributes
        looked_at = self._looked_at
        passed: set[tuple[Values | None, ...]] = set()
        kept = []
        for row in rows:
            # Very many matches have few different values: what passed once need not be judged again.
            get = row.elements.get
            alike = tuple([get(tag) for tag in looked_at])
            try:
                if alike in passed:
                    kept.append(row)
                    continue
            except TypeError:  # a sequence: items cannot be looked up
                alike = ()
            if needed and (absent := missing(row, needed)):
                partial = self._partial(absent)
                verdict = partial.verdict(row)
                if verdict is False:
                    self._skip(row, CONDITION, partial.reason(row))
                    continue
                if verdict is None:
                    filled = self._filled(row, absent)
                    if filled is None:
                        continue
                    row = filled
                alike = ()  # what was found out does not show in it
            if holds(row):
                kept.append(row)
                if alike and len(passed) < _REMEMBERED:
                    passed.add(alike)
            else:
                self._skip(row, CONDITION, self._condition.explain(row, self._evaluation).reason)
        return kept

    def _found_out(self, row: Identifier, undecided: list[KeyMatch]) -> Identifier | None:
        """A match with the computed attributes by which these keys can be judged; None where it is left out."""
        absent = missing(row, self._needed)
        partial = self._partial(absent | self._deeper)
        if partial.verdict(row) is False:
            self._skip(row, CONDITION, partial.reason(row))
            return None
        filled = self._filled(row, absent)
        if filled is None:
            return None
        for key in undecided:
            if reason := _against(key, key.matches(filled, self._evaluation)):
                self._skip(row, KEY, reason)
                return None
        return filled

    def _filled(self, row: Identifier, wanted: frozenset[int]) -> Identifier | None:
        filled = self._computed.filled(row, wanted)
        if filled is None:
            self._skip(row, UNKNOWN, self._computed.why(wanted))
        return filled


def of_study(study: Identifier, rows: list[Identifier]) -> list[Identifier]:
    """The series of a study, each with what the study's row says too; without those that say that they are another's.

    Some archives do not match by the study at this level, and some leave what is above it empty.
    """
    uid = study.text("StudyInstanceUID")
    return [
        Identifier({**study.elements, **{tag: values for tag, values in row.elements.items() if filled_in(values)}})
        for row in rows
        if row.text("StudyInstanceUID").strip(" \0") in ("", uid)
    ]


def _against(key: KeyMatch, verdict: bool | None) -> str:
    """What speaks against a match by this key; empty where nothing does."""
    if verdict is False:
        return f"outside the key {key.name}: the source answered more than the rule asks for"
    if verdict is None and key.tag not in MATCHED_BY_ALL:
        return f"the source does not return {key.name}, so nobody can say whether it matched by it"
    return ""
