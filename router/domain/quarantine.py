"""Objects that may not enter the store: who may push, what is kept aside, and in which words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

import msgspec

REFUSE, ALLOW, KEEP = "refuse", "allow", "quarantine"
"""What becomes of an instance that a node sends unasked: refused; stored as any other; refused, and kept aside."""

NOT_ASKED_FOR = "not-asked-for"
"""The label of an instance that was sent unasked by a node that may not."""
UNKNOWN = "unknown"
"""The reason where the note beside an object cannot be read."""

NOT_AUTHORIZED = 0x0124
"""Refused: Not Authorized (PS3.7 section 9.1.1.1.9 and annex C.5.12)."""

GRACE_SECONDS = 600.0
"""So long after the last attempt, or the last instance that came for it, a study still counts as asked for: a source
goes on sending for a while after a C-MOVE that was cut off."""

MEANINGS: Mapping[str, str] = MappingProxyType(
    {
        NOT_ASKED_FOR: "It was sent unasked, by a node that may not push.",
        "unparseable": "Its data set is cut off, or cannot be decoded.",
        "missing-uid": "Its data set lacks the Study, Series or SOP Instance UID.",
        "invalid-uid": "The Study or Series Instance UID in its data set is not valid.",
        "mismatch": "The SOP UIDs in its data set are not those of the request that brought it.",
        "conflict": "The store holds another version of the instance, and keeps that.",
        UNKNOWN: "The note of why it is here is gone.",
    }
)
"""Why an object is in quarantine, a label -> a sentence."""


class QuarantineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How much may lie in quarantine. Beyond either, what would go there is refused and not kept."""

    size: int = 1 << 30
    """Bytes; 0: nothing is kept."""
    objects: int = 1000


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """An object in quarantine. Nothing in it is of the object's own contents."""

    number: int
    reason: str
    """A word of MEANINGS."""
    node: str
    """Who sent it, by the configuration's name."""
    calling_ae_title: str
    received_at: datetime
    """When it came first."""
    offered_at: datetime
    """When it came last: the same again is not kept twice."""
    size: int
    """Bytes of the file."""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """How much lies in quarantine; `size` in bytes of files."""

    objects: int = 0
    size: int = 0

    def takes(self, size: int, settings: QuarantineSettings) -> bool:
        """Whether there is room for one more of that size."""
        return self.objects < settings.objects and self.size + size <= settings.size


def is_kept(reason: str, push: str) -> bool:
    """Whether what is refused for this reason goes to the quarantine.

    What a node sends unasked that may not push is no loss of ours: it is kept only where the configuration says so, or
    anybody who knows an AE title could fill the quarantine.
    """
    return push == KEEP if reason == NOT_ASKED_FOR else reason in MEANINGS and reason != UNKNOWN
