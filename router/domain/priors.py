"""Which priors a rule wants: its groups, exceptions and policies, as frozen values.

The grammar of `priors` is compiled by `router.config`; `router.domain.relevance` decides by it.
"""

from __future__ import annotations

import msgspec

from router.domain.condition import Condition

SAME, NEAR = "same", "near"
"""Words of a PriorCondition: as the current study has it; or a neighbour of that (anatomy only)."""

UNDATED = ("last", "never")
"""Policies for studies without a Study Date: after all that have one, as old as `within` allows; or never."""

IDENTITY = ("verified", "patient-id")
"""How sure it must be that a study is of the same patient; see `router.domain.examination.same_patient`."""


class PriorCondition(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold of a candidate, seen from the current study. The empty one always holds."""

    anatomy: tuple[str, ...] = ()
    """SAME, NEAR (the same or a neighbour) or names of regions: one is enough."""
    modality: tuple[str, ...] = ()
    """SAME or modalities; `XR` stands for its family (see `router.domain.examination.FAMILIES`)."""
    entirely: bool = False
    """Every modality of the candidate must be among those: it holds nothing else (`exclude`, `leave_out`)."""
    same: tuple[int, ...] = ()
    """Tags of attributes of which the candidate must have a value of the current study's."""
    condition: Condition = Condition()
    """The rest, asked of the candidate."""


class Within(msgspec.Struct, frozen=True):
    """How long before the current study's day, by the calendar."""

    text: str
    months: int = 0
    days: int = 0


class PriorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Candidates that are wanted for one reason, so many of them."""

    name: str
    where: PriorCondition = PriorCondition()
    max: int | None = None
    within: Within | None = None


class PriorException(msgspec.Struct, frozen=True, kw_only=True):
    """Candidates that are left out, unless (or only when) something holds of the current study."""

    leave_out: PriorCondition
    unless: PriorCondition | None = None
    """Asked of the current study itself."""
    when: PriorCondition | None = None


class Priors(msgspec.Struct, frozen=True, kw_only=True):
    """The priors of a rule."""

    source: str
    """The node that is asked for them, and that sends them."""
    groups: tuple[PriorGroup, ...]
    """In this order a candidate is put into the first that wants it and has room."""
    keep_oldest_relevant: bool = False
    """The oldest candidate that fits any group but for its age and number comes as well."""
    exclude: PriorCondition | None = None
    exceptions: tuple[PriorException, ...] = ()
    undated: str = "last"
    identity: str = "verified"
    repeat: float = 12 * 3600.0
    """Seconds for which the same news of the same appointment changes nothing."""
    believed: float = 30 * 86400.0
    """Seconds for which a destination that cannot be asked is believed to keep what it was sent."""
