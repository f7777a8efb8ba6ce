"""The switches of the simulated PACS: one field per misbehaviour seen in the field, all honest by default.

Nothing here acts; the modules beside it ask these fields while they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


class Rejection(NamedTuple):
    """The three numbers of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4)."""

    result: int
    source: int
    reason: int


NO_REASON_GIVEN = Rejection(1, 1, 1)
CALLING_NOT_RECOGNISED = Rejection(1, 1, 3)
CALLED_NOT_RECOGNISED = Rejection(1, 1, 7)
TEMPORARY_CONGESTION = Rejection(2, 3, 1)
LOCAL_LIMIT_EXCEEDED = Rejection(2, 3, 2)
BUSY_WITHOUT_REASON = Rejection(2, 1, 1)
BUSY_CALLED_PERMANENT = Rejection(1, 3, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a simulated PACS behaves. `Behaviour()` is honest; each field switches one misbehaviour on.

    Replace it while the PACS runs: `pacs.behaviour = replace(pacs.behaviour, ignore_cancel=True)`. An operation
    keeps the behaviour it began with. Durations are in seconds, statuses are DIMSE status codes.
    """

    # -- Associations ---------------------------------------------------------------------------------------------

    #: Every association is rejected with these numbers.
    reject: Rejection | None = None
    #: Only these calling AE titles are accepted; others are rejected (1, 1, 3). None accepts all.
    accepted_callers: frozenset[str] | None = None
    #: An association that calls another AE title than ours is rejected (1, 1, 7).
    check_called_ae_title: bool = False
    #: Associations open at once; one more is rejected as `excess_rejection` says. None is no limit.
    max_associations: int | None = None
    #: How an association over `max_associations` is rejected: transient, local limit exceeded (2, 3, 2).
    excess_rejection: Rejection = LOCAL_LIMIT_EXCEEDED
    #: Each association whose number this divides is rejected as `excess_rejection` says: busy now and then.
    reject_every: int | None = None
    #: The maximum length of a P-DATA-TF we say we take (PS3.8 annex D.1), as acceptor and as requestor; 0 is no limit.
    max_pdu_length: int = 65536
    #: A peer that takes longer P-DATA-TFs than this, or any, is rejected (1, 1, 1), or aborted if it accepted us.
    largest_max_pdu: int | None = None
    #: The TCP connection stays open after A-RELEASE and A-ABORT: whoever waits for us to close it waits for ever.
    keep_tcp_open: bool = False
    #: The TCP connection is accepted and the A-ASSOCIATE-RQ never answered.
    hang_on_associate: bool = False
    #: Query/Retrieve is accepted in Implicit VR Little Endian only.
    implicit_only: bool = False
    #: Pause before the first response to any request.
    response_delay_seconds: float = 0.0
    #: Each C-ECHO is answered with this status.
    echo_status: int = 0x0000

    # -- C-FIND ---------------------------------------------------------------------------------------------------

    #: A C-FIND is never answered.
    hang_on_find: bool = False
    #: Every C-FIND ends at once with this status: 0124 not authorised, C000 unable to process, and so on.
    refuse_find_status: int | None = None
    #: No more than this many matches are returned. None is no cap.
    max_results: int | None = None
    #: How a capped C-FIND ends: 0000 silently, FE00 as if cancelled, A700 refused (then no match is returned).
    capped_status: int = 0x0000
    #: The association is aborted after this many matches.
    abort_find_after: int | None = None
    #: These keys are not matched: rows come back whatever they hold (ModalitiesInStudy, often).
    unmatched_keys: frozenset[str] = frozenset()
    #: A C-FIND at PATIENT or STUDY level without these keys is refused with A900.
    required_keys: frozenset[str] = frozenset()
    #: A key of a level below the query's: returned empty with FF01, or the cause of an answer without matches.
    misplaced_keys: Literal["empty", "no_rows"] = "empty"
    #: A value in ModalitiesInStudy finds the first match only, unless Modality is asked for as well.
    modalities_need_modality: bool = False
    #: A range with one end open is refused with A900.
    refuse_open_ranges: bool = False
    #: A value in StudyTime is refused with A900: combined date and time matching is not to be had.
    refuse_study_time: bool = False
    #: A wildcard in a UID matches everything, rather than being refused with A900.
    match_uid_wildcards: bool = False
    #: Names are matched letter by letter, case and all.
    names_case_sensitive: bool = False
    #: So many entities outside the filter come back as well.
    stray_rows: int = 0
    #: Several values in a key that is no UID are matched as alternatives; if not, as literal text with backslashes.
    match_value_lists: bool = True
    #: These attributes never appear in a response.
    omit: frozenset[str] = frozenset()
    #: These attributes come back with zero length.
    empty: frozenset[str] = frozenset()
    #: These attributes come back with nothing but blanks, which readers make `['']` of.
    blank: frozenset[str] = frozenset()
    #: What follows each UID in a response, by way of padding: a space, several NULs.
    uid_padding: str = ""
    #: These attributes come back with an odd length.
    odd_lengths: frozenset[str] = frozenset()
    #: These attributes come back with a VR the standard does not know (not in Implicit VR).
    bad_vrs: frozenset[str] = frozenset()
    #: QueryRetrieveLevel of each response. None is that of the query.
    row_level: str | None = None
    #: The first so many responses come with an empty unique key.
    rows_without_uid: int = 0
    #: Added to every number of related instances: a count that is stale or includes what cannot be moved.
    instance_count_offset: int = 0
    #: Every match is returned twice.
    duplicate_rows: bool = False
    #: The response with this index (from 0) carries an identifier whose bytes do not parse.
    undecodable_row: int | None = None
    #: Instances of these modalities are not listed at IMAGE level (structured reports, in some archives).
    unlisted_modalities: frozenset[str] = frozenset()
    #: InstanceAvailability of everything: ONLINE, NEARLINE, OFFLINE or UNAVAILABLE.
    availability: str = "ONLINE"
    #: The character set of the responses, whatever the data sets have. None answers as stored.
    response_character_set: str | None = None
    #: The character set the responses claim to be in, while the bytes are in another. None tells the truth.
    claimed_character_set: str | None = None

    # -- Modality worklist ----------------------------------------------------------------------------------------

    #: It takes no notice of keys: everything comes back.
    worklist_ignores_keys: bool = False
    #: The Scheduled Procedure Step Sequence never appears in a response.
    worklist_without_sequence: bool = False
    #: All steps of an item come in one response, if one of them is asked for.
    worklist_steps_together: bool = False
    #: Start times come back with zero length.
    worklist_empty_times: bool = False

    # -- C-MOVE: the answers --------------------------------------------------------------------------------------

    #: Only the first so many C-MOVEs after this behaviour was set are served by it, the others honestly. None is all.
    faulty_moves: int | None = None
    #: Success is answered at once, with no sub-operation: too busy to say so.
    move_nothing: bool = False
    #: The C-MOVE stops answering, and sending, as soon as a sub-operation failed.
    hang_after_failure: bool = False
    #: The C-MOVE stops answering after this many sub-operations; 0 never answers at all.
    hang_move_after: int | None = None
    #: Every C-MOVE ends at once with this status: A701, A702, 0124, C000, and so on.
    refuse_move_status: int | None = None
    #: The association is aborted after this many sub-operations.
    abort_move_after: int | None = None
    #: The status for a destination we do not know; honest PACS say A801, others A702 or C000.
    unknown_destination_status: int = 0xA801
    #: The association is aborted instead when the destination is unknown.
    abort_on_unknown_destination: bool = False
    #: Pending responses are sent; if not, nothing is heard until the end.
    send_pending: bool = True
    #: Pending responses carry the sub-operation counters.
    counters_in_pending: bool = True
    #: The final response carries the sub-operation counters.
    counters_in_final: bool = True
    #: The completed counter: as it is, back at 0 with every third, falling after the first half, twice as many, or
    #: always 0.
    completed_counter: Literal["honest", "restarting", "falling", "double", "zero"] = "honest"
    #: The failed counter is left out of every response, though sub-operations failed.
    omit_failed_counter: bool = False
    #: The final status whatever happened: 0000 although everything failed, B000 for all failed, FE00 unasked.
    final_move_status: int | None = None
    #: The FailedSOPInstanceUIDList: as it should be, left out, one UID repeated, or the first UID only.
    failed_list: Literal["honest", "absent", "repeated", "first"] = "honest"
    #: After the last sub-operation, Pending responses follow one another for ever.
    pending_forever: bool = False
    #: A C-CANCEL, of a C-FIND or a C-MOVE, has no effect.
    ignore_cancel: bool = False
    #: A C-CANCEL that comes before the first response has no effect.
    lose_early_cancel: bool = False
    #: A C-CANCEL of a C-MOVE is answered with A-ABORT after this long.
    abort_after_cancel_seconds: float | None = None

    # -- C-MOVE: the sub-operations -------------------------------------------------------------------------------

    #: Only this share of the instances (rounded down) is sent; the rest is counted as completed all the same.
    deliver_fraction: float = 1.0
    #: The first so many sub-operations fail without anything being sent.
    fail_instances: int = 0
    #: The first so many instances are sent as bytes that are no data set.
    undecodable_instances: int = 0
    #: Pause before the first sub-operation: the tape robot.
    move_start_delay_seconds: float = 0.0
    #: Pause before each sub-operation.
    suboperation_delay_seconds: float = 0.0
    #: Success is answered at once, with no sub-operations counted; the delivery starts this much later.
    deliver_later_seconds: float | None = None
    #: The calling AE title of the sub-operations. None is our own.
    stores_from: str | None = None
    #: How the AE titles are written in the A-ASSOCIATE-RQ of the sub-operations: filled up with spaces, with NULs, with
    #: a tab behind them; or the calling one left blank.
    titles: Literal["spaces", "nuls", "tab", "blank"] = "spaces"
    #: Move Originator in C-STORE: the mover (as it should be), absent, or our own AE title.
    move_originator: Literal["mover", "absent", "self"] = "mover"
    #: A new association for every sub-operation.
    association_per_suboperation: bool = False
    #: The sub-operations go on after the mover's association ended, and after we aborted it (`abort_move_after`).
    continue_after_mover_left: bool = False

    # -- C-STORE, when it is the destination of others ------------------------------------------------------------

    #: Each C-STORE is answered with this status; the instance is kept if it is Success or a warning.
    store_status: int = 0x0000
    #: Success is answered and nothing kept.
    forget_stored: bool = False
    #: These SOP classes are refused in the negotiation, those of C-FIND and C-MOVE included.
    refused_sop_classes: frozenset[str] = frozenset()
