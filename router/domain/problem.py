"""What is wrong with an expression of the configuration. Positions in files are `config`'s business, not known here."""

from __future__ import annotations

from enum import StrEnum

Step = str | int
"""A key or an index on the way to a value."""


class Kind(StrEnum):
    """The kinds of mistakes an expression can hold; each is a code of `config.diagnostics`."""

    SYNTAX = "syntax"
    ATTRIBUTE = "attribute"
    MATCHER = "matcher"
    VALUE = "value"
    REGEX = "regex"
    DATE = "date"
    DATE_ORDER = "date-order"
    CRON = "cron"
    WINDOW = "window"
    KEY = "key"
    LEVEL = "level"
    UID_WILDCARD = "uid-wildcard"


class ExpressionError(ValueError):
    """An expression that cannot be compiled.

    `path` leads from the expression's root to the place; with `at_key` the key there is wrong, not its value.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        hint: str = "",
        *,
        path: tuple[Step, ...] = (),
        at_key: bool = False,
        name: str = "",
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.path = path
        self.at_key = at_key
        self.name = name
        """The unknown word, where there is one: others may know what was meant."""

    def below(self, *steps: Step) -> ExpressionError:
        """The same mistake, seen from further up."""
        return ExpressionError(
            self.kind, self.message, self.hint, path=(*steps, *self.path), at_key=self.at_key, name=self.name
        )
