"""C-STORE as SCU: the router, storescu and dcmsend to the same receivers, with and without Nagle's algorithm.

The router sends in this process, from opening the association to its release; the programs' own start, some hundredths
of a second, is theirs to pay in runs of about a second.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import receivers
from bench.harness import Bench, BenchmarkError, Contender, environment, program, rate
from bench.instances import Instances
from bench.receivers import CALLING, Receiver, Start
from bench.result import Row, Target, at_least
from router.dimse.peers import Peers
from router.domain.exchange import StoredObject
from router.domain.part10 import MAXIMUM_HEAD, decode_file_meta
from router.domain.rule import Node
from tests.support.dcmtk import Address

_UNIT = "instances/s"
_SECONDS = 120.0
_START_WITH = 8
_LONG_ENOUGH = 0.25
_RUN_SECONDS = 1.0

Send = Callable[[Address, Sequence[Path]], None]


@dataclass(frozen=True)
class Scenario:
    """One receiver, and how much faster than the programs we should be with it."""

    work: str
    start: Start
    target: Target


SCENARIOS = (
    Scenario("C-STORE SCU to stock DCMTK storescp", receivers.storescp(), at_least(15)),
    Scenario("C-STORE SCU to stock Orthanc", receivers.orthanc, at_least(15)),
    Scenario("C-STORE SCU to DCMTK storescp with TCP_NODELAY=1", receivers.storescp(nodelay=True), at_least(1.2)),
)
SIZES = {"8 KB": (64, 2400), "CT 512 KB": (512, 600)}
"""Edge of the image, and most instances of a run."""


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    for size, (rows, most) in SIZES.items():
        files = Instances(bench.folder("files"), rows, bench.scale(most, 16))
        for scenario in SCENARIOS:
            with ExitStack() as stack:
                yield from _scenario(replace(bench, stack=stack), scenario, f"{scenario.work}, {size}", files)


def _scenario(bench: Bench, scenario: Scenario, work: str, files: Instances) -> Iterator[Row]:
    receiver = scenario.start(bench)
    senders: dict[str, Send] = {"router": _router}
    for name in ("storescu", "dcmsend"):
        senders[name] = partial(_program, name, nodelay=False)
        senders[f"{name} with TCP_NODELAY=1"] = partial(_program, name, nodelay=True)
    contenders = []
    for label, send in senders.items():
        bench.say(f"trial: {label}")
        sending = Sending(work, files, receiver, send)
        count = sending.fitting_count()
        contenders.append(Contender(label, partial(sending.run, count), count))
    ours, *theirs = bench.compete(contenders, bench.scale(3, 1))
    for series in theirs:
        yield Row(work, _UNIT, ours, series, scenario.target)


class Sending:
    """One sender to one receiver."""

    def __init__(self, work: str, files: Instances, receiver: Receiver, send: Send) -> None:
        self._work = work
        self._files = files
        self._receiver = receiver
        self._send = send

    def fitting_count(self) -> int:
        """How many instances make a run of about a second."""
        most = len(self._files.files)
        count = min(_START_WITH, most)
        while True:
            taken = count / self.run(count)
            if taken >= _LONG_ENOUGH or count == most:
                return max(1, min(most, int(count * _RUN_SECONDS / taken)))
            count = min(most, 4 * count)

    def run(self, count: int) -> float:
        """Instances a second. Raises BenchmarkError where not all of them arrived."""
        files = self._files.renewed(count)
        result = rate(count, lambda: self._send(self._receiver.address, files))
        arrived = self._receiver.arrived()
        if arrived != count:
            raise BenchmarkError(f"{self._work}: {arrived} of {count} instances arrived.")
        return result


def _program(name: str, address: Address, files: Sequence[Path], *, nodelay: bool) -> None:
    titles = ["-aet", CALLING, "-aec", address.ae_title, "127.0.0.1", str(address.port)]
    subprocess.run(
        [program(name), *titles, *map(str, files)],
        check=True,
        timeout=_SECONDS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(nodelay=nodelay),
    )


def _router(address: Address, files: Sequence[Path]) -> None:
    node = Node(name="receiver", ae_title=address.ae_title, host="127.0.0.1", port=address.port)
    peers = Peers(CALLING, lambda event: None)
    try:
        result = peers.store(
            node,
            map(_stored, files),
            open_object=_opened,
            on_outcome=lambda outcome: None,
            cancelled=threading.Event(),
        )
    finally:
        peers.close()
    if not result.complete:
        raise BenchmarkError(f"The router did not deliver everything: {result.reason or dict(result.counts)}")


def _stored(path: Path) -> StoredObject:
    """The programs read the files they are given as well."""
    with path.open("rb") as stream:
        head = decode_file_meta(stream.read(MAXIMUM_HEAD))
    if head is None:
        raise BenchmarkError(f"{path.name} is no DICOM file.")
    meta, _ = head
    return StoredObject(
        path=str(path),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
    )


def _opened(stored: StoredObject) -> tuple[int, int]:
    """As the object store does it."""
    descriptor = os.open(stored.path, os.O_RDONLY | os.O_CLOEXEC)
    head = decode_file_meta(os.pread(descriptor, MAXIMUM_HEAD, 0))
    if head is None:
        os.close(descriptor)
        raise OSError(f"{Path(stored.path).name} is no DICOM file.")
    _, offset = head
    os.lseek(descriptor, offset, os.SEEK_SET)
    return descriptor, os.fstat(descriptor).st_size - offset
