"""HL7 for tests: sample messages, a builder, and an MLLP client on a real socket."""

from __future__ import annotations

import re
import socket
import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

SAMPLES = Path(__file__).parent.parent / "data" / "hl7"
PATIENT = "4711"


def sample(name: str) -> bytes:
    """A message of `tests/data/hl7`."""
    return (SAMPLES / f"{name}.hl7").read_bytes()


def message(*segments: str, kind: str = "ORM^O01", control_id: str = "1", application: str = "RIS") -> bytes:
    """A message of these segments behind a header."""
    head = f"MSH|^~\\&|{application}|HOSPITAL|ROUTER|RADIOLOGY|20260301081500||{kind}|{control_id}|P|2.3.1"
    return "".join(f"{segment}\r" for segment in (head, *segments)).encode()


def order(
    accession: str = "ACC-1",
    *,
    patient: str = PATIENT,
    control: str = "NW",
    status: str = "",
    start: str = "202603021430",
    modality: str = "CT",
    code: str = "CTABD^CT Abdomen^LOCAL",
    control_id: str = "1",
    application: str = "RIS",
) -> bytes:
    """An ORM^O01 of one order."""
    return message(
        f"PID|1||{patient}^^^HOSPITAL^MR||Muster^Erika||19640812|F",
        f"ORC|{control}|PL-{accession}|FI-{accession}||{status}||1^once^^{start}^^S",
        f"OBR|1|PL-{accession}|FI-{accession}|{code}{'|' * 14}{accession}|RP-1|SPS-1{'|' * 4}{modality}",
        control_id=control_id,
        application=application,
    )


class Answer(NamedTuple):
    """An acknowledgement, as a sender reads it."""

    code: str
    control_id: str
    reason: str
    condition: int
    raw: bytes


def framed(data: bytes) -> bytes:
    """A message in its MLLP frame."""
    return b"\x0b" + data + b"\x1c\r"


def parse_answer(data: bytes) -> Answer:
    """Read an acknowledgement with whatever separators it has."""
    lines = data.decode("latin-1").split("\r")
    mark, component = lines[0][3], lines[0][4]
    segments = {line[:3]: line.split(mark) for line in lines if line}
    msa = [*segments["MSA"], "", "", ""]
    condition = segments["ERR"][3].split(component)[0] if "ERR" in segments else "0"
    return Answer(msa[1], msa[2], msa[3], int(condition), data)


class MllpClient:
    """A sender of HL7 messages. Every wait ends after `seconds`."""

    def __init__(self, port: int, *, seconds: float = 20.0, context: ssl.SSLContext | None = None) -> None:
        connected = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket = context.wrap_socket(connected, server_hostname="localhost") if context else connected
        self._seconds = seconds
        self._rest = b""

    def __enter__(self) -> MllpClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """The next acknowledgement. Raises EOFError where the connection ends instead, TimeoutError."""
        deadline = time.monotonic() + self._seconds
        while (found := re.match(rb"\x0b([^\x1c]*)\x1c\r", self._rest)) is None:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._rest += data
        self._rest = self._rest[found.end() :]
        return parse_answer(found[1])

    def ask(self, data: bytes) -> Answer:
        """Send a message and wait for its acknowledgement."""
        self.write(framed(data))
        return self.answer()

    def ended(self) -> bool:
        """Wait until the peer hangs up. False where it does not in time."""
        self.socket.settimeout(self._seconds)
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            return True
        return True
