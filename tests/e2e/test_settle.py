"""Settling and limits as administrators meet them: a study that grows, a backlog, what the commands say of both."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from router.domain.transfer import State
from router.ledger.ledger import SqlLedger
from router.simulator import SimulatedPacs, make_study
from tests.support.process import wait_for
from tests.support.router import Site, node


class Ward:
    """An archive with studies of today, and a router with one rule to its own store."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE"))
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)

    def rule(self, *, settle: str = "0s", **limits: int) -> None:
        sweep = {"source": "archive", "every": "1s", "keys": {"StudyDate": "today-1d..today"}, "settle": settle}
        rule = {"sweep": sweep, "move": {"to": ["local"]}, "limits": limits}
        self.site.configure(nodes={"archive": node("ARCHIVE", self.archive.port)}, rules={"all": rule})

    def grow(self, seed: str, instances: int) -> None:
        self.archive.add(make_study(seed=seed, study_date=date.today(), instances=instances))

    def transfers(self, *options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.json("transfers", "list", *options)["transfers"]
        return found


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


def test_a_study_that_grows_while_it_settles_is_moved_once_and_whole(ward: Ward) -> None:
    ward.rule(settle="10s")
    ward.grow("a", 2)
    with ward.site.run() as router, SqlLedger.open(ward.site.settings["ledger"], read_only=True) as ledger:
        for instances in (2, 3, 4, 5):
            ward.grow("a", instances)
            wait_for(lambda n=instances: [t.instance_count for t in ledger.transfers()] == [n], "a sweep has seen it")
        assert [t.state for t in ledger.transfers()] == [State.HELD]
        assert not ward.archive.record.of("move")
        wait_for(lambda: ledger.transfers(states=[State.COMPLETE]), "it has settled and is moved")
        held = re.search(r"^dicom_router_sweep_held_total{(?=.*settling).*} (\S+)$", router.metrics(), re.MULTILINE)
    (transfer,) = ward.transfers()
    assert (transfer["expected"], transfer["completed"], transfer["attempts"]) == (5, 5, 1)
    assert len(ward.archive.record.of("move")) == 1
    assert held is not None
    assert float(held[1]) == 4, "it began to settle, and three times anew"


def test_apply_does_not_wait_for_what_is_held_and_says_so(ward: Ward) -> None:
    ward.rule(settle="1h")
    ward.grow("a", 2)
    planned = ward.site.json("plan")
    assert [(one["decision"], one["code"]) for one in planned["transfers"]] == [("hold", "settling")]
    applied = ward.site.apply()
    assert applied["transfers"] == []
    assert "held back: 1 until the number of instances has stayed the same for 1h" in applied["sweeps"][0]["account"]
    (held,) = ward.transfers()
    assert (held["state"], held["cause"]) == ("held", "settling")
    assert "Not before" in held["reason"]
    said = " ".join(ward.site.call("apply").stdout.split())
    assert "held back: 1 until" in said
    assert ward.site.call("transfers", "release", str(held["id"])).returncode == 0
    assert ward.site.call("apply").returncode == 0
    assert ward.transfers()[0]["state"] == "complete"


def test_a_backlog_is_moved_sweep_by_sweep(ward: Ward) -> None:
    ward.rule(studies_per_sweep=2)
    for number in range(5):
        ward.grow(f"s{number}", 1)
    assert [len(ward.site.apply()["transfers"]) for _ in range(4)] == [2, 2, 1, 0]
    assert {one["state"] for one in ward.transfers()} == {"complete"}
