"""Conditions (`where`): compiled at load from plain mappings, asked of many identifiers, explained for one.

The grammar of a `where`; what its matchers mean stands in `router.domain.clause`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from router.domain.clause import (
    OPERATORS,
    Clause,
    CodeTest,
    Explainer,
    Explanation,
    Group,
    Predicate,
    Test,
    clauses_of,
)
from router.domain.dicom import Identifier, tag_of, vr_of
from router.domain.key import KeyMatch
from router.domain.matcher import BINARY, Evaluation, check_order, parse_operand, time_of_date
from router.domain.pattern import regular_expression, wildcard
from router.domain.problem import ExpressionError, Kind, Step
from router.domain.timing import DateExpression

__all__ = ["Condition", "Evaluation", "Explanation", "KeyMatch", "compile_condition"]


class Condition:
    """A whole `where`. The empty condition always holds.

    What was compiled for the latest evaluation is kept, so asking it of many identifiers in one sweep is cheap: hand
    the same Evaluation in each time.
    """

    __slots__ = ("_bound", "_explainer", "attributes", "root")

    def __init__(self, *parts: Clause | Group) -> None:
        self.root = Group("all", parts)
        self.attributes: frozenset[int] = frozenset(_attributes(self.root))
        """Tags a query must ask back for it: the outermost sequence of a path, and with a date the time beside it."""
        self._bound: tuple[Evaluation, Predicate] | None = None
        self._explainer: tuple[Evaluation, Explainer] | None = None

    @classmethod
    def of(cls, where: Mapping[str, object] | None = None) -> Condition:
        """Compile the contents of a `where`. Raises the first ExpressionError."""
        condition, errors = compile_condition(where or {})
        if errors:
            raise errors[0]
        return condition

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __repr__(self) -> str:
        return f"Condition({', '.join(dict.fromkeys(clause.name for clause in self.clauses))})"

    @property
    def clauses(self) -> tuple[Clause, ...]:
        """Every clause, at any depth."""
        return tuple(clauses_of(self.root))

    def holds(self, identifier: Identifier, evaluation: Evaluation) -> bool:
        """Whether the identifier satisfies the condition."""
        return self.bind(evaluation)(identifier)

    def bind(self, evaluation: Evaluation) -> Predicate:
        """`holds` at that moment, to be asked of many identifiers."""
        bound = self._bound
        if bound is None or (bound[0] is not evaluation and bound[0] != evaluation):
            self._bound = bound = (evaluation, self.root.bind(evaluation))
        return bound[1]

    def explain(self, identifier: Identifier, evaluation: Evaluation) -> Explanation:
        """Whether it does, and why: a tree with every clause. Slower than `holds`."""
        explainer = self._explainer
        if explainer is None or (explainer[0] is not evaluation and explainer[0] != evaluation):
            self._explainer = explainer = (evaluation, self.root.explainer(evaluation))
        return explainer[1](identifier)


def _attributes(root: Group) -> Iterator[int]:
    for clause in clauses_of(root):
        yield clause.path[0]
        time_tag = time_of_date(clause.path[0])
        if time_tag is not None and len(clause.path) == 1:
            yield time_tag


# --- The grammar ------------------------------------------------------------------------------------------------------

_Errors = list[ExpressionError]


def compile_condition(where: Mapping[str, object]) -> tuple[Condition, list[ExpressionError]]:
    """Compile the contents of a `where`, collecting every mistake.

    Scalars are the literal text of the configuration; whole numbers and booleans are accepted from Python.
    """
    errors: _Errors = []
    return Condition(*_parts(where, errors, ())), errors


def scalar_text(value: object) -> str | None:
    """The text of a scalar; None where it is a list or mapping. Nothing is an empty text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (str, int, float)) else None


def _parts(where: Mapping[str, object], errors: _Errors, path: tuple[Step, ...]) -> list[Clause | Group]:
    parts: list[Clause | Group] = []
    for name, value in where.items():
        here = (*path, name)
        if name in ("any", "all"):
            items = value if isinstance(value, list) else []
            wrong = next((at for at, item in enumerate(items) if not isinstance(item, Mapping) or not item), None)
            if wrong is not None or not isinstance(value, list) or not value:
                place = here if wrong is None else (*here, wrong)
                error = ExpressionError(
                    Kind.SYNTAX, f"{name!r} takes a list of conditions", "each item a mapping", path=place
                )
                errors.append(error)
                continue
            alternatives = [Group("all", tuple(_parts(item, errors, (*here, at)))) for at, item in enumerate(value)]
            parts.append(Group(name, tuple(_flat(group) for group in alternatives)))
        elif name == "not":
            if not isinstance(value, Mapping) or not value:
                errors.append(ExpressionError(Kind.SYNTAX, "'not' takes one condition, a mapping", path=here))
                continue
            parts.append(Group("not", tuple(_parts(value, errors, here))))
        else:
            try:
                attribute = attribute_path(name)
            except ExpressionError as error:
                errors.append(error.below(*here))
                continue
            clause = _clause(name, attribute, value, errors, here)
            if clause is not None:
                parts.append(clause)
    return parts


def _flat(group: Group) -> Clause | Group:
    return group.parts[0] if len(group.parts) == 1 else group


def attribute_path(name: str) -> tuple[int, ...]:
    """The tags of `Keyword`, `(gggg,eeee)` or `Sequence.Keyword`. Raises ExpressionError."""
    tags: list[int] = []
    for part in name.split("."):
        if tags and vr_of(tags[-1]) not in ("SQ", "UN"):
            raise ExpressionError(
                Kind.ATTRIBUTE, f"{name!r} reaches into an attribute that is no sequence", at_key=True, name=""
            )
        tag = tag_of(part)
        if tag is None:
            raise ExpressionError(Kind.ATTRIBUTE, f"{part!r} is no DICOM attribute", at_key=True, name=part)
        tags.append(tag)
    return tuple(tags)


def _clause(name: str, path: tuple[int, ...], value: object, errors: _Errors, here: tuple[Step, ...]) -> Clause | None:
    """The clause for whatever stands beside an attribute."""
    before = len(errors)
    clause = Clause(name, path)
    if isinstance(value, Mapping) and not ({"code", "scheme"} & set(value)):
        clause = _matchers(clause, value, errors, here)
    elif vr_of(path[-1]) == "SQ":
        codes = value if isinstance(value, list) else [value]
        clause = Clause(name, path, codes=_codes(codes, errors, here, isinstance(value, list)))
    elif isinstance(value, Mapping):
        errors.append(
            ExpressionError(Kind.MATCHER, f"{name} is no code sequence", "code and scheme need one", path=here)
        )
    else:
        test = _test("in" if isinstance(value, list) else "equals", path[-1], value, errors, here)
        clause = Clause(name, path, tests=(test,) if test else ())
    return clause if len(errors) == before else None


def _matchers(clause: Clause, value: Mapping[str, object], errors: _Errors, here: tuple[Step, ...]) -> Clause:
    tests: list[Test] = []
    exists: bool | None = None
    denied: list[Clause] = []
    if not value:
        errors.append(ExpressionError(Kind.MATCHER, f"{clause.name} has no matcher", _MATCHER_HINT, path=here))
    for operator, operand in value.items():
        at = (*here, operator)
        if operator not in OPERATORS:
            errors.append(
                ExpressionError(
                    Kind.MATCHER, f"{operator!r} is no matcher", _MATCHER_HINT, path=at, at_key=True, name=str(operator)
                )
            )
        elif operator == "exists":
            exists = {"true": True, "false": False}.get(scalar_text(operand) or "")
            if exists is None:
                errors.append(ExpressionError(Kind.VALUE, "'exists' is true or false", path=at))
        elif operator == "not":
            inner = _clause(clause.name, clause.path, operand, errors, at)
            denied += [inner] if inner else []
        else:
            test = _test(operator, clause.path[-1], operand, errors, at)
            tests += [test] if test else []
    return Clause(clause.name, clause.path, tuple(tests), (), exists, tuple(denied))


_MATCHER_HINT = "matchers are " + ", ".join(OPERATORS)


def _codes(items: list[object], errors: _Errors, here: tuple[Step, ...], listed: bool) -> tuple[CodeTest, ...]:
    codes: list[CodeTest] = []
    for number, item in enumerate(items):
        at = (*here, number) if listed else here
        if not isinstance(item, Mapping) or not item or set(item) - {"code", "scheme"}:
            errors.append(
                ExpressionError(
                    Kind.MATCHER,
                    f"{here[-1] if isinstance(here[-1], str) else 'a sequence'} holds items, not a text",
                    "{code: 77477000, scheme: SCT}, {exists: true}, or Sequence.Attribute to reach into it",
                    path=at,
                )
            )
            continue
        wanted = item.get("code", [])
        texts = [scalar_text(code) for code in (wanted if isinstance(wanted, list) else [wanted])]
        scheme = scalar_text(item.get("scheme", ""))
        if scheme is None or ("scheme" in item and not scheme) or any(not text for text in texts):
            errors.append(ExpressionError(Kind.VALUE, "'code' is a text or a list, 'scheme' a text", path=at))
            continue
        codes.append(CodeTest(tuple(text for text in texts if text), scheme))
    return tuple(codes)


_LISTS = {"in": 1, "between": 2}


def _test(operator: str, tag: int, value: object, errors: _Errors, here: tuple[Step, ...]) -> Test | None:
    """One matcher with what it compares to."""
    vr = vr_of(tag)

    def problem(kind: Kind, message: str, hint: str = "", *, index: int | None = None) -> None:
        errors.append(ExpressionError(kind, message, hint, path=here if index is None else (*here, index)))

    if vr == "SQ" or vr in BINARY:
        what = "a sequence takes code, scheme, exists and not" if vr == "SQ" else "binary data takes exists only"
        problem(Kind.MATCHER, f"{operator!r} does not fit here: {what}")
        return None
    items = value if isinstance(value, list) else [value]
    if operator in _LISTS:
        if not isinstance(value, list) or len(value) < _LISTS[operator] or (operator == "between" and len(value) != 2):
            wants = "a list of two values: [low, high]" if operator == "between" else "a list of values"
            problem(Kind.VALUE, f"{operator!r} takes {wants}")
            return None
    elif isinstance(value, list):
        problem(Kind.VALUE, f"{operator!r} takes one value", "for several write any: with one condition each, or in:")
        return None
    texts: list[str] = []
    for index, item in enumerate(items):
        text, at = scalar_text(item), index if isinstance(value, list) else None
        if text is None:
            problem(Kind.VALUE, f"{operator!r} compares to plain values", index=at)
        elif text.strip() == "":
            problem(
                Kind.VALUE, "nothing to compare to", "write {exists: false} for an attribute without a value", index=at
            )
        else:
            texts.append(text if operator == "matches" else text.strip())
    if len(texts) != len(items):
        return None
    return _compiled(operator, tag, texts, isinstance(value, list), problem)


def _compiled(operator: str, tag: int, texts: list[str], listed: bool, problem: Callable[..., None]) -> Test | None:
    shown = " and ".join(texts) if operator == "between" else ", ".join(texts)
    caseless = vr_of(tag) == "PN"
    if operator in ("like", "matches"):
        try:
            pattern = (wildcard if operator == "like" else regular_expression)(texts[0], caseless)
        except ExpressionError as error:
            problem(error.kind, error.message, error.hint)
            return None
        return Test(operator, shown, pattern=pattern)
    operands = []
    for index, text in enumerate(texts):
        try:
            operands.append(parse_operand(tag, text, ordered=operator not in ("equals", "in")))
        except ExpressionError as error:
            problem(error.kind, error.message, error.hint, index=index if listed else None)
    if len(operands) != len(texts):
        return None
    if operator == "between":
        low, high = operands
        if low.dates is not None and high.dates is not None:
            try:
                check_order(DateExpression(f"{texts[0]}..{texts[1]}", low.dates.first, high.dates.last))
            except ExpressionError as error:
                problem(error.kind, error.message, error.hint)
                return None
        elif vr_of(tag) != "TM" and low.fixed and high.fixed and low.fixed.low > high.fixed.high:
            problem(Kind.VALUE, f"'between' {shown} holds nothing: it ends before it begins", "swap the two")
            return None
    return Test(operator, shown, tuple(operands))
