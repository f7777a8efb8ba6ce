"""What the Store and Verification SCP does on one association: contexts, C-STORE, C-ECHO. PS3.4 annexes A and B.

Storage commitment reports are taken too, from archives that this router asked for them (PS3.4 annex J). The data set
of a C-STORE goes from the socket to the sink as it comes; statuses are those of PS3.4 table B.2-1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from router.dimse import command as commands
from router.dimse.association import Association, Message
from router.dimse.commitment import OnAnswer, take_report
from router.dimse.pdu import ContextReply, ContextResult, ProposedContext
from router.domain.access import STRANGER, Shown
from router.domain.commitment import STORAGE_COMMITMENT_SOP_CLASS
from router.domain.dicom import VERIFICATION_SOP_CLASS, is_uid
from router.domain.events import CommitmentNoted, Event, InstanceStored, StoreRefusal
from router.domain.receipt import Receipt
from router.errors import RouterError, StoreRefused

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
CLASS_NOT_SUPPORTED = 0x0122
INVALID_INSTANCE = 0x0117
UNRECOGNIZED_OPERATION = 0x0211
NO_DATA_SET = 0xC000

_MAXIMUM_COMMENT = 64
_MAXIMUM_IGNORED = 1 << 20


class ObjectWriter(Protocol):
    """One instance on its way into a store. `discard` ends it, committed or not."""

    def write(self, data: memoryview) -> None:
        """Append a part of the data set; the buffer is reused afterwards. Raises StoreRefused."""

    def commit(self) -> Receipt:
        """Make it durable under its final name. Raises StoreRefused."""

    def discard(self) -> None:
        """Clean up, what was not committed too. After a commit it can wait until the sender has its answer."""


class ObjectSink(Protocol):
    """Where instances go."""

    def begin(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> ObjectWriter:
        """Start an instance. Raises StoreRefused."""


class Accepted(NamedTuple):
    """The policy lets the caller in; `label` is its configured name or `other`, for metrics."""

    label: str
    associations: int | None = None
    """So many of this label at once, at most; None: as many as the server takes."""


class Rejected(NamedTuple):
    """The policy rejects the caller: numbers of an A-ASSOCIATE-RJ (PS3.8 section 9.3.4) and the label for metrics."""

    result: int
    source: int
    reason: int
    label: str = "other"
    cause: str = STRANGER
    """Why, as a label."""


Policy = Callable[[str, str, str, Shown | None], Accepted | Rejected]
"""Takes the calling AE title, the called AE title, the peer's IP address and, with TLS, its certificate."""

_DEFLATED = frozenset(
    {
        "1.2.840.10008.1.2.1.99",  # Deflated Explicit VR Little Endian
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
    }
)
"""The whole data set is compressed: its header cannot be looked at in bounded memory."""
_NATIVE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))
_NO_STORAGE = (
    "1.2.840.10008.1.",
    "1.2.840.10008.3.",
    "1.2.840.10008.4.",
    "1.2.840.10008.5.1.1.",
    "1.2.840.10008.5.1.4.1.2.",
    "1.2.840.10008.5.1.4.31",
)
"""The standard's branches (retired classes too) that are services other than storage."""


@lru_cache(maxsize=2048)
def is_storage(abstract_syntax: str) -> bool:
    """Whether instances of it can be stored: storage classes, and all that the standard's services do not name.

    Private and future SOP classes are stored as well: what an archive holds, it may send.
    """
    if not is_uid(abstract_syntax) or abstract_syntax.startswith(_NO_STORAGE):
        return False
    service = uid_to_service_class(abstract_syntax)
    return service is ServiceClass or issubclass(service, StorageServiceClass) or "NonPatient" in service.__name__


def negotiate(contexts: Sequence[ProposedContext], *, reports: bool = False) -> list[ContextReply]:
    """Answer each proposed context (PS3.8 section 9.3.3.2).

    The sender's first transfer syntax is taken, so that it need not convert anything. With `reports` storage commitment
    is accepted: of a requestor that is its SCP, for this router commits itself to nothing.
    """
    return [_reply(context, reports) for context in contexts]


def _reply(context: ProposedContext, reports: bool) -> ContextReply:
    offered = context.transfer_syntaxes
    if context.abstract_syntax == VERIFICATION_SOP_CLASS or (
        reports and context.abstract_syntax == STORAGE_COMMITMENT_SOP_CLASS
    ):
        usable = [syntax for syntax in offered if syntax in _NATIVE]
    elif is_storage(context.abstract_syntax):
        usable = [syntax for syntax in offered if syntax not in _DEFLATED and is_uid(syntax)]
    else:
        return ContextReply(
            context.context_id, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED, offered[0] if offered else _NATIVE[1]
        )
    if not usable:
        return ContextReply(
            context.context_id, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, offered[0] if offered else _NATIVE[1]
        )
    return ContextReply(context.context_id, ContextResult.ACCEPTED, usable[0])


class Caller(NamedTuple):
    """Who is at the other end."""

    ae_title: str
    label: str


class Session:
    """The services on one accepted association, until it ends."""

    def __init__(
        self,
        association: Association,
        caller: Caller,
        sink: ObjectSink,
        on_receipt: Callable[[Receipt], None],
        observer: Callable[[Event], None],
        on_answer: OnAnswer | None = None,
        watch: Callable[[], None] | None = None,
    ) -> None:
        """`on_answer` takes storage commitment reports; None where no context for them was accepted.

        `watch` is called for each part of a data set; it may end the association and raise WireError.
        """
        self._association = association
        self._caller = caller
        self._sink = sink
        self._on_receipt = on_receipt
        self._observer = observer
        self._on_answer = on_answer
        self._watch = watch

    def serve(self, message: Message) -> None:
        """Answer one request. Raises WireError where the association is over."""
        field = message.command.field
        if field == commands.C_STORE_RQ:
            self._store(message)
        elif field == commands.C_ECHO_RQ:
            self._ignore_data(message)
            self._respond(message, SUCCESS)
        elif field == commands.N_EVENT_REPORT_RQ and self._on_answer is not None and self._reports(message):
            if not take_report(self._association, message, self._caller.ae_title, self._on_answer):
                self._observer(CommitmentNoted(node=self._caller.label, result="not_taken"))
        elif field == commands.C_CANCEL_RQ or field & commands.RESPONSE:
            self._ignore_data(message)
        else:
            self._ignore_data(message)
            self._respond(message, UNRECOGNIZED_OPERATION)

    def _reports(self, message: Message) -> bool:
        return self._association.contexts[message.context_id].abstract_syntax == STORAGE_COMMITMENT_SOP_CLASS

    def _ignore_data(self, message: Message) -> None:
        if message.command.has_data:
            self._association.read_data(message.context_id, _MAXIMUM_IGNORED)

    # C-STORE, PS3.4 section B.2 -------------------------------------------------------------------------------------

    def _store(self, message: Message) -> None:
        size = 0
        receiving = _Receiving(self._begin(message) if message.command.has_data else None, self._watch)
        try:
            if message.command.has_data:
                size = self._association.stream_data(message.context_id, receiving.write)
            status, comment = self._finish(receiving)
            self._respond(message, status, comment)
        finally:
            receiving.discard()
        self._observer(InstanceStored(calling=self._caller.label, status=status, size=size))

    def _finish(self, receiving: _Receiving) -> tuple[int, str]:
        """Status and error comment of the answer."""
        try:
            self._record(receiving.finish())
        except StoreRefused as refusal:
            self._observer(StoreRefusal(calling=self._caller.label, reason=refusal.reason))
            return refusal.status, str(refusal)
        return SUCCESS, ""

    def _begin(self, message: Message) -> ObjectWriter | StoreRefused:
        command = message.command
        context = self._association.contexts[message.context_id]
        sop_class_uid = command.text(commands.AFFECTED_SOP_CLASS_UID)
        sop_instance_uid = command.text(commands.AFFECTED_SOP_INSTANCE_UID)
        if sop_class_uid != context.abstract_syntax or not is_storage(sop_class_uid):
            return StoreRefused(CLASS_NOT_SUPPORTED, "class", "The SOP class is not that of the context")
        if not is_uid(sop_instance_uid):
            return StoreRefused(INVALID_INSTANCE, "invalid-uid", "The SOP Instance UID is not valid")
        try:
            return self._sink.begin(
                sop_class_uid=sop_class_uid,
                sop_instance_uid=sop_instance_uid,
                transfer_syntax_uid=context.transfer_syntax,
                calling_ae_title=self._caller.ae_title,
            )
        except StoreRefused as refusal:
            return refusal

    def _record(self, receipt: Receipt) -> None:
        try:
            self._on_receipt(receipt)
        except RouterError as error:
            # The file is durable and is found again at the next start; but success means that it is indexed.
            raise StoreRefused(PROCESSING_FAILURE, "not-indexed", "The instance could not be indexed") from error

    def _respond(self, message: Message, status: int, comment: str = "") -> None:
        command = message.command
        elements: dict[int, int | str] = {
            commands.COMMAND_FIELD: command.field | commands.RESPONSE,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: command.number(commands.MESSAGE_ID) or 0,
            commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
            commands.STATUS: status,
        }
        for element in (commands.AFFECTED_SOP_CLASS_UID, commands.AFFECTED_SOP_INSTANCE_UID):
            if command.text(element):
                elements[element] = command.text(element)
        if comment:
            elements[commands.ERROR_COMMENT] = comment[:_MAXIMUM_COMMENT]
        self._association.send(message.context_id, commands.encode(elements))


class _Receiving:
    """The data set of one C-STORE on its way: into the writer, or dropped once it was refused.

    Reading to its end keeps the association in step, so that the refusal can be answered and the next instance come.
    """

    def __init__(self, target: ObjectWriter | StoreRefused | None, watch: Callable[[], None] | None) -> None:
        if target is None:
            target = StoreRefused(NO_DATA_SET, "empty", "The request has no data set")
        self._writer = None if isinstance(target, StoreRefused) else target
        self._refusal = target if isinstance(target, StoreRefused) else None
        self._watch = watch

    def write(self, data: memoryview) -> None:
        if self._watch is not None:
            self._watch()
        if self._writer is None:
            return
        try:
            self._writer.write(data)
        except StoreRefused as refusal:
            self._refusal = refusal
            self.discard()

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def finish(self) -> Receipt:
        if self._writer is None:
            raise self._refusal or StoreRefused(PROCESSING_FAILURE, "storage-failure")
        return self._writer.commit()
