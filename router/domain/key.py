"""Matching keys of a sweep: what of a key goes onto the wire, and the same key applied to what comes back."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from router.domain.attributes import SELECTIVE
from router.domain.clause import OPERATORS, PADDING, Explanation, Test, Values, judged_alone, values_of
from router.domain.dicom import Identifier, is_uid, tag_of, vr_of
from router.domain.levels import MATCHED_BY_ALL
from router.domain.matcher import BINARY, WILDCARD, Evaluation, Operand, parse_operand, time_of_date
from router.domain.pattern import wildcard
from router.domain.problem import ExpressionError, Kind
from router.domain.timing import DateExpression

MAXIMUM_VALUE_LENGTH = 1024

Verdict = Callable[[Identifier], bool | None]


class KeyValue(msgspec.Struct, frozen=True):
    """One value of a key, compiled."""

    text: str
    test: Test
    dates: DateExpression | None = None

    def wire(self, evaluation: Evaluation) -> str:
        """The text of the matching key."""
        return self.dates.resolve(*evaluation).wire if self.dates is not None else self.text

    def means(self, evaluation: Evaluation) -> str:
        """For people: the value as it is written, and what a date that moves with the present means then."""
        if self.dates is None or not self.dates.relative:
            return self.text
        found = self.dates.resolve(*evaluation)
        if self.dates.timed:
            first, last = (f"{one.astimezone(evaluation.zone):%Y-%m-%d %H:%M}" for one in (found.start, found.end))
        else:
            first, last = str(found.first), str(found.last)
        return f"{self.text} ({first})" if first == last else f"{self.text} ({first} to {last})"


class KeyMatch:
    """One matching key of a sweep. Without values it only asks for the attribute back (universal matching)."""

    __slots__ = ("_bound", "name", "tag", "values")

    def __init__(self, name: str, tag: int, values: tuple[KeyValue, ...] = ()) -> None:
        self.name = name
        self.tag = tag
        self.values = values
        self._bound: tuple[Evaluation, Verdict] | None = None

    @classmethod
    def of(cls, name: str, *texts: str) -> KeyMatch:
        """Compile a key from its literal texts; none or an empty one is a return key. Raises ExpressionError."""
        tag = tag_of(name)
        if tag is None:
            raise ExpressionError(Kind.ATTRIBUTE, f"{name!r} is no DICOM attribute", at_key=True, name=name)
        if vr_of(tag) == "SQ" or vr_of(tag) in BINARY:
            if any(texts):
                raise ExpressionError(Kind.KEY, f"{name} cannot be matched by the source", "filter by it under where:")
            return cls(name, tag)
        stripped = [text.strip() for text in texts]
        if len(stripped) > 1 and "" in stripped:
            raise ExpressionError(Kind.VALUE, f"an empty value in the list of {name}", path=(stripped.index(""),))
        wanted = [text for text in stripped if text and set(text) != {"*"}]
        if len(wanted) < len(stripped):
            return cls(name, tag)  # `*` alone is universal matching, and so is a list with it
        values = []
        for index, text in enumerate(wanted):
            try:
                values.append(_key_value(tag, name, text))
            except ExpressionError as error:
                raise error.below(*((index,) if len(wanted) > 1 else ())) from None
        return cls(name, tag, tuple(values))

    @classmethod
    def of_date(cls, name: str, dates: DateExpression) -> KeyMatch:
        """A key that is a date expression. Raises KeyError for an unknown keyword."""
        tag = tag_of(name)
        if tag is None:
            raise KeyError(name)
        return cls(
            name, tag, (KeyValue(dates.text, Test("equals", dates.text, (Operand(dates.text, dates=dates),)), dates),)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyMatch) and (self.tag, self.values) == (other.tag, other.values)

    def __hash__(self) -> int:
        return hash((self.tag, self.values))

    def __repr__(self) -> str:  # no values: a repr ends in logs
        return f"KeyMatch({self.name})"

    @property
    def is_list(self) -> bool:
        """Several values of an attribute that is no UID: no single request can ask for them portably."""
        return len(self.values) > 1 and vr_of(self.tag) != "UI"

    @property
    def selective(self) -> bool:
        """Every archive must match by it, and it narrows the answer."""
        return self.tag in SELECTIVE and bool(self.values)

    @property
    def attributes(self) -> frozenset[int]:
        """Tags a query must ask back to apply the key again: its own, and the time beside a date."""
        time_tag = time_of_date(self.tag) if any(v.dates is not None and v.dates.timed for v in self.values) else None
        return frozenset({self.tag} if time_tag is None else {self.tag, time_tag})

    def wire(self, evaluation: Evaluation) -> tuple[tuple[str, ...], ...]:
        """The values to ask for, one element per request; nothing: ask for the attribute back (zero length).

        A list of UIDs goes in one request (PS3.4 section C.2.2.2.2). Of any other list each value is a request of its
        own; who does not want so many leaves the key empty and trusts `matches`. Times of day are never asked for:
        archives match them apart from the date (section C.2.2.2.5).
        """
        vr = vr_of(self.tag)
        if not self.values or vr == "TM":
            return ()
        texts = tuple(dict.fromkeys(value.wire(evaluation) for value in self.values))
        return (texts,) if vr == "UI" else tuple((text,) for text in texts)

    def matches(self, identifier: Identifier, evaluation: Evaluation) -> bool | None:
        """Whether what came back satisfies the key; None where it lacks the attribute, so that nobody can say."""
        return self.bind(evaluation)(identifier)

    def bind(self, evaluation: Evaluation) -> Verdict:
        """`matches` at that moment, to be asked of many identifiers."""
        bound = self._bound
        if bound is None or (bound[0] is not evaluation and bound[0] != evaluation):
            bound = self._bound = (evaluation, self._verdict(evaluation))
        return bound[1]

    def explain(self, identifier: Identifier, evaluation: Evaluation) -> Explanation:
        """Whether what came back passes the key, and what was seen.

        Without a value nobody can say here: it passes if every archive must match by the key (and did, if it answered).
        """
        verdict = self.matches(identifier, evaluation)
        passed = verdict if verdict is not None else self.tag in MATCHED_BY_ALL
        seen = tuple(
            value
            for tag in sorted(self.attributes)
            for value, _ in values_of(identifier, (tag,))
            if isinstance(value, str)
        )
        words = ", ".join(value.means(evaluation) for value in self.values)
        form = "in" if len(self.values) > 1 else self.values[0].test.operator if self.values else "exists"
        text = f"{self.name} {OPERATORS[form][0].format(words) if self.values else 'may have any value'}"
        return Explanation(text, passed, seen, (), "" if passed else f"outside the key {self.name}")

    def _verdict(self, evaluation: Evaluation) -> Verdict:
        if not self.values:
            return lambda identifier: True
        tag = self.tag
        predicates = [value.test.bind(tag, evaluation) for value in self.values]

        def judge(values: Values, identifier: Identifier) -> bool | None:
            verdict: bool | None = None
            for value in values:
                if isinstance(value, str) and (stripped := value.strip(PADDING)):
                    for predicate in predicates:
                        if predicate(stripped, identifier):
                            return True
                    verdict = False
            return verdict

        if all(value.test.alone(tag) for value in self.values):
            return judged_alone(tag, judge)
        return lambda identifier: judge(identifier.elements.get(tag, ()), identifier)


def _key_value(tag: int, name: str, text: str) -> KeyValue:
    vr = vr_of(tag)
    if len(text) > MAXIMUM_VALUE_LENGTH or "\\" in text or not text.isprintable():
        raise ExpressionError(
            Kind.VALUE, f"{name} has a value that no key can hold", "a backslash separates values: write a list instead"
        )
    wild = "*" in text or "?" in text
    if vr == "UI":
        if wild:
            raise ExpressionError(
                Kind.UID_WILDCARD, f"{name} is a UID: it cannot be matched by a wildcard", "give it whole"
            )
        if not is_uid(text):
            raise ExpressionError(Kind.VALUE, f"{name} has a value that is no UID")
    elif wild and vr not in WILDCARD:
        raise ExpressionError(
            Kind.VALUE, f"{name} cannot be matched by a wildcard (it is of type {vr})", "filter by it under where:"
        )
    if wild:
        return KeyValue(text, Test("like", text, pattern=wildcard(text, caseless=vr == "PN")))
    operand = parse_operand(tag, text)
    if vr != "DA" and operand.dates is not None and operand.dates.timed:
        raise ExpressionError(Kind.DATE, f"{name} is matched by days", "filter by the time of day under where:")
    return KeyValue(text, Test("equals", text, (operand,)), operand.dates)
