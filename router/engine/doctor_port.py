"""What the doctor needs of the outside besides the engine's other ports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec

from router.domain.checkup import Landed, Reached, Secured
from router.domain.receipt import Receipt
from router.domain.route import StoppedRoute
from router.domain.rule import Node


class Validity(Protocol):
    """When a certificate is valid."""

    @property
    def last(self) -> datetime:
        """Its last moment."""


class Probe(Protocol):
    """One step at a time to a node, with deadlines from its `timeouts`. Raises only WireError."""

    def resolve(self, node: Node) -> list[str]:
        """The addresses of the node's host."""

    def connect(self, node: Node) -> Reached:
        """A TCP connection, closed again."""

    def secure(self, node: Node) -> Secured:
        """A TLS handshake with the node's settings."""

    def certificate(self, node: Node) -> Validity | None:
        """When the certificate that the node shows is valid, whoever issued it; never raises."""

    def speaks_tls(self, node: Node) -> bool:
        """Whether TLS is spoken at the node's port; never raises."""

    def echo(self, node: Node) -> None:
        """An association for Verification alone, and a C-ECHO on it."""

    def accepted(self, node: Node, sop_classes: Sequence[str]) -> Collection[str]:
        """Those of these SOP classes that the node accepts presentation contexts for."""


class Landing(Protocol):
    """Where one image at a time lands that a node was asked for, if it is not the running service that receives it."""

    def expect(self, sop_instance_uid: str) -> None:
        """Await this image from now on."""

    def last_arrival(self) -> float:
        """The monotonic time at which something last came for it; 0.0: nothing yet."""

    def wait(self, seconds: float) -> Landed:
        """What came, once it came or so many seconds are over; then nothing is awaited any more."""


class Memory(Protocol):
    """What the ledger knows; raises only LedgerError."""

    def caps(self) -> dict[str, int]:
        """Name of a node -> the number of matches at which it was seen to cut its answers."""

    def stopped_routes(self) -> list[StoppedRoute]:
        """The routes that are stopped."""

    def stored_from(self, source: str) -> dict[str, datetime]:
        """Calling AE titles of what was moved from a node to this router lately -> when one last stored."""

    def receipt(self, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str) -> Receipt | None:
        """The receipt of an instance that our store holds."""


class Directory(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of a directory by trying it."""

    path: str
    exists: bool
    problem: str = ""
    """What could not be done with it, and why; empty where it can be used."""
    free: int = 0
    """Bytes that this user may still write to its file system."""
    inodes: int = 0
    """Files that its file system has room for in all; 0: it does not count them."""
    inodes_free: int = 0


class Machine(Protocol):
    """This machine, as far as the router depends on it. Never raises."""

    def directory(self, path: str) -> Directory:
        """Try a directory, or the one above it that exists: write a file, sync it, rename it, remove it."""

    def port_problem(self, host: str, port: int) -> str:
        """Why nothing can listen there: `in-use`, `not-allowed`, `no-such-address`, `unusable`; empty where it can."""

    def open_files(self) -> int:
        """Files that a process started here may have open at once."""

    def zone_loads(self, name: str) -> bool:
        """Whether the time zone database has the zone."""

    def zone_version(self) -> str:
        """The release of the time zone database, as `2025b`; empty where it is not to be told."""

    def clock_synchronised(self) -> bool | None:
        """Whether the system says that its clock is; None where it does not say."""

    def certificate(self, path: str) -> Validity | None:
        """When the first certificate of a PEM file is valid; None where it cannot be read."""

    def first_end(self, path: str) -> datetime | None:
        """When the first of all certificates in a PEM file ends; None where they cannot be read."""

    def ask(self, address: str, path: str) -> tuple[int, str] | None:
        """Status and body of an HTTP path of a running service; None where it does not answer in time."""


class ServiceSeen(NamedTuple):
    """A running service on this ledger."""

    address: str
    """Of its HTTP; empty: not known."""
    content_hash: str
    work_hash: str = ""
    """Of what its configuration says about work, which replicas have in common."""
    replica: str = ""
    """Its name; empty: not known."""
    own: bool = True
    """Whether it is the one of this configuration, not another replica on the same ledger."""


Says = Callable[[str], None]
"""Takes a word on how far the doctor is."""
