"""What can come of a C-MOVE, C-GET or C-STORE: the outcome table, and the tables that lead to its rows.

Rules of this file: tables and their lookups only, from a status, a rejection, an abort, an error of the wire or a
pattern of counters to a row; sentences say to an administrator what to do and where, and hold no identifier.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from router.domain.cause import Cause as Cause
from router.domain.cause import Remedy as Remedy
from router.domain.store_causes import STORE_CAUSES


def _refused(remedy: Remedy, sentence: str) -> Cause:
    return Cause(remedy, sentence, unsent=True)


def _broken(sentence: str) -> Cause:
    return Cause(Remedy.SMALLER, sentence, loose=True)


_SOON, _LATER, _STOP = Remedy.SOON, Remedy.LATER, Remedy.STOP_ROUTE

CAUSES: dict[str, Cause] = {
    # what a final status and its counters say
    "success": Cause(Remedy.NONE, "The source reports success.", clean=True),
    "success-uncounted": Cause(Remedy.NONE, "The source reports success, but no numbers.", clean=True),
    "success-excess": Cause(
        Remedy.NONE,
        "The source reports success, and more instances than it had before; they may have grown.",
        clean=True,
    ),
    "success-partial": Cause(Remedy.SMALLER, "The source reports success, but for fewer instances than there are."),
    "success-empty": Cause(Remedy.LATER, "The source reports success without moving anything."),
    "counters-inconsistent": Cause(
        Remedy.NONE, "The source reports success, but its numbers contradict each other.", clean=True
    ),
    "warning": Cause(Remedy.NONE, "The destination took all instances, some with a warning.", clean=True),
    "warning-uncounted": Cause(Remedy.SMALLER, "The source reports trouble with some instances, but no numbers."),
    "some-failed": Cause(
        Remedy.SMALLER,
        "The source reports that some instances could not be moved: does the destination take their SOP class and "
        "transfer syntax?",
    ),
    "all-failed": Cause(
        Remedy.LATER, "The source reports that no instance could be moved: does the destination accept the source?"
    ),
    "out-of-resources": Cause(Remedy.LATER, "The source is out of resources (A700)."),
    "matches-unknown": Cause(Remedy.SMALLER, "The source is out of resources: it cannot count the matches (A701)."),
    "suboperations-impossible": Cause(
        Remedy.LATER, "The source cannot send to the destination (A702): is the destination running and not full?"
    ),
    "destination-unknown": Cause(
        _STOP, "The source does not know the destination's AE title (A801): enter it there with its address."
    ),
    "identifier-mismatch": Cause(Remedy.PERMANENT, "The source does not accept the identifier (A900)."),
    "frame-level": Cause(Remedy.PERMANENT, "The source refused a frame level request (AAxx)."),
    "unable-to-process": Cause(
        Remedy.LATER, "The source is unable to process the request (Cxxx): its log says why.", tries=3
    ),
    "cancelled-by-peer": Cause(
        Remedy.SMALLER, "The source ended the request as cancelled, though nobody cancelled it.", loose=True
    ),
    "class-not-supported": Cause(
        _STOP, "The source does not support this service (0122, 0211): switch retrieval on there, or change root."
    ),
    "not-authorised": Cause(
        _STOP, "The source does not allow this request (0124): allow this router's AE title to retrieve there."
    ),
    "argument": Cause(Remedy.PERMANENT, "The source found an error in the request (01xx, 0212)."),
    "no-such-instance": Cause(Remedy.LATER, "The source says that it has no such instances (0112)."),
    "processing-failure": Cause(_SOON, "The source failed while processing the request (0110)."),
    "duplicate-invocation": Cause(_SOON, "The source takes the request for one it has already (0210)."),
    "resource-limitation": Cause(Remedy.LATER, "The source is short of resources (0213)."),
    "unknown-status": Cause(Remedy.LATER, "The source answered with a status the standard does not define."),
    # no association, PS3.8 section 9.3.4
    "rejected": _refused(
        _STOP, "The node rejects associations from this router without a reason; its log may have one."
    ),
    "rejected-application-context": _refused(
        _STOP, "The node does not support the DICOM application context: is that its DICOM port?"
    ),
    "rejected-calling-ae-title": _refused(
        _STOP, "The node does not know this router's AE title: enter it there, with this router's address."
    ),
    "rejected-called-ae-title": _refused(
        _STOP, "The node does not answer to the AE title it is called by: correct ae_title of the node here."
    ),
    "rejected-by-acse": _refused(_STOP, "The node's upper layer rejects associations without a reason; see its log."),
    "rejected-protocol-version": _refused(
        _STOP, "The node speaks another version of the upper layer protocol: is that its DICOM port?"
    ),
    "rejected-congestion": _refused(_LATER, "The node is congested for the moment."),
    "rejected-local-limit": _refused(
        _LATER,
        "The node has no association left: lower limits.associations of the node here, or raise its limit there.",
    ),
    "rejected-busy": _refused(_LATER, "The node rejected the association for now; that passes."),
    "rejected-busy-permanent": _refused(
        _LATER, "The node has no association left, and wrongly calls that permanent: lower limits.associations here."
    ),
    # an association that broke, PS3.8 section 9.3.8
    "aborted": _broken("The node aborted the association: its log says why, often an AE title it does not know."),
    "aborted-by-provider": _broken("The node's upper layer aborted the association without a reason."),
    "aborted-unrecognized-pdu": _broken("The node aborted the association: a PDU it does not know."),
    "aborted-unexpected-pdu": _broken("The node aborted the association: a PDU it did not expect."),
    "aborted-unrecognized-parameter": _broken("The node aborted the association: a PDU parameter it does not know."),
    "aborted-unexpected-parameter": _broken("The node aborted the association: a PDU parameter it did not expect."),
    "aborted-invalid-parameter": _broken(
        "The node aborted the association: an invalid PDU parameter; is one of the AE titles unusual?"
    ),
    "connection-lost": _broken("The connection broke during the work: did the node restart, or a firewall cut it?"),
    "timeout": _broken("The node did not answer in time."),
    "timeout-inactivity": _broken(
        "The node made no progress for too long: raise inactivity of the node if it is slow."
    ),
    "timeout-total": _broken("The node did not finish in time: raise total of the node if its studies are that large."),
    "protocol": Cause(Remedy.LATER, "The node violated the DICOM protocol.", loose=True),
    "wire": Cause(Remedy.LATER, "The exchange with the node failed."),
    # no connection
    "unreachable": _refused(_LATER, "The node cannot be reached: is the network between in order?"),
    "connection-refused": _refused(_LATER, "Nothing listens at the node's address: is it running, is the port right?"),
    "connect-timeout": _refused(
        _LATER, "The node does not answer the connection: is the address right, does a firewall stand between?"
    ),
    "name-unresolved": _refused(_LATER, "The node's host name does not resolve: correct address of the node here."),
    "negotiation-timeout": _refused(_LATER, "The node took the connection but did not answer the association request."),
    "no-free-association": _refused(_LATER, "No association to the node became free: raise limits.associations here?"),
    "left-alone": _refused(_LATER, "The node does not answer and is left alone until it does: is it running?"),
    "no-context": _refused(
        _STOP, "The node does not offer this service to this router: allow its AE title to query and retrieve there."
    ),
    "tls": _refused(_LATER, "The TLS handshake with the node failed."),
    "tls-not-spoken": _refused(
        _LATER, "The node does not speak TLS: is the port right? Else take tls out of the node."
    ),
    "tls-version": _refused(_STOP, "The node and this router have no version of TLS or cipher in common."),
    "tls-files": _refused(
        _STOP, "A file of the node's tls cannot be used: `dicom-router validate` says which and why."
    ),
    "tls-host-name": _refused(
        _STOP, "The node's certificate is for another host: use its name in address, or set verify_hostname: false."
    ),
    "tls-expired": _refused(_STOP, "The node's certificate is not valid now: it must be renewed there."),
    "tls-unknown-ca": _refused(_STOP, "No authority in the file ca has issued the node's certificate."),
    "tls-wrong-certificate": _refused(
        _STOP, "The node's certificate is trusted but not the node's: correct certificate_names of the node here."
    ),
    "tls-certificate": _refused(_STOP, "The node's certificate is not accepted."),
    "tls-no-certificate": _refused(_STOP, "The node shows no certificate."),
    "tls-refused": _refused(
        _STOP, "The node does not accept this router's certificate: enter it, or its authority, there."
    ),
    # what the router itself has to say
    "query-failed": Cause(Remedy.LATER, "The node failed a query: its log says why."),
    "commitment-refused": Cause(Remedy.LATER, "The destination refused the request for storage commitment."),
    "destination-down": Cause(Remedy.LATER, "The destination cannot be asked for what it holds."),
    "lease-lost": _broken(
        "Its router stopped in the middle, or could not reach the ledger for a minute; what arrived is looked up first."
    ),
    "cancelled": Cause(Remedy.NONE, "Cancelled."),
    "node-removed": Cause(Remedy.PERMANENT, "The configuration no longer has this node."),
    "other-configuration": Cause(Remedy.LATER, "Only another replica's configuration has its rule and nodes so far."),
    "ledger": Cause(Remedy.LATER, "The ledger could not be asked or written to before anything was sent."),
    "not-begun": Cause(Remedy.LATER, "The system had no thread left to begin it."),
    "rule-removed": Cause(Remedy.PERMANENT, "The configuration no longer has this rule."),
    "already-present": Cause(Remedy.NONE, "The destination held it already; nothing was moved.", clean=True),
    "replica-away": Cause(Remedy.LATER, "Another replica holds instances of it and is not to be had now: start it."),
    "gone": Cause(Remedy.NONE, "The source has no instance of it any more."),
    # what became of the instances of a C-STORE
    **STORE_CAUSES,
}

# --- statuses ---------------------------------------------------------------------------------------------------------

MOVE_STATUSES: dict[int, str] = {
    0x0000: "success",
    0x0001: "some-failed",
    0x0105: "argument",
    0x0106: "argument",
    0x0107: "some-failed",
    0x0110: "processing-failure",
    0x0111: "argument",
    0x0112: "no-such-instance",
    0x0113: "argument",
    0x0114: "argument",
    0x0115: "argument",
    0x0116: "some-failed",
    0x0117: "argument",
    0x0118: "class-not-supported",
    0x0119: "argument",
    0x0120: "argument",
    0x0121: "argument",
    0x0122: "class-not-supported",
    0x0123: "argument",
    0x0124: "not-authorised",
    0x0210: "duplicate-invocation",
    0x0211: "class-not-supported",
    0x0212: "argument",
    0x0213: "resource-limitation",
    0xA700: "out-of-resources",
    0xA701: "matches-unknown",
    0xA702: "suboperations-impossible",
    0xA801: "destination-unknown",
    0xA900: "identifier-mismatch",
    0xB000: "some-failed",
    0xFE00: "cancelled-by-peer",
}
"""Final status of a C-MOVE or C-GET -> cause (PS3.4 tables C.4-2 and C.4-3, PS3.7 annex C); ranges: STATUS_RANGES."""

STATUS_RANGES: tuple[tuple[int, int, str], ...] = (
    (0xA700, 0xA7FF, "out-of-resources"),
    (0xA900, 0xA9FF, "identifier-mismatch"),
    (0xAA00, 0xAA04, "frame-level"),
    (0xB001, 0xBFFF, "some-failed"),
    (0xC000, 0xCFFF, "unable-to-process"),
)
"""For statuses that MOVE_STATUSES does not name: PS3.7 annex C gives Bxxx to warnings; A9xx is of older editions."""

FIND_FAILURES: dict[int, str] = {
    0xA700: "the source refuses: too many matches or out of resources",
    0xA900: "the source does not accept the identifier",
    0x0122: "the source does not support this information model",
    0x0124: "the source does not allow this router to query",
    0xFE00: "the source ended the query early",
    0x0110: "the source failed while processing the query",
    0x0213: "the source is short of resources",
}


def status_cause(status: int) -> str:
    """The cause code of a final C-MOVE status, counters aside."""
    known = MOVE_STATUSES.get(status)
    if known:
        return known
    for low, high, cause in STATUS_RANGES:
        if low <= status <= high:
            return cause
    return "unknown-status"


# --- the upper layer --------------------------------------------------------------------------------------------------

_PERMANENT, _TRANSIENT = 1, 2
_USER, _ACSE, _PRESENTATION = 1, 2, 3

REJECTIONS: dict[tuple[int, int, int | None], str] = {
    (_PERMANENT, _USER, 1): "rejected",
    (_PERMANENT, _USER, 2): "rejected-application-context",
    (_PERMANENT, _USER, 3): "rejected-calling-ae-title",
    (_PERMANENT, _USER, 7): "rejected-called-ae-title",
    (_PERMANENT, _ACSE, 1): "rejected-by-acse",
    (_PERMANENT, _ACSE, 2): "rejected-protocol-version",
    (_PERMANENT, _PRESENTATION, 1): "rejected-busy-permanent",
    (_PERMANENT, _PRESENTATION, 2): "rejected-busy-permanent",
    (_TRANSIENT, _PRESENTATION, 1): "rejected-congestion",
    (_TRANSIENT, _PRESENTATION, 2): "rejected-local-limit",
    (_TRANSIENT, _USER, None): "rejected-busy",
    (_TRANSIENT, _ACSE, None): "rejected-busy",
    (_TRANSIENT, _PRESENTATION, None): "rejected-busy",
}
"""Result, source and reason of A-ASSOCIATE-RJ -> cause (PS3.8 table 9-21). None is any other reason.

Archives call `no association left` by many numbers; what they call transient is taken as that, whatever the reason.
"""

ABORTS: dict[tuple[int, int | None], str] = {
    (0, None): "aborted",
    (2, 1): "aborted-unrecognized-pdu",
    (2, 2): "aborted-unexpected-pdu",
    (2, 4): "aborted-unrecognized-parameter",
    (2, 5): "aborted-unexpected-parameter",
    (2, 6): "aborted-invalid-parameter",
    (2, None): "aborted-by-provider",
}
"""Source and reason of A-ABORT -> cause (PS3.8 table 9-26). None is any other reason."""


def rejection_cause(result: int, source: int, reason: int) -> str:
    """The cause of an A-ASSOCIATE-RJ; numbers the standard does not define are `rejected`."""
    return REJECTIONS.get((result, source, reason)) or REJECTIONS.get((result, source, None)) or "rejected"


def abort_cause(source: int, reason: int) -> str:
    """The cause of an A-ABORT."""
    return ABORTS.get((source, reason)) or ABORTS.get((source, None)) or "aborted"


def error_cause(code: str) -> str:
    """The cause of a WireError's `cause`, which for a rejection and for a provider's abort ends in its numbers."""
    if code in CAUSES:
        return code
    name, *numbers = code.split("-")
    if name == "rejected" and len(numbers) == 3 and all(number.isdecimal() for number in numbers):
        return rejection_cause(*map(int, numbers))
    if name == "aborted" and len(numbers) == 2 and all(number.isdecimal() for number in numbers):
        return abort_cause(*map(int, numbers))
    return "tls" if name == "tls" else "wire"


# --- counters ---------------------------------------------------------------------------------------------------------


class Tally(NamedTuple):
    """The highest counters of a C-MOVE; None where no response had them."""

    completed: int | None = None
    failed: int | None = None
    warning: int | None = None
    asked: int | None = None
    """Instances the request should move, if known."""
    wavering: bool = False
    """The counters fell, or their sum changed on the way."""

    @property
    def delivered(self) -> int:
        """Instances that the destination took; one with a warning it took as well (PS3.4 section C.4.2.1.6)."""
        return (self.completed or 0) + (self.warning or 0)


PREDICATES: Mapping[str, Callable[[Tally], bool]] = {
    "nothing was asked for": lambda tally: tally.asked == 0,
    "no counters": lambda tally: tally.completed is None and tally.failed is None and tally.warning is None,
    "none completed, some failed": lambda tally: not tally.delivered and bool(tally.failed),
    "none completed": lambda tally: not tally.delivered,
    "some failed": lambda tally: bool(tally.failed),
    "fewer completed than asked for": lambda tally: tally.asked is not None and tally.delivered < tally.asked,
    "falling or inconsistent counters": lambda tally: tally.wavering,
    "more completed than asked for": lambda tally: tally.asked is not None and tally.delivered > tally.asked,
    "some with a warning": lambda tally: bool(tally.warning),
}
"""What counters may look like, by the words of the documentation."""


class Pattern(NamedTuple):
    """A row: where the status alone says `family` and the predicate holds, the cause is `cause`."""

    family: str
    predicate: str
    cause: str


COUNTER_PATTERNS: tuple[Pattern, ...] = (
    Pattern("success", "nothing was asked for", "success"),
    Pattern("success", "no counters", "success-uncounted"),
    Pattern("success", "none completed, some failed", "all-failed"),
    Pattern("success", "none completed", "success-empty"),
    Pattern("success", "some failed", "success-partial"),
    Pattern("success", "fewer completed than asked for", "success-partial"),
    Pattern("success", "falling or inconsistent counters", "counters-inconsistent"),
    Pattern("success", "more completed than asked for", "success-excess"),
    Pattern("some-failed", "no counters", "warning-uncounted"),
    Pattern("some-failed", "none completed", "all-failed"),
    Pattern("some-failed", "some failed", "some-failed"),
    Pattern("some-failed", "fewer completed than asked for", "some-failed"),
    Pattern("some-failed", "some with a warning", "warning"),
)
"""In this order, the first that holds; none: the cause of the status stands."""


def counted_cause(family: str, tally: Tally) -> str:
    """The cause of a final status whose cause is `family`, given its counters."""
    for pattern in COUNTER_PATTERNS:
        if pattern.family == family and PREDICATES[pattern.predicate](tally):
            return pattern.cause
    return family


CLEAN = frozenset(code for code, cause in CAUSES.items() if cause.clean)
"""Causes after which a transfer without evidence counts as moved."""

UNSENT = frozenset(code for code, cause in CAUSES.items() if cause.unsent)
"""Causes that say no sub-operation can have begun."""

LOOSE = frozenset(code for code, cause in CAUSES.items() if cause.loose)
"""Causes after which stores may still be under way."""
