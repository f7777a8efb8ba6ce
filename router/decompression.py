"""Decompression of stored instances (PS3.5 annex A) by pydicom and whatever decoders are installed beside it.

What a decoder makes of a file that somebody sent is not to be trusted: it works in a process of its own, with bounds on
memory, on what it writes and on its time. If that process dies, one instance was not decompressed and no more.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ImplicitVRLittleEndian

from router.errors import StoreError
from router.holding_back import ENDING, held_back, ignore
from router.object_files import cut_off, head_of

WORKERS = 2
"""Decoding processes at a time."""
MAXIMUM_MEMORY = 4 << 30
MAXIMUM_FILE = 2 << 30
"""Bytes of a process, and of a file that it writes."""
SECONDS = 120.0
"""What one instance may take, besides a second for each MiB of its file."""
_WAIT_SECONDS = 600.0
"""How long an instance waits for a free process."""
_DONE = "done"
_ENDED_BY_OTHERS = frozenset(-number for number in (*ENDING, signal.SIGKILL))
"""Exit statuses of a process that no file brought down."""


class Decompressor:
    """Decompresses files in processes of its own. Thread-safe. They end with it, and with the process that has it."""

    def __init__(self, *, seconds: float = SECONDS, command: tuple[str, ...] = ("-m", __name__)) -> None:
        self._seconds = seconds
        self._command = (sys.executable, *command)
        self._room = threading.BoundedSemaphore(WORKERS)
        self._idle: list[subprocess.Popen[str]] = []
        self._busy: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, source: Path, target: Path, transfer_syntax_uid: str) -> bool:
        """Write a DICOM file decompressed over the file `target`; whether that worked out, else `target` is rubbish.

        Raises StoreError where no process is to be had for it, or it was ended from outside.
        """
        if not self._room.acquire(timeout=_WAIT_SECONDS):
            raise StoreError("All that decompress are busy.")
        try:
            return self._ask([str(source.absolute()), str(target.absolute()), transfer_syntax_uid])
        finally:
            self._room.release()

    def close(self) -> None:
        """End the processes: whoever waits for one at work has no answer from it."""
        with self._lock:
            idle, self._idle = self._idle, []
            for worker in self._busy:
                worker.kill()
        for worker in idle:
            _end(worker)

    def _ask(self, request: list[str]) -> bool:
        seconds = self._seconds + Path(request[0]).stat().st_size / (1 << 20)
        worker = self._take()
        assert worker.stdin is not None and worker.stdout is not None
        answer = ""
        late = threading.Event()
        deadline = threading.Timer(seconds, _expire, (worker, late))
        deadline.start()
        try:
            worker.stdin.write(json.dumps(request) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline().strip()
        except OSError:  # it died
            pass
        finally:
            deadline.cancel()
            with self._lock:
                self._busy.discard(worker)
                if answer:
                    self._idle.append(worker)
            if not answer:
                _end(worker)
        if not answer and not late.is_set() and worker.returncode in _ENDED_BY_OTHERS:
            raise StoreError("What decompresses was ended from outside.")
        return answer == _DONE

    def _take(self) -> subprocess.Popen[str]:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is not None and worker.poll() is not None:  # it died of something else while it had nothing to do
            _end(worker)
            worker = None
        try:
            if worker is None:
                with held_back():
                    worker = subprocess.Popen(
                        self._command,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
        except OSError as error:
            raise StoreError(f"No process can be started to decompress: {error.strerror}.") from error
        with self._lock:
            self._busy.add(worker)
        return worker


def _expire(worker: subprocess.Popen[str], late: threading.Event) -> None:
    late.set()
    worker.kill()


def _end(worker: subprocess.Popen[str]) -> None:
    worker.kill()
    worker.wait()
    for pipe in (worker.stdin, worker.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not written to it is of no use any more
                pipe.close()


# --- In the process that decodes --------------------------------------------------------------------------------------


def decompress(source: str, target: str, transfer_syntax_uid: str) -> None:
    """The same instance, with the same UIDs, in Explicit or Implicit VR Little Endian. Raises whatever comes up."""
    with Path(source).open("rb") as file:
        head = head_of(file.fileno())
        # Of what ends too early there would be made something that looks whole.
        if head is None or cut_off(file.fileno(), head[0].transfer_syntax_uid, head[1]):
            raise ValueError
    data_set = dcmread(source)
    syntax = UID(data_set.file_meta.TransferSyntaxUID)
    if syntax.is_encapsulated and "PixelData" in data_set:
        _decode(data_set, syntax)
    data_set.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    dcmwrite(
        target,
        data_set,
        implicit_vr=transfer_syntax_uid == ImplicitVRLittleEndian,
        little_endian=True,
        enforce_file_format=True,
    )


def _decode(data_set: Dataset, syntax: UID) -> None:
    """Frame by frame, as the decoder gives it: no colour is converted that the codec itself did not convert."""
    value = bytearray()
    seen: dict[str, str | int] = {}
    for frame, seen in get_decoder(syntax).iter_buffer(data_set):
        value += _by_pixel(frame, seen)
        if len(value) >= MAXIMUM_FILE:
            raise ValueError
    pixels = data_set["PixelData"]
    pixels.value = bytes(value) + b"\0" * (len(value) % 2)
    pixels.is_undefined_length = False
    pixels.VR = "OB" if int(seen["bits_allocated"]) <= 8 else "OW"  # PS3.5 section A.2: OB only for up to 8 bits
    data_set.BitsAllocated = seen["bits_allocated"]
    # Decoders give every sample of each pixel, so nothing is subsampled any more.
    data_set.PhotometricInterpretation = str(seen["photometric_interpretation"]).replace("YBR_FULL_422", "YBR_FULL")
    if int(seen["samples_per_pixel"]) > 1:
        data_set.PlanarConfiguration = 0
    for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if name in data_set:  # they are about fragments (PS3.3 section C.7.6.3)
            delattr(data_set, name)


def _by_pixel(frame: bytes | bytearray | memoryview, seen: dict[str, str | int]) -> bytes | bytearray | memoryview:
    """A frame with the samples of each pixel together, which every SOP class allows (PS3.3 section C.7.6.3.1.3)."""
    samples = int(seen["samples_per_pixel"])
    if samples == 1 or not seen["planar_configuration"]:
        return frame
    width = int(seen["bits_allocated"]) // 8
    plane = len(frame) // samples
    ordered = bytearray(len(frame))
    for sample in range(samples):
        for byte in range(width):
            first = sample * plane + byte
            ordered[sample * width + byte :: samples * width] = frame[first : (sample + 1) * plane : width]
    return ordered


def main() -> None:
    """Take requests, a line each, until there are no more: that is also when the process that asks is gone."""
    ignore()
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # decoders print what they please
    resource.setrlimit(resource.RLIMIT_AS, (MAXIMUM_MEMORY, MAXIMUM_MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAXIMUM_FILE, MAXIMUM_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        try:
            decompress(*json.loads(line))
            print(_DONE, file=answers, flush=True)
        except Exception:  # noqa: BLE001  what a file holds is its sender's: there is no end of ways to be broken
            print("failed", file=answers, flush=True)


if __name__ == "__main__":
    main()
