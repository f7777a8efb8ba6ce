"""Archives that cut their answers short: a sweep finds everything all the same, or says that it could not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from router.simulator import Behaviour, SimulatedPacs, make_study
from tests.support.peers import Orthanc
from tests.support.router import Site, node
from tests.support.samples import make_study as write_study

STUDIES = 400
DAYS = 12
BUSY = 120
"""Studies of the busiest day."""
MONTH = {"StudyDate": "20240101..20240131"}


def placed(number: int) -> tuple[str, str]:
    """Date and time of a study: a day with many, the others evenly; in the morning more than at night."""
    day = 5 if number < BUSY else 1 + (number - BUSY) % (DAYS - 1)
    day = 12 if number >= BUSY and day == 5 else day
    second = 6 * 3600 + (number * 97) % (14 * 3600)
    return f"202401{day:02d}", f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"


def holdings(modalities: tuple[str, ...] = ("CT",)) -> list[list[Dataset]]:
    """The same studies for a simulated archive."""
    made = []
    for number in range(STUDIES):
        date, time = placed(number)
        made.append(
            make_study(
                seed=number,
                modality=modalities[number % len(modalities)],
                patient_id=f"P{number}",
                study_date=date,
                study_time=time,
                accession=f"{number:05d}",
                instances=1,
                rows=8,
            )
        )
    return made


def site(directory: Path, title: str, port: int, keys: dict[str, Any] | None = None, **find: Any) -> Site:
    """A router with one rule for the month."""
    settings = {"find": find} if find else {}
    sweep = {"source": "archive", "every": "1h", "keys": keys or MONTH}
    rules = {"all": {"sweep": sweep, "move": {"to": ["local"], "verify": "none"}}}
    return Site(directory, nodes={"archive": node(title, port, **settings)}, rules=rules)


def planned(router: Site) -> tuple[dict[str, Any], set[str]]:
    """The report of the sweep, and the studies that it would move."""
    plan = router.json("plan")
    (sweep,) = plan["sweeps"]
    moves = [one["study_instance_uid"] for one in plan["transfers"] if one["decision"] == "move"]
    assert len(moves) == len(set(moves))
    return sweep, set(moves)


def uids(studies: Iterable[list[Dataset]]) -> set[str]:
    return {str(study[0].StudyInstanceUID) for study in studies}


def test_the_studies_lie_as_the_test_means() -> None:
    days = Counter(placed(number)[0] for number in range(STUDIES))
    assert len(days) == DAYS
    assert max(days.values()) == BUSY
    assert min(days.values()) > 0


def test_stock_orthanc_that_cuts_at_25(start_orthanc: Callable[..., Orthanc], tmp_path: Path) -> None:
    orthanc = start_orthanc(LimitFindResults=25, modalities={"ROUTER": 1})
    made = []
    for number in range(STUDIES):
        date, time = placed(number)
        made.append(
            write_study(
                tmp_path / "studies",
                patient_id=f"P{number}",
                accession=f"{number:05d}",
                study_date=date,
                study_time=time,
                instances=1,
                rows=8,
            )
        )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda study: orthanc.upload(*study.files), made))
    router = site(tmp_path / "site", orthanc.address.ae_title, orthanc.address.port)
    sweep, moves = planned(router)
    assert sweep["complete"], sweep["reason"]
    assert sweep["matches"] == STUDIES
    assert moves == {study.study_instance_uid for study in made}
    assert sweep["account"].startswith(f"{sweep['queries']} queries: answers are cut at 25; asked in parts: ")
    assert "by Study Time" in sweep["account"]
    assert sweep["queries"] < STUDIES / 2


@pytest.mark.parametrize(
    ("cap", "status"), [(100, 0x0000), (100, 0xFE00), (100, 0xA700)], ids=["silent", "cancelled", "refused"]
)
def test_an_archive_that_cuts_at_100(tmp_path: Path, cap: int, status: int) -> None:
    studies = holdings(("CT", "MR"))
    behaviour = Behaviour(max_results=cap, capped_status=status)
    instances = [one for study in studies for one in study]
    with SimulatedPacs("ARCHIVE", studies=instances, behaviour=behaviour) as pacs:
        sweep, moves = planned(site(tmp_path, "ARCHIVE", pacs.port))
    assert sweep["complete"], sweep["reason"]
    assert sweep["matches"] == STUDIES
    assert moves == uids(studies)
    assert "in parts" in sweep["account"]


def test_a_cap_that_is_known_and_modalities_that_are_wanted(tmp_path: Path) -> None:
    studies = holdings(("CT", "MR", "US"))
    instances = [one for study in studies for one in study]
    keys = MONTH | {"ModalitiesInStudy": ["CT", "US"]}
    with SimulatedPacs("ARCHIVE", studies=instances, behaviour=Behaviour(max_results=37)) as pacs:
        sweep, moves = planned(site(tmp_path, "ARCHIVE", pacs.port, keys, max_results=37))
    assert sweep["complete"], sweep["reason"]
    assert moves == uids(study for study in studies if study[0].Modality != "MR")


def same_moment() -> list[Dataset]:
    """More studies at one second than the archive answers."""
    return [
        one
        for number in range(130)
        for one in make_study(seed=number, study_time="101500", accession=f"{number:05d}", instances=1, rows=8)
    ]


@pytest.mark.parametrize("status", [0x0000, 0xFE00, 0xA700])
def test_a_cap_below_which_nothing_can_be_divided(tmp_path: Path, status: int) -> None:
    behaviour = Behaviour(
        max_results=100, capped_status=status, unmatched_keys=frozenset({"AccessionNumber", "ModalitiesInStudy"})
    )
    with SimulatedPacs("ARCHIVE", studies=same_moment(), behaviour=behaviour) as pacs:
        router = site(tmp_path, "ARCHIVE", pacs.port)
        report = router.json("plan", code=None)["sweeps"][0]
        applied = router.json("apply", "--timeout", "60", code=1)["sweeps"][0]
        asked = len(pacs.record.of("find"))
    assert not report["complete"]
    assert report["reason"]
    assert applied["state"] in ("incomplete", "failed")
    assert not applied["complete"]
    assert asked < 200, "what does not match by it is found out at once"


def test_it_can_be_divided_by_accession_number(tmp_path: Path) -> None:
    with SimulatedPacs("ARCHIVE", studies=same_moment(), behaviour=Behaviour(max_results=100)) as pacs:
        sweep, moves = planned(site(tmp_path, "ARCHIVE", pacs.port))
    assert sweep["complete"], sweep["reason"]
    assert len(moves) == 130
    assert "by Accession Number" in sweep["account"]


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(refuse_study_time=True), Behaviour(unmatched_keys=frozenset({"StudyTime"}))],
    ids=["refuses times", "ignores times"],
)
def test_an_archive_that_does_not_match_by_time(tmp_path: Path, behaviour: Behaviour) -> None:
    studies = holdings()
    instances = [one for study in studies for one in study]
    with SimulatedPacs("ARCHIVE", studies=instances, behaviour=replace(behaviour, max_results=100)) as pacs:
        sweep, moves = planned(site(tmp_path, "ARCHIVE", pacs.port))
    assert sweep["complete"], sweep["reason"]
    assert moves == uids(studies)
    assert "by Accession Number" in sweep["account"]


def test_a_number_that_looks_like_a_cap_and_is_none(tmp_path: Path) -> None:
    instances = [one for study in holdings()[:100] for one in study]
    with SimulatedPacs("ARCHIVE", studies=instances) as pacs:
        sweep, moves = planned(site(tmp_path / "auto", "ARCHIVE", pacs.port))
        assert sweep["complete"], sweep["reason"]
        assert sweep["queries"] > 1
        assert len(moves) == 100
        sweep, _ = planned(site(tmp_path / "none", "ARCHIVE", pacs.port, max_results="none"))
        assert (sweep["complete"], sweep["queries"]) == (True, 1)


def test_more_queries_than_a_sweep_may_take(tmp_path: Path) -> None:
    instances = [one for study in holdings() for one in study]
    with SimulatedPacs("ARCHIVE", studies=instances, behaviour=Behaviour(max_results=10)) as pacs:
        sweep, moves = planned(site(tmp_path, "ARCHIVE", pacs.port, max_results=10, max_queries=20))
    assert not sweep["complete"]
    assert "find.max_queries" in sweep["reason"]
    assert sweep["queries"] == 20
    assert moves, "what did come is moved all the same"
