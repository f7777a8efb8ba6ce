"""The object store as a source: what a transfer carries, decompressed files and that none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from router.decompression import Decompressor
from router.domain.exchange import StoredObject
from router.domain.forward import Syntax
from router.domain.receipt import Receipt
from router.domain.rule import LOCAL, Node, RouterSettings, RuleSet
from router.domain.store_outcome import InstanceFate
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Happening, Instance, Intent, NewTransfer, Transfer
from router.errors import StoreError
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from router.shelf import MOST_NOTED, StoreShelf
from tests.support.fake_peers import FakeClock
from tests.support.part10 import dataset_bytes
from tests.support.process import run, wait_for
from tests.support.samples import RealFile, real_files

RLE = "1.2.840.10008.1.2.5"
SENDER = Node(name="ct1", ae_title="CT1", host="127.0.0.1", port=104)


class Bench:
    """A store with its ledger, and a shelf."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "store"
        self.ledger = SqlLedger.open(f"sqlite:///{directory}/ledger.db")
        self.store = ObjectStore(self.root, durability="rename")
        self.clock = FakeClock()
        self.rules = RuleSet(router=RouterSettings(), nodes={"ct1": SENDER}, rules={}, content_hash="x")
        self.decompressor = Decompressor()
        self.shelf = StoreShelf(self.store, self.ledger, lambda: self.rules, self.decompressor)

    def put(self, file: RealFile, calling: str = "PACS") -> Receipt:
        writer = self.store.begin(
            sop_class_uid=file.sop_class_uid,
            sop_instance_uid=file.sop_instance_uid,
            transfer_syntax_uid=file.transfer_syntax_uid,
            calling_ae_title=calling,
        )
        try:
            writer.write(memoryview(dataset_bytes(file.path)))
            receipt = writer.commit()
        finally:
            writer.discard()
        self.ledger.add_receipts([receipt])
        return receipt

    def transfer(self, receipt: Receipt, destination: str, *instances: Instance, series: str = "") -> Transfer:
        """A claimed transfer that is to carry these instances."""
        now = self.clock.now()
        self.ledger.add_sweeps([SweepDue(rule="r", source=LOCAL, due_at=now)])
        sweep = self.ledger.claim_sweep([LOCAL], now, 60)
        assert sweep is not None
        intent = Intent(LOCAL, receipt.study_instance_uid, series, destination)
        new = NewTransfer(intent=intent, rule="r", priority=1, instance_count=len(instances))
        self.ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), [new], [], now)
        claimed = self.ledger.claim_transfer([LOCAL], now, 60)
        assert claimed is not None
        self.ledger.set_expected(claimed, instances)
        return claimed

    @property
    def left(self) -> list[str]:
        return [path.name for path in (self.root / ".forward").iterdir()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.shelf.close()
    bench.ledger.close()
    bench.store.close()


def compressed(file: RealFile) -> bool:
    return file.transfer_syntax_uid == RLE


@pytest.fixture
def rle() -> RealFile:
    return next(file for file in real_files(distinct=False) if compressed(file) and file.number_of_frames == 2)


def stored(receipt: Receipt) -> StoredObject:
    return StoredObject(
        path=receipt.path,
        sop_class_uid=receipt.sop_class_uid,
        sop_instance_uid=receipt.sop_instance_uid,
        transfer_syntax_uid=receipt.transfer_syntax_uid,
        size=receipt.size,
    )


def instance(receipt: Receipt) -> Instance:
    return Instance(receipt.series_instance_uid, receipt.sop_instance_uid)


def test_a_transfer_carries_what_was_decided_and_is_still_here_but_nothing_to_its_sender(bench: Bench) -> None:
    by_study: dict[str, list[RealFile]] = {}
    for file in real_files():
        by_study.setdefault(file.study_instance_uid, []).append(file)
    files = max(by_study.values(), key=len)
    assert len(files) >= 3
    receipts = [bench.put(file, "CT1" if number == 0 else "PACS") for number, file in enumerate(files)]
    wanted = [instance(one) for one in receipts[:-1]]
    gone = Instance(wanted[0].series_instance_uid, "1.2.3.4")
    transfer = bench.transfer(receipts[0], "ws", *wanted, gone)
    assert {one.sop_instance_uid for one in bench.shelf.wanted(transfer)} == {one.sop_instance_uid for one in wanted}
    bench.clock.advance(1)
    back = bench.transfer(receipts[0], "ct1", *wanted)
    assert {one.sop_instance_uid for one in bench.shelf.wanted(back)} == {one.sop_instance_uid for one in wanted[1:]}


def test_a_transfer_that_is_asked_for_again_carries_the_same(bench: Bench, rle: RealFile) -> None:
    receipt = bench.put(rle)
    transfer = bench.transfer(receipt, "ws", instance(receipt))
    bench.ledger.apply(transfer.id, Happening.CANCEL, bench.clock.now())
    bench.clock.advance(100)
    bench.ledger.expire_leases(bench.clock.now())
    bench.ledger.apply(transfer.id, Happening.AGAIN, bench.clock.now())
    again = bench.ledger.claim_transfer([LOCAL], bench.clock.now(), 60)
    assert again is not None
    assert [one.sop_instance_uid for one in bench.shelf.wanted(again)] == [receipt.sop_instance_uid]


def test_a_file_is_opened_at_its_data_set(bench: Bench, rle: RealFile) -> None:
    descriptor, size = bench.shelf.open(stored(bench.put(rle)))
    with os.fdopen(descriptor, "rb") as file:
        content = file.read()
    assert (content, size) == (dataset_bytes(rle.path), len(content))
    with pytest.raises(StoreError):
        bench.shelf.open(StoredObject(path="1/2/3.dcm", sop_class_uid="", sop_instance_uid="", transfer_syntax_uid=""))


def test_a_file_that_has_lost_its_end_is_not_sent(bench: Bench, rle: RealFile) -> None:
    damaged = stored(bench.put(rle))
    (bench.root / damaged.path).write_bytes((bench.root / damaged.path).read_bytes()[:-2])
    with pytest.raises(StoreError, match="lost its end"):
        bench.shelf.open(damaged)


@pytest.mark.parametrize("syntax", [Syntax.EXPLICIT, Syntax.IMPLICIT])
def test_what_is_decompressed_is_the_same_instance_with_the_pixels_that_dcmtk_finds(
    bench: Bench, tmp_path: Path, syntax: Syntax
) -> None:
    for file in filter(compressed, real_files(distinct=False)):
        source = stored(bench.put(file))
        changed = bench.shelf.decompressed(source, syntax)
        assert changed is not None, file.path.name
        found, reference = dcmread(bench.root / changed.path), tmp_path / "reference.dcm"
        run(["dcmdrle", file.path, reference])
        expected = dcmread(reference)
        assert found.file_meta.TransferSyntaxUID == changed.transfer_syntax_uid != source.transfer_syntax_uid
        assert found.SOPInstanceUID == file.sop_instance_uid == changed.sop_instance_uid
        assert found.PixelData == expected.PixelData, file.path.name
        for name in ("PhotometricInterpretation", "BitsAllocated", "Rows", "Columns", "SamplesPerPixel"):
            assert found.get(name) == expected.get(name), file.path.name
        descriptor, _ = bench.shelf.open(changed)
        os.close(descriptor)
        bench.shelf.release(changed)
        (bench.root / source.path).unlink()
    assert bench.left == []


def test_what_cannot_be_decompressed_leaves_nothing_behind(bench: Bench, rle: RealFile) -> None:
    damaged = stored(bench.put(rle))
    (bench.root / damaged.path).write_bytes((bench.root / damaged.path).read_bytes()[:-300])
    assert bench.shelf.decompressed(damaged, Syntax.EXPLICIT) is None
    assert bench.left == []


def test_a_decoder_that_dies_or_hangs_costs_its_instance_and_no_more(bench: Bench, rle: RealFile) -> None:
    source = stored(bench.put(rle))
    for code in ("import os; input(); os.abort()", "import time; input(); time.sleep(1000)"):
        bench.shelf._decompressor = Decompressor(seconds=0.5, command=("-c", code))
        assert bench.shelf.decompressed(source, Syntax.EXPLICIT) is None
        assert bench.left == []
    bench.shelf._decompressor = bench.decompressor
    assert bench.shelf.decompressed(source, Syntax.EXPLICIT) is not None


def test_what_cannot_be_tried_now_is_no_fault_of_the_instance(
    bench: Bench, rle: RealFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored(bench.put(rle))
    bench.shelf._decompressor = Decompressor(command=())
    monkeypatch.setattr(bench.shelf._decompressor, "_command", ("/nowhere/python",))
    with pytest.raises(StoreError, match="No process can be started"):
        bench.shelf.decompressed(source, Syntax.EXPLICIT)
    monkeypatch.setattr(bench.shelf, "_decompressor", bench.decompressor)
    monkeypatch.setattr(bench.store, "_minimum_free", 1 << 60)
    with pytest.raises(StoreError, match="Out of space"):
        bench.shelf.decompressed(source, Syntax.EXPLICIT)
    assert bench.left == []


def test_a_signal_to_all_processes_costs_nothing_that_is_decoded(bench: Bench, rle: RealFile) -> None:
    """As systemd sends it to every process of a service that is to stop, which then has its drain."""
    source = stored(bench.put(rle))
    assert bench.shelf.decompressed(source, Syntax.EXPLICIT) is not None
    [decoder] = bench.decompressor._idle
    decoder.send_signal(signal.SIGTERM)
    assert bench.shelf.decompressed(source, Syntax.EXPLICIT) is not None
    assert bench.decompressor._idle == [decoder]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_decoder_that_is_ended_from_outside_is_no_fault_of_the_instance(
    bench: Bench, rle: RealFile, number: signal.Signals
) -> None:
    source = stored(bench.put(rle))
    code = f"import os, signal; signal.pthread_sigmask(signal.SIG_SETMASK, ()); input(); os.kill(os.getpid(), {number})"
    bench.shelf._decompressor = Decompressor(command=("-c", code))
    with pytest.raises(StoreError, match="ended from outside"):
        bench.shelf.decompressed(source, Syntax.EXPLICIT)
    assert bench.left == []


def test_a_decoder_that_has_just_been_started_hears_no_signal_to_all(bench: Bench, rle: RealFile) -> None:
    """It takes half a second to begin; what it is asked to do then must not be lost."""
    source = stored(bench.put(rle))
    results: list[object] = []
    work = threading.Thread(target=lambda: results.append(bench.shelf.decompressed(source, Syntax.EXPLICIT)))
    work.start()
    [decoder] = wait_for(lambda: bench.decompressor._busy, "the decoder to be started", interval=0.001)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        decoder.send_signal(number)
    work.join(60)
    assert len(results) == 1
    assert results[0] is not None


def test_decoders_at_work_end_when_it_is_closed(bench: Bench, rle: RealFile) -> None:
    source = stored(bench.put(rle))
    bench.shelf._decompressor = Decompressor(seconds=600.0, command=("-c", "import time; input(); time.sleep(1000)"))
    ended: list[str] = []

    def work_on() -> None:
        try:
            bench.shelf.decompressed(source, Syntax.EXPLICIT)
        except StoreError as error:
            ended.append(str(error))

    work = threading.Thread(target=work_on)
    work.start()
    wait_for(lambda: bench.shelf._decompressor._busy, "the decoder to be at work")
    bench.shelf._decompressor.close()
    work.join(60)
    assert ended == ["What decompresses was ended from outside."]


def test_a_decoder_that_was_killed_between_two_instances_costs_none(bench: Bench, rle: RealFile) -> None:
    source = stored(bench.put(rle))
    assert bench.shelf.decompressed(source, Syntax.EXPLICIT) is not None
    [decoder] = bench.decompressor._idle
    decoder.kill()
    decoder.wait()
    assert bench.shelf.decompressed(source, Syntax.EXPLICIT) is not None


def test_what_a_killed_process_left_is_removed_and_what_another_is_sending_is_not(
    bench: Bench, rle: RealFile, tmp_path: Path
) -> None:
    sending = bench.shelf.decompressed(stored(bench.put(rle)), Syntax.EXPLICIT)
    assert sending is not None
    code = """
import sys, time
from router.domain.exchange import StoredObject
from router.domain.forward import Syntax
from router.decompression import Decompressor
from router.ledger.ledger import SqlLedger
from router.objects import ObjectStore
from router.shelf import StoreShelf
shelf = StoreShelf(ObjectStore(sys.argv[1]), SqlLedger.in_memory(), lambda: None, Decompressor())
stored = StoredObject(path=sys.argv[2], sop_class_uid="1", sop_instance_uid="1", transfer_syntax_uid="1")
assert shelf.decompressed(stored, Syntax.EXPLICIT) is not None
print("there", flush=True)
time.sleep(1000)
"""
    path = sending.path
    with subprocess.Popen([sys.executable, "-c", code, bench.root, path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "there"
        children = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
        assert len(bench.left) == 2
        other.send_signal(signal.SIGKILL)
    StoreShelf(bench.store, bench.ledger, lambda: bench.rules, Decompressor()).close()
    assert [f".forward/{name}" for name in bench.left] == [path]
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "the end of its decoder")


def test_reasons_are_remembered_for_so_many_instances_and_then_forgotten(bench: Bench, rle: RealFile) -> None:
    receipt = bench.put(rle)
    transfer = bench.transfer(receipt, "ws", instance(receipt))
    fates = [
        InstanceFate(sop_instance_uid=f"1.{number}", stored=False, words="a" if number % 2 else "b")
        for number in range(2 * MOST_NOTED)
    ]
    bench.shelf.note(transfer, fates)
    noted = bench.ledger.refused_instances(transfer.id)
    assert {words: len(uids) for words, uids in noted.items()} == {"a": MOST_NOTED // 2, "b": MOST_NOTED // 2}
    bench.shelf.note(transfer, [])
    assert bench.ledger.refused_instances(transfer.id) == {}
