"""What `explain` says of a study, as values. For a terminal only: they hold values of patients."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from router.domain.condition import Explanation
from router.domain.dicom import Identifier, filled_in, name_of
from router.domain.gates import Conclusion, Gate
from router.domain.rule import Rule
from router.domain.rule_explanation import deciding
from router.domain.selection import Decision


class StudySeen(msgspec.Struct, frozen=True, kw_only=True):
    """What a source says of the study."""

    source: str
    row: Identifier | None = None
    """None: it does not have it, or could not be asked."""
    problem: str = ""
    """Why it could not be asked; empty where it could, or was not to be."""
    asked: bool = True
    """It was to be asked."""
    looked_at: tuple[int, ...] = ()
    """Tags that its rules look at."""


class WayExplained(msgspec.Struct, frozen=True, kw_only=True):
    """The study, or those of its series about which the same is decided, on the way to one destination."""

    destination: str
    decision: Decision
    series: tuple[str, ...] = ()
    """Series Instance UIDs; none: the study as a whole."""
    gates: tuple[Gate, ...] = ()
    conclusion: Conclusion


class RuleExplained(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule makes of the study."""

    rule: Rule
    found: bool | None = None
    """None: that could not be asked, or cannot be said."""
    clauses: tuple[Explanation, ...] = ()
    gates: tuple[Gate, ...] = ()
    """Those of the rule and its source."""
    ways: tuple[WayExplained, ...] = ()
    next_sweep_at: datetime | None = None
    notes: tuple[str, ...] = ()
    """What else there is to say, in sentences."""
    problem: str = ""
    """Why something could not be asked, as a sentence."""

    @property
    def decides(self) -> tuple[int, ...]:
        """The way to the clause that decides against it; empty where it is found."""
        return () if self.found else deciding(self.clauses)


class StudyExplained(msgspec.Struct, frozen=True, kw_only=True):
    """A study by all rules that were asked for."""

    seen: tuple[StudySeen, ...]
    rules: tuple[RuleExplained, ...]

    @property
    def failed(self) -> bool:
        """Whether a node could not be asked."""
        return any(one.problem for one in self.seen) or any(one.problem for one in self.rules)


def values_seen(seen: StudySeen) -> Mapping[str, tuple[str, ...]]:
    """Keyword -> values of what rules look at, as far as the source says it; sequences are left out."""
    elements = seen.row.elements if seen.row is not None else {}
    return {
        name_of(tag): tuple(value for value in elements[tag] if isinstance(value, str))
        for tag in seen.looked_at
        if tag in elements and filled_in(elements[tag])
    }
