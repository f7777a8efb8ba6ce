"""What `plan` says and what the `apply` after it does are the same, over 500 studies of a real Orthanc."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Happening, Intent, NewTransfer, State
from router.ledger.ledger import SqlLedger
from tests.support.peers import Orthanc
from tests.support.router import Site, node
from tests.support.samples import StudyFiles
from tests.support.samples import make_study as write_study

STUDIES = 500
KINDS = (
    ("CT", "Thorax routine", 1),
    ("CT", "CHEST low dose", 2),
    ("CT", "Abdomen", 1),
    ("MR", "Thorax", 1),
    ("US", "Liver", 1),
    ("CR", "Chest", 1),
)
"""Modality, description and number of instances; the rule wants the first two."""
WANTED = sum(number % len(KINDS) < 2 for number in range(STUDIES))
PER_SWEEP = 120
HELD, CANCELLED = range(0, 60, len(KINDS)), range(60, 90, len(KINDS))
"""Numbers of studies that a person holds, or has cancelled."""
RULE: dict[str, Any] = {
    "sweep": {"source": "archive", "every": "1h", "keys": {"StudyDate": "20240101..20240131"}},
    "where": {"ModalitiesInStudy": "CT", "StudyDescription": {"matches": "(?i)chest|thorax"}},
    "move": {"to": ["local"]},
    "limits": {"studies_per_sweep": PER_SWEEP},
}


def filled(orthanc: Orthanc, directory: Path) -> list[str]:
    """Put the studies into the archive; their UIDs by number."""

    def make(number: int) -> StudyFiles:
        modality, description, instances = KINDS[number % len(KINDS)]
        study = write_study(
            directory,
            modality=modality,
            description=description,
            patient_id=f"P{number // 2}",
            accession=f"{number:05d}",
            study_date=f"202401{1 + number % 28:02d}",
            instances=instances,
            rows=8,
        )
        orthanc.upload(*study.files)
        return study

    with ThreadPoolExecutor(4) as pool:
        return [study.study_instance_uid for study in pool.map(make, range(STUDIES))]


def settled(ledger: SqlLedger, studies: list[str]) -> None:
    """What people have said of some studies before."""
    now = datetime.now(UTC)
    asked = [(number, Happening.HOLD) for number in HELD] + [(number, Happening.CANCEL) for number in CANCELLED]
    ledger.add_sweeps([SweepDue(rule="thorax", source="archive", due_at=now)])
    sweep = ledger.claim_sweep(["archive"], now, 60)
    assert sweep is not None
    transfers = [
        NewTransfer(
            intent=Intent("archive", studies[number], "", "local"),
            rule="thorax",
            priority=1,
            instance_count=KINDS[number % len(KINDS)][2],
        )
        for number, _ in asked
    ]
    assert ledger.finish_sweep(sweep, SweepReport(state=SweepState.COMPLETE), transfers, [], now)
    for one in ledger.transfers():
        number = studies.index(one.intent.study_instance_uid)
        ledger.apply(one.id, dict(asked)[number], now)


def decided(plan: dict[str, Any]) -> dict[tuple[str, str], tuple[str, str]]:
    """(study, destination) -> decision and code; each once."""
    rows = {
        (one["study_instance_uid"], one["destination"] or ""): (one["decision"], one["code"])
        for one in plan["transfers"]
    }
    assert len(rows) == len(plan["transfers"])
    return rows


def moving(plan: dict[str, Any]) -> set[tuple[str, str]]:
    return {unit for unit, (decision, _) in decided(plan).items() if decision == "move"}


def moved(applied: dict[str, Any]) -> set[tuple[str, str]]:
    assert {one["verdict"] for one in applied["transfers"]} == {"complete"}
    return {(one["study_instance_uid"], one["destination"]) for one in applied["transfers"]}


def test_plan_and_the_apply_after_it_agree_on_500_studies(
    start_orthanc: Callable[..., Orthanc], tmp_path: Path
) -> None:
    router = Site(tmp_path / "site", nodes={}, rules={}, router={"durability": "rename"})
    orthanc = start_orthanc(modalities={"ROUTER": router.dicom_port})
    studies = filled(orthanc, tmp_path / "studies")
    archive = node(orthanc.address.ae_title, orthanc.address.port, limits={"associations": 4})
    router.configure(nodes={"archive": archive}, rules={"thorax": RULE})
    ledger = f"sqlite:///{router.directory}/ledger.db"
    with SqlLedger.open(ledger) as opened:
        settled(opened, studies)

    plan = router.json("plan")
    assert plan["sweeps"][0]["matches"] == STUDIES
    assert Counter(decided(plan).values()) == {
        ("skip", "condition"): STUDIES - WANTED,
        ("hold", "held"): len(HELD),
        ("skip", "done"): len(CANCELLED),
        ("move", "new"): PER_SWEEP,
        ("hold", "limit"): WANTED - len(HELD) - len(CANCELLED) - PER_SWEEP,
    }
    assert orthanc.statistics()["studies"] == STUDIES
    assert not router.store.exists()

    applied = router.apply()
    assert moved(applied) == moving(plan)
    with SqlLedger.open(ledger, read_only=True) as opened:
        held = {
            (one.intent.study_instance_uid, one.intent.destination) for one in opened.transfers(states=[State.HELD])
        }
    assert held == {unit for unit, (decision, _) in decided(plan).items() if decision == "hold"}
    total = plan["estimate"]["total"]
    assert (total["studies"], total["transfers"]) == (PER_SWEEP, PER_SWEEP)
    assert total["instances"] == sum(one["completed"] for one in applied["transfers"])
    assert total["seconds"] is None, "nothing was moved before"

    # What the limit left over, and then there is nothing to do any more.
    rest = router.json("plan")
    assert moving(rest) == {unit for unit, stand in decided(plan).items() if stand == ("hold", "limit")}
    assert rest["estimate"]["total"]["seconds"] > 0
    assert moved(router.apply()) == moving(rest)
    last = router.json("plan")
    assert Counter(decided(last).values()) == {
        ("skip", "condition"): STUDIES - WANTED,
        ("hold", "held"): len(HELD),
        ("skip", "done"): WANTED - len(HELD),
    }
    assert last["estimate"]["total"]["transfers"] == 0
