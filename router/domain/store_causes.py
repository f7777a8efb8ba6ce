"""What can come of passing instances on by C-STORE: for each of them, and for all of them together. Tables, no branch.

What a status means for its instance stands in `router.domain.exchange`; here stands what helps against it.
"""

from __future__ import annotations

from typing import NamedTuple

from router.domain.cause import Cause, Remedy
from router.domain.exchange import Standing


class InstanceCause(NamedTuple):
    """Why an instance did not get there."""

    cause: str
    """The row of STORE_CAUSES for an attempt that comes to no more than this."""
    words: str
    """What is said of the instance: `2 instances: ...`."""


INSTANCE_CAUSES: dict[tuple[Standing, str], InstanceCause] = {
    # a status of the node, PS3.4 table B.2-1 and PS3.7 annex C
    (Standing.FAILURE, "out-of-resources"): InstanceCause("store-out-of-resources", "it was out of resources (A7xx)"),
    (Standing.FAILURE, "resource-limitation"): InstanceCause(
        "store-out-of-resources", "it was out of resources (0213)"
    ),
    (Standing.FAILURE, "processing-failure"): InstanceCause("store-failed", "it failed while processing (0110, 021x)"),
    (Standing.FAILURE, "class-mismatch"): InstanceCause(
        "store-mismatch", "the data set does not match its SOP class (A9xx)"
    ),
    (Standing.FAILURE, "unable-to-process"): InstanceCause(
        "store-not-understood", "it cannot understand the data set (Cxxx)"
    ),
    (Standing.FAILURE, "class-not-supported"): InstanceCause(
        "store-class-not-supported", "it does not support the SOP class (0122, 0211)"
    ),
    (Standing.FAILURE, "not-authorised"): InstanceCause("store-not-authorised", "it does not allow it (0124)"),
    (Standing.FAILURE, "argument"): InstanceCause("store-refused", "it found an error in the request (01xx)"),
    (Standing.FAILURE, "duplicate"): InstanceCause("store-refused", "it calls the instance a duplicate (0111)"),
    (Standing.FAILURE, "unknown-status"): InstanceCause(
        "store-failed", "it answered with a status that the standard does not define"
    ),
    # a presentation context it did not accept, PS3.8 table 9-18
    (Standing.REFUSED, "class-refused"): InstanceCause("store-class-refused", "it takes no instances of the SOP class"),
    (Standing.REFUSED, "syntax-refused"): InstanceCause(
        "store-syntax-refused", "it does not take the transfer syntax of the instance"
    ),
    (Standing.REFUSED, "context-rejected"): InstanceCause(
        "store-class-refused", "it rejected the SOP class with this transfer syntax"
    ),
    # a file that cannot be sent
    (Standing.UNREADABLE, "unreadable"): InstanceCause("store-unreadable", "the file here cannot be read"),
    (Standing.UNREADABLE, "empty"): InstanceCause("store-unreadable", "the file here holds no data set"),
    (Standing.UNREADABLE, "invalid-uid"): InstanceCause("store-unreadable", "the file here names a UID that is none"),
    (Standing.UNREADABLE, "cut-off"): InstanceCause("store-unreadable", "the file here changed while it was sent"),
    (Standing.UNREADABLE, "not-decompressed"): InstanceCause(
        "store-syntax-refused", "it does not take the transfer syntax, and it could not be decompressed here"
    ),
    (Standing.UNREADABLE, "not-decompressed-now"): InstanceCause(
        "store-not-prepared", "it does not take the transfer syntax, and it cannot be decompressed here now"
    ),
}
"""How far an instance got and why -> what that means; the pairs that ended the whole attempt are not among them."""

UNLISTED = InstanceCause("store-failed", "it did not take it")
"""For a pair that no row names."""

STORE_CAUSES: dict[str, Cause] = {
    "stored": Cause(Remedy.NONE, "The destination has taken every instance.", clean=True),
    "stored-with-warnings": Cause(
        Remedy.NONE, "The destination has taken every instance, some with a warning (Bxxx).", clean=True
    ),
    "store-not-authorised": Cause(
        Remedy.STOP_ROUTE, "The destination does not allow this router to store (0124): allow its AE title there."
    ),
    "store-class-not-supported": Cause(
        Remedy.STOP_ROUTE,
        "The destination does not support storing these SOP classes (0122, 0211): allow them there, or leave them out "
        "with where here.",
    ),
    "store-out-of-resources": Cause(
        Remedy.LATER, "The destination is out of resources (A7xx, 0213): is its disk full?"
    ),
    "store-failed": Cause(Remedy.LATER, "The destination failed while storing: its log says why."),
    "store-not-prepared": Cause(
        Remedy.LATER, "This router cannot decompress now: is its disk full, has the machine no memory left?"
    ),
    "store-class-refused": Cause(
        Remedy.PERMANENT, "The destination takes no instances of these SOP classes: allow them there."
    ),
    "store-syntax-refused": Cause(
        Remedy.PERMANENT,
        "The destination does not take the transfer syntax of these instances: allow it there, or set "
        "transfer_syntax: explicit in the rule's forward.",
    ),
    "store-mismatch": Cause(
        Remedy.PERMANENT, "The destination says that data sets do not match their SOP class (A9xx)."
    ),
    "store-not-understood": Cause(
        Remedy.PERMANENT, "The destination cannot understand data sets (Cxxx): its log says why."
    ),
    "store-refused": Cause(Remedy.PERMANENT, "The destination refuses these instances: its log says why."),
    "store-unreadable": Cause(Remedy.PERMANENT, "Files of this router's store cannot be sent: are they damaged?"),
}
"""What becomes of an attempt. Of several causes the one that stands first counts, for it says what is done next."""
