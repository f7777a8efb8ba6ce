"""`store leaving`, and what `store list` says of it: what would leave the store, and why the rest stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from router.cli.main import root
from router.cli.store_leaving import MEANINGS
from router.domain.retention import Why
from router.ledger.ledger import SqlLedger
from tests.support.departures import pass_on
from tests.support.stored import Stored, uids

Command = Callable[..., Result]
FREE, KEPT, ONLY_HERE = (uids(number)[0] for number in (1, 2, 3))


def write(directory: Path, retention: str) -> None:
    (directory / "rules").mkdir(exist_ok=True)
    (directory / "rules" / "site.yaml").write_text(
        f"""
router: {{ae_title: ROUTER, store: {directory}/store, ledger: 'sqlite:///{directory}/ledger.db'{retention}}}
nodes:
  scanner: {{ae_title: CT1, address: '127.0.0.1:104', push: allow}}
  ws: {{ae_title: WS, address: '127.0.0.1:105'}}
rules:
  on: {{arrival: {{from: [scanner], stable: 60s}}, forward: {{to: [ws]}}}}
"""
    )


@pytest.fixture
def command(tmp_path: Path) -> Command:
    write(tmp_path, ", retention: {keep: 7d}")
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.site_key()
        stored = Stored(tmp_path / "store", ledger)
        for number in (1, 2, 3):
            stored.put(number)
        now = datetime.now(UTC)
        with_age = [one for study in (FREE, KEPT, ONLY_HERE) for one in ledger.indexed(study)]
        old = [msgspec.structs.replace(one.receipt, received_at=now - timedelta(days=30)) for one in with_age]
        ledger.add_receipts(old)
        pass_on(ledger, FREE, now - timedelta(days=20))
        pass_on(ledger, KEPT, now - timedelta(days=1))
        stored.close()

    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(root, ["--config", str(tmp_path / "rules"), "store", *map(str, arguments)])

    return call


def printed(result: Result) -> str:
    assert result.exception is None, result.exception
    return " ".join(result.stdout.split())


def parsed(result: Result) -> Any:
    printed(result)
    return json.loads(result.stdout)


def test_what_would_leave_and_why_the_rest_stays(command: Command) -> None:
    told = parsed(command("leaving", "--format", "json"))
    assert told["retention"] is True
    assert [one["study_instance_uid"] for one in told["leave"]] == [FREE]
    assert {one["study_instance_uid"]: one["why"] for one in told["stay"]} == {KEPT: "keep", ONLY_HERE: "not-sent-on"}
    assert {why: of["studies"] for why, of in told["counts"].items()} == {"leave": 1, "keep": 1, "not-sent-on": 1}
    (kept,) = [one for one in told["stay"] if one["why"] == "keep"]
    assert kept["leaves_at"] is not None
    assert (kept["forwards"], kept["proven"]) == (1, 1)
    text = printed(command("leaving"))
    assert text.startswith("1 of 3 studies would leave now, ")
    assert "Nothing sends it on" in text
    assert MEANINGS[Why.KEEP] in text


def test_nothing_is_removed_by_looking(command: Command, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*.dcm")}
    for _ in range(2):
        printed(command("leaving"))
    assert {path: path.stat().st_mtime for path in tmp_path.rglob("*.dcm")} == before
    assert len(before) == 3


def test_only_some_studies_and_no_more_lines_than_asked_for(command: Command) -> None:
    told = parsed(command("leaving", "--study", KEPT, "--format", "json"))
    assert (told["leave"], [one["study_instance_uid"] for one in told["stay"]]) == ([], [KEPT])
    told = parsed(command("leaving", "--limit", "1", "--format", "json"))
    assert len(told["stay"]) == 1
    assert sum(of["studies"] for of in told["counts"].values()) == 3
    assert "and 2 more (--limit)" in printed(command("leaving", "--limit", "1"))


def test_the_list_says_when_a_study_leaves_or_why_it_stays(command: Command) -> None:
    rows = {one["study_instance_uid"]: one for one in parsed(command("list", "--format", "json"))["studies"]}
    assert [rows[uid]["stays"] for uid in (FREE, KEPT, ONLY_HERE)] == ["", "keep", "not-sent-on"]
    assert [rows[uid]["leaves_at"] is None for uid in (FREE, KEPT, ONLY_HERE)] == [True, False, True]
    assert "kept until" in rows[KEPT]["reason"]
    assert "leaves" in printed(command("list"))


def test_with_room_on_the_disk_nothing_leaves_under_a_watermark(command: Command, tmp_path: Path) -> None:
    write(tmp_path, ", minimum_free: 0, retention: {keep: 7d, watermark: {high: 100%, low: 99%}}")
    told = parsed(command("leaving", "--format", "json"))
    assert told["leave"] == []
    assert {one["study_instance_uid"]: one["why"] for one in told["stay"]}[FREE] == "room"
    rows = {one["study_instance_uid"]: one["stays"] for one in parsed(command("list", "--format", "json"))["studies"]}
    assert rows[FREE] == "room"


def test_without_retention_nothing_ever_leaves_and_that_is_said(command: Command, tmp_path: Path) -> None:
    write(tmp_path, "")
    assert "nothing ever leaves the store" in printed(command("leaving"))
    assert parsed(command("leaving", "--format", "json"))["retention"] is False
    (row, *_) = parsed(command("list", "--format", "json"))["studies"]
    assert (row["stays"], row["leaves_at"]) == (None, None)
    assert "leaves" not in printed(command("list"))


def test_every_reason_has_its_sentence() -> None:
    assert MEANINGS.keys() == set(Why)
