"""Store SCPs to send to: the router's, DCMTK's, Orthanc, pynetdicom's, and the sink. Each as delivered."""

from __future__ import annotations

import os
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
CALLERS = (CALLING, "ORTHANC")


class Receiver(Protocol):
    """A Store SCP that runs."""

    address: Address

    def arrived(self) -> int | None:
        """How many instances came since it was last asked; None where it keeps none."""


Start = Callable[[Bench], Receiver]


class Folder:
    """A receiver that writes files below a directory."""

    def __init__(self, address: Address, directory: Path, pattern: str = "*") -> None:
        self.address = address
        self._directory = directory
        self._pattern = pattern

    def arrived(self) -> int:
        """Count the files, and empty them.

        They are not deleted: for minutes ext4 walks past each inode freed near a directory before it gives a new file
        in it one, which made every contender slower with each run.
        """
        found = 0
        for path in self._directory.rglob(self._pattern):
            if path.is_file() and path.stat().st_size:
                found += 1
                os.truncate(path, 0)
        return found


class Database:
    """Orthanc: files, and an index it waits for."""

    def __init__(self, orthanc: Orthanc) -> None:
        self.address = orthanc.address
        self._orthanc = orthanc
        self._before = 0

    def arrived(self) -> int:
        """What its index counts, less what it did."""
        held = self._orthanc.statistics()["instances"]
        fresh, self._before = held - self._before, held
        return fresh


class Nothing:
    """The sink."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def arrived(self) -> None:
        """It cannot say."""


def router(durability: str, processes: int = 1) -> Start:
    """The router's Store SCP: `router.receivers` processes, 1 as delivered."""

    def start(bench: Bench) -> Receiver:
        store = bench.folder("store")
        port = bench.module("receiver", store, durability, processes)
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
