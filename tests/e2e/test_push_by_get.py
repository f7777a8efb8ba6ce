"""A source that answers a C-GET with more than was asked for: only what it may push enters the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from router.simulator import SimulatedPacs
from router.simulator.archive import Archive, Instance
from router.simulator.query import Query, select
from tests.support.router import Site, node
from tests.support.samples import make_study

RULE = {
    "sweep": {"source": "archive", "every": "1h", "keys": {"PatientID": "WANTED"}},
    "move": {"to": ["local"], "via": "get", "retry": {"attempts": 1}},
}


@pytest.mark.parametrize(("settings", "enters"), [({}, False), ({"push": "allow"}, True)])
def test_what_was_not_asked_for_enters_only_from_who_may_push(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], enters: bool
) -> None:
    wanted = make_study(tmp_path / "wanted", instances=3, patient_id="WANTED")
    stray = make_study(tmp_path / "stray", instances=1, patient_id="OTHER")
    extra = [Instance.from_file(path) for path in stray.files]

    def selected(archive: Archive, query: Query) -> list[Instance]:
        return [*extra, *select(archive, query)]

    monkeypatch.setattr("router.simulator.get.select", selected)
    with SimulatedPacs("ARCHIVE") as archive:
        archive.add_files(wanted.files)
        nodes = {"archive": node("ARCHIVE", archive.port, sends_as=["SENDER"], **settings)}
        site = Site(tmp_path / "site", nodes=nodes, rules={"all": RULE})
        [moved] = site.apply(code=None)["transfers"]
    assert moved["verdict"] == "complete"
    assert set(site.stored()) == wanted.instances | (stray.instances if enters else set())
