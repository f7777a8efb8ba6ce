"""Clauses: what a condition says of one attribute, evaluated on an identifier and explained.

Edge cases, all on purpose:
* An attribute that is absent or of zero length has no value; it fails every matcher but `exists: false` and `not`.
* On a multi-valued attribute a clause holds if one value satisfies all of its matchers; under `not` no value may.
* Text is compared exactly, without leading and trailing spaces; person names caseless, without trailing `^`.
* A malformed value (text in a number) satisfies nothing but `like`, `matches` and `exists`.
* A date with a time beside it (StudyDate, StudyTime) is compared to the moment where the expression names moments
  (`now-2h`); a value of lower precision satisfies a comparison if any moment it may mean does. Local times are those
  of the source's zone, or of the data set's own offset where it has one (0008,0201); days are compared as days.
* A time of day between 22:00 and 06:00 runs over midnight: the night's end belongs to whatever day it stands in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import msgspec

from router.domain.attributes import identifying
from router.domain.dicom import Identifier, vr_of
from router.domain.matcher import COMPARISONS, Evaluation, Operand, Range, day_reader, reader, within_day
from router.domain.pattern import MAXIMUM_SUBJECT
from router.domain.timing import DAY

T = TypeVar("T")
Predicate = Callable[[Identifier], bool]
Values = tuple[str | Identifier, ...]
ValuePredicate = Callable[[str, Identifier], bool]

Explainer = Callable[[Identifier], "Explanation"]

PADDING = " \0\t\r\n"
"""What values are padded with, by the standard or by habit; it never counts."""

OPERATORS: dict[str, tuple[str, str]] = {
    "equals": ("is {}", "is not {}"),
    "in": ("is one of {}", "is none of {}"),
    "like": ("is like {}", "is not like {}"),
    "matches": ("matches {}", "does not match {}"),
    "gt": ("is greater than {}", "is not greater than {}"),
    "gte": ("is at least {}", "is not at least {}"),
    "lt": ("is less than {}", "is not less than {}"),
    "lte": ("is at most {}", "is not at most {}"),
    "between": ("is between {}", "is not between {}"),
    "exists": ("has a value", "has no value"),
    "not": ("not", "not"),
}
"""The matchers of an attribute, with their words when they hold and when they do not."""

_COMBINERS = {"all": "all of", "any": "any of", "not": "not"}


class Explanation(msgspec.Struct, frozen=True):
    """Why a condition holds or not: a clause with the values it saw, or a group with its parts.

    `text`, `seen` and `render` may hold values of patients and go to a terminal on request only; `reason` is free of
    values and may be stored.
    """

    text: str
    passed: bool
    seen: tuple[str, ...] = ()
    parts: tuple[Explanation, ...] = ()
    stored_reason: str = ""

    @property
    def reason(self) -> str:
        """Why it does not hold, without any value of the data set; empty where it holds."""
        if self.passed:
            return ""
        failed = [part.reason for part in self.parts if not part.passed]
        return self.stored_reason or "; ".join(reason for reason in failed if reason)

    def render(self, indent: int = 0) -> list[str]:
        """Lines for a terminal."""
        mark = "pass" if self.passed else "FAIL"
        seen = "" if self.parts else f" (seen: {', '.join(self.seen) if self.seen else 'no value'})"
        lines = [f"{'  ' * indent}{mark}  {self.text}{seen}"] if self.text else []
        for part in self.parts:
            lines += part.render(indent + (1 if self.text else 0))
        return lines


# --- Clauses ----------------------------------------------------------------------------------------------------------

_NOBODY = Identifier()
"""The data set around values that are judged without it."""
_VERDICTS = 1024


def judged_alone(tag: int, judge: Callable[[Values, Identifier], T]) -> Callable[[Identifier], T]:
    """A judgement of an attribute's values that does not look at the data set around them, as a function of that.

    It is remembered for some values: the matches of a query have few different ones of most attributes.
    """
    remembered = lru_cache(maxsize=_VERDICTS)(lambda values: judge(values, _NOBODY))

    def judge_in(identifier: Identifier) -> T:
        values = identifier.elements.get(tag, ())
        try:
            return remembered(values)
        except TypeError:  # a sequence where none belongs: items cannot be looked up
            return judge(values, identifier)

    return judge_in


class Test(msgspec.Struct, frozen=True):
    """One matcher on one attribute."""

    __test__ = False  # not a test of pytest's

    operator: str
    text: str
    operands: tuple[Operand, ...] = ()
    pattern: re.Pattern[str] | None = None

    def alone(self, tag: int) -> bool:
        """Whether a value decides by itself; what is compared to a moment needs the time or the time zone beside it."""
        vr = vr_of(tag)
        dated = [operand.dates for operand in self.operands if operand.dates is not None]
        return not (vr == "DT" and dated) and not (vr == "DA" and any(dates.timed for dates in dated))

    def bind(self, tag: int, evaluation: Evaluation) -> ValuePredicate:
        """The test as a function of a value, with its dates fixed."""
        vr = vr_of(tag)
        if self.pattern is not None:
            return _pattern_predicate(self.pattern, self.operator == "like", by_script=vr == "PN")
        dated = [operand.dates for operand in self.operands if operand.dates is not None]
        timed = any(dates.timed for dates in dated)
        by_day = vr == "DA" and not timed
        ranges = [operand.at(evaluation, by_day) for operand in self.operands]
        equality = self.operator in ("equals", "in")
        if equality and not dated and vr != "PN" and all(isinstance(range_.low, str) for range_ in ranges):
            wanted = frozenset(range_.low for range_ in ranges)
            return lambda value, _: value in wanted
        read = day_reader if by_day else reader(tag, timed)
        if self.operator == "between":
            low, high = ranges[0].low, ranges[1].high
            ranges = [Range(low, high + DAY if vr == "TM" and low > high else high)]
        compare = COMPARISONS.get(self.operator, COMPARISONS["equals"])
        if vr == "TM" and compare is COMPARISONS["equals"]:
            compare = within_day
        by_script = vr == "PN" and equality

        def holds(value: str, container: Identifier) -> bool:
            seen = read(value, container, evaluation)
            if seen is None:
                return False
            for range_ in ranges:
                if compare(seen, range_):
                    return True
            return by_script and any(Range(part, part) in ranges for part in seen.low.split("="))

        return holds


def _pattern_predicate(pattern: re.Pattern[str], whole: bool, by_script: bool) -> ValuePredicate:
    if not whole:
        return lambda value, _: pattern.search(value[:MAXIMUM_SUBJECT]) is not None
    if by_script:  # the same name in several scripts, separated by "=", is each of them (PS3.5 section 6.2.1)
        return lambda value, _: any(pattern.match(part.rstrip("^ ")) is not None for part in (value, *value.split("=")))
    return lambda value, _: pattern.match(value) is not None


class CodeTest(msgspec.Struct, frozen=True):
    """An item of a code sequence (PS3.3 section 8): its value, and its scheme where one is asked for."""

    codes: tuple[str, ...]
    scheme: str = ""

    def holds(self, item: Identifier) -> bool:
        """Whether this item is one of the codes."""
        if self.scheme and item.text("CodingSchemeDesignator") != self.scheme:
            return False
        return not self.codes or any(
            item.text(name) in self.codes for name in ("CodeValue", "LongCodeValue", "URNCodeValue")
        )

    @property
    def text(self) -> str:
        """For people: `T-D3000 (SRT)`."""
        codes = ", ".join(self.codes) or "any code"
        return f"{codes} ({self.scheme})" if self.scheme else codes


class Clause(msgspec.Struct, frozen=True):
    """All matchers of one attribute. `path` leads through sequences to it."""

    name: str
    path: tuple[int, ...]
    tests: tuple[Test, ...] = ()
    codes: tuple[CodeTest, ...] = ()
    exists: bool | None = None
    denied: tuple[Clause, ...] = ()
    """Clauses on the same attribute that must not hold."""

    def bind(self, evaluation: Evaluation) -> Predicate:
        """The clause as a function of an identifier, with its dates fixed."""
        tag = self.path[-1]
        tests = [test.bind(tag, evaluation) for test in self.tests]
        denied = [clause.bind(evaluation) for clause in self.denied]
        exists, codes, path = self.exists, self.codes, self.path

        if len(path) == 1 and len(tests) == 1 and not denied and exists is None and not codes:
            only = tests[0]

            def simple(values: Values, identifier: Identifier) -> bool:
                for value in values:
                    if isinstance(value, str) and (stripped := value.strip(PADDING)) and only(stripped, identifier):
                        return True
                return False

            if self.tests[0].alone(tag):
                return judged_alone(tag, simple)
            return lambda identifier: simple(identifier.elements.get(tag, ()), identifier)

        def holds(identifier: Identifier) -> bool:
            values = list(values_of(identifier, path))
            if exists is not None and bool(values) is not exists:
                return False
            if codes and not any(isinstance(v, Identifier) and code.holds(v) for v, _ in values for code in codes):
                return False
            if tests and not any(
                isinstance(value, str) and all(test(value, container) for test in tests) for value, container in values
            ):
                return False
            return not any(clause(identifier) for clause in denied)

        return holds

    def explainer(self, evaluation: Evaluation) -> Explainer:
        """Whether it holds, and what it saw, as a function of an identifier."""
        holds, text = self.bind(evaluation), f"{self.name} {self._words(0)}"

        def explain(identifier: Identifier) -> Explanation:
            seen = tuple([_shown(value) for value, _ in values_of(identifier, self.path)])
            passed = holds(identifier)
            return Explanation(text, passed, seen, (), "" if passed else self._reason(seen))

        return explain

    def _reason(self, seen: tuple[str, ...]) -> str:
        if not seen and self.exists is None and (self.tests or self.codes):
            return f"{self.name} has no value"
        if any(identifying(tag) for tag in self.path):
            return f"{self.name} is not what the rule asks for"
        return f"{self.name} {self._words(1)}"

    def _words(self, form: int) -> str:
        """The matchers in words; form 0 as asked for, 1 as not fulfilled."""
        words = [OPERATORS[test.operator][form].format(test.text) for test in self.tests]
        if self.codes:
            words.append(OPERATORS["in"][form].format(", ".join(code.text for code in self.codes)))
        if self.exists is not None:
            words.append(OPERATORS["exists"][form if self.exists else 1 - form])
        words += [clause._words(1 - form) for clause in self.denied]
        return (" or " if form else " and ").join(words)


class Group(msgspec.Struct, frozen=True):
    """`all`, `any` or `not` of parts; `not` holds if its parts do not all hold."""

    combiner: str
    parts: tuple[Clause | Group, ...]

    def bind(self, evaluation: Evaluation) -> Predicate:
        """The group as a function of an identifier."""
        parts = [part.bind(evaluation) for part in self.parts]
        if len(parts) == 1 and self.combiner != "not":
            return parts[0]
        if self.combiner == "any":
            return lambda identifier: any(part(identifier) for part in parts)

        def all_hold(identifier: Identifier) -> bool:
            for part in parts:  # noqa: SIM110  a generator would cost as much as a clause
                if not part(identifier):
                    return False
            return True

        return all_hold if self.combiner == "all" else lambda identifier: not all_hold(identifier)

    def explainer(self, evaluation: Evaluation) -> Explainer:
        """Whether it holds, with every part, as a function of an identifier."""
        holds, explainers = self.bind(evaluation), [part.explainer(evaluation) for part in self.parts]
        text, reason = _COMBINERS[self.combiner], ""
        if self.combiner != "all":
            words = {"any": "none of the alternatives holds", "not": "what must not hold does"}[self.combiner]
            names = dict.fromkeys(clause.name for clause in clauses_of(self))
            reason = f"{words} ({', '.join(names)})"

        def explain(identifier: Identifier) -> Explanation:
            parts = tuple([explainer(identifier) for explainer in explainers])
            passed = holds(identifier)
            return Explanation(text, passed, (), parts, "" if passed else reason)

        return explain


def clauses_of(part: Clause | Group) -> Iterator[Clause]:
    """Every clause, at any depth."""
    if isinstance(part, Clause):
        yield part
    else:
        for inner in part.parts:
            yield from clauses_of(inner)


def values_of(identifier: Identifier, path: tuple[int, ...]) -> Iterator[tuple[str | Identifier, Identifier]]:
    """Every non-empty value at the end of the path, with the data set or item it stands in."""
    if len(path) > 1:
        for item in identifier.elements.get(path[0], ()):
            if isinstance(item, Identifier):
                yield from values_of(item, path[1:])
        return
    for value in identifier.elements.get(path[0], ()):
        if isinstance(value, Identifier):
            yield value, identifier
        elif stripped := value.strip(PADDING):
            yield stripped, identifier


def _shown(value: str | Identifier) -> str:
    if isinstance(value, str):
        return value
    code, scheme = value.text("CodeValue") or value.text("LongCodeValue"), value.text("CodingSchemeDesignator")
    return f"{code} ({scheme})" if code else "an item"
