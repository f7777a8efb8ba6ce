"""Storage commitment, byte for byte: N-ACTION as SCU, and N-EVENT-REPORT however an archive sends it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from router.dimse import command as commands
from router.dimse.association import Association
from router.dimse.commitment import MAXIMUM_REPORT, report_of
from router.dimse.identifier import decode
from router.dimse.pdu import (
    AssociateRequest,
    ContextReply,
    ProposedContext,
    RoleSelection,
    encode_associate_request,
)
from router.dimse.peers import Peers
from router.dimse.request import commitment_data_set
from router.dimse.store_scp import Accepted, ServerSettings
from router.domain.access import Admission
from router.domain.commitment import (
    MAXIMUM_REFERENCES,
    STORAGE_COMMITMENT_SOP_CLASS,
    STORAGE_COMMITMENT_SOP_INSTANCE,
    CommitmentAnswer,
    CommitmentRequest,
    Reference,
    transactions,
)
from router.domain.events import AssociationEnded, CommitmentNoted, Event
from router.domain.rule import CommitmentSettings, FindSettings, Node
from router.errors import (
    AssociationRejected,
    CommitmentRefused,
    ContextRefused,
    DeadlineExceeded,
    LedgerError,
    WireError,
)
from router.receiver_words import ReceiverSettings
from router.receiving import Receivers
from tests.support.process import wait_for
from tests.wire.scu import CT, EXPLICIT, IMPLICIT, PATIENT, Server, answer, echo, store_command

CLASS, INSTANCE = STORAGE_COMMITMENT_SOP_CLASS, STORAGE_COMMITMENT_SOP_INSTANCE
AS_SCP = (RoleSelection(CLASS, scu=False, scp=True),)


def data_set(implicit: bool, **elements: Any) -> bytes:
    """Bytes made by pydicom, not by what is tested."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    write_dataset(buffer, made)
    return buffer.getvalue()


def item(uid: str, reason: int | None = None, sop_class: str = CT) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = sop_class, uid
    if reason is not None:
        made.FailureReason = reason
    return made


def report(transaction: str, committed: list[str], failed: dict[str, int] | None = None, *, implicit: bool) -> bytes:
    lists: dict[str, Any] = {"ReferencedSOPSequence": [item(uid) for uid in committed]}
    if failed:
        lists["FailedSOPSequence"] = [item(uid, reason) for uid, reason in failed.items()]
    return data_set(implicit, TransactionUID=transaction, **lists)


def event(message_id: int = 9, *, event_type: int = 1, instance: str = INSTANCE, data: bool = True) -> bytes:
    return commands.encode(
        {
            commands.AFFECTED_SOP_CLASS_UID: CLASS,
            commands.COMMAND_FIELD: commands.N_EVENT_REPORT_RQ,
            commands.MESSAGE_ID: message_id,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET if data else commands.NO_DATA_SET,
            commands.AFFECTED_SOP_INSTANCE_UID: instance,
            commands.EVENT_TYPE_ID: event_type,
        }
    )


# --- This router asks ------------------------------------------------------------------------------------------------

Script = Callable[["Archive", Association], None]


class Archive:
    """Takes one association and follows a script on it."""

    def __init__(self, script: Script, *, accept: bool = True, syntax: str = EXPLICIT) -> None:
        self._script = script
        self._accept = accept
        self._syntax = syntax
        self.requests: list[tuple[commands.Command, Dataset]] = []
        self.answers: list[commands.Command] = []
        self.proposed: AssociateRequest | None = None
        self.failure: BaseException | None = None
        self.released = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.node = Node(
            name="vault",
            ae_title="VAULT",
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            commitment=CommitmentSettings(),
            find=FindSettings(inactivity=5.0),
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _decide(self, request: AssociateRequest, _shown: object) -> list[ContextReply]:
        self.proposed = request
        return [ContextReply(one.context_id, 0 if self._accept else 3, self._syntax) for one in request.contexts]

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            try:
                association = Association.accept(connection, self._decide, peer="The router", limits=PATIENT)
                self._script(self, association)
                while association.established:
                    association.receive(time.monotonic() + 10)
            except WireError:
                self.released = True
            except BaseException as error:  # noqa: BLE001  shown by `close`
                self.failure = error

    def take(self, association: Association) -> None:
        """Read one N-ACTION."""
        message = association.receive(time.monotonic() + 10)
        assert message is not None
        raw = association.read_data(message.context_id, 4 << 20)
        self.requests.append((message.command, read_dataset(BytesIO(raw), self._syntax == IMPLICIT, True)))

    def respond(self, association: Association, status: int = 0) -> None:
        """Answer the last N-ACTION."""
        command, _ = self.requests[-1]
        elements: dict[int, int | str] = {
            commands.AFFECTED_SOP_CLASS_UID: CLASS,
            commands.COMMAND_FIELD: commands.N_ACTION_RSP,
            commands.MESSAGE_ID_BEING_RESPONDED_TO: command.number(commands.MESSAGE_ID) or 0,
            commands.COMMAND_DATA_SET_TYPE: commands.NO_DATA_SET,
            commands.STATUS: status,
            commands.AFFECTED_SOP_INSTANCE_UID: INSTANCE,
            commands.ACTION_TYPE_ID: 1,
        }
        association.send(1, commands.encode(elements))

    def send_report(self, association: Association, data: bytes, *, event_type: int = 1) -> None:
        """Report, without waiting for the answer."""
        association.send(1, event(event_type=event_type), data)

    def read_answer(self, association: Association) -> None:
        """The answer to a report."""
        self.answers.append(answer(association))

    def close(self) -> None:
        """Wait for the end of the script."""
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure


class Asking:
    """What becomes of a request."""

    def __init__(self, archive: Archive, requests: list[CommitmentRequest], **more: Any) -> None:
        self.answers: list[CommitmentAnswer] = []
        self.events: list[Event] = []
        peers = Peers("ROUTER", self.events.append)
        arguments: dict[str, Any] = {
            "on_answer": self.answers.append,
            "answered": lambda: len(self.answers) >= len(requests),
            "cancelled": threading.Event(),
        }
        try:
            peers.commit(archive.node, requests, **arguments | more)
        finally:
            peers.close()
            archive.close()


def requests(*sizes: int) -> list[CommitmentRequest]:
    return [
        CommitmentRequest(
            transaction_uid=f"2.25.{number}",
            references=tuple(Reference(CT, f"2.25.{number}.{index}") for index in range(size)),
        )
        for number, size in enumerate(sizes, start=100)
    ]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_request_and_its_answer_on_the_same_association(syntax: str) -> None:
    def script(archive: Archive, association: Association) -> None:
        archive.take(association)
        archive.respond(association)
        implicit = syntax == IMPLICIT
        archive.send_report(association, report("2.25.100", ["2.25.100.0"], {"2.25.100.1": 0x0112}, implicit=implicit))
        archive.read_answer(association)

    archive = Archive(script, syntax=syntax)
    asking = Asking(archive, requests(2))
    ((command, information),) = archive.requests
    assert {element: command[element] for element in command if element != commands.MESSAGE_ID} == {
        commands.REQUESTED_SOP_CLASS_UID: CLASS,
        commands.COMMAND_FIELD: commands.N_ACTION_RQ,
        commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
        commands.REQUESTED_SOP_INSTANCE_UID: INSTANCE,
        commands.ACTION_TYPE_ID: 1,
    }
    assert information.TransactionUID == "2.25.100"
    asked = [(one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID) for one in information.ReferencedSOPSequence]
    assert asked == [(CT, "2.25.100.0"), (CT, "2.25.100.1")]
    assert len(information) == 2, "nothing else is sent"
    (said,) = asking.answers
    assert (said.transaction_uid, said.calling_ae_title) == ("2.25.100", "")
    assert (said.committed, said.failed) == (frozenset({"2.25.100.0"}), {"2.25.100.1": 0x0112})
    (answered,) = archive.answers
    assert (answered.field, answered.status) == (commands.N_EVENT_REPORT_RSP, 0)
    assert answered.number(commands.MESSAGE_ID_BEING_RESPONDED_TO) == 9
    assert answered.number(commands.EVENT_TYPE_ID) == 1
    assert archive.released
    assert [one.result for one in asking.events if isinstance(one, AssociationEnded)] == ["accepted"]
    assert archive.proposed is not None
    assert [one.abstract_syntax for one in archive.proposed.contexts] == [CLASS]
    assert archive.proposed.roles == (), "as its SCU the requestor has the default role"


def test_several_transactions_with_a_report_in_between() -> None:
    def script(archive: Archive, association: Association) -> None:
        for number in range(3):
            archive.take(association)
            if number == 1:  # the first is answered while the second is under way
                archive.send_report(association, report("2.25.100", ["2.25.100.0"], implicit=False))
                archive.read_answer(association)
            archive.respond(association)

    archive = Archive(script)
    asking = Asking(archive, requests(1, 1, 1), answered=lambda: True)
    assert [information.TransactionUID for _, information in archive.requests] == ["2.25.100", "2.25.101", "2.25.102"]
    assert len({command.number(commands.MESSAGE_ID) for command, _ in archive.requests}) == 3
    assert [one.transaction_uid for one in asking.answers] == ["2.25.100"]
    assert archive.released


@pytest.mark.parametrize("status", [0x0110, 0x0112, 0x0118, 0x0123, 0x0124, 0x0211, 0x0213, 0xC001])
def test_a_refusal_is_told_with_its_status_and_ends_the_association_in_order(status: int) -> None:
    def script(archive: Archive, association: Association) -> None:
        archive.take(association)
        archive.respond(association, status)

    archive = Archive(script)
    with pytest.raises(CommitmentRefused, match=f"vault .* refused .* status {status:04X}") as caught:
        Asking(archive, requests(1, 1))
    assert caught.value.status == status
    assert len(archive.requests) == 1, "what follows a refusal is not asked"
    assert archive.released


def test_a_warning_is_no_refusal() -> None:
    def script(archive: Archive, association: Association) -> None:
        archive.take(association)
        archive.respond(association, 0x0107)

    Asking(Archive(script), requests(1), answered=lambda: True)


def test_a_context_that_is_refused() -> None:
    archive = Archive(lambda archive, association: None, accept=False)
    with pytest.raises(ContextRefused, match="accepts no storage commitment requests"):
        Asking(archive, requests(1))
    assert archive.released


def test_silence_ends_after_its_time() -> None:
    archive = Archive(lambda archive, association: archive.take(association))
    archive.node = Node(
        name="vault", ae_title="V", host="127.0.0.1", port=archive.node.port, find=FindSettings(inactivity=0.5)
    )
    with pytest.raises(DeadlineExceeded, match="did not answer a storage commitment request"):
        Asking(archive, requests(1))


@pytest.mark.parametrize("end", ["abort", "close", "nonsense"])
def test_what_happens_after_all_were_taken_makes_them_not_less_taken(end: str) -> None:
    def script(archive: Archive, association: Association) -> None:
        archive.take(association)
        archive.respond(association)
        if end == "nonsense":
            archive.respond(association)  # answers what nobody asked
        else:
            getattr(association, end)()

    Asking(Archive(script), requests(1))


def test_an_answer_that_cannot_be_noted_is_asked_for_again() -> None:
    def script(archive: Archive, association: Association) -> None:
        archive.take(association)
        archive.respond(association)
        archive.send_report(association, report("2.25.100", ["2.25.100.0"], implicit=False))
        archive.read_answer(association)
        done.set()

    def refuse(said: CommitmentAnswer) -> None:
        raise LedgerError

    done = threading.Event()
    archive = Archive(script)
    Asking(archive, requests(1), on_answer=refuse, answered=done.is_set)
    assert archive.answers[0].status == 0x0213


def test_five_thousand_instances_are_one_transaction_more_are_two() -> None:
    uids = iter(f"2.25.{number}" for number in range(9))
    references = [Reference(CT, f"2.25.7.{number}") for number in range(MAXIMUM_REFERENCES + 1)]
    first, second = transactions(references, lambda: next(uids))
    assert (len(first.references), len(second.references)) == (MAXIMUM_REFERENCES, 1)
    assert {first.transaction_uid, second.transaction_uid} == {"2.25.0", "2.25.1"}
    assert sorted(first.references + second.references) == sorted(references)
    assert transactions([], lambda: "") == []
    largest = CommitmentRequest(
        transaction_uid="2.25." + "1" * 39,
        references=tuple(Reference("1" * 64, "2" * 64) for _ in range(MAXIMUM_REFERENCES)),
    )
    assert 2 * len(commitment_data_set(largest, implicit=False)) < MAXIMUM_REPORT, "its report fits, twice"


# --- An archive reports on an association of its own -----------------------------------------------------------------


class Reports:
    """A Store SCP that takes reports, and an archive that comes to it."""

    def __init__(self, root: Path, label: str = "vault") -> None:
        self.answers: list[CommitmentAnswer] = []
        self.server = Server(root, policy=lambda *who: Accepted(label), on_answer=self.take)
        self.fault: Exception | None = None

    def take(self, said: CommitmentAnswer) -> None:
        if self.fault is not None:
            raise self.fault
        self.answers.append(said)

    def come(
        self, roles: tuple[RoleSelection, ...] = AS_SCP, syntaxes: tuple[str, ...] = (EXPLICIT, IMPLICIT)
    ) -> Association:
        contexts = (ProposedContext(1, CLASS, syntaxes), ProposedContext(3, "1.2.840.10008.1.1", (IMPLICIT,)))
        request = AssociateRequest("ROUTER", "VAULT", contexts, 16384, roles=roles)
        return Association.request("127.0.0.1", self.server.port, request, peer="The server", limits=PATIENT)

    def noted(self) -> list[str]:
        return [one.result for one in self.server.events_of(CommitmentNoted)]


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[Reports]:
    taker = Reports(tmp_path)
    with taker.server:
        yield taker


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_report_on_an_association_of_the_archive_with_reversed_roles(reports: Reports, syntax: str) -> None:
    association = reports.come(syntaxes=(syntax,))
    assert association.roles == {CLASS: RoleSelection(CLASS, scu=False, scp=True)}
    data = report("2.25.5", ["2.25.6", "2.25.7"], {"2.25.8": 0x0122, "2.25.9": 0x0213}, implicit=syntax == IMPLICIT)
    association.send(1, event(77, event_type=2), data)
    response = answer(association)
    assert (response.field, response.status) == (commands.N_EVENT_REPORT_RSP, 0)
    assert response.number(commands.MESSAGE_ID_BEING_RESPONDED_TO) == 77
    assert response.text(commands.AFFECTED_SOP_CLASS_UID) == CLASS
    assert response.text(commands.AFFECTED_SOP_INSTANCE_UID) == INSTANCE
    assert response.number(commands.EVENT_TYPE_ID) == 2
    (said,) = reports.answers
    assert said == CommitmentAnswer(
        transaction_uid="2.25.5",
        calling_ae_title="VAULT",
        committed=frozenset({"2.25.6", "2.25.7"}),
        failed={"2.25.8": 0x0122, "2.25.9": 0x0213},
    )
    assert reports.noted() == [], "what it means is for the engine to say"
    association.release(5.0)


def test_the_role_selection_is_answered_as_it_stands_in_the_standard(reports: Reports) -> None:
    """PS3.7 section D.3.3.4, by hand: item 54H, length of the UID, the UID, SCU role, SCP role."""
    uid = CLASS.encode()
    role = b"\x54\x00" + (len(uid) + 4).to_bytes(2, "big") + len(uid).to_bytes(2, "big") + uid + b"\x00\x01"
    request = AssociateRequest("ROUTER", "VAULT", (ProposedContext(1, CLASS, (IMPLICIT,)),), 16384, roles=AS_SCP)
    sent = encode_associate_request(request)
    assert role in sent
    with socket.create_connection(("127.0.0.1", reports.server.port), 10) as connection:
        connection.sendall(sent)
        assert role in connection.recv(65536)


@pytest.mark.parametrize(
    "roles",
    [(), (RoleSelection(CLASS, scu=True, scp=False),), (RoleSelection(CLASS, scu=False, scp=False),)],
    ids=["default", "as SCU", "as nothing"],
)
def test_who_would_have_this_router_commit_itself_is_refused(
    reports: Reports, roles: tuple[RoleSelection, ...]
) -> None:
    association = reports.come(roles)
    assert association.refused == {1: 3}
    assert echo(association) == 0
    association.release(5.0)


def test_a_requestor_that_would_be_both_is_made_the_scp_only(reports: Reports) -> None:
    association = reports.come((RoleSelection(CLASS, scu=True, scp=True),))
    assert association.roles == {CLASS: RoleSelection(CLASS, scu=False, scp=True)}
    action = commands.encode(
        {
            commands.REQUESTED_SOP_CLASS_UID: CLASS,
            commands.COMMAND_FIELD: commands.N_ACTION_RQ,
            commands.MESSAGE_ID: 3,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
            commands.REQUESTED_SOP_INSTANCE_UID: INSTANCE,
            commands.ACTION_TYPE_ID: 1,
        }
    )
    association.send(1, action, data_set(False, TransactionUID="2.25.1"))
    assert answer(association).status == 0x0211
    association.release(5.0)


def test_a_stranger_may_not_report(tmp_path: Path) -> None:
    strange = Reports(tmp_path, label="other")
    with strange.server:
        association = strange.come()
        assert association.refused == {1: 3}
        association.release(5.0)


def test_without_anybody_to_take_reports_there_are_none(tmp_path: Path) -> None:
    with Server(tmp_path, policy=lambda *who: Accepted("vault")) as server:
        request = AssociateRequest("R", "VAULT", (ProposedContext(1, CLASS, (IMPLICIT,)),), 16384, roles=AS_SCP)
        association = Association.request("127.0.0.1", server.port, request, peer="The server", limits=PATIENT)
        assert association.refused == {1: 3}
        association.release(5.0)


GOOD = report("2.25.5", ["2.25.6"], implicit=False)
MALFORMED: list[tuple[str, bytes, bytes | None, int]] = [
    ("no data set", event(data=False), None, 0x0115),
    ("empty data set", event(), b"", 0x0115),
    ("no data set at all", event(), b"no data set at all", 0x0110),
    ("cut off", event(), GOOD[:-5], 0x0110),
    ("no transaction", event(), data_set(False, ReferencedSOPSequence=[item("2.25.6")]), 0x0115),
    ("transaction that is no UID", event(), GOOD.replace(b"2.25.5", b"2.25.x"), 0x0115),
    ("unknown event type", event(event_type=3), GOOD, 0x0113),
    ("another instance", event(instance="1.2.840.10008.1.20.1.2"), GOOD, 0x0112),
]


@pytest.mark.parametrize(("command", "data", "status"), [row[1:] for row in MALFORMED], ids=[r[0] for r in MALFORMED])
def test_a_malformed_report_is_refused_and_the_association_goes_on(
    reports: Reports, command: bytes, data: bytes | None, status: int
) -> None:
    association = reports.come()
    association.send(1, command, data)
    response = answer(association)
    assert (response.field, response.status) == (commands.N_EVENT_REPORT_RSP, status)
    assert reports.answers == []
    association.send(1, event(), GOOD)
    assert answer(association).status == 0
    assert [said.transaction_uid for said in reports.answers] == ["2.25.5"]
    association.release(5.0)
    wait_for(lambda: reports.noted() == ["not_taken"], "the refusal is counted")


def test_a_report_without_end_ends_the_association(reports: Reports) -> None:
    association = reports.come()
    with contextlib.suppress(WireError):
        association.send(1, event(), bytes(MAXIMUM_REPORT + 2))
    with pytest.raises(WireError):
        association.receive(time.monotonic() + 10)
    reports.server.wait_until_idle()
    assert reports.answers == []


def test_a_report_nested_without_end_is_refused(reports: Reports) -> None:
    """Each level is a sequence with an item, both of undefined length."""
    opening = b"\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    association = reports.come()
    association.send(1, event(), opening * 20_000)
    assert answer(association).status == 0x0110
    assert echo(association) == 0
    association.release(5.0)


def test_a_report_that_nobody_can_take_now_may_come_again(reports: Reports) -> None:
    association = reports.come()
    reports.fault = LedgerError()
    association.send(1, event(), GOOD)
    assert answer(association).status == 0x0213
    reports.fault = None
    association.send(1, event(), GOOD)
    assert answer(association).status == 0
    association.release(5.0)


def test_no_image_is_stored_by_way_of_the_context_for_reports(reports: Reports) -> None:
    association = reports.come()
    association.send(1, store_command("2.25.6", CLASS), GOOD)
    assert answer(association).status == 0x0122
    association.release(5.0)
    assert reports.server.files() == []


UID = st.integers(1, 10**30).map(lambda number: f"2.25.{number}")


@given(
    committed=st.lists(UID, max_size=5, unique=True),
    failed=st.dictionaries(UID, st.integers(1, 0xFFFF), max_size=5),
    implicit=st.booleans(),
)
def test_what_pydicom_writes_is_read_and_a_failure_outweighs(
    committed: list[str], failed: dict[str, int], implicit: bool
) -> None:
    raw = report("2.25.5", committed, failed, implicit=implicit)
    said = report_of(decode(raw, IMPLICIT if implicit else EXPLICIT), "VAULT")
    assert said is not None
    assert said.failed == failed
    assert said.committed == set(committed) - failed.keys()


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_report_or_none(raw: bytes) -> None:
    with contextlib.suppress(WireError):
        report_of(decode(raw, EXPLICIT), "VAULT")


def test_a_receiver_process_hands_reports_to_the_engine_and_rejects_strangers(tmp_path: Path) -> None:
    answers: list[CommitmentAnswer] = []
    receivers = Receivers(
        ReceiverSettings(
            ae_title="ROUTER",
            server=ServerSettings(host="127.0.0.1", port=0),
            store=str(tmp_path / "store"),
            durability="rename",
            minimum_free=0,
            callers={"VAULT": Admission(node="vault")},
        ),
        1,
        on_receipts=lambda receipts: None,
        asked=lambda title, study: True,
        on_answers=answers.extend,
        observer=lambda event: None,
        on_loss=lambda: None,
        trouble=lambda what, error: None,
    )
    receivers.start()
    try:
        contexts = (ProposedContext(1, CLASS, (EXPLICIT,)),)
        stranger = AssociateRequest("ROUTER", "STRANGER", contexts, 16384, roles=AS_SCP)
        with pytest.raises(AssociationRejected):
            Association.request("127.0.0.1", receivers.port, stranger, peer="The router", limits=PATIENT)
        request = AssociateRequest("ROUTER", "VAULT", contexts, 16384, roles=AS_SCP)
        association = Association.request("127.0.0.1", receivers.port, request, peer="The router", limits=PATIENT)
        many = [f"2.25.9.{number}" for number in range(3000)]
        for number in range(100):  # more than may wait at once
            association.send(1, event(), report(f"2.25.{number}", many if number == 0 else [], implicit=False))
            assert answer(association).status == 0
        association.release(5.0)
        wait_for(lambda: len(answers) == 100, "all reports")
        assert [one.transaction_uid for one in answers] == [f"2.25.{number}" for number in range(100)]
        assert answers[0].committed == frozenset(many)
        assert {one.calling_ae_title for one in answers} == {"VAULT"}
    finally:
        receivers.stop(5.0)
