"""What starts a rule: a sweep, the modality worklist, an order, an arrival. Settings, as frozen values.

Durations are seconds.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from router.domain.dicom import QueryRetrieveLevel
from router.domain.key import KeyMatch
from router.domain.timing import Schedule


class Tier(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule of a sweep, with how far it looks back."""

    schedule: Schedule
    lookback: float | None = None
    """Seconds; replaces StudyDate by `now-lookback..now` where set."""


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The trigger: a recurring C-FIND."""

    source: str
    level: QueryRetrieveLevel = QueryRetrieveLevel.STUDY
    tiers: tuple[Tier, ...] = ()
    keys: tuple[KeyMatch, ...] = ()
    settle: float = 0.0
    """Seconds for which the number of instances must stay the same before a study is moved; 0: not looked at."""
    catch_up: float = 7 * 86400.0
    """Seconds a scheduled sweep looks back further at most, to where the last complete one looked."""


class Worklist(msgspec.Struct, frozen=True, kw_only=True):
    """The trigger: a recurring query of a modality worklist (PS3.4 annex K)."""

    source: str
    """The node that answers it."""
    tiers: tuple[Tier, ...] = ()
    keys: tuple[KeyMatch, ...] = ()
    """Of the scheduled procedure step or above it, flat; a date is always among them."""
    lead: float | None = None
    """Seconds before the appointment at which the work becomes due; None: as soon as it is known."""


ORDER_EVENTS = ("ORM^O01", "OMI^O23", "SIU^S12", "SIU^S13", "SIU^S14", "SIU^S15")
"""Messages that are orders or appointments."""
ADMISSION_EVENTS = ("ADT^A01", "ADT^A04")
"""Messages that say that a patient is there; only a rule that names them wants them."""
MERGE_EVENT = "ADT^A40"
"""A patient ID gives way to another: taken into account whatever rules name."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """The trigger: HL7 messages about an examination to come."""

    senders: tuple[str, ...] = ()
    """Sending applications (MSH-3), or application and facility as `APPLICATION|FACILITY`; empty: any."""
    events: tuple[str, ...] = ORDER_EVENTS
    lead: float | None = None
    """See `Worklist.lead`."""


class Unit(StrEnum):
    """What arrives as one thing, and is passed on as one; the words of the configuration."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """The trigger: a study that has arrived in this router's store."""

    senders: tuple[str, ...] = ()
    """Names of the nodes it came from; empty: any."""
    stable: float = 60.0
    """Seconds without a further instance after which it counts as there; an instance by itself is there at once."""
    level: Unit = Unit.STUDY
    """What must be there: the study, or a series or an instance by itself. With priors always the study."""
