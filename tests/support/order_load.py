"""Orders at a rate, most of them repeats, against a running router: what is answered, and what comes of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from router.simulator import SimulatedPacs, make_study
from tests.support.hl7 import MllpClient, order
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node

REPEATS = 5
"""Each order is sent so many times: 80 % are repeats."""


class Load(NamedTuple):
    """What became of it. Sizes in bytes, times in seconds."""

    sent: int
    accepted: int
    appointments: int
    looks: int
    taken: int
    memory: Sequence[int]
    """Resident size of the service at equal distances, from after the first orders to the end."""
    latencies: Sequence[float]

    @property
    def slowest_of_hundred(self) -> float:
        """99 of 100 acknowledgements came sooner."""
        return statistics.quantiles(self.latencies, n=100)[-1]


def resident(pid: int) -> int:
    """Resident size of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


class Department:
    """A router with an order rule, an archive in which the first patients have two studies each, and a workstation."""

    def __init__(self, directory: Path, patients: int) -> None:
        self.order_port = free_port()
        self.workstation = SimulatedPacs("WS").start()
        self.archive = SimulatedPacs(
            "ARCHIVE", studies=list(_studies(patients)), destinations={"WS": ("127.0.0.1", self.workstation.port)}
        ).start()
        group = {"name": "same", "where": {"modality": "same"}, "max": 1}
        self.site = Site(
            directory,
            nodes={
                "archive": node("ARCHIVE", self.archive.port, limits={"associations": 2}),
                "workstation": node("WS", self.workstation.port),
            },
            rules={
                "priors": {
                    "order": {},
                    "priors": {"source": "archive", "groups": [group]},
                    "move": {"to": ["workstation"]},
                }
            },
            router={"hl7": {"listen": f"127.0.0.1:{self.order_port}"}},
        )

    def close(self) -> None:
        """Stop archive and workstation."""
        self.archive.stop()
        self.workstation.stop()

    def client(self) -> MllpClient:
        """A sender."""
        return MllpClient(self.order_port)

    def appointments(self) -> list[dict[str, Any]]:
        """As the command line lists them."""
        return list(self.site.json("appointments", "list", "--limit", "100000")["appointments"])


KNOWN = 200
"""So many patients have studies at the archive: it is a simulated one, and looks at each for each question."""


def _studies(patients: int) -> Iterator[Any]:
    for number in range(min(patients, KNOWN)):
        for age, modality in ((100, "CT"), (400, "MR")):
            yield from make_study(
                seed=f"{number} {age}",
                modality=modality,
                description=f"{modality} abdomen",
                patient_id=f"PAT{number}",
                patient_birth_date="19640812",
                patient_sex="F",
                study_date=date.today() - timedelta(days=age),
                instances=1,
                rows=8,
            )


def run_load(department: Department, router: RunningRouter, orders: int, per_minute: float | None) -> Load:
    """Send orders for different patients, each `REPEATS` times; `per_minute` None: as fast as they are answered."""
    start = f"{datetime.now().astimezone() + timedelta(days=2):%Y%m%d%H%M}"
    patients = orders // REPEATS
    latencies: list[float] = []
    accepted = 0
    memory: list[int] = []
    began = time.monotonic()
    with department.client() as one, department.client() as other:
        for number in range(orders):
            if per_minute is not None:
                time.sleep(max(0.0, began + number * 60 / per_minute - time.monotonic()))
            # Repeats come soon after and long after the first.
            patient = number % patients if number % 2 else (number // REPEATS) % patients
            message = order(f"ACC{patient}", patient=f"PAT{patient}", start=start, control_id=str(number))
            sent = time.monotonic()
            answer = (one, other)[number % 2].ask(message)
            latencies.append(time.monotonic() - sent)
            accepted += answer.code == "AA" and answer.control_id == str(number)
            if number % max(1, orders // 10) == orders // 10 - 1:
                memory.append(resident(router.pid))
    wait_for(lambda: {one["state"] for one in department.appointments()} == {"done"}, "every look has ended", 90.0, 1.0)
    memory.append(resident(router.pid))
    looks = next(line for line in router.metrics().splitlines() if line.startswith(_LOOKS))
    noted = department.appointments()
    return Load(
        sent=orders,
        accepted=accepted,
        appointments=len(noted),
        looks=int(float(looks.rpartition(" ")[2])),
        taken=sum(one["taken"] for one in noted),
        memory=memory,
        latencies=latencies,
    )


_LOOKS = 'dicom_router_prior_looks_total{result="done",rule="priors"'
