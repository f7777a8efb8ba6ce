"""The Store SCP against real senders, refusals, limits, and an orderly end."""

import socket
import threading
import uuid

import pytest

from router.dimse import command as commands
from router.dimse.store_scp import Accepted
from router.domain.events import AssociationEnded, AssociationsActive, InstanceStored, StoreRefusal
from router.errors import AssociationRejected, ConfigurationError, LedgerError, StoreRefused, WireError
from tests.support.dcmtk import Address, echoscu, store_as_is, storescu
from tests.support.part10 import dataset_bytes
from tests.support.process import wait_for
from tests.wire.scu import (
    CT,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Server,
    associate,
    echo,
    reject_all,
    store,
    store_command,
)

DEFLATED, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path / "store") as running:
        yield running


def instance(study) -> tuple[str, bytes]:
    path, uid = next(iter(study.sop_instance_uids.items()))
    return uid, dataset_bytes(path)


# real senders -------------------------------------------------------------------------------------------------------


def test_echoscu(server):
    assert echoscu(Address("ROUTER", server.port)).returncode == 0


def test_storescu_stores_a_study_byte_for_byte(server, study):
    made = study(series=2, instances=5)
    storescu(Address("ROUTER", server.port), made.files)
    assert {receipt.sop_instance_uid for receipt in server.receipts} == made.instances
    for path, uid in made.sop_instance_uids.items():
        (stored,) = server.store.root.rglob(f"{uid}.dcm")
        assert stored.read_bytes().endswith(dataset_bytes(path))
    assert len(server.files()) == 10
    assert all(receipt.calling_ae_title == "STORESCU" for receipt in server.receipts)
    assert [event.status for event in server.events_of(InstanceStored)] == [0] * 10


def test_dcmsend_stores_every_encoding(server, sample_paths):
    store_as_is(Address("ROUTER", server.port), sample_paths)
    assert len(server.receipts) == len(sample_paths)


def test_every_sample_is_kept_byte_for_byte(server, samples):
    """Every SOP class and transfer syntax of pydicom's files, through our own association, which changes no byte."""
    for sample in samples:
        association = associate(server.port, [(sample.sop_class_uid, (sample.transfer_syntax_uid,))])
        data = dataset_bytes(sample.path)
        response = store(association, sample.sop_instance_uid, data, sample.sop_class_uid)
        assert (response.status, sample.path.name) == (0, sample.path.name)
        association.release(5.0)
        receipt = server.receipts[-1]
        stored = (server.store.root / receipt.path).read_bytes()
        assert stored.endswith(data)
        assert receipt.size == len(data)
        assert (receipt.study_instance_uid, receipt.series_instance_uid) == (
            sample.study_instance_uid,
            sample.series_instance_uid,
        )
        assert receipt.transfer_syntax_uid == sample.transfer_syntax_uid


# contexts -----------------------------------------------------------------------------------------------------------


def test_storage_and_unknown_classes_are_taken_other_services_are_not(server):
    offered = [
        (CT, (JPEG, EXPLICIT)),
        (CT, (DEFLATED, IMPLICIT, EXPLICIT)),
        (CT, (DEFLATED,)),
        ("1.3.12.2.1107.5.9.1", (EXPLICIT,)),  # a private class
        ("1.2.840.10008.5.1.4.1.1.3", (IMPLICIT,)),  # a retired one
        ("1.2.840.10008.5.1.4.1.1.777.9", (IMPLICIT,)),  # one of the future
        ("1.2.840.10008.5.1.4.38.1", (IMPLICIT,)),  # Hanging Protocol Storage
        (VERIFICATION, (DEFLATED, EXPLICIT)),
        ("1.2.840.10008.5.1.4.1.2.2.1", (IMPLICIT,)),  # Study Root FIND
        ("1.2.840.10008.1.20.1", (IMPLICIT,)),  # Storage Commitment
        ("1.2.840.10008.5.1.4.31", (IMPLICIT,)),  # Modality Worklist
        ("1.2.840.10008.3.1.2.3.3", (IMPLICIT,)),  # MPPS
        ("1.2.840.10008.5.1.1.9", (IMPLICIT,)),  # Print
        ("not a uid", (IMPLICIT,)),
    ]
    association = associate(server.port, offered)
    accepted = {number: context.transfer_syntax for number, context in association.contexts.items()}
    assert accepted == {1: JPEG, 3: IMPLICIT, 7: EXPLICIT, 9: IMPLICIT, 11: IMPLICIT, 13: IMPLICIT, 15: EXPLICIT}
    association.release(5.0)


def test_a_rejected_caller_sees_why(tmp_path):
    with Server(tmp_path, policy=reject_all) as server:
        with pytest.raises(AssociationRejected, match="rejected this router's AE title SENDER") as caught:
            associate(server.port)
        assert (caught.value.result, caught.value.source, caught.value.reason) == (1, 1, 3)
        done = echoscu(Address("ROUTER", server.port), check=False)
        assert "Calling AE Title Not Recognized" in done.stdout + (done.stderr or "")
        server.wait_until_idle()
        assert {event.result for event in server.events_of(AssociationEnded)} == {"rejected_permanent"}
        assert server.events_of(AssociationsActive) == []
        assert {event.reason for event in server.events_of(StoreRefusal)} == {"association-rejected"}


def test_one_association_too_many_is_rejected_for_the_moment(tmp_path):
    with Server(tmp_path, maximum_associations=2) as server:
        kept = [associate(server.port), associate(server.port)]
        with pytest.raises(AssociationRejected) as caught:
            associate(server.port)
        assert (caught.value.result, caught.value.source, caught.value.reason) == (2, 3, 2)
        kept.pop().release(5.0)
        wait_for(lambda: len(server._established) == 1, "a free association")
        kept.append(associate(server.port))
        for association in kept:
            assert echo(association) == 0
            association.release(5.0)


def test_the_policy_is_asked_with_titles_and_address_and_labels_the_events(tmp_path, study):
    asked = []

    def policy(*arguments: str) -> Accepted:
        asked.append(arguments)
        return Accepted("archive")

    with Server(tmp_path / "store", policy=policy) as server:
        storescu(Address("ROUTER", server.port), study().files, calling="PACS1")
        server.wait_until_idle()
    assert asked == [("PACS1", "ROUTER", "127.0.0.1")]
    assert {event.calling for event in server.events_of(InstanceStored)} == {"archive"}
    assert [(event.node, event.result) for event in server.events_of(AssociationEnded)] == [("archive", "accepted")]
    assert [event.change for event in server.events_of(AssociationsActive)] == [1, -1]


# statuses -----------------------------------------------------------------------------------------------------------


def test_refusals_have_their_status_and_the_association_goes_on(server, study):
    uid, data = instance(study())
    association = associate(server.port)
    other = f"2.25.{uuid.uuid4().int}"
    expected = {
        "another UID than the command's": (0xA900, store(association, other, data)),
        "another class than the context's": (0x0122, store(association, uid, data, "1.2.840.10008.5.1.4.1.1.4")),
        "a UID with ..": (0x0117, store(association, "../../x", data)),
        "a UID of 200 characters": (0x0117, store(association, "1" * 200, data)),
        "no UID": (0x0117, store(association, "", data)),
        "no data set": (0xC000, store(association, uid, None)),
        "an empty data set": (0xC001, store(association, uid, b"")),
        "rubbish": (0xC001, store(association, uid, b"\x08\x00\x05\x00rubbish" * 5000)),
        "the instance": (0x0000, store(association, uid, data)),
        "the instance again": (0x0000, store(association, uid, data)),
        "another version of it": (0xB000, store(association, uid, data[:-2] + b"\x01\x02")),
    }
    assert {case: hex(response.status) for case, (_, response) in expected.items()} == {
        case: hex(status) for case, (status, _) in expected.items()
    }
    for _, response in expected.values():
        comment = response.text(commands.ERROR_COMMENT)
        assert bool(comment) == bool(response.status)
        assert len(comment) <= 64
        assert uid not in comment
    association.release(5.0)
    assert len(server.files()) == 1
    assert len(server.receipts) == 2
    assert {event.reason for event in server.events_of(StoreRefusal)} == {
        "mismatch",
        "class",
        "invalid-uid",
        "empty",
        "unparseable",
        "conflict",
    }


class FullSink:
    """Refuses in the middle of the data set."""

    def __init__(self) -> None:
        self.discarded = 0

    def begin(self, **instance: str) -> "FullSink":
        return self

    def write(self, data: memoryview) -> None:
        raise StoreRefused(0xA700, "out-of-space", "Out of space")

    def commit(self) -> None:
        raise AssertionError

    def discard(self) -> None:
        self.discarded += 1


def test_a_store_that_runs_full_drains_the_instance_and_takes_the_next(tmp_path):
    sink = FullSink()
    with Server(tmp_path, sink=sink) as server:
        association = associate(server.port)
        for _ in range(3):
            response = store(association, "1.2.3", bytes(3_000_000))
            assert response.status == 0xA700
            assert response.text(commands.ERROR_COMMENT) == "Out of space"
        assert echo(association) == 0
        association.release(5.0)
    assert sink.discarded == 3


def test_no_success_without_an_index_entry(tmp_path, study):
    def fail(receipt: object) -> None:
        raise LedgerError

    uid, data = instance(study())
    with Server(tmp_path / "store", on_receipt=fail) as server:
        association = associate(server.port)
        assert store(association, uid, data).status == 0x0110
        association.release(5.0)


def test_other_services_are_answered_as_unrecognized(server):
    association = associate(server.port)
    for field in (commands.C_FIND_RQ, commands.C_MOVE_RQ, 0x0130):
        elements: dict[int, int | str] = {
            commands.COMMAND_FIELD: field,
            commands.MESSAGE_ID: 5,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
        }
        association.send(1, commands.encode(elements), b"\0" * 100)
        message = association.receive(1e12)
        assert message is not None
        assert message.command.field == field | 0x8000
        assert message.command.status == 0x0211
    association.release(5.0)


def test_the_same_instance_from_eight_associations_at_once(server, study):
    uid, data = instance(study(rows=256))
    associations = [associate(server.port) for _ in range(8)]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda a=association: statuses.append(store(a, uid, data).status))
        for association in associations
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for association in associations:
        association.release(5.0)
    assert statuses == [0] * 8
    (only,) = server.files()
    assert only.read_bytes().endswith(data)


# ending -------------------------------------------------------------------------------------------------------------


class SlowSink:
    """Holds the commit until it is let go."""

    def __init__(self, store) -> None:
        self.store = store
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def begin(self, **instance: str) -> "SlowSink":
        self.writer = self.store.begin(**instance)
        return self

    def write(self, data: memoryview) -> None:
        self.writer.write(data)

    def commit(self):
        self.reached.set()
        assert self.go_on.wait(20)
        return self.writer.commit()

    def discard(self) -> None:
        self.writer.discard()


def test_stopping_lets_stores_under_way_end_and_aborts_idle_associations(tmp_path, study):
    uid, data = instance(study())
    server = Server(tmp_path / "store")
    sink = server._sink = SlowSink(server.store)
    server.start()
    busy, idle = associate(server.port), associate(server.port)
    busy.send(1, store_command(uid), data)
    assert sink.reached.wait(10)
    stopping = threading.Thread(target=server.stop, args=(20.0,))
    stopping.start()
    with pytest.raises(WireError):
        idle.receive(1e12)
    with pytest.raises(WireError):
        associate(server.port)
    sink.go_on.set()
    message = busy.receive(1e12)
    assert message is not None
    assert message.command.status == 0
    busy.close()
    stopping.join(20)
    assert not stopping.is_alive()
    assert [receipt.sop_instance_uid for receipt in server.receipts] == [uid]
    server.store.close()


def test_stopping_does_not_wait_for_ever(tmp_path):
    server = Server(tmp_path / "store", pdu=60.0, stall=60.0)
    server.start()
    association = associate(server.port)
    association._send([b"\x04\x00\x00\x00\x10\x00"])  # announces a PDU that never comes
    wait_for(lambda: len(server._established) == 1, "the association")
    server.stop(0.3)
    association.close()
    assert server._established == {}
    assert server.files() == []
    server.store.close()


def test_a_sender_that_dies_in_the_middle_leaves_nothing(server, study):
    uid, data = instance(study())
    association = associate(server.port)
    association._send([b"".join(bytes(part) for part in _message(store_command(uid), data))[:-100]])
    wait_for(lambda: server.files(), "the temporary file")
    association.close()
    server.wait_until_idle()
    assert server.files() == []
    assert server.receipts == []


def _message(command: bytes, data: bytes):
    from router.dimse.pdu import fragments

    return [*fragments(1, True, command, 16384), *fragments(1, False, data, 16384)]


def test_a_port_in_use_is_a_clear_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = Server(tmp_path, port=other.getsockname()[1])
        with pytest.raises(ConfigurationError, match=r"another program uses the port; change router\.listen"):
            server.start()
        server.store.close()
    server = Server(tmp_path, host="192.0.2.1")
    with pytest.raises(ConfigurationError, match=r"does not have that address; change router\.listen"):
        server.start()
    server.store.close()
