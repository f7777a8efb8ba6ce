"""Memory of the receiving process while one object comes that is far bigger: its peak, less what it had when idle."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from bench import receivers, wire
from bench.harness import Bench, BenchmarkError
from bench.result import Row, Series, more_by_under
from router.dimse import command as commands
from router.dimse import pdu
from router.dimse.pdu import AssociateRequest, PduType, ProposedContext
from tests.support.dcmtk import Address
from tests.support.part10 import read_part10
from tests.support.process import Process
from tests.support.samples import make_study

_MIB = 1 << 20
_SPARE = 1 << 30
_LOOK_EACH = 32 * _MIB
_CONTEXT = 1
_SECONDS = 120.0


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    size = bench.scale(2048, 64) * _MIB
    if shutil.disk_usage(bench.directory).free < size + _SPARE:
        raise BenchmarkError(f"{bench.directory} has less than {(size + _SPARE) // _MIB} MiB free.")
    receiver = receivers.router("fsync")(bench)
    process = Watched(int(_said(bench.modules["receiver"])))
    idle_rss, idle_pss = process.rss(), process.pss()
    bench.say(f"sending {size // _MIB} MiB")
    peak_pss = _send(receiver.address, bench.folder("template"), size, process)
    peak_rss = process.peak_rss()
    if receiver.arrived() != 1:
        raise BenchmarkError("The object is not in the store.")
    work = f"Memory while receiving one object of {size // _MIB:,} MiB"
    for name, peak, idle in (("resident", peak_rss, idle_rss), ("proportional", peak_pss, idle_pss)):
        ours = Series(f"{name}, peak", (peak / _MIB,), 1, "fsync")
        yield Row(work, "MiB", ours, Series(f"{name}, idle", (idle / _MIB,)), more_by_under(32))


def _said(receiver: Process) -> str:
    """Its process id: it says so once it listens."""
    receiver.wait_until(lambda: receiver.log.endswith("\n"), "the receiver names its process")
    return receiver.log


class Watched:
    """The memory of a process, in bytes, as Linux counts it."""

    def __init__(self, pid: int) -> None:
        self._directory = Path("/proc") / str(pid)

    def rss(self) -> int:
        """Resident now."""
        return self._field("status", "VmRSS")

    def peak_rss(self) -> int:
        """Resident at most since it began."""
        return self._field("status", "VmHWM")

    def pss(self) -> int:
        """Resident now, what it shares counted in part."""
        return self._field("smaps_rollup", "Pss")

    def _field(self, file: str, name: str) -> int:
        for line in (self._directory / file).read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise BenchmarkError(f"This system does not say {name} of a process.")


def _send(address: Address, directory: Path, size: int, process: Watched) -> int:
    """One C-STORE with `size` bytes of pixels, made on the way. Returns the peak of the receiver's memory (PSS)."""
    uid, header = _header(directory, size)
    peak = 0
    with socket.create_connection(("127.0.0.1", address.port), timeout=_SECONDS) as connection:
        wire.prepare(connection)
        answers = wire.pdus(connection)
        context = ProposedContext(_CONTEXT, CTImageStorage, (ExplicitVRLittleEndian,))
        request = AssociateRequest(address.ae_title, receivers.CALLING, (context,), wire.MAXIMUM_LENGTH)
        connection.sendall(pdu.encode_associate_request(request))
        kind, body = next(answers)
        if kind != PduType.ASSOCIATE_AC:
            raise BenchmarkError("The association was not accepted.")
        part = pdu.decode_associate_accept(body).maximum_length - 6
        connection.sendall(_store_request(uid) + wire.data_pdu(_CONTEXT, 0, header))
        zeros = wire.data_pdu(_CONTEXT, 0, bytes(part))
        looked = sent = 0
        while size - sent > part:
            connection.sendall(zeros)
            sent += part
            if sent - looked >= _LOOK_EACH:
                looked = sent
                peak = max(peak, process.pss())
        connection.sendall(wire.data_pdu(_CONTEXT, pdu.LAST, bytes(size - sent)))
        _kind, body = next(answers)
        status = commands.decode(body[6:]).status
        if status != 0:
            raise BenchmarkError(f"The object was refused with status {status:04X}.")
        connection.sendall(pdu.encode_release_request())
        next(answers)
    return max(peak, process.pss())


def _store_request(uid: str) -> bytes:
    return wire.command_pdu(
        _CONTEXT,
        {
            commands.AFFECTED_SOP_CLASS_UID: CTImageStorage,
            commands.COMMAND_FIELD: commands.C_STORE_RQ,
            commands.MESSAGE_ID: 1,
            commands.PRIORITY: 0,
            commands.COMMAND_DATA_SET_TYPE: commands.DATA_SET,
            commands.AFFECTED_SOP_INSTANCE_UID: uid,
        },
    )


def _header(directory: Path, size: int) -> tuple[str, bytes]:
    """SOP Instance UID, and a data set up to its pixels, whose length (PS3.5 section 7.1.2) is made to say `size`."""
    path = make_study(directory, rows=64, instances=1).files[0]
    pixels = bytes(dcmread(path).PixelData)
    header = read_part10(path).dataset[: -len(pixels)]
    return read_part10(path).sop_instance_uid, header[:-4] + size.to_bytes(4, "little")
