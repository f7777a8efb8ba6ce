"""DCMTK's programs: dcmqrscp and storescp as peers, storescu, findscu, movescu and echoscu as clients."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.part10 import read_part10
from tests.support.ports import free_port
from tests.support.process import READY_SECONDS, Process, run, wait_for


class Address(NamedTuple):
    """Where an AE listens on this machine, and what it is called."""

    ae_title: str
    port: int


class Storescp(Process):
    """DCMTK's storescp. It writes each data set exactly as it came over the wire (`+B`) into `received`.

    `options` are added to its command line: `+xa` to accept compressed transfer syntaxes, `--fork` for several
    associations at once, `--sleep-after 1`, `--abort-after` and the like to misbehave. With `unique_files` an instance
    that arrives twice gives two files.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ae_title: str = "STORESCP",
        options: Sequence[str] = ("+xa", "--fork"),
        unique_files: bool = False,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it and wait until it listens."""
        self.ae_title = ae_title
        self.port = port or free_port()
        self.received = directory / "received"
        self.received.mkdir(parents=True, exist_ok=True)
        names = ["+uf"] if unique_files else []
        super().__init__(
            ["storescp", "-v", "-aet", ae_title, "-od", self.received, "+B", *names, *options, str(self.port)],
            directory,
            name=f"storescp-{ae_title}",
            environment=environment,
        )
        self.wait_until_listening(self.port)

    @property
    def address(self) -> Address:
        """Its AE title and port."""
        return Address(self.ae_title, self.port)

    def files(self) -> list[Path]:
        """Return the files received, by name."""
        return sorted(path for path in self.received.iterdir() if path.is_file())

    def instances(self) -> dict[str, Path]:
        """Return {SOP Instance UID: file} of what was received; files still being written are left out."""
        found = {}
        for path in self.files():
            try:
                found[read_part10(path).sop_instance_uid] = path
            except (ValueError, KeyError):
                continue
        return found

    def wait_for_instances(self, count: int, seconds: float = READY_SECONDS) -> dict[str, Path]:
        """Wait until at least so many instances have arrived, and return them."""
        wait_for(lambda: len(self.instances()) >= count, f"{count} instances at {self.ae_title}", seconds)
        return self.instances()

    def clear(self) -> None:
        """Delete what was received."""
        for path in self.files():
            path.unlink()


class Dcmqrscp(Process):
    """DCMTK's dcmqrscp: a small archive with one AE title.

    Move Destinations come from its configuration file and from there only: `destinations` maps AE titles to ports on
    loopback. `options` are added to its command line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ae_title: str = "DCMQRSCP",
        destinations: Mapping[str, int] | None = None,
        options: Sequence[str] = (),
        max_associations: int = 16,
    ) -> None:
        """Start it and wait until it listens."""
        self.ae_title = ae_title
        self.port = free_port()
        self.storage = directory / "storage"
        self.storage.mkdir(parents=True, exist_ok=True)
        hosts = "".join(
            f"host{number} = ({title}, 127.0.0.1, {port})\n"
            for number, (title, port) in enumerate((destinations or {}).items())
        )
        path = directory / "dcmqrscp.cfg"
        path.write_text(
            f"NetworkTCPPort = {self.port}\n"
            "MaxPDUSize = 16384\n"
            f"MaxAssociations = {max_associations}\n"
            f"HostTable BEGIN\n{hosts}HostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{ae_title} {self.storage} RW (500, 1024mb) ANY\nAETable END\n",
            encoding="ascii",
        )
        super().__init__(["dcmqrscp", "-v", "-c", path, *options], directory, name=f"dcmqrscp-{ae_title}")
        self.wait_until_listening(self.port)

    @property
    def address(self) -> Address:
        """Its AE title and port."""
        return Address(self.ae_title, self.port)

    def load(self, files: Iterable[Path]) -> None:
        """Put Part 10 files into the archive as they are, whatever their transfer syntax, without using the network."""
        copies = []
        for file in files:
            copy = self.storage / f"{read_part10(file).sop_instance_uid}.dcm"
            copy.write_bytes(file.read_bytes())
            copies.append(copy)
        for start in range(0, len(copies), 200):
            run(["dcmqridx", self.storage, *copies[start : start + 200]])


# --- Clients ---------------------------------------------------------------------------------------------------------


def echoscu(
    peer: Address, *options: str, calling: str = "ECHOSCU", check: bool = True
) -> subprocess.CompletedProcess[str]:
    """C-ECHO."""
    return run(_command("echoscu", peer, calling, "-v", *options), check=check)


def storescu(
    peer: Address,
    files: Sequence[Path],
    *options: str,
    calling: str = "STORESCU",
    check: bool = True,
    seconds: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """C-STORE the files on one association; `options` may name the transfer syntax to propose, `-xf` a profile."""
    return run([*_command("storescu", peer, calling, "-v", *options), *files], check=check, seconds=seconds)


def store_as_is(
    peer: Address, files: Sequence[Path], *, calling: str = "DCMSEND", check: bool = True, seconds: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """C-STORE files of any transfer syntax unchanged: dcmsend proposes for each file what it is encoded in.

    Raises AssertionError, with `check`, unless all were stored: dcmsend itself finds nothing wrong with sending none.
    """
    command = _command("dcmsend", peer, calling, "-v", "--decompress-never")
    done = run([*command, *files], check=check, seconds=seconds)
    stored = re.search(r"with status SUCCESS *: (\d+)", done.stdout)
    if check and (stored is None or int(stored[1]) != len(files)):
        raise AssertionError(f"dcmsend did not send all of {len(files)} files\n{done.stdout}")
    return done


class Found(NamedTuple):
    """What findscu reports."""

    matches: list[Dataset]
    output: str


def findscu(
    peer: Address, level: str, keys: Mapping[str, str], *options: str, calling: str = "FINDSCU", model: str = "-S"
) -> Found:
    """C-FIND with Study Root (or `model="-P"`: Patient Root); keys with an empty value are return keys.

    Raises AssertionError unless a final response came, whatever its status.
    """
    with tempfile.TemporaryDirectory() as directory:
        done = run(
            _command("findscu", peer, calling, "-v", model, "-X", "-od", directory, *_keys(level, keys), *options)
        )
        if "Received Final Find Response" not in done.stdout:
            raise AssertionError(f"findscu got no final response\n{done.stdout}")
        return Found([dcmread(path) for path in sorted(Path(directory).glob("rsp*.dcm"))], done.stdout)


class MoveResponse(NamedTuple):
    """One C-MOVE-RSP; a counter that is absent is None."""

    status: int
    remaining: int | None
    completed: int | None
    failed: int | None
    warning: int | None


class Moved(NamedTuple):
    """What movescu reports."""

    returncode: int
    responses: list[MoveResponse]
    output: str

    @property
    def status(self) -> int | None:
        """The status of the last response, None if there was none."""
        return self.responses[-1].status if self.responses else None


_COUNTERS = "Remaining|Completed|Failed|Warning"


def movescu(
    peer: Address,
    destination: str,
    level: str,
    keys: Mapping[str, str],
    *options: str,
    calling: str = "MOVESCU",
    model: str = "-S",
    seconds: float = 120.0,
) -> Moved:
    """C-MOVE with Study Root to the AE title given; the outcome is in the result, whatever it is."""
    done = run(
        _command("movescu", peer, calling, "-d", model, "-aem", destination, *_keys(level, keys), *options),
        check=False,
        seconds=seconds,
    )
    responses = []
    for message in done.stdout.split("INCOMING DIMSE MESSAGE")[1:]:
        counters = {
            name.lower(): None if value == "none" else int(value)
            for name, value in re.findall(rf"({_COUNTERS}) Suboperations *: (\w+)", message)
        }
        status = re.search(r"DIMSE Status *: 0x([0-9a-f]{4})", message)
        if status:
            responses.append(MoveResponse(int(status[1], 16), **counters))
    return Moved(done.returncode, responses, done.stdout)


def _command(program: str, peer: Address, calling: str, *options: str) -> list[str]:
    return [program, "-aet", calling, "-aec", peer.ae_title, *options, "127.0.0.1", str(peer.port)]


def _keys(level: str, keys: Mapping[str, str]) -> list[str]:
    pairs = {"QueryRetrieveLevel": level, **keys}.items()
    return [word for keyword, value in pairs for word in ("-k", f"{keyword}={value}" if value else keyword)]
