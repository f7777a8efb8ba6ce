"""Every exception the router raises on purpose. The class docstring is the default message.

Nothing here may carry a patient identifier, a UID or an accession number: exceptions end in logs and on terminals.
"""

from __future__ import annotations


class RouterError(Exception):
    """Something went wrong in dicom-router."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class UsageError(RouterError):
    """The command was called with arguments that do not fit together."""


class ConfigurationError(RouterError):
    """The configuration has errors; `dicom-router validate` lists them."""


class TlsFileError(ConfigurationError):
    """A file that TLS needs cannot be used.

    `setting` is the key that names it: `ca`, `certificate` or `key`.
    """

    def __init__(self, setting: str, message: str) -> None:
        """A file that cannot be used, by the key of the configuration that names it."""
        super().__init__(message)
        self.setting = setting


class NotThere(RouterError):
    """There is nothing of that name or number."""


class NotPossible(RouterError):
    """As things stand that cannot be done."""


class TooBusy(RouterError):
    """Too much of this is under way already; try again in a moment."""


class LedgerError(RouterError):
    """The ledger could not be read or written."""


class LedgerMissing(LedgerError):
    """There is no ledger yet."""


class NameTaken(RouterError):
    """Another service on the ledger has the name that this one is to have."""


class StoreError(RouterError):
    """The object store could not be written."""


class StoreAway(StoreError):
    """An instance is in the store of another replica, which cannot be asked for it now."""


class StoreBusy(StoreAway):
    """The other replica lives, and gives others so much that this one had no turn."""


class NotDelivered(RouterError):
    """A notification could not be delivered.

    `refused`: the other side does not want this very message. `retry_after`: seconds it asked to be left alone.
    """

    def __init__(self, message: str | None = None, *, refused: bool = False, retry_after: float | None = None) -> None:
        """Why not, as a sentence without the message's contents."""
        super().__init__(message)
        self.refused = refused
        self.retry_after = retry_after


class WireError(RouterError):
    """The exchange with the peer failed.

    `cause` is a code of the outcome table (`router.domain.outcome.CAUSES`).
    """

    cause = "wire"


class ConnectionFailed(WireError):
    """The peer could not be reached."""

    cause = "unreachable"

    def __init__(self, message: str | None = None, cause: str = "unreachable") -> None:
        """No connection, with the code of what stood in its way."""
        super().__init__(message)
        self.cause = cause


class TlsError(ConnectionFailed):
    """The encrypted connection to the peer could not be made.

    `reason` is a label of a finite set.
    """

    def __init__(self, message: str | None = None, reason: str = "tls") -> None:
        """What went wrong in the TLS handshake, as a sentence and as a label, which is the cause as well."""
        super().__init__(message, reason)
        self.reason = reason


class ConnectionLost(WireError):
    """The peer closed the connection in the middle of the work."""

    cause = "connection-lost"


class AssociationRejected(WireError):
    """The peer rejected the association."""

    cause = "rejected"

    def __init__(self, result: int, source: int, reason: int, message: str | None = None) -> None:
        """A-ASSOCIATE-RJ with its three numbers (PS3.8 section 9.3.4)."""
        super().__init__(message)
        self.result = result
        self.source = source
        self.reason = reason
        self.cause = f"rejected-{result}-{source}-{reason}"


class AssociationAborted(WireError):
    """The peer aborted the association."""

    cause = "aborted"

    def __init__(self, source: int, reason: int, message: str | None = None) -> None:
        """A-ABORT with its source (0 user, 2 provider) and reason (PS3.8 section 9.3.8)."""
        super().__init__(message)
        self.source = source
        self.reason = reason
        if source:
            self.cause = f"aborted-{source}-{reason}"


class DeadlineExceeded(WireError):
    """The peer did not answer in time."""

    cause = "timeout"

    def __init__(self, message: str | None = None, cause: str = "timeout") -> None:
        """A deadline, with the code of which one."""
        super().__init__(message)
        self.cause = cause


class NodeLeftAlone(WireError):
    """The node does not answer, so nothing is begun with it until a probe gets through."""

    cause = "left-alone"


class ContextRefused(WireError):
    """The peer accepts no presentation context for this service."""

    cause = "no-context"


class CommitmentRefused(WireError):
    """The peer refused a request for storage commitment."""

    cause = "commitment-refused"

    def __init__(self, status: int, message: str | None = None, comment: str = "") -> None:
        """An N-ACTION answered with a failure status (PS3.7 section 10.1.4.1.10); `comment` is never for a log."""
        super().__init__(message)
        self.status = status
        self.comment = comment


class ProtocolError(WireError):
    """The DICOM protocol was violated."""

    cause = "protocol"


class LocalProtocolError(ProtocolError):
    """This router tried something the DICOM protocol does not allow in this state."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the DICOM protocol does not allow in this state."""


class Cancelled(WireError):
    """The work was cancelled from this side."""

    cause = "cancelled"


class StoreRefused(StoreError):
    """An instance was refused.

    `status` is the C-STORE status to answer (PS3.4 section B.2.3), `reason` a label of a finite set for the metric.
    """

    def __init__(self, status: int, reason: str, message: str | None = None) -> None:
        """A refusal with its C-STORE status and reason label."""
        super().__init__(message or f"The instance was refused ({reason}).")
        self.status = status
        self.reason = reason
