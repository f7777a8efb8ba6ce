"""What a site costs and how long an archive takes to move, from measured figures. Pure: no measuring, no clock.

A migration is a row of stages, each instance passes them all, and all of them work at the same time: the slowest is
the bottleneck, and the time is the work divided by its rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

DAY = 86_400.0
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Figures:
    """Measured on one machine; CPU in seconds of one core."""

    cpu_study: float
    """Sweep, decision, claim, C-MOVE, verification and verdict of one study moved to the router."""
    cpu_instance: float
    """Receiving one instance of 8 KB: file, directory, receipt."""
    cpu_mebibyte: float
    """What each further MiB of an instance adds to that."""
    cpu_forward_study: float
    cpu_forward_instance: float
    cpu_forward_mebibyte: float
    cpu_known: float
    """One study that a sweep finds known."""
    cpu_rule_day: float
    """A rule that is swept each five minutes and finds nothing, a day."""
    ledger_study: float
    """Bytes of the ledger for a study that was moved, its attempts included."""
    ledger_instance: float
    """Bytes of the ledger for an instance that was received: its receipt."""
    ledger_forward: float
    """Bytes of the ledger for a study that was passed on."""
    resident: float
    """Bytes of memory of an idle service with one rule and one node."""
    resident_rule: float
    resident_node: float
    fsync_seconds: float
    """One small write that is on the disk, one after the other."""
    transfer_seconds: float
    """What a transfer takes of the ledger's one writer, all its transactions together."""


@dataclass(frozen=True)
class Site:
    """What is to be moved, and what it is moved with."""

    instances: float
    instances_a_study: float
    bytes_an_instance: float
    source_instances_a_second: float
    """What one association to the source delivers."""
    source_associations: int
    """Those the source's administrator allows."""
    source_query_seconds: float
    """What the source takes to answer a question about one study."""
    network_bits_a_second: float
    """Of each replica's."""
    cores: int
    """Of each replica."""
    disk_bytes_a_second: float
    """Of each store's disk, written one after the other."""
    open_hours: float
    """How many hours of a day the source's windows leave."""
    queries_a_study: float = 2.0
    """The study's series or instances before a move, and a look at it where its source alone can tell."""
    syncs_an_instance: float = 2.0
    """The file, and the directory it was renamed into."""
    syncs_at_once: float = 4.0
    """Instances that are written at once, an association each: their waits for the disk overlap."""
    forward: bool = False


class Stage(NamedTuple):
    """One stage of the way."""

    name: str
    instances_a_second: float
    scales: bool
    """Whether each replica adds as much."""


def stages(site: Site, measured: Figures, replicas: int) -> list[Stage]:
    """Every stage with what it lets through, the slowest first."""
    a_study = site.instances_a_study
    size = site.bytes_an_instance / MIB
    cpu = measured.cpu_study / a_study + measured.cpu_instance + measured.cpu_mebibyte * size
    if site.forward:
        cpu += measured.cpu_forward_study / a_study + measured.cpu_forward_instance
        cpu += measured.cpu_forward_mebibyte * size
    ways = 2 if site.forward else 1
    queries = site.queries_a_study * site.source_query_seconds / site.source_associations
    moving = a_study / (site.source_instances_a_second * site.source_associations)
    sync = site.syncs_an_instance * measured.fsync_seconds / site.syncs_at_once
    found = [
        Stage("source: its C-MOVE, and the questions about each study", a_study / (moving + queries), False),
        Stage(
            "network of the replicas", replicas * site.network_bits_a_second / 8 / (site.bytes_an_instance * ways), True
        ),
        Stage("disk of the stores: bytes", replicas * site.disk_bytes_a_second / site.bytes_an_instance, True),
        Stage("disk of the stores: fsync", replicas / sync, True),
        Stage("CPU of the replicas", replicas * site.cores / cpu, True),
        Stage("ledger: its one writer", a_study / (measured.transfer_seconds * ways), False),
    ]
    return sorted(found, key=lambda stage: stage.instances_a_second)


def days(site: Site, measured: Figures, replicas: int) -> float:
    """How long it takes, at the rate of the slowest stage, within the hours that are open."""
    slowest = stages(site, measured, replicas)[0]
    return site.instances / slowest.instances_a_second / (site.open_hours * 3600.0)


def ledger_bytes(site: Site, measured: Figures) -> float:
    """The ledger when all is moved, nothing of it in the history."""
    studies = site.instances / site.instances_a_study
    each = measured.ledger_study + (measured.ledger_forward if site.forward else 0.0)
    return studies * each + site.instances * measured.ledger_instance


def memory(measured: Figures, rules: int, nodes: int) -> float:
    """Bytes of an idle service."""
    return measured.resident + (rules - 1) * measured.resident_rule + (nodes - 1) * measured.resident_node


NATIONAL = Site(
    instances=1e9,
    instances_a_study=200,
    bytes_an_instance=512 * KIB,
    source_instances_a_second=60,
    source_associations=8,
    source_query_seconds=0.1,
    network_bits_a_second=10e9,
    cores=8,
    disk_bytes_a_second=1e9,
    open_hours=24,
)
"""10^9 instances: five million studies of 200 CT images, 512 KB each, from one archive that is asked day and night."""
