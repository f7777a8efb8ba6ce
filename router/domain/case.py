"""A case of the tests in a configuration: what is common to those of priors and of sweeps. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import ClassVar

import msgspec

from router.domain.dicom import Identifier

MOVE, HOLD, SKIP = "move", "hold", "skip"
"""What is decided about a study, as `router.domain.selection.Action` has it."""
FORWARDED, LEFT = "forwarded", "left"
"""What is decided about what has arrived, by a rule that passes it on."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be decided about one study; what is empty or None may be anything."""

    decision: str
    """MOVE, HOLD or SKIP; FORWARDED or LEFT of what has arrived."""
    group: str = ""
    code: str = ""
    """Why, in one word: a code of a decision."""
    reason: str = ""
    """A part of the reason; capital letters do not matter."""
    score: int | None = None
    to: Mapping[str, Wanted] = {}
    """Destination -> what is to be decided there instead."""

    def at(self, destination: str) -> Wanted:
        """What is wanted at a destination."""
        return self.to.get(destination, self)

    def fits(self, got: Got) -> bool:
        """Whether it was decided so."""
        return (
            got.decision == self.decision
            and self.group in ("", got.group)
            and self.code in ("", got.code)
            and self.reason.casefold() in got.reason.casefold()
            and self.score in (None, got.score)
        )

    def __str__(self) -> str:
        parts = [self.decision]
        parts += [f"{name} {value}" for name, value in (("group", self.group), ("code", self.code)) if value]
        parts += [f"score {self.score}"] if self.score is not None else []
        parts += [f"a reason with {self.reason!r}"] if self.reason else []
        return ", ".join(parts)


class Got(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided about one study at one destination."""

    decision: str
    code: str
    reason: str
    group: str = ""
    score: int | None = None
    breakdown: str = ""

    def __str__(self) -> str:
        parts = [self.decision, *([f"group {self.group}"] if self.group else []), f"code {self.code}"]
        if self.score is not None:
            parts.append(f"score {self.score}" + (f" ({self.breakdown})" if self.breakdown else ""))
        return ", ".join(parts) + f": {self.reason}"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Something else was decided than expected."""

    study: str
    destination: str
    expected: str
    got: str
    clauses: tuple[str, ...] = ()
    """What decided it, with the values seen: lines for a terminal."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One case, by names of its own for the studies."""

    otherwise: ClassVar[str] = SKIP
    """What is to be decided about a study that the case does not name."""
    name: str
    place: str = ""
    """`file:line:column`."""
    rule: str
    now: datetime
    """Aware; in the configuration local to the source."""
    destinations: tuple[str, ...]
    """Those of the rule that it is about; what is expected must hold at each."""
    studies: Mapping[str, Identifier] = {}
    at: Mapping[str, tuple[str, ...]] = {}
    """Destination -> studies that it holds, with all their instances. It holds no others."""
    expect: Mapping[str, Wanted] = {}
    """What is to be decided; what is not named must not be moved, unless the studies are recorded ones."""
    counts: Mapping[str, int] = {}
    """MOVE, HOLD, SKIP -> how many studies (or series, where the rule moves series) that must be."""
    recorded: bool = False
    """The studies come from a recording: only those that are named must be as expected."""

    def compared(self, name: str, wanted: Wanted | None, destination: str, got: Got) -> Failure | None:
        """What differs; None where it is as expected, or nothing is."""
        if wanted is None and self.recorded:
            return None
        wished = (wanted or Wanted(decision=self.otherwise)).at(destination)
        if wished.fits(got):
            return None
        expected = str(wished) if wanted is not None else f"{self.otherwise}, for the case does not name it"
        return Failure(study=name, destination=destination, expected=expected, got=str(got))

    def counted(self, decided: Sequence[Sequence[str]]) -> list[Failure]:
        """What differs from `counts`; `decided` has the decisions about each study, one for each destination.

        A study is moved if it is moved to one destination, else held if it is held at one.
        """
        if not self.counts:
            return []
        found = dict.fromkeys((MOVE, HOLD, SKIP), 0)
        for decisions in decided:
            found[next(one for one in found if one in decisions)] += 1
        wrong = [name for name, number in self.counts.items() if found[name] != number]
        if not wrong:
            return []
        expected = ", ".join(f"{self.counts[name]} {name}" for name in wrong)
        return [
            Failure(
                study=COUNTS,
                destination="",
                expected=expected,
                got=", ".join(f"{number} {name}" for name, number in found.items()),
            )
        ]


COUNTS = "counts"
"""Stands in a Failure in the place of a study's name."""

NOT_ASKED = {
    "where": "The rule's condition (`where`) does not hold for the current study, so nothing is fetched for it.",
    "patient-id": "The current study's Patient ID must not be asked for: it is empty, or could match other patients.",
}
"""Why no study is looked at for priors."""


def uid_of(name: str) -> str:
    """A UID for a study or series that has none of its own: always the same (PS3.5 section B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])}"
