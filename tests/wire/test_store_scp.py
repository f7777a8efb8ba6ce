"""The Store SCP against real senders, refusals, limits, and an orderly end."""

import os
import socket
import ssl
import threading
import uuid
import warnings
from collections.abc import Collection
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts

from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.store_scp import Accepted, _printable
from router.domain.events import AssociationEnded, AssociationsActive, InstanceStored, StoreRefusal
from router.errors import AssociationRejected, ConfigurationError, LedgerError, StoreRefused, WireError
from tests.support.dcmtk import Address, echoscu, store_as_is, storescu
from tests.support.part10 import dataset_bytes, read_part10
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

CUT_OFF = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
BIG_ENDIAN = "1.2.840.10008.1.2.2"
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


SHIPPED = sorted(
    path
    for path in (Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and path.read_bytes()[128:132] == b"DICM"
)
"""All of pydicom's Part 10 files: the broken, the odd and the several encodings of one instance included."""


def expected_of(path: Path) -> tuple[str, str, str, int]:
    """SOP class, SOP instance and transfer syntax to send a file under, and the status it must be answered with.

    By pydicom's word on what is in the data set. What lacks these UIDs is sent under those of its file meta.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(path, stop_before_pixels=True, force=True)
        meta = dataset.file_meta
        sop_class = str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or CT)
        instance = str(dataset.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "1.2.3")
        whole = all(dataset.get(word) for word in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
    status = 0xC001 if path.name in CUT_OFF else 0 if whole else 0xC002
    return sop_class, instance, str(meta.get("TransferSyntaxUID") or IMPLICIT), status


def test_every_file_of_pydicom_is_kept_byte_for_byte_or_refused_for_what_it_lacks(server):
    kept: set[tuple[str, str]] = set()
    for path in SHIPPED:
        sop_class, uid, syntax, status = expected_of(path)
        association = associate(server.port, [(sop_class, (syntax,))])
        if not association.contexts:  # deflated, and directories of media, which are no instances
            assert syntax == DEFLATED or sop_class == "1.2.840.10008.1.3.10", path.name
            association.release(5.0)
            continue
        data = dataset_bytes(path)
        response = store(association, uid, data, sop_class)
        association.release(5.0)
        assert (path.name, hex(response.status)) == (path.name, hex(status))
        if status == 0:
            (stored,) = server.files()
            assert stored.read_bytes().endswith(data), path.name
            assert server.receipts[-1].size == len(data), path.name
            assert read_part10(stored).dataset == data, path.name
            stored.unlink()  # the next file may be another encoding of the same instance
            kept.add((sop_class, syntax))
        nothing_left(server)
    assert len({syntax for _, syntax in kept}) >= 10
    assert len({sop_class for sop_class, _ in kept}) >= 12
    assert len(kept) >= 30


PRIVATE_CLASSES = [
    "1.3.12.2.1107.5.9.1",
    "1.2.840.113619.4.2",
    "1.2.826.0.1.3680043.2.93.1.0.1",
    "1.3.46.670589.2.3.1.1",
]
PRIVATE_SYNTAXES = ["1.2.840.113619.5.2", "1.2.826.0.1.3680043.2.494.1.1", "1.3.46.670589.33.1.4.1"]
NOT_STREAMED = {DEFLATED, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
"""The whole data set is deflated."""


def data_set(
    sop_class: str = CT,
    instance: str = "1.2.3.4",
    study: str = "1.2",
    series: str = "1.2.3",
    syntax: str = EXPLICIT,
    *,
    leave_out: Collection[str] = (),
) -> bytes:
    """A data set with an odd private element in front and odd pixels behind, as no writer in order would make it."""
    dataset = Dataset()
    for keyword, value in (
        ("SOPClassUID", sop_class),
        ("SOPInstanceUID", instance),
        ("StudyInstanceUID", study),
        ("SeriesInstanceUID", series),
    ):
        if keyword not in leave_out:
            dataset.add_new(tag_for_keyword(keyword), "UI", value)
    dataset.add_new(0x00090010, "LO", "PRIVATE")
    dataset.add_new(0x00091001, "UN", os.urandom(333) + b"\0")
    dataset.PatientName = "M\xfcller^J\xf6rg"
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.add_new(0x7FE00010, "OB", os.urandom(2000))
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = syntax == IMPLICIT, syntax != BIG_ENDIAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UIDs that are none are the point of some tests
        write_dataset(stream, dataset)
    return stream.getvalue()


def test_every_storage_class_and_transfer_syntax_private_ones_too_is_kept_byte_for_byte(server):
    syntaxes = [*(syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax not in NOT_STREAMED), *PRIVATE_SYNTAXES]
    classes = [
        *PRIVATE_CLASSES,
        *(str(context.abstract_syntax) for context in AllStoragePresentationContexts),
    ]
    pairs = [*((CT, syntax) for syntax in syntaxes), *((sop_class, EXPLICIT) for sop_class in classes)]
    for start in range(0, len(pairs), 128):
        some = pairs[start : start + 128]
        association = associate(server.port, [(sop_class, (syntax,)) for sop_class, syntax in some])
        assert len(association.contexts) == len(some), "all are accepted"
        for place, (sop_class, syntax) in enumerate(some):
            uid = f"1.2.3.{start + place}"
            data = data_set(sop_class, uid, syntax=syntax)
            assert store(association, uid, data, sop_class, 2 * place + 1).status == 0, (sop_class, syntax)
            (stored,) = server.store.root.rglob(f"{uid}.dcm")
            found = read_part10(stored)
            assert (found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid, found.dataset) == (
                sop_class,
                uid,
                syntax,
                data,
            )
        association.release(5.0)
    assert len(server.files()) == len(pairs) > 200


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
        first = server.events_of(StoreRefusal)[0]
        assert (first.calling_ae_title, first.called_ae_title, first.ip_address) == ("SENDER", "ROUTER", "127.0.0.1")


def test_a_title_in_the_log_is_printable_and_short():
    assert _printable("ÄRZTE\x1b[31m\n" + "X" * 20) == "?RZTE?[31m?XXXXX"


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

    def policy(*arguments: object) -> Accepted:
        asked.append(arguments)
        return Accepted("archive")

    with Server(tmp_path / "store", policy=policy) as server:
        storescu(Address("ROUTER", server.port), study().files, calling="PACS1")
        server.wait_until_idle()
    assert asked == [("PACS1", "ROUTER", "127.0.0.1", None)]
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


LONG = "1." * 99 + "11"
"""200 characters."""
HOSTILE_UIDS = [
    "..",
    "../../../tmp/x",
    "/etc/passwd",
    "1/2",
    "1.2.\0.3",
    "1.2\n3",
    "1" * 65,
    LONG,
    "1..2",
    ".1",
    "a.b",
    "*",
]
UID_PLACES = ["study", "series", "instance"]


def everything_below(directory: Path, store: Path) -> dict[Path, bytes]:
    """All files below a directory that are not the store's, with their content."""
    return {
        path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.is_relative_to(store)
    }


def test_uids_that_would_lead_elsewhere_are_refused_and_touch_nothing(tmp_path):
    """In the command and in the data set, at each place: the right status, and nothing in the store or beside it."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "x.dcm").write_bytes(b"untouched")
    root = tmp_path / "deep" / "down" / "store"
    before = everything_below(tmp_path, root)
    with Server(root) as server:
        association = associate(server.port)
        for uid in HOSTILE_UIDS:
            assert store(association, uid, data_set(instance=uid)).status == 0x0117, repr(uid)
            for place in UID_PLACES:
                response = store(association, "1.2.3.4", data_set(**{place: uid}))
                # What is longer than any UID is no data set; one that differs from the command's is a mismatch.
                allowed = {0xC001} if uid == LONG else {0xA900} if place == "instance" else {0xC003}
                assert response.status in allowed, (place, uid, hex(response.status))
                nothing_left(server)
        assert {path.name for path in root.iterdir()} == {".incoming", ".store"}
        assert server.receipts == []
        assert store(association, "1.2.3.4", data_set()).status == 0, "the association goes on"
        association.release(5.0)
        assert [str(path.relative_to(root)) for path in server.files()] == ["1.2/1.2.3/1.2.3.4.dcm"]
    assert everything_below(tmp_path, root) == before


def test_missing_and_differing_uids_have_their_status_and_leading_zeros_are_kept(server):
    association = associate(server.port)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert store(association, "1.2.3.4", data_set(leave_out={keyword})).status == 0xC002, keyword
    assert store(association, "1.2.3.5", data_set()).status == 0xA900
    assert store(association, "1.2.3.4", data_set("1.2.840.10008.5.1.4.1.1.4")).status == 0xA900
    nothing_left(server)
    assert store(association, "1.02.003", data_set(study="1.02", series="1.002", instance="1.02.003")).status == 0
    assert store(association, "1.2.3", data_set(study="1.2", series="1.2", instance="1.2.3")).status == 0
    association.release(5.0)
    names = {str(path.relative_to(server.store.root)) for path in server.files()}
    assert names == {"1.02/1.002/1.02.003.dcm", "1.2/1.2/1.2.3.dcm"}, "as they came, each its own"


def test_a_data_set_cut_off_anywhere_in_its_head_is_refused(server):
    data = data_set()
    end_of_head = data.index(b"1.2.3\0", data.index(b"\x20\x00\x0e\x00"))
    association = associate(server.port)
    for size in range(end_of_head):
        status = store(association, "1.2.3.4", data[:size]).status
        assert status in {0xC001, 0xC002}, (size, hex(status))
        assert not list(server.store.root.rglob("*.dcm"))
    association.release(5.0)
    nothing_left(server)
    assert server.receipts == []


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("missing", [1, 2, 1000, 1999, 2000])
def test_a_data_set_cut_off_behind_its_head_is_refused(server, syntax, missing):
    """Nothing half is a success: what is shorter than it says was cut off before it reached this side."""
    association = associate(server.port, [(CT, (syntax,))])
    status = store(association, "1.2.3.4", data_set(syntax=syntax)[:-missing]).status
    association.release(5.0)
    assert hex(status) == hex(0xC001)
    assert server.receipts == []
    nothing_left(server)


def nothing_left(server: Server) -> None:
    """No file of any kind; a temporary one may go only after the answer."""
    wait_for(lambda: server.files() == [], "an empty store")


def test_a_sender_that_dies_anywhere_in_a_data_set_leaves_nothing(server):
    data = data_set()
    for size in (0, 1, 100, len(data) - 1):
        association = associate(server.port)
        association._send([p_data_of(1, store_command("1.2.3.4"), command=True), p_data_of(1, data[:size])])
        association.close()
        server.wait_until_idle()
        assert server.files() == []
        assert {path.name for path in server.store.root.iterdir()} == {".incoming", ".store"}
    assert server.receipts == []


def p_data_of(context_id: int, content: bytes, *, command: bool = False) -> bytes:
    """One P-DATA-TF: a whole command set, or a part of a data set that is not the last."""
    return pdu.PDATA_HEADER.pack(4, len(content) + 6, len(content) + 2, context_id, 3 if command else 0) + content


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


def test_who_connected_before_the_stop_may_still_associate(tmp_path, monkeypatch):
    """A load balancer that has just chosen this one of several would not try another."""
    monkeypatch.setattr("router.dimse.store_scp._LAST_REQUESTS", 20.0)  # the request may be held up on a busy machine
    server = Server(tmp_path / "store")
    server.start()
    stopping = threading.Thread(target=server.stop, args=(20.0,))
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        wait_for(lambda: server._waiting, "the connection")
        stopping.start()
        wait_for(lambda: server._stopping, "the stop")
        request = pdu.AssociateRequest("ROUTER", "SENDER", (pdu.ProposedContext(1, CT, (EXPLICIT,)),), 16384)
        connection.sendall(pdu.encode_associate_request(request))
        assert connection.recv(1) == bytes([pdu.PduType.ASSOCIATE_AC])
        connection.sendall(pdu.encode_release_request())
        stopping.join(20)
    assert not stopping.is_alive()
    server.store.close()


def test_who_connected_before_the_stop_and_says_nothing_is_not_waited_for(tmp_path):
    server = Server(tmp_path / "store")
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as silent:
        wait_for(lambda: server._waiting, "the connection")
        server.stop(600.0)
        assert silent.recv(1) == b""
    server.store.close()


def stuck(directory):
    """A server with an association on which a PDU is announced that never comes."""
    server = Server(directory, pdu=60.0, stall=60.0)
    server.start()
    association = associate(server.port)
    association._send([b"\x04\x00\x00\x00\x10\x00"])
    wait_for(lambda: len(server._established) == 1, "the association")
    return server, association


def test_stopping_does_not_wait_for_ever(tmp_path):
    server, association = stuck(tmp_path / "store")
    server.stop(0.3)
    association.close()
    assert server._established == {}
    assert server.files() == []
    server.store.close()


def test_who_asks_again_may_leave_less_time(tmp_path):
    server, association = stuck(tmp_path / "store")
    stopping = threading.Thread(target=server.stop, args=(600.0,))
    stopping.start()
    wait_for(lambda: server._stopping, "the stop")
    server.stop(0.3)
    stopping.join(20)
    assert not stopping.is_alive()
    association.close()
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


def test_a_tls_handshake_at_the_port_without_is_refused_for_what_it_is(server):
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection, pytest.raises(ssl.SSLError):
        ssl.create_default_context().wrap_socket(connection, server_hostname="router")
    server.wait_until_idle()
    assert [event.reason for event in server.events_of(StoreRefusal)] == ["tls-unwanted"]
    with socket.create_connection(("127.0.0.1", server.port), 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.recv(64)[:1] == b"\x07", "A-ABORT"
    server.wait_until_idle()
    assert len(server.events_of(StoreRefusal)) == 1, "what is no TLS is no refusal of it"
