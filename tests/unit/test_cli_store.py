"""The `store` commands as people and programs see them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from router.cli import store_others
from router.cli.main import root
from router.cli.store_text import byte_count
from router.domain.overview import ServiceInfo
from router.domain.pseudonym import Pseudonyms
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Intent, State
from router.errors import LedgerMissing, RouterError, StoreError, UsageError
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import claim, new
from tests.support.stored import Stored, uids

Command = Callable[..., Result]
STUDY, OTHER = uids(1)[0], uids(2)[0]


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "site.yaml").write_text(
        f"""
router: {{ae_title: ROUTER, store: {tmp_path}/store, ledger: 'sqlite:///{tmp_path}/ledger.db'}}
nodes:
  scanner: {{ae_title: CT1, address: '127.0.0.1:104', sends_as: [CT1, CT1_OUT]}}
rules:
  r: {{sweep: {{source: scanner, every: 1h, keys: {{StudyDate: today}}}}, move: {{to: [local]}}}}
"""
    )
    return tmp_path / "rules"


@pytest.fixture
def stored(tmp_path: Path, configuration: Path) -> Iterator[Stored]:
    """Two studies, one from a node and one from a stranger too."""
    with SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db") as ledger:
        ledger.site_key()
        opened = Stored(tmp_path / "store", ledger)
        opened.put(1, 1, 1)
        opened.put(1, 1, 2, calling="CT1_OUT")
        opened.put(1, 2, 1, calling="STRANGER")
        opened.put(2, 1, 1, calling="STRANGER")
        yield opened
        opened.close()


@pytest.fixture
def command(configuration: Path) -> Command:
    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(root, ["--config", str(configuration), "store", *map(str, arguments)])

    return call


def printed(result: Result) -> str:
    assert result.exception is None, result.exception
    return " ".join(result.stdout.split())


def parsed(result: Result) -> Any:
    printed(result)
    return json.loads(result.stdout)


def pseudonym(stored: Stored, uid: str = STUDY) -> str:
    return Pseudonyms(stored.ledger.site_key()).of(uid)


def test_the_studies_are_listed_with_who_sent_them(stored: Stored, command: Command) -> None:
    out = printed(command("list"))
    assert out.startswith("study pseudonym instances size first last from needed by")
    assert f"{pseudonym(stored)} 3 {byte_count(stored.ledger.stored_amount([STUDY]).size)} " in out
    assert "STRANGER, scanner -" in out


def test_json_has_the_same(stored: Stored, command: Command) -> None:
    rows = parsed(command("list", "--format", "json"))["studies"]
    assert [row["study_instance_uid"] for row in rows] == [OTHER, STUDY]
    amount = stored.ledger.stored_amount([STUDY])
    row = rows[1]
    assert (row["study"], row["instances"], row["bytes"]) == (pseudonym(stored), 3, amount.size)
    assert (row["from"], row["transfers"]) == (["STRANGER", "scanner"], [])
    assert row["first_received"] <= row["last_received"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--study", STUDY), [STUDY]),
        (("--study", STUDY, "--study", OTHER), [OTHER, STUDY]),
        (("--source", "scanner"), [STUDY]),
        (("--source", "scanner", "--study", OTHER), []),
        (("--limit", "1"), [OTHER]),
        (("--study", "0123456789ab"), []),
    ],
)
@pytest.mark.usefixtures("stored")
def test_the_list_is_narrowed(command: Command, arguments: tuple[str, ...], found: list[str]) -> None:
    rows = parsed(command("list", *arguments, "--format", "json"))["studies"]
    assert [row["study_instance_uid"] for row in rows] == found


def test_a_study_is_found_by_what_stands_for_it_in_the_log(stored: Stored, command: Command, tmp_path: Path) -> None:
    name = pseudonym(stored)
    (row,) = parsed(command("list", "--study", name, "--format", "json"))["studies"]
    assert row["study_instance_uid"] == STUDY
    assert parsed(command("verify", "--study", name, "--format", "json"))["instances"] == 3
    assert parsed(command("export", tmp_path / "out", "--study", name, "--format", "json"))["instances"] == 3


@pytest.mark.usefixtures("stored")
def test_where_there_is_nothing_it_says_so(command: Command) -> None:
    assert printed(command("list", "--study", "1.2.3")) == "No such studies."
    for name in (("verify",), ("export", "out")):
        result = command(*name, "--study", "1.2.3")
        assert isinstance(result.exception, RouterError)
        assert "holds nothing of what --study names" in str(result.exception)
        assert "1.2.3" not in str(result.exception)


@pytest.mark.usefixtures("stored")
def test_what_is_no_study_and_no_node_is_an_error(command: Command) -> None:
    for name in (("list",), ("verify",), ("export", "out")):
        result = command(*name, "--study", "ct-abdomen")
        assert isinstance(result.exception, UsageError)
        assert "neither the UID nor the pseudonym" in str(result.exception)
    assert str(command("list", "--source", "scaner").exception).endswith("did you mean scanner?")


def test_without_a_ledger_or_a_store_each_command_is_an_error(command: Command, tmp_path: Path) -> None:
    for name in (("list",), ("verify",), ("export", tmp_path / "out")):
        assert isinstance(command(*name).exception, LedgerMissing)
    SqlLedger.open(f"sqlite:///{tmp_path}/ledger.db").close()
    assert printed(command("list")) == "The store holds no study."
    for name in (("verify",), ("export", tmp_path / "out")):
        assert isinstance(command(*name).exception, StoreError)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("stored")
def test_a_sound_store_is_verified(command: Command) -> None:
    told = parsed(command("verify", "--format", "json"))
    assert (told["studies"], told["instances"], told["first_read"], told["compared"]) == (2, 4, 4, 0)
    assert (told["fault_counts"], told["faults"]) == ({}, [])
    out = printed(command("verify"))
    assert out == f"4 instances of 2 studies, {byte_count(told['bytes'])}: 4 as when first verified."


def test_what_is_wrong_is_told_with_its_file_and_its_meaning(stored: Stored, command: Command) -> None:
    known = list(stored.ledger.indexed(STUDY))
    stored.file(known[0].receipt).unlink()
    os.truncate(stored.file(known[1].receipt), 100)
    out = printed(command("verify"))
    assert "2 verified for the first time, 2 at fault." in out
    assert f"missing {known[0].receipt.path}" in out
    assert f"not-dicom {known[1].receipt.path}" in out
    assert "missing 1 The ledger has its receipt, but there is no such file." in out
    told = parsed(command("verify", "--format", "json", "--limit", "1"))
    assert told["fault_counts"] == {"missing": 1, "not-dicom": 1}
    (fault,) = told["faults"]
    assert fault == {
        "study_instance_uid": STUDY,
        "study": pseudonym(stored),
        "series_instance_uid": known[0].receipt.series_instance_uid,
        "sop_instance_uid": known[0].receipt.sop_instance_uid,
        "path": known[0].receipt.path,
        "fault": "missing",
        "reason": "The ledger has its receipt, but there is no such file.",
    }
    assert "and 1 more (--limit)" in printed(command("verify", "--limit", "1"))


def test_studies_are_exported_and_it_is_told_what_was(stored: Stored, command: Command, tmp_path: Path) -> None:
    told = parsed(command("export", tmp_path / "out", "--format", "json"))
    files = list((tmp_path / "out").rglob("*.dcm"))
    assert len(files) == told["instances"] == told["copied"] == 4
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    assert told["directory"] == str(tmp_path / "out")
    assert {row["study_instance_uid"]: row["instances"] for row in told["studies"]} == {STUDY: 3, OTHER: 1}
    assert {row["study"] for row in told["studies"]} == {pseudonym(stored, uid) for uid in (STUDY, OTHER)}
    again = printed(command("export", tmp_path / "out", "--link"))
    assert again.endswith("4 there already.")
    linked = printed(command("export", tmp_path / "other", "--link", "--study", OTHER))
    assert linked.endswith("1 linked.")


def test_what_cannot_be_exported_is_named(stored: Stored, command: Command, tmp_path: Path) -> None:
    stored.file(next(stored.ledger.indexed(OTHER)).receipt).unlink()
    out = printed(command("export", tmp_path / "out"))
    assert "3 copied, 1 not exported." in out
    assert "missing 1 The ledger has its receipt" in out


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 29, "2.5 GiB"), (1 << 62, "4096.0 PiB")]
)
def test_bytes_are_told_in_units(number: int, text: str) -> None:
    assert byte_count(number) == text


# a store that is gone -------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(stored: Stored) -> int:
    """A second store, of the replica `router-2`, with what a transfer to `local` brought; the transfer's number."""
    ledger = stored.ledger
    now = ledger.clock().now()
    ledger.note_store("abc", "router-2", now)
    ledger.add_receipts([msgspec.structs.replace(stored.put(3, receipt=False), store="abc")])
    wanted = Intent("scanner", uids(3)[0], "", "local")
    ledger.add_sweeps([SweepDue(rule="r", source="scanner", due_at=now)])
    sweep = ledger.claim_sweep(["scanner"], now, 60)
    assert sweep is not None
    report = SweepReport(state=SweepState.COMPLETE, matches=1, selected=1, queries=1)
    assert ledger.finish_sweep(sweep, report, [new(wanted, rule="r")], [], now)
    one = claim(ledger, now, "scanner")
    ledger.finish(one, Finish(happening=Happening.PROVEN, moved=True), now, now)
    return one.id


def announced(stored: Stored, seconds: float) -> None:
    """The replica that has it was seen so many seconds ago."""
    at = stored.ledger.clock().now() - timedelta(seconds=seconds)
    stored.ledger.announce(ServiceInfo(owner="x", address="", seen_at=at, replica="router-2", store="abc"))


def test_before_a_store_is_forgotten_it_is_said_what_is_lost(command: Command, lost: int) -> None:
    refused = command("forget", "router-2")
    assert isinstance(refused.exception, UsageError)
    assert "held 1 instance, which 1 transfer to local would lose; say --yes --retry" in str(refused.exception)


def test_what_is_lost_with_a_store_is_named(command: Command, lost: int, stored: Stored) -> None:
    said = printed(command("forget", "router-2", "--yes"))
    assert "the store abc with 1 instance." in said
    assert f"1 transfer to local has lost instances; `dicom-router transfers retry {lost}` queues them again." in said
    assert [one.state for one in stored.ledger.transfers()] == [State.COMPLETE]


def test_what_is_lost_with_a_store_is_queued_again(command: Command, lost: int, stored: Stored) -> None:
    said = parsed(command("--format", "json", "forget", "router-2", "--yes", "--retry"))
    assert said == {"store": "abc", "forgotten": 1, "lost": [lost], "queued": 1}
    assert [one.state for one in stored.ledger.transfers()] == [State.QUEUED]


def test_many_that_are_lost_are_not_all_named() -> None:
    said = store_others._lost(range(1, 41), 0)
    assert "40 transfers to local have lost instances: 1 2 " in said
    assert " 20 and 20 more. " in said


@pytest.mark.parametrize(("seconds", "words"), [(0, "router-2 runs and has it. Stop"), (50, "was last seen 5")])
def test_a_store_whose_replica_was_seen_a_moment_ago_is_not_forgotten(
    command: Command, lost: int, stored: Stored, seconds: float, words: str
) -> None:
    announced(stored, seconds)
    refused = command("forget", "router-2", "--yes", "--retry")
    assert isinstance(refused.exception, RouterError)
    assert words in str(refused.exception)
    assert ("say this again in a minute" in str(refused.exception)) is (seconds > 0)
    assert stored.ledger.store_amounts()["abc"] == 1
