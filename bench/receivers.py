"""Store SCPs to send to: the router's, DCMTK's, Orthanc, pynetdicom's, and the sink. Each as delivered."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bench.harness import ROOT, Bench, environment, program
from tests.support.dcmtk import Address
from tests.support.orthanc import Orthanc
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.router import RunningRouter, Site, node

CALLING = "STORESCU"


class Receiver(Protocol):
    """A Store SCP that runs."""

    address: Address

    def received(self) -> int:
        """How many instances it holds."""

    def clear(self) -> None:
        """Have it hold none."""


Start = Callable[[Bench], Receiver]


class Folder:
    """A receiver that writes files below a directory."""

    def __init__(self, address: Address, directory: Path, pattern: str = "*") -> None:
        self.address = address
        self._directory = directory
        self._pattern = pattern

    def received(self) -> int:
        """Files there are."""
        return sum(path.is_file() for path in self._directory.rglob(self._pattern))

    def clear(self) -> None:
        """Delete them. What begins with a dot is the receiver's own."""
        for path in self._directory.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink()


class Database:
    """Orthanc: files, and an index it waits for."""

    def __init__(self, orthanc: Orthanc) -> None:
        self.address = orthanc.address
        self._orthanc = orthanc

    def received(self) -> int:
        """What its index counts."""
        return self._orthanc.statistics()["instances"]

    def clear(self) -> None:
        """Delete all patients."""
        for identifier in self._orthanc.get("/patients"):
            self._orthanc.delete(f"/patients/{identifier}")


class Nothing:
    """The sink."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def received(self) -> int:
        """It cannot say."""
        return -1

    def clear(self) -> None:
        """Nothing is there."""


def router(durability: str) -> Start:
    """The router's Store SCP in its own process."""

    def start(bench: Bench) -> Receiver:
        store = bench.folder("store")
        port = bench.module("receiver", store, durability)
        return Folder(Address("ROUTER", port), store, "*.dcm")

    return start


def service(bench: Bench) -> Receiver:
    """`dicom-router run` as a whole: receiving, metrics and ledger in one process."""
    site = Site(bench.folder("service"), nodes={"sender": node(CALLING, free_port())}, rules={})
    bench.start(RunningRouter(site))
    return Folder(Address("ROUTER", site.dicom_port), site.store, "*.dcm")


def storescp(*options: str, nodelay: bool = False) -> Start:
    """DCMTK's, with nothing but a directory to write to; `nodelay` has it answer without Nagle's algorithm."""

    def start(bench: Bench) -> Receiver:
        received = bench.folder("storescp")
        port = free_port()
        words = [program("storescp"), "-aet", "STORESCP", "-od", str(received), *options, str(port)]
        variables = environment(nodelay=nodelay)
        process = Process(words, received.parent, name=f"storescp-{port}", environment=variables)
        bench.start(process).wait_until_listening(port)
        return Folder(Address("STORESCP", port), received)

    return start


def orthanc(bench: Bench, **settings: Any) -> Receiver:
    """Orthanc, with the fsync of each file it has as delivered and the tests' one has not."""
    return Database(bench.start(stock_orthanc(bench, **settings)))


def stock_orthanc(bench: Bench, **settings: Any) -> Orthanc:
    """The program."""
    return Orthanc(bench.folder("orthanc"), SyncStorageArea=True, **settings)


def pynetdicom(bench: Bench) -> Receiver:
    """pynetdicom's storescp program."""
    received = bench.folder("pynetdicom")
    port = free_port()
    words = [sys.executable, "-m", "pynetdicom", "storescp", "-od", str(received), str(port)]
    process = Process(words, received.parent, name=f"pynetdicom-{port}", working_directory=ROOT)
    bench.start(process).wait_until_listening(port)
    return Folder(Address("STORESCP", port), received)


def sink(bench: Bench) -> Receiver:
    """Answers success, keeps nothing."""
    return Nothing(Address("SINK", bench.module("sink")))
