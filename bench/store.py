"""The Store SCP: the same sender to the router, to DCMTK, Orthanc, pynetdicom, and to a sink that discards."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import receivers
from bench.harness import Bench, BenchmarkError, Contender, environment, program, rate
from bench.instances import Instances
from bench.receivers import CALLING, Receiver, Start
from bench.result import Row, Target, at_least

_UNIT = "instances/s"
_SMALL, _CT = 64, 512
_SECONDS = 120.0
_START_WITH = 16
_LONG_ENOUGH = 0.25
"""Seconds of a trial run from which the length of the others is told."""
_RUN_SECONDS = 1.0


@dataclass(frozen=True)
class Peer:
    """Someone to compare with."""

    label: str
    start: Start
    target: Target
    durability: str


_PYNETDICOM = Peer("pynetdicom storescp", receivers.pynetdicom, at_least(3), "none")
_SINK = Peer("sink that discards", receivers.sink, at_least(0.8), "")


def _orthanc(target: Target) -> Peer:
    return Peer("Orthanc", receivers.orthanc, target, "fsync")


def _storescp(target: Target, *options: str) -> Peer:
    return Peer(" ".join(["DCMTK storescp", *options]), receivers.storescp(*options), target, "none")


def _prompt_storescp(target: Target, *options: str) -> Peer:
    """Its answers stall too, unless it is told not to: the harder of the two comparisons."""
    label = " ".join(["DCMTK storescp", *options, "with TCP_NODELAY=1"])
    return Peer(label, receivers.storescp(*options, nodelay=True), target, "none")


@dataclass(frozen=True)
class Scenario:
    """One kind of sender, and who is compared with it."""

    work: str
    rows: int
    associations: int
    nodelay: bool
    peers: tuple[Peer, ...]


_STOCK = "Store SCP, stock storescu (Nagle on), "
_ONE = "Store SCP, storescu with TCP_NODELAY=1, one association, "
_FOUR = "Store SCP, storescu with TCP_NODELAY=1, four associations, "
_PEERS_OF_STOCK_SMALL = (_storescp(at_least(40)), _orthanc(at_least(40)), _PYNETDICOM, _SINK)
_PEERS_OF_STOCK_CT = (_storescp(at_least(10)), _orthanc(at_least(10)), _PYNETDICOM, _SINK)
_PEERS_OF_ONE = (_storescp(at_least(1.2)), _prompt_storescp(at_least(1.2)), _PYNETDICOM, _SINK)
_PEERS_OF_FOUR = (_storescp(at_least(1), "--fork"), _prompt_storescp(at_least(1), "--fork"), _PYNETDICOM, _SINK)
SCENARIOS = (
    Scenario(_STOCK + "8 KB", _SMALL, 1, False, _PEERS_OF_STOCK_SMALL),
    Scenario(_STOCK + "CT 512 KB", _CT, 1, False, _PEERS_OF_STOCK_CT),
    Scenario(_ONE + "8 KB", _SMALL, 1, True, _PEERS_OF_ONE),
    Scenario(_ONE + "CT 512 KB", _CT, 1, True, _PEERS_OF_ONE),
    Scenario(_FOUR + "8 KB", _SMALL, 4, True, _PEERS_OF_FOUR),
    Scenario(_FOUR + "CT 512 KB", _CT, 4, True, _PEERS_OF_FOUR),
)
_NONE = at_least(0)  # the target is the other side's
OURS = (
    Peer("router", receivers.router("fsync"), _NONE, "fsync"),
    Peer("router", receivers.router("rename"), _NONE, "rename"),
)
WHOLE = Peer("dicom-router run, with its ledger", receivers.service, _NONE, "fsync")
TWO = Peer("router, receivers: 2", receivers.router("fsync", 2), _NONE, "fsync")


def run(bench: Bench) -> Iterator[Row]:
    """The rows of the table."""
    files = {
        _SMALL: Instances(bench.folder("small"), _SMALL, bench.scale(1200, 32)),
        _CT: Instances(bench.folder("ct"), _CT, bench.scale(320, 16)),
    }
    for scenario in SCENARIOS:
        with ExitStack() as stack:
            yield from _scenario(replace(bench, stack=stack), scenario, files[scenario.rows])


def _scenario(bench: Bench, scenario: Scenario, files: Instances) -> Iterator[Row]:
    others = (WHOLE, TWO) if scenario.associations > 1 else (WHOLE,)
    contenders = [_contender(bench, scenario, files, peer) for peer in (*OURS, *scenario.peers, *others)]
    durable, quick, *done = bench.compete(contenders, bench.scale(4, 1))
    theirs, further = done[: len(scenario.peers)], done[len(scenario.peers) :]
    for peer, series in zip(scenario.peers, theirs, strict=True):
        yield Row(scenario.work, _UNIT, durable, series, peer.target)
        yield Row(scenario.work, _UNIT, quick, series, peer.target)
    for series in further:
        yield Row(scenario.work, _UNIT, series, durable)


def _contender(bench: Bench, scenario: Scenario, files: Instances, peer: Peer) -> Contender:
    bench.say(f"trial: {peer.label} {peer.durability}")
    sender = Sender(scenario, files, peer.start(bench))
    count = sender.fitting_count()
    return Contender(peer.label, partial(sender.run, count), count, peer.durability)


class Sender:
    """storescu, once or several times at once, to one receiver."""

    def __init__(self, scenario: Scenario, files: Instances, receiver: Receiver) -> None:
        self._scenario = scenario
        self._files = files
        self._receiver = receiver

    def fitting_count(self) -> int:
        """How many instances make a run of about a second, the sender's own start then weighing alike for all."""
        most = len(self._files.files)
        count = min(_START_WITH, most)
        while True:
            taken = count / self.run(count)
            if taken >= _LONG_ENOUGH or count == most:
                wanted = int(count * _RUN_SECONDS / taken)
                return max(self._scenario.associations, min(most, wanted))
            count = min(most, 4 * count)

    def run(self, count: int) -> float:
        """Instances a second. Raises BenchmarkError where not all of them arrived."""
        files = self._files.renewed(count)
        parts = [files[start :: self._scenario.associations] for start in range(self._scenario.associations)]
        result = rate(count, lambda: self._send(parts))
        arrived = self._receiver.arrived()
        if arrived not in {None, count}:
            raise BenchmarkError(f"{self._scenario.work}: {arrived} of {count} instances arrived.")
        return result

    def _send(self, parts: Sequence[Sequence[Path]]) -> None:
        address = self._receiver.address
        command = [program("storescu"), "-aet", CALLING, "-aec", address.ae_title, "127.0.0.1", str(address.port)]
        variables = environment(nodelay=self._scenario.nodelay)
        senders = [
            subprocess.Popen(
                [*command, *map(str, part)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=variables
            )
            for part in parts
        ]
        try:
            errors = [sender.communicate(timeout=_SECONDS)[1] for sender in senders]
        finally:
            for sender in senders:
                if sender.poll() is None:
                    sender.kill()
                    sender.wait()
        if any(sender.returncode for sender in senders):
            raise BenchmarkError(f"{self._scenario.work}: storescu failed: {b''.join(errors).decode(errors='replace')}")
