"""A small PACS with one switch per misbehaviour, on pynetdicom's own application entity; for the demo and for tests.

It shares nothing with `router.dimse`, so that each tests the other.
"""

from .archive import Instance
from .behaviour import (
    BUSY_CALLED_PERMANENT,
    BUSY_WITHOUT_REASON,
    CALLED_NOT_RECOGNISED,
    CALLING_NOT_RECOGNISED,
    LOCAL_LIMIT_EXCEEDED,
    NO_REASON_GIVEN,
    TEMPORARY_CONGESTION,
    Behaviour,
    Rejection,
)
from .pacs import SimulatedPacs
from .record import Operation, Record
from .studies import demo_archive, make_study, make_uid

__all__ = [
    "BUSY_CALLED_PERMANENT",
    "BUSY_WITHOUT_REASON",
    "CALLED_NOT_RECOGNISED",
    "CALLING_NOT_RECOGNISED",
    "LOCAL_LIMIT_EXCEEDED",
    "NO_REASON_GIVEN",
    "TEMPORARY_CONGESTION",
    "Behaviour",
    "Instance",
    "Operation",
    "Record",
    "Rejection",
    "SimulatedPacs",
    "demo_archive",
    "make_study",
    "make_uid",
]
