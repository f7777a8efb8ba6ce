"""C-MOVE from a stock Orthanc: to the router's Store SCP or DCMTK's, by the router's rules or movescu in a loop."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from bench import receivers
from bench.harness import Bench, BenchmarkError, Contender, environment, program, rate
from bench.instances import Instances
from bench.receivers import Receiver
from bench.result import Row, at_least
from tests.support.dcmtk import Address
from tests.support.orthanc import Orthanc
from tests.support.ports import free_port
from tests.support.router import Site, node

_MOVER = "MOVESCU"
_SECONDS = 180.0


def run_objects(bench: Bench) -> Iterator[Row]:
    """C-MOVE of big studies: movescu asks, Orthanc sends, we or storescp receive."""
    studies, size = bench.scale(5, 1), bench.scale(100, 5)
    archive = bench.start(receivers.stock_orthanc(bench))
    archive.register(_MOVER, free_port())
    files = Instances(bench.folder("ct"), 512, size)
    for number in range(studies):
        bench.say(f"loading study {number + 1} of {studies}")
        archive.upload(*files.renewed(size))
    starts = {
        ("router", "fsync"): receivers.router("fsync"),
        ("router", "rename"): receivers.router("rename"),
        ("DCMTK storescp", "none"): receivers.storescp(),
    }
    uids = list(archive.studies())
    contenders: list[Contender] = []
    for (label, durability), start in starts.items():
        move = _Moves(archive, start(bench), f"TO{len(contenders)}", list(uids), size)
        contenders.append(Contender(label, move.next, size, durability))
    durable, quick, theirs = bench.compete(contenders, studies)
    work = f"C-MOVE of {studies} x {size} CT 512 KB from stock Orthanc, movescu asking"
    yield Row(work, "instances/s", durable, theirs, at_least(10))
    yield Row(work, "instances/s", quick, theirs, at_least(10))


class _Moves:
    """One receiver's turns: a study each."""

    def __init__(self, archive: Orthanc, receiver: Receiver, title: str, studies: list[str], size: int) -> None:
        self._archive = archive
        self._receiver = receiver
        self._title = title
        self._studies = studies
        self._size = size
        archive.register(title, receiver.address.port)

    def next(self) -> float:
        """Instances a second. Raises BenchmarkError where not all arrived."""
        study = self._studies.pop()
        result = rate(self._size, lambda: _movescu(self._archive.address, self._title, study))
        _expect(self._receiver.arrived(), self._size)
        return result


def _movescu(archive: Address, destination: str, study: str) -> None:
    keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}"]
    titles = ["-aet", _MOVER, "-aec", archive.ae_title, "-aem", destination]
    subprocess.run(
        [program("movescu"), "-S", *titles, *keys, "127.0.0.1", str(archive.port)],
        check=True,
        timeout=_SECONDS,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(nodelay=False),
    )


# --- Many small studies ----------------------------------------------------------------------------------------------

_PER_STUDY = 2


def run_studies(bench: Bench) -> Iterator[Row]:
    """C-MOVE of many small studies: `dicom-router apply`, its start and its queries included, or movescu for each."""
    studies, fewer = bench.scale(200, 6), bench.scale(30, 3)
    archive = bench.start(receivers.stock_orthanc(bench))
    archive.register(_MOVER, free_port())
    files = Instances(bench.folder("small"), 64, _PER_STUDY)
    bench.say(f"loading {studies} studies")
    for _ in range(studies):
        archive.upload(*files.renewed(_PER_STUDY))
    uids = list(archive.studies())
    storescp = receivers.storescp()(bench)
    archive.register("STORESCP", storescp.address.port)
    loop = partial(_loop, archive, storescp, uids[:fewer])
    contenders = [
        Contender("dicom-router apply", partial(_apply, bench, archive, studies, 1), studies, "fsync"),
        Contender("dicom-router apply, 4 associations", partial(_apply, bench, archive, studies, 4), studies, "fsync"),
        Contender("loop of movescu to DCMTK storescp", loop, fewer, "none"),
    ]
    one, four, theirs = bench.compete(contenders, bench.scale(3, 1))
    work = f"C-MOVE of {studies} studies of {_PER_STUDY} x 8 KB from stock Orthanc"
    yield Row(work, "studies/s", one, theirs, at_least(10))
    yield Row(work, "studies/s", four, theirs, at_least(10))


def _loop(archive: Orthanc, receiver: Receiver, studies: Sequence[str]) -> float:
    def work() -> None:
        for study in studies:
            _movescu(archive.address, "STORESCP", study)

    result = rate(len(studies), work)
    _expect(receiver.arrived(), len(studies) * _PER_STUDY)
    return result


def _apply(bench: Bench, archive: Orthanc, studies: int, associations: int) -> float:
    """With a new ledger and an empty store each time."""
    site = Site(
        bench.folder("site"),
        nodes={"archive": node(archive.ae_title, archive.dicom_port, limits={"associations": associations})},
        rules={
            "all": {
                "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"}},
                "where": {"StudyDescription": {"matches": "(?i)thorax"}},
                "move": {"to": ["local"]},
            }
        },
    )
    archive.register("ROUTER", site.dicom_port)
    printed: list[Any] = []
    result = rate(studies, lambda: printed.append(site.apply(seconds=_SECONDS)))
    verdicts = [transfer["verdict"] for transfer in printed[0]["transfers"]]
    _expect(verdicts.count("complete"), studies)
    _expect(len(site.stored()), studies * _PER_STUDY)
    return result


def _expect(found: int | None, wanted: int) -> None:
    if found != wanted:
        raise BenchmarkError(f"{found} of {wanted} arrived.")
