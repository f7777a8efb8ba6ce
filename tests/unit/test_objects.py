"""The object store: fidelity, durability, refusals, duplicates, recovery."""

import errno
import fcntl
import itertools
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from router.domain.part10 import IMPLEMENTATION_CLASS_UID
from router.errors import StoreError, StoreRefused
from router.objects import HEADER_LIMIT, ObjectStore

CLASS = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
STUDY, SERIES, INSTANCE = "1.2.3", "1.2.3.4", "1.2.3.4.5"


@pytest.fixture(params=["fsync", "rename"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    opened = ObjectStore(tmp_path / "store", durability=request.param)
    yield opened
    opened.close()


def encoded(study: str = STUDY, series: str = SERIES, instance: str = INSTANCE, **attributes: str) -> bytes:
    dataset = Dataset()
    dataset.add_new(0x00080016, "UI", attributes.pop("sop_class", CLASS))
    dataset.add_new(0x00080018, "UI", instance)
    dataset.add_new(0x00100010, "PN", attributes.pop("name", "Doe^Jane"))
    dataset.add_new(0x0020000D, "UI", study)
    dataset.add_new(0x0020000E, "UI", series)
    dataset.add_new(0x7FE00010, "OB", bytes(1000))
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, dataset)
    return stream.getvalue()


def put(store: ObjectStore, data: bytes, instance: str = INSTANCE, *, step: int = 100, calling: str = "SENDER"):
    writer = store.begin(
        sop_class_uid=CLASS, sop_instance_uid=instance, transfer_syntax_uid=EXPLICIT, calling_ae_title=calling
    )
    try:
        for start in range(0, len(data), step):
            writer.write(memoryview(data)[start : start + step])
        return writer.commit()
    finally:
        writer.discard()


def files(store: ObjectStore) -> list[str]:
    found = (str(path.relative_to(store.root)) for path in store.root.rglob("*") if path.is_file())
    return sorted(path for path in found if path != ".store")


@pytest.mark.parametrize("step", [1, 7, 100, 1 << 20])
def test_an_instance_is_kept_byte_for_byte_under_its_uids(store, step):
    data = encoded()
    receipt = put(store, data, step=step)
    assert files(store) == [f"{STUDY}/{SERIES}/{INSTANCE}.dcm"] == [receipt.path]
    path = store.root / receipt.path
    raw = path.read_bytes()
    assert raw[:132] == bytes(128) + b"DICM"
    assert raw.endswith(data)
    meta = dcmread(path).file_meta
    assert meta.MediaStorageSOPClassUID == CLASS
    assert meta.MediaStorageSOPInstanceUID == INSTANCE
    assert meta.TransferSyntaxUID == EXPLICIT
    assert meta.SourceApplicationEntityTitle == "SENDER"
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert (receipt.study_instance_uid, receipt.series_instance_uid, receipt.sop_instance_uid) == (
        STUDY,
        SERIES,
        INSTANCE,
    )
    assert receipt.size == len(data)
    assert receipt.calling_ae_title == "SENDER"


def test_nobody_else_can_read_it(store):
    receipt = put(store, encoded())
    path = store.root / receipt.path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_open_gives_the_data_set(store):
    data = encoded()
    descriptor, size = store.open(put(store, data))
    with os.fdopen(descriptor, "rb") as stream:
        assert stream.read() == data
    assert size == len(data)


def test_opening_what_is_gone_is_a_clear_error(store):
    receipt = put(store, encoded())
    (store.root / receipt.path).unlink()
    with pytest.raises(StoreError, match="is gone"):
        store.open(receipt)


def test_nothing_is_visible_under_a_final_name_before_commit(store):
    data = encoded()
    writer = store.begin(
        sop_class_uid=CLASS, sop_instance_uid=INSTANCE, transfer_syntax_uid=EXPLICIT, calling_ae_title="A"
    )
    writer.write(memoryview(data))
    assert [name.split("/")[0] for name in files(store)] == [".incoming"]
    writer.discard()
    writer.discard()
    assert files(store) == []


def refusal(store: ObjectStore, data: bytes, instance: str = INSTANCE) -> tuple[int, str]:
    with pytest.raises(StoreRefused) as caught:
        put(store, data, instance)
    assert files(store) == []
    return caught.value.status, caught.value.reason


def test_uids_that_differ_from_the_command_are_refused(store):
    assert refusal(store, encoded(instance="1.2.9")) == (0xA900, "mismatch")
    assert refusal(store, encoded(sop_class="1.2.840.10008.5.1.4.1.1.4")) == (0xA900, "mismatch")


def test_missing_uids_are_refused(store):
    assert refusal(store, encoded(study="")) == (0xC002, "missing-uid")
    assert refusal(store, encoded(series="")) == (0xC002, "missing-uid")
    assert refusal(store, b"") == (0xC001, "unparseable")


def test_a_data_set_that_is_cut_off_in_its_header_is_refused(store):
    assert refusal(store, encoded()[:90]) == (0xC001, "unparseable")


@pytest.mark.parametrize(
    "uid", ["..", "../../etc", "1/2", "1.2.\0.3", "1" * 65, "1..2", ".1", "a.b", "", "-1", "1.2 3", "1.2\n3"]
)
def test_what_is_no_uid_never_becomes_a_name(store, uid):
    with pytest.raises(StoreRefused) as caught:
        put(store, encoded(), uid)
    assert caught.value.status == 0xC003
    if uid:
        status, _ = refusal(store, encoded(study=uid))
        assert status == 0xC003
        assert refusal(store, encoded(series=uid))[0] == 0xC003


def test_leading_zeros_are_tolerated(store):
    assert put(store, encoded(study="1.02.3")).path.startswith("1.02.3/")


def test_a_header_that_does_not_end_is_refused_without_keeping_it_in_memory(store):
    start = b"\x09\x00\x10\x10UN\0\0" + (1 << 30).to_bytes(4, "little")
    writer = store.begin(
        sop_class_uid=CLASS, sop_instance_uid=INSTANCE, transfer_syntax_uid=EXPLICIT, calling_ae_title="A"
    )
    chunk = memoryview(bytes(65536))
    writer.write(memoryview(start))
    for _ in range(HEADER_LIMIT // len(chunk) - 1):
        writer.write(chunk)
    with pytest.raises(StoreRefused) as caught:
        writer.write(chunk)
    assert caught.value.status == 0xC001
    writer.discard()
    assert files(store) == []


def test_the_same_instance_again_is_a_success_whoever_sends_it(store):
    first = put(store, encoded())
    inode = (store.root / first.path).stat().st_ino
    second = put(store, encoded(), calling="OTHER")
    assert second.path == first.path
    assert (store.root / first.path).stat().st_ino == inode
    assert files(store) == [first.path]


def test_another_version_of_an_instance_is_refused_with_a_warning_and_the_first_kept(store):
    first = put(store, encoded())
    before = (store.root / first.path).read_bytes()
    with pytest.raises(StoreRefused) as caught:
        put(store, encoded(name="Roe^Jane"))
    assert (caught.value.status, caught.value.reason) == (0xB000, "conflict")
    assert (store.root / first.path).read_bytes() == before
    assert files(store) == [first.path]


def test_the_same_instance_from_eight_at_once_is_one_file_and_eight_successes(store):
    data = encoded()
    barrier = threading.Barrier(8)
    outcomes: list[object] = []

    def send() -> None:
        barrier.wait(10)
        try:
            outcomes.append(put(store, data).path)
        except StoreRefused as refused:
            outcomes.append(refused)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    path = f"{STUDY}/{SERIES}/{INSTANCE}.dcm"
    assert outcomes == [path] * 8
    assert files(store) == [path]
    assert (store.root / path).read_bytes().endswith(data)


def test_a_study_directory_that_is_a_symbolic_link_is_not_followed(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (store.root / STUDY).symlink_to(outside)
    with pytest.raises(StoreRefused) as caught:
        put(store, encoded())
    assert caught.value.status == 0x0110
    assert list(outside.iterdir()) == []


def test_a_final_name_that_is_a_symbolic_link_is_not_followed(store, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"untouched")
    directory = store.root / STUDY / SERIES
    directory.mkdir(parents=True)
    (directory / f"{INSTANCE}.dcm").symlink_to(victim)
    with pytest.raises(StoreRefused):
        put(store, encoded())
    assert victim.read_bytes() == b"untouched"


def test_a_file_system_below_its_watermark_takes_nothing(tmp_path):
    store = ObjectStore(tmp_path / "store", minimum_free=1 << 62)
    with pytest.raises(StoreRefused) as caught:
        put(store, encoded())
    assert (caught.value.status, caught.value.reason) == (0xA700, "out-of-space")
    assert files(store) == []
    store.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "writev", "fsync", "link"])
def test_a_full_disk_is_out_of_space_and_leaves_nothing(tmp_path, monkeypatch, number, call):
    store = ObjectStore(tmp_path / "store")
    real = getattr(os, call)

    def full(*arguments: object, **keywords: object) -> object:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StoreRefused) as caught:
        put(store, encoded())
    assert (caught.value.status, caught.value.reason) == (0xA700, "out-of-space")
    assert files(store) == []
    monkeypatch.setattr(os, call, real)
    assert put(store, encoded()).size > 0  # it recovers without a restart
    store.close()


def test_file_systems_without_hard_links_are_served_by_rename(tmp_path, monkeypatch):
    store = ObjectStore(tmp_path / "store")

    def unsupported(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", unsupported)
    receipt = put(store, encoded())
    assert files(store) == [receipt.path]
    assert put(store, encoded()).path == receipt.path
    with pytest.raises(StoreRefused):
        put(store, encoded(name="Roe^Jane"))
    assert files(store) == [receipt.path]
    store.close()


def test_an_unusable_root_is_one_clear_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"check router\.store"):
        ObjectStore(tmp_path / "file" / "store")


# recovery -----------------------------------------------------------------------------------------------------------


def test_recovery_removes_leftovers_and_finds_what_has_no_receipt(store):
    indexed, lost = put(store, encoded()), put(store, encoded(instance="1.2.3.4.6"), "1.2.3.4.6")
    leftover = store.root / ".incoming" / "123-0-abc.part"
    leftover.write_bytes(b"half")
    asked: list[str] = []

    def known(study: str) -> set[str]:
        asked.append(study)
        return {indexed.path}

    found = list(store.recover(known))
    assert asked == [STUDY]
    assert [receipt.path for receipt in found] == [lost.path]
    assert found[0].sop_class_uid == CLASS
    assert found[0].transfer_syntax_uid == EXPLICIT
    assert found[0].calling_ae_title == "SENDER"
    assert found[0].size == lost.size
    assert not leftover.exists()


def test_recovery_leaves_what_another_writer_is_writing(store):
    data = encoded()
    writer = store.begin(
        sop_class_uid=CLASS, sop_instance_uid=INSTANCE, transfer_syntax_uid=EXPLICIT, calling_ae_title="A"
    )
    writer.write(memoryview(data))
    assert list(store.recover(lambda study: {f"{STUDY}/{SERIES}/{INSTANCE}.dcm"})) == []
    assert writer.commit().path == f"{STUDY}/{SERIES}/{INSTANCE}.dcm"
    writer.discard()


def test_recovery_passes_over_what_it_did_not_write(store, tmp_path):
    put(store, encoded())
    (store.root / STUDY / SERIES / "notes.txt").write_text("x")
    (store.root / STUDY / SERIES / "9.9.dcm").write_bytes(b"damaged")
    (store.root / STUDY / "not-a-uid").mkdir()
    (store.root / "lost+found").mkdir()
    (store.root / "9.9").symlink_to(tmp_path)
    (store.root / "9.8").write_text("a file")
    assert [receipt.sop_instance_uid for receipt in store.recover(lambda study: ())] == [INSTANCE]


def test_descriptors_are_given_back(store):
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    put(store, encoded())
    before = count()
    for number in range(20):
        put(store, encoded(instance=f"1.9.{number}"), f"1.9.{number}")
        with pytest.raises(StoreRefused):
            put(store, encoded(instance="1.8"))
    list(store.recover(lambda study: ()))
    assert count() == before


def test_locks_are_those_of_the_descriptor(store):
    """The mark of a living writer is a lock that goes with its process."""
    writer = store.begin(
        sop_class_uid=CLASS, sop_instance_uid=INSTANCE, transfer_syntax_uid=EXPLICIT, calling_ae_title="A"
    )
    (temporary,) = (store.root / ".incoming").iterdir()
    with temporary.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    writer.discard()


@pytest.mark.parametrize("left", [0, 60, 400, -1])
def test_a_file_that_a_power_cut_left_damaged_is_no_evidence_and_is_replaced(store, left):
    receipt = put(store, encoded())
    path = store.root / receipt.path
    whole = path.read_bytes()
    path.write_bytes(whole[:left])
    assert list(store.recover(lambda study: ())) == []
    assert put(store, encoded()).path == receipt.path
    assert path.read_bytes() == whole
    assert [found.path for found in store.recover(lambda study: ())] == [receipt.path]


def test_a_temporary_file_taken_for_a_leftover_is_made_anew(store, monkeypatch):
    honest = fcntl.flock
    calls = itertools.count()

    def flock(descriptor, operation):
        if next(calls) == 0:
            raise BlockingIOError
        honest(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    before = len(list(Path("/proc/self/fd").iterdir()))
    put(store, encoded())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
