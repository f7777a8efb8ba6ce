"""Patterns over text values: DICOM wildcards, and regular expressions that cannot run for ever."""

from __future__ import annotations

import re
from re import _constants as opcode  # type: ignore[attr-defined]  # the parse tree has no public home
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from router.domain.problem import ExpressionError, Kind

MAXIMUM_SUBJECT = 256
"""Characters of a value that a regular expression looks at."""
MAXIMUM_PATTERN = 512
"""Characters of a regular expression."""
_MAXIMUM_ANYTHING = 4
"""How often `.*` may stand in one expression: each multiplies the time by the length of the value."""
_FEW = 3
"""Repetitions of something of varying length that are still quick."""

_REPEATS = (opcode.MAX_REPEAT, opcode.MIN_REPEAT)


def wildcard(text: str, caseless: bool) -> re.Pattern[str]:
    """A DICOM wildcard as a compiled pattern for the whole value: `*` is any text, `?` any one character."""
    # Atomic groups: each literal stretch after a star is taken where it first comes, and never looked for again.
    first, *rest = re.split(r"\*+", text)
    body = _literal(first)
    for number, stretch in enumerate(rest, 1):
        body += ".*" + _literal(stretch) if number == len(rest) else f"(?>.*?{_literal(stretch)})"
    return re.compile(body + r"\Z", re.DOTALL | (re.IGNORECASE if caseless else 0))


def _literal(text: str) -> str:
    return "".join("." if character == "?" else re.escape(character) for character in text)


def regular_expression(text: str, caseless: bool) -> re.Pattern[str]:
    """Compile a regular expression. Raises ExpressionError, also for one whose time could grow without bound."""
    if len(text) > MAXIMUM_PATTERN:
        raise ExpressionError(Kind.REGEX, f"the regular expression is longer than {MAXIMUM_PATTERN} characters")
    flags = re.IGNORECASE if caseless else re.NOFLAG
    try:
        pattern = re.compile(text, flags)
        tree = parser.parse(text, flags)
    except (re.error, OverflowError, RecursionError, DeprecationWarning, FutureWarning) as error:
        raise ExpressionError(Kind.REGEX, f"the regular expression {text!r} is not valid: {error}") from None
    if _explodes(tree):
        raise ExpressionError(
            Kind.REGEX,
            f"the regular expression {text!r} repeats something that is itself of varying length, "
            "which can take for ever on some values",
            "write it without a repetition inside a repeated group, for example [a-z ]+ instead of ([a-z]+ ?)+",
        )
    if _anything(tree) > _MAXIMUM_ANYTHING:
        raise ExpressionError(
            Kind.REGEX,
            f"the regular expression {text!r} has more than {_MAXIMUM_ANYTHING} times .*, which can take for ever",
            "leave out the .* at both ends, a match anywhere in the value counts; or combine several with all:",
        )
    return pattern


def _children(operator: Any, argument: Any) -> list[Any]:
    """The parts of an element of the parse tree that are trees themselves."""
    if operator in _REPEATS or operator is opcode.POSSESSIVE_REPEAT:
        return [argument[2]]
    if operator is opcode.SUBPATTERN:
        return [argument[3]]
    if operator is opcode.BRANCH:
        return list(argument[1])
    if operator in (opcode.ASSERT, opcode.ASSERT_NOT):
        return [argument[1]]
    if operator is opcode.ATOMIC_GROUP:
        return [argument]
    if operator is opcode.GROUPREF_EXISTS:
        return [part for part in argument[1:] if part is not None]
    return []


def _explodes(tree: Any) -> bool:
    """Whether something of varying length is repeated: the shape that backtracks exponentially."""
    for operator, argument in tree:
        if operator in _REPEATS and argument[1] > _FEW and _varies(argument[2]):
            return True
        if any(_explodes(child) for child in _children(operator, argument)):
            return True
    return False


def _varies(tree: Any) -> bool:
    """Whether there is more than one way to match the same text."""
    for operator, argument in tree:
        if operator in _REPEATS and argument[0] != argument[1]:
            return True
        if operator is opcode.BRANCH and not _alternatives_differ(argument[1]):
            return True
        if operator is not opcode.BRANCH and any(_varies(child) for child in _children(operator, argument)):
            return True
    return False


def _alternatives_differ(alternatives: Any) -> bool:
    """Whether each alternative starts with another letter, so that a text can take one of them only."""
    starts = [
        alternative[0][1] if len(alternative) and alternative[0][0] is opcode.LITERAL else None
        for alternative in alternatives
    ]
    return None not in starts and len(set(starts)) == len(starts) and not any(_varies(part) for part in alternatives)


def _anything(tree: Any) -> int:
    """How many unbounded repetitions of any character there are."""
    count = 0
    for operator, argument in tree:
        if operator in _REPEATS and argument[1] > MAXIMUM_SUBJECT and argument[2][0][0] is opcode.ANY:
            count += 1
        else:
            count += sum(_anything(child) for child in _children(operator, argument))
    return count
