"""Killed again and again in the middle of a run: nothing is lost, nothing corrupt, hardly anything moved twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from tests.support.peers import Orthanc
from tests.support.process import Process, wait_for
from tests.support.router import COMMAND, Site, node
from tests.support.samples import dataset_bytes, make_study

STUDIES, INSTANCES, KILLS, SLOTS = 60, 4, 20, 2
SECONDS = 180.0


def _complete(site: Site) -> int:
    if not (site.directory / "ledger.db").exists():
        return 0
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        return sum(row.count for row in ledger.backlog() if row.state is State.COMPLETE)


def _kill(run: Process, *, whole_group: bool) -> None:
    """The engine alone, whose receivers then see that it is gone, or all of it at once."""
    with contextlib.suppress(ProcessLookupError):
        if whole_group:
            os.killpg(run.pid, signal.SIGKILL)
        else:
            os.kill(run.pid, signal.SIGKILL)
    run.wait()


@pytest.mark.timeout(900)
def test_twenty_kills_at_random_moments(tmp_path: Path, start_orthanc: Callable[..., Orthanc]) -> None:
    site = Site(tmp_path / "site", nodes={}, rules={})
    archive = start_orthanc(modalities={"ROUTER": site.dicom_port})
    wanted: dict[str, bytes] = {}
    for _ in range(STUDIES):
        study = make_study(tmp_path / "studies", description="CT Thorax", instances=INSTANCES)
        archive.upload(*study.files)
        wanted |= {uid: dataset_bytes(path) for path, uid in study.sop_instance_uids.items()}
    site.configure(
        nodes={"archive": node(archive.ae_title, archive.dicom_port, limits={"associations": SLOTS})},
        rules={
            "all": {
                "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"}},
                "move": {"to": ["local"], "retry": {"attempts": 20, "delay": "1s"}},
            }
        },
    )
    moments = random.Random(20)
    for number in range(KILLS):
        goal = number * (STUDIES - 12) // KILLS  # enough is left for the last kill to find it at work
        command = [*COMMAND, "--config", str(site.rules_directory), "apply"]
        with Process(command, site.directory, name=f"apply-{number}", working_directory=site.directory) as run:
            wait_for(
                lambda: _complete(site) >= goal or run.returncode is not None,  # noqa: B023 - called at once
                f"{goal} studies are complete before kill {number}",
                SECONDS,
            )
            time.sleep(moments.uniform(0.0, 0.1 if number else 1.5))
            assert run.returncode is None, run.log
            _kill(run, whole_group=bool(number % 2))

    site.apply(code=0, seconds=SECONDS)
    with SqlLedger.open(site.settings["ledger"], read_only=True) as ledger:
        transfers = ledger.transfers()
    assert [transfer.state for transfer in transfers] == [State.COMPLETE] * STUDIES
    assert {uid: dataset_bytes(path) for uid, path in site.stored().items()} == wanted
    assert not list((site.store / ".incoming").iterdir())
    again = sum(transfer.attempts for transfer in transfers) - STUDIES
    assert 0 <= again <= KILLS * SLOTS
