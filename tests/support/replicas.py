"""Several services on one ledger: started, killed and stopped by number, each with its own store, behind one port.

A move to `local` comes to the one address under which the archive knows this router: a balancer that hands each
association to the next replica that listens.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from router.domain.rule import RouterSettings
from router.domain.transfer import State, Transfer
from router.ledger.ledger import SqlLedger
from router.simulator import Behaviour, SimulatedPacs
from router.simulator.session import Session
from tests.support.part10 import read_part10
from tests.support.process import READY_SECONDS, wait_for
from tests.support.router import Site, StartedRouter

_PIECE = 1 << 18
_SECONDS = 60.0


class Balancer:
    """Hands each connection to the next of these ports that takes it, and closes it where none does."""

    def __init__(self, ports: list[int], port: int = 0) -> None:
        """Listen on loopback; `ports` may be changed while it runs."""
        self.ports = ports
        self.taken: dict[int, int] = dict.fromkeys(ports, 0)
        """How many connections each of the ports got."""
        self._turn = itertools.count()
        self._server = socket.create_server(("127.0.0.1", port), backlog=128)
        self._server.settimeout(0.2)
        self.port = int(self._server.getsockname()[1])
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._accept, name="balancer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections; those that are open end with their peers."""
        self._ending.set()
        self._thread.join(_SECONDS)
        self._server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, ours: socket.socket) -> None:
        first = next(self._turn)
        ports = list(self.ports)
        for step in range(len(ports)):
            port = ports[(first + step) % len(ports)]
            try:
                theirs = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
            except OSError:
                continue
            self.taken[port] = self.taken.get(port, 0) + 1
            for one in (ours, theirs):
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_relay, args=(theirs, ours), daemon=True)
            back.start()
            _relay(ours, theirs)
            back.join()
            theirs.close()
            break
        ours.close()


def _relay(source: socket.socket, target: socket.socket) -> None:
    """Bytes from one to the other until one of them ends; then both do."""
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)
    for one in (source, target):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


class Replica(StartedRouter):
    """One of a fleet."""

    def wait_until_ready(self, seconds: float = READY_SECONDS) -> Self:
        """Wait for that; fail at once, with the log, if it ends before."""
        return self.wait_until(self.ready, "the replica is ready", seconds)


class Fleet:
    """Services `0..replicas-1` on one ledger. Leaving the context ends them all.

    `router` adds to every replica's settings; `ledger` is a URL, by default a SQLite file in the directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: Mapping[str, Any],
        rules: Mapping[str, Any],
        replicas: int = 3,
        ledger: str = "",
        router: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.ledger_url = ledger or f"sqlite:///{directory}/ledger.db"
        self.nodes, self.rules = dict(nodes), dict(rules)
        named = "replica" in RouterSettings.__struct_fields__
        self.sites = [
            Site(
                directory / f"replica-{number}",
                nodes={},
                rules={},
                router={
                    "ledger": self.ledger_url,
                    **({"replica": f"replica-{number}"} if named else {}),
                    **(router or {}),
                },
            )
            for number in range(replicas)
        ]
        self.running: dict[int, Replica] = {}
        self.balancer = Balancer([site.dicom_port for site in self.sites])
        self.configure()

    # --- Configuration ----------------------------------------------------------------------------------------------

    def configure(
        self,
        *,
        nodes: Mapping[str, Any] | None = None,
        rules: Mapping[str, Any] | None = None,
        only: int | None = None,
    ) -> None:
        """Write the configuration anew, of all replicas or of one.

        What all have alike is in a file of its own, byte for byte the same: `site.yaml`; `router.yaml` is each one's.
        """
        self.nodes = dict(self.nodes if nodes is None else nodes)
        self.rules = dict(self.rules if rules is None else rules)
        shared = yaml.safe_dump({"nodes": self.nodes, "rules": self.rules}, sort_keys=False)
        for number, site in enumerate(self.sites):
            if only in (None, number):
                own = yaml.safe_dump({"router": site.settings}, sort_keys=False)
                for name, content in (("router.yaml", own), ("site.yaml", shared)):
                    new = site.rules_directory / f".{name}"
                    new.write_text(content, encoding="utf-8")
                    new.replace(site.rules_directory / name)

    def is_destination_of(self, *archives: SimulatedPacs) -> None:
        """Make the fleet known to archives as ROUTER, by the balancer's port."""
        for archive in archives:
            archive.set_destination("ROUTER", "127.0.0.1", self.balancer.port)

    # --- Life -------------------------------------------------------------------------------------------------------

    def start(self, *numbers: int, ready: bool = True) -> list[Replica]:
        """Start these replicas, or all, at once; with `ready` wait until they are."""
        chosen = numbers or tuple(range(len(self.sites)))
        for number in chosen:
            assert number not in self.running, f"replica {number} runs already"
            self.running[number] = Replica(self.sites[number])
        if ready:
            for number in chosen:
                self.running[number].wait_until_ready()
        return [self.running[number] for number in chosen]

    def signal(self, number: int, which: signal.Signals) -> Replica:
        """Send a signal to one; SIGKILL goes to all its processes at once. It no longer counts as running."""
        replica = self.running.pop(number)
        with contextlib.suppress(ProcessLookupError):
            if which is signal.SIGKILL:
                os.killpg(replica.pid, which)
            else:
                os.kill(replica.pid, which)
        return replica

    def kill(self, number: int) -> None:
        """As by kill -9, its receivers included."""
        replica = self.signal(number, signal.SIGKILL)
        replica.wait()
        replica.stop()

    def stop(self, number: int) -> int:
        """As by SIGTERM; waits for its end and returns the exit status."""
        replica = self.signal(number, signal.SIGTERM)
        status = replica.wait()
        replica.stop()
        return status

    def restart(self, number: int, *, ready: bool = True) -> Replica:
        """Stop and start one, as an upgrade does."""
        assert self.stop(number) == 0, self.log(number)
        return self.start(number, ready=ready)[0]

    def close(self) -> None:
        """End all of it."""
        for replica in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                replica.send_signal(signal.SIGTERM)
        for replica in self.running.values():
            replica.stop()
        self.running.clear()
        self.balancer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- What is there ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ledger(self) -> Iterator[SqlLedger]:
        """The ledger, to be read."""
        with SqlLedger.open(self.ledger_url, read_only=True) as ledger:
            yield ledger

    def transfers(self, *states: State) -> list[Transfer]:
        """All transfers, or those in these states."""
        with self.ledger() as ledger:
            return ledger.transfers(states=states, limit=1_000_000)

    def counts(self) -> dict[State, int]:
        """How many transfers are in each state; empty where the ledger is not there yet."""
        found: dict[State, int] = {}
        with self.ledger() as ledger:
            for row in ledger.backlog():
                found[row.state] = found.get(row.state, 0) + row.count
        return found

    def wait_for_states(self, wanted: Mapping[State, int], seconds: float = 300.0) -> None:
        """Wait until exactly so many transfers are in these states, and none in another."""
        expected = {state: count for state, count in wanted.items() if count}

        def reached() -> bool:
            self.assert_running()
            return {state: count for state, count in self.counts().items() if count} == expected

        try:
            wait_for(reached, f"transfers {expected}", seconds, interval=0.5)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.counts()}\n{self.logs()[-6000:]}") from None

    def assert_running(self) -> None:
        """Fail where a replica ended that nobody ended."""
        for number, replica in self.running.items():
            if replica.returncode is not None:
                raise AssertionError(f"replica {number} ended with {replica.returncode}\n{self.log(number)[-6000:]}")

    def log(self, number: int) -> str:
        """All that one replica wrote, over all its lives."""
        path = self.sites[number].directory / "dicom-router.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def logs(self) -> str:
        """The lines of all, each after its replica's number, in the order of their times."""
        lines = [
            (line[:32], number, place, line)
            for number in range(len(self.sites))
            for place, line in enumerate(self.log(number).splitlines())
        ]
        return "\n".join(f"{number}| {line}" for _, number, _, line in sorted(lines))

    def stored(self) -> dict[int, dict[str, Path]]:
        """{replica: {SOP Instance UID: file}} of the object stores."""
        return {number: site.stored() for number, site in enumerate(self.sites)}

    def instances_stored(self) -> set[str]:
        """The SOP Instance UIDs of all stores together."""
        paths = (path for site in self.sites for path in site.store.glob("[0-9]*/**/*.dcm"))
        return {read_part10(path).sop_instance_uid for path in paths}


class Watch:
    """The C-MOVEs a simulated PACS served over time: which, how often, how many at once.

    Made before the PACS starts. Exact: it counts where they begin and end, it does not sample. The associations at
    every moment are counted by the PACS itself, as exactly: `associations_peak`, `associations_peaks` by who called.
    """

    def __init__(self, pacs: SimulatedPacs) -> None:
        self.pacs = pacs
        self.most_moving: dict[str, int] = {}
        """The most C-MOVEs that were served at once, by move destination; all of them under an empty one."""
        self._lock = threading.Lock()
        self._moving: list[str] = []
        self._serve_move = pacs._serve_move
        pacs._serve_move = self._watched  # type: ignore[method-assign]

    def _watched(self, session: Session, behaviour: Behaviour, ae_title: str) -> None:
        with self._lock:
            self._moving.append(ae_title)
            for name, now in ((ae_title, self._moving.count(ae_title)), ("", len(self._moving))):
                self.most_moving[name] = max(self.most_moving.get(name, 0), now)
        try:
            self._serve_move(session, behaviour, ae_title)
        finally:
            with self._lock:
                self._moving.remove(ae_title)

    def moves(self) -> dict[tuple[str, str], int]:
        """{(Study Instance UID, move destination): how often it was asked for}."""
        found: dict[tuple[str, str], int] = {}
        for move in self.pacs.record.of("move"):
            key = (move.keys.get("StudyInstanceUID", ""), move.destination)
            found[key] = found.get(key, 0) + 1
        return found

    def most_moves_in(self, seconds: float) -> int:
        """The most C-MOVEs that began within so long a time, at any moment."""
        times = sorted(move.at.timestamp() for move in self.pacs.record.of("move"))
        first, most = 0, 0
        for last, at in enumerate(times):
            while at - times[first] >= seconds:
                first += 1
            most = max(most, last - first + 1)
        return most
