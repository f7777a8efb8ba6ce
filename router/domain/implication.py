"""What conditions say of each other by their form: which clause follows from others, which can never hold. Pure.

Two clauses are the same if they look the same once names, orders and ways to write one value are put aside; a list of
values follows from a part of it. Nothing else is concluded, so what is said here is certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from pydicom.datadict import dictionary_VM

from router.domain.certainty import apart, dates_of_test
from router.domain.clause import Clause, Group, Test, clauses_of
from router.domain.dicom import Identifier, vr_of
from router.domain.key import KeyMatch
from router.domain.matcher import NUMERIC, WILDCARD, Evaluation, Operand, Range

Form = tuple[Any, ...]
"""A clause or group without what does not matter; hashable, equal where the meaning is."""

_LITERAL = (WILDCARD - {"PN"}) | {"UI"}
"""Representations whose values are compared as they are written."""
_ORDERED = NUMERIC | {"AS"}
_NOBODY = Identifier()


def form_of(part: Clause | Group) -> Form:
    """The form of a clause or group. `("is", path, values)` is a clause that takes any of these literal values."""
    if isinstance(part, Group):
        forms = frozenset(form_of(one) for one in part.parts)
        if part.combiner == "all":
            return ("all", forms) if len(part.parts) != 1 else form_of(part.parts[0])
        return (part.combiner, forms)
    only = part.tests[0] if len(part.tests) == 1 else None
    plain = part.exists is None and not part.codes and not part.denied
    if plain and only is not None and (values := literal_values(part.path[-1], (only,))):
        return ("is", part.path, values)
    tests = frozenset(_test_form(test) for test in part.tests)
    denied = frozenset(form_of(clause) for clause in part.denied)
    return ("clause", part.path, tests, frozenset(part.codes), part.exists, denied)


def _test_form(test: Test) -> Form:
    pattern = (test.pattern.pattern, test.pattern.flags) if test.pattern is not None else None
    operands = tuple(_operand_form(operand) for operand in test.operands)
    if test.operator in ("equals", "in"):
        return ("is", frozenset(operands))
    return (test.operator, operands, pattern)


def _operand_form(operand: Operand) -> Form:
    if operand.dates is not None:
        return (operand.dates.first, operand.dates.last, operand.dates.timed)
    return (operand.fixed,) if operand.fixed is not None else (operand.text,)


def literal_values(tag: int, tests: Iterable[Test]) -> frozenset[str]:
    """The texts of which each of these matchers takes some, all of them together; none if one takes others too."""
    values: set[str] = set()
    for test in tests:
        if test.operator not in ("equals", "in") or vr_of(tag) not in _LITERAL or test.pattern is not None:
            return frozenset()
        values.update(operand.text for operand in test.operands)
    return frozenset(values)


def conjunction(root: Group) -> list[Clause | Group]:
    """What must hold all at once, groups of the kind `all` taken apart."""
    parts: list[Clause | Group] = []
    for part in root.parts:
        parts += conjunction(part) if isinstance(part, Group) and part.combiner == "all" else [part]
    return parts


def forms_of_key(key: KeyMatch) -> list[Form]:
    """What a matching key says of an answer that holds its attribute."""
    values = literal_values(key.tag, [value.test for value in key.values])
    return [("is", (key.tag,), values)] if values else []


def follows(wanted: Form, given: frozenset[Form]) -> bool:
    """Whether something holds wherever all that is given does."""
    if wanted in given:
        return True
    if wanted[0] == "is":
        return any(one[0] == "is" and one[1] == wanted[1] and one[2] <= wanted[2] for one in given)
    if wanted[0] in ("any", "all"):
        one_or_all = any if wanted[0] == "any" else all
        return one_or_all(follows(one, given) for one in wanted[1])
    return False


# --- What can never hold ----------------------------------------------------------------------------------------------


class Clash(NamedTuple):
    """A clause that can never hold together with the rest."""

    name: str
    """The attribute, as the clause has it."""
    key: bool = False
    """A matching key has to do with it."""


MOST_CLAUSES = 500
"""Clauses of a condition that are compared with one another; of a larger one nothing is said."""
MOST_BRANCHES = 500
"""Combinations of alternatives that are looked at; what is not decided by then is taken to be possible."""

Demand = tuple[Test, ...]
"""Matchers of which a value must satisfy one."""


def clash(root: Group, keys: Sequence[Sequence[KeyMatch]], evaluation: Evaluation) -> Clash | None:
    """The first clause of a condition that can never hold, beside any of these alternative sets of keys.

    An attribute of several values may satisfy each clause by another one of them: there, only matchers of one clause
    are compared.
    """
    if sum(1 for _ in clauses_of(root)) > MOST_CLAUSES:
        return None
    parts = conjunction(root)
    budget = iter(range(MOST_BRANCHES))
    found = [_clash(parts, given, evaluation, budget) for given in keys or [()]]
    first = next((one for one in found if one is not None), None)
    if first is None or not all(found):
        return None
    return _clash(parts, (), evaluation, budget) or Clash(first.name, key=True)


def _clash(
    parts: Sequence[Clause | Group], keys: Sequence[KeyMatch], evaluation: Evaluation, budget: Iterator[int]
) -> Clash | None:
    if next(budget, None) is None:
        return None
    demands = {key.tag: [tuple(value.test for value in key.values)] for key in keys if key.values}
    clauses = [part for part in parts if isinstance(part, Clause)]
    forms = frozenset([form for part in parts for form in _said(part)] + [f for key in keys for f in forms_of_key(key)])
    present = {part.path for part in clauses if part.tests or part.codes or part.exists}
    for part in clauses:
        own: list[Demand] = [(test,) for test in part.tests]
        if _excluded(part.path[-1], own, evaluation) or (part.exists is False and part.path in present):
            return Clash(part.name)
        if any(follows(form_of(denied), forms) for denied in part.denied):
            return Clash(part.name)
        if len(part.path) == 1 and _single(part.path[0]):
            together = demands.setdefault(part.path[0], [])
            together += own
            if _excluded(part.path[0], together, evaluation):
                return Clash(part.name)
    for group in (part for part in parts if isinstance(part, Group)):
        if group.combiner == "not" and follows(("all", frozenset(map(form_of, group.parts))), forms):
            return Clash(_name(group))
        if group.combiner == "any":
            rest = [other for other in parts if other is not group]
            branches = (
                _clash([*rest, *conjunction(Group("all", (one,)))], keys, evaluation, budget) for one in group.parts
            )
            if group.parts and all(branch is not None for branch in branches):
                return Clash(_name(group))
    return None


def _said(part: Clause | Group) -> list[Form]:
    """The forms of what a part says; of a clause that also denies something, what it says for itself."""
    if isinstance(part, Clause) and part.denied and part.tests:
        return [form_of(part), form_of(Clause(part.name, part.path, part.tests))]
    return [form_of(part)]


def _name(part: Clause | Group) -> str:
    return part.name if isinstance(part, Clause) else next((_name(one) for one in part.parts), "")


def _single(tag: int) -> bool:
    """Whether the attribute has one value at most, by the dictionary."""
    try:
        return dictionary_VM(tag) == "1"
    except KeyError:
        return False


def _excluded(tag: int, demands: Sequence[Demand], evaluation: Evaluation) -> bool:
    """Whether no single value satisfies all of these."""
    if len(demands) < 2:
        return False
    vr = vr_of(tag)
    if vr == "DA":
        ranges = [
            [dates for test in demand for dates in dates_of_test(test)] if all(map(dates_of_test, demand)) else []
            for demand in demands
        ]
        pairs = [(a, b) for number, a in enumerate(ranges) for b in ranges[:number] if a and b]
        return any(all(apart(one, other, evaluation.now) for one in a for other in b) for a, b in pairs)
    if vr in _ORDERED:
        bounds = [bound for demand in demands if (bound := _bound(demand)) is not None]
        low, high = max((b[0] for b in bounds), default=None), min((b[1] for b in bounds), default=None)
        return low is not None and high is not None and low > high
    if vr not in _LITERAL:
        return False
    values = next((found for demand in demands if (found := literal_values(tag, demand))), frozenset())
    predicates = [[test.bind(tag, evaluation) for test in demand] for demand in demands]
    return bool(values) and not any(
        all(any(holds(value, _NOBODY) for holds in demand) for demand in predicates) for value in values
    )


_ENDLESS = float("inf")


def _bound(demand: Demand) -> tuple[tuple[Any, int], tuple[Any, int]] | None:
    """The lowest and the highest that satisfies a demand; the second part of each makes strict ends compare right."""
    lows, highs = [], []
    for test in demand:
        ranges = [operand.fixed for operand in test.operands]
        if not ranges or any(range_ is None for range_ in ranges):
            return None
        fixed = [range_ for range_ in ranges if isinstance(range_, Range)]
        low: tuple[Any, int] = (min(range_.low for range_ in fixed), 0)
        high: tuple[Any, int] = (max(range_.high for range_ in fixed), 0)
        endless: tuple[Any, int] = (_ENDLESS, 0)
        ends = {
            "equals": (low, high),
            "in": (low, high),
            "between": (low, high),
            "gt": ((high[0], 1), endless),
            "gte": (low, endless),
            "lt": ((-_ENDLESS, 0), (low[0], -1)),
            "lte": ((-_ENDLESS, 0), high),
        }.get(test.operator)
        if ends is None:
            return None
        lows.append(ends[0])
        highs.append(ends[1])
    return (min(lows), max(highs))
