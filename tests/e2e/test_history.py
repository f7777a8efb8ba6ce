"""The history as administrators meet it: what ended long ago is out of the way, is known, and comes back."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from router.ledger.ledger import SqlLedger
from router.simulator import SimulatedPacs, make_study
from tests.support.process import wait_for
from tests.support.router import Site, node

TWO_DAYS = 2 * 86400 * 1_000_000
"""In microseconds, as the ledger keeps times."""


class Ward:
    """An archive with a study, and a router that moved it two days ago and keeps what has ended for a day."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE"))
        self.archive.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.site.settings["history"] = {"keep": "1d"}
        sweep = {"source": "archive", "every": "1s", "keys": {"StudyDate": "today-1d..today"}}
        rules = {"all": {"sweep": sweep, "move": {"to": ["local"]}}}
        self.site.configure(nodes={"archive": node("ARCHIVE", self.archive.port)}, rules=rules)
        self.grow(2)
        (moved,) = self.site.apply()["transfers"]
        assert moved["verdict"] == "complete"
        (known,) = self.listed()
        self.number, self.study = known["id"], known["study_instance_uid"]
        path = self.site.settings["ledger"].removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE transfers SET finished_at = finished_at - ?", (TWO_DAYS,))

    def grow(self, instances: int) -> None:
        self.archive.add(make_study(seed="a", study_date=date.today(), instances=instances))

    def listed(self, *options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.json("transfers", "list", *options)["transfers"]
        return found

    @contextlib.contextmanager
    def archived(self) -> Iterator[SqlLedger]:
        """The service runs, and what ended is in the history."""
        with self.site.run(), SqlLedger.open(self.site.settings["ledger"], read_only=True) as ledger:
            wait_for(lambda: ledger.history(), "what ended two days ago is in the history")
            yield ledger


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


def test_it_is_out_of_the_way_but_known_and_comes_back_when_it_grew(ward: Ward) -> None:
    with ward.archived() as ledger:
        before = max((one.id for one in ledger.last_sweeps()), default=0)
        wait_for(lambda: any(one.id > before + 1 for one in ledger.last_sweeps()), "another sweep has seen the study")
        assert len(ward.archive.record.of("move")) == 1, "it is not moved again"
        assert ward.listed() == []
        assert [one["id"] for one in ward.listed("--history")] == [ward.number]
        assert [one["id"] for one in ward.listed("--study", ward.study)] == [ward.number]
        assert ward.listed("--history", "--state", "failed") == []
        shown = ward.site.json("transfers", "show", str(ward.number))
        assert shown["transfer"]["state"] == "complete"
        assert shown["attempts"] != []
        ward.grow(3)
        wait_for(
            lambda: [one.completed for one in ledger.transfers() if one.ended] == [3], "it grew and is whole again"
        )
        assert ledger.history() == []
    (again,) = ward.listed()
    assert (again["id"], again["state"], again["expected"]) == (ward.number, "complete", 3)
    assert len(ward.archive.record.of("move")) == 2


def test_a_person_may_ask_for_it_again(ward: Ward) -> None:
    with ward.archived() as ledger:
        assert (
            "No such transfers in the history"
            in ward.site.call("transfers", "list", "--history", "--rule", "all", "--state", "failed").stdout
        )
        refused = ward.site.call("transfers", "cancel", str(ward.number))
        assert (refused.returncode, "complete" in refused.stderr) == (1, True)
        assert [one.id for one in ledger.history()] == [ward.number]
        assert ward.site.call("transfers", "retry", str(ward.number)).returncode == 0
        wait_for(lambda: [one.ended for one in ledger.transfers()] == [True], "it was asked for again and ended")
    assert [one["id"] for one in ward.listed()] == [ward.number]
