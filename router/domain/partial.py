"""What a condition says of a data set of which some attributes are not known yet. Pure.

A clause on such an attribute is undecided (None), and so is what depends on it: `all` is false where one part is, `any`
true where one part is, whatever the others may be.
"""

from __future__ import annotations

from collections.abc import Callable

from router.domain.clause import Clause, Group
from router.domain.condition import Condition
from router.domain.dicom import Identifier
from router.domain.matcher import Evaluation

Verdict = Callable[[Identifier], bool | None]


def bind_partly(part: Clause | Group, evaluation: Evaluation, unknown: frozenset[int]) -> Verdict:
    """Whether a part holds whatever the unknown attributes are; None where that depends on them."""
    if isinstance(part, Clause):
        return (lambda identifier: None) if part.path[0] in unknown else part.bind(evaluation)
    verdicts = [bind_partly(inner, evaluation, unknown) for inner in part.parts]
    decisive = part.combiner == "any"

    def verdict(identifier: Identifier) -> bool | None:
        undecided = False
        for one in verdicts:
            found = one(identifier)
            if found is decisive:
                return decisive
            undecided = undecided or found is None
        return None if undecided else not decisive

    if part.combiner == "not":
        return lambda identifier: None if (found := verdict(identifier)) is None else not found
    return verdict


class PartialCondition:
    """A condition at a moment, asked of data sets of which certain attributes are not known."""

    def __init__(self, condition: Condition, evaluation: Evaluation, unknown: frozenset[int]) -> None:
        self._evaluation = evaluation
        self._parts = [(part, bind_partly(part, evaluation, unknown)) for part in condition.root.parts]

    def verdict(self, identifier: Identifier) -> bool | None:
        """Whether it holds; None where that depends on what is not known."""
        undecided = False
        for _, verdict in self._parts:
            found = verdict(identifier)
            if found is False:
                return False
            undecided = undecided or found is None
        return None if undecided else True

    def reason(self, identifier: Identifier) -> str:
        """Why it cannot hold, without any value of the data set; empty where it can."""
        against = [part for part, verdict in self._parts if verdict(identifier) is False]
        return "; ".join(part.explainer(self._evaluation)(identifier).reason for part in against)
