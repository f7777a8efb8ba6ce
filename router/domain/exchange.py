"""What is asked of a node and what it answered, as values: C-FIND results, C-MOVE requests, progress and results."""

from __future__ import annotations

import msgspec

from router.domain.dicom import Identifier, QueryRetrieveLevel, SubOperationCounts


class FindResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a C-FIND brought.

    `status` is the final status (0000 success); on any other the matches are not the whole answer.
    """

    identifiers: list[Identifier]
    status: int
    error_comment: str = ""
    undecodable: int = 0
    """Matches whose identifier could not be decoded."""
    optional_keys_unsupported: bool = False
    """A pending response said FF01."""


class MoveRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One C-MOVE: unique keys only (PS3.4 section C.4.2.1.4.1)."""

    destination_ae_title: str
    level: QueryRetrieveLevel
    study_instance_uid: str
    series_instance_uids: tuple[str, ...] = ()
    sop_instance_uids: tuple[str, ...] = ()
    patient_id: str = ""
    """Needed for Patient Root."""
    priority: int = 0


class MoveProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One C-MOVE response as it came; absent counters are None."""

    status: int
    counts: SubOperationCounts


class MoveResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a C-MOVE ended. `counts` are those of the last response that had any."""

    status: int
    counts: SubOperationCounts
    failed_sop_instance_uids: tuple[str, ...] = ()
    error_comment: str = ""
