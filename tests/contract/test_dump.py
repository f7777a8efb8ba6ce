"""A ledger goes from any database to any other, and is the same ledger there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from router.domain.overview import ServiceInfo
from router.domain.receipt import Receipt
from router.domain.sweep import SweepRecord
from router.domain.transfer import State
from router.errors import LedgerError
from router.ledger import census, dump
from router.ledger.ledger import SqlLedger
from router.ledger.tables import metadata
from tests.contract.ledgers import ADAPTERS, LEASE, NOW, after, intent, new, queue, running_sweep
from tests.support.ledger_rows import all_rows, database_of, fill


def silent(_table: str, _done: int, _rows: int) -> None:
    """No progress."""


def carry(source: SqlLedger, target: SqlLedger, file: Path) -> None:
    source.export_to(file, force=True, made_by="test", progress=silent)
    target.import_from(file, progress=silent)


@pytest.fixture
def other(url: str, tmp_path: Path) -> Iterator[SqlLedger]:
    """An empty ledger on the other database."""
    kind = "postgresql" if url.startswith("sqlite") else "sqlite"
    with ADAPTERS[kind](tmp_path / "other", True) as place, SqlLedger.open(place) as opened:
        yield opened


def test_every_table_is_carried_over_or_known_to_stay() -> None:
    assert set(metadata.tables) >= dump.STAYS
    assert set(dump.carried()) == set(metadata.tables) - dump.STAYS


def test_all_rows_are_the_same_afterwards(ledger: SqlLedger, other: SqlLedger, tmp_path: Path) -> None:
    fill(ledger, random.Random(3), 120)
    before = all_rows(ledger)
    assert all(rows for name, rows in before.items() if name != "meta")
    key = ledger.site_key()
    other.site_key()  # of its own, as a service that was started once had made it
    carry(ledger, other, tmp_path / "file")
    assert {**all_rows(other), "meta": None} == {**before, "meta": None}
    assert other.site_key() == key
    assert other.backlog() == ledger.backlog()
    assert not other.services(datetime(2000, 1, 1, tzinfo=UTC))


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), most=st.integers(0, 12))
def test_there_and_back_gives_equal_rows(tmp_path: Path, seed: int, most: int) -> None:
    with ExitStack() as stack:
        ledgers = []
        for name in ("sqlite", "postgresql", "sqlite"):
            if name == "sqlite":
                ledgers.append(stack.enter_context(SqlLedger.in_memory()))
            else:
                url = stack.enter_context(ADAPTERS[name](tmp_path, True))
                ledgers.append(stack.enter_context(SqlLedger.open(url)))
        fill(ledgers[0], random.Random(seed), most)
        carry(ledgers[0], ledgers[1], tmp_path / "file")
        carry(ledgers[1], ledgers[2], tmp_path / "file")
        assert all_rows(ledgers[0]) == all_rows(ledgers[1]) == all_rows(ledgers[2])
        assert ledgers[0].backlog() == ledgers[1].backlog() == ledgers[2].backlog()


def test_work_goes_on(ledger: SqlLedger, other: SqlLedger, tmp_path: Path) -> None:
    queue(ledger, [new(intent(1)), new(intent(2)), new(intent(3))])
    ledger.add_receipts([_receipt(1), _receipt(2)])
    carry(ledger, other, tmp_path / "file")
    assert {one: fact.state for one, fact in other.facts("archive", ["1.2.826.1", "1.2.826.9"]).items()} == {
        intent(1): State.QUEUED
    }
    assert other.received_instances("1.2.826.1") == ledger.received_instances("1.2.826.1")
    claimed = other.claim_transfer(["archive"], after(1), LEASE)
    assert claimed is not None
    assert claimed.intent == intent(1)
    sweep = queue(other, [new(intent(4))], after(2))
    assert not ledger.sweeps([sweep.id])  # it has a number that no sweep had before
    assert len({one.id for one in other.transfers()}) == 4


def test_a_text_that_a_database_cannot_hold_costs_no_import(tmp_path: Path) -> None:
    with SqlLedger.in_memory() as source, ADAPTERS["postgresql"](tmp_path, True) as url, SqlLedger.open(url) as target:
        table = metadata.tables["caps"]
        with database_of(source).write() as connection:
            connection.execute(table.insert().values(node="a\0b", matches=1))
        carry(source, target, tmp_path / "file")
        assert target.caps() == {"a\ufffdb": 1}


def test_numbers_are_not_given_twice_even_where_the_last_row_is_gone(
    ledger: SqlLedger, other: SqlLedger, tmp_path: Path
) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    last = max(one.id for one in ledger.transfers())
    table = metadata.tables["transfers"]
    with database_of(ledger).write() as connection:
        connection.execute(table.delete().where(table.c.id == last))
    carry(ledger, other, tmp_path / "file")
    queue(other, [new(intent(3))], after(1))
    assert max(one.id for one in other.transfers()) > last


def test_who_worked_holds_nothing_and_what_a_move_did_is_looked_up_first(
    ledger: SqlLedger, other: SqlLedger, tmp_path: Path
) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    claimed = ledger.claim_transfer(["archive"], after(1), LEASE)
    assert claimed is not None
    running_sweep(ledger, after(2), rule="other")
    carry(ledger, other, tmp_path / "file")
    states = {one.intent: one.state for one in other.transfers()}
    assert states == {intent(1): State.VERIFYING, intent(2): State.QUEUED}
    assert not other.renew(claimed, after(3), LEASE, None)
    assert ledger.renew(claimed, after(3), LEASE, None)  # where it came from nothing has changed
    again = other.claim_sweep(["archive"], after(4), LEASE)
    assert again is not None
    assert again.due.rule == "other"


def test_leases_of_every_kind_end(ledger: SqlLedger, other: SqlLedger, tmp_path: Path) -> None:
    fill(ledger, random.Random(7), 80, leased=True)
    carry(ledger, other, tmp_path / "file")
    leased = [name for name, table in metadata.tables.items() if "lease_until" in table.columns]
    assert {"transfers", "sweeps", "appointments", "arrivals", "notifications"} <= set(leased)
    for ledger_, some in ((ledger, True), (other, False)):
        with database_of(ledger_).read() as connection:
            for name in ("transfers", "notifications"):
                table = metadata.tables[name]
                found = connection.execute(table.select().where(table.c.lease_until.is_not(None))).first()
                assert (found is not None) is some, name


def test_nothing_is_imported_into_a_ledger_that_holds_something(
    ledger: SqlLedger, other: SqlLedger, tmp_path: Path
) -> None:
    queue(ledger, [new(intent(1))])
    queue(other, [new(intent(2))])
    before = all_rows(other)
    with pytest.raises(LedgerError, match=r"is not empty, and an import never mixes; name a new one"):
        carry(ledger, other, tmp_path / "file")
    assert all_rows(other) == before


def test_nothing_is_imported_where_a_service_runs(ledger: SqlLedger, other: SqlLedger, tmp_path: Path) -> None:
    now = database_of(other).clock().now()
    other.announce(ServiceInfo(owner="one", address="127.0.0.1:1", seen_at=now))
    with pytest.raises(LedgerError, match=r"A service runs on the ledger .*; stop it"):
        carry(ledger, other, tmp_path / "file")


def test_a_damaged_file_leaves_the_ledger_empty(ledger: SqlLedger, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with SqlLedger.in_memory() as source:
        fill(source, random.Random(5), 50)
        source.export_to(file, force=False, made_by="test", progress=silent)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError, match="is damaged: its end is missing; nothing was imported"):
        ledger.import_from(file, progress=silent)
    assert not any(all_rows(ledger).values())
    file.write_bytes(whole)
    ledger.import_from(file, progress=silent)  # as if nothing had been


def test_an_import_that_stops_half_way_leaves_the_ledger_empty(ledger: SqlLedger, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with SqlLedger.in_memory() as source:
        fill(source, random.Random(5), 80)
        source.export_to(file, force=False, made_by="test", progress=silent)

    def stop(table: str, done: int, _rows: int) -> None:
        if table == "receipts" and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.import_from(file, progress=stop)
    assert not any(all_rows(ledger).values())
    ledger.import_from(file, progress=silent)
    named = {str(index.name) for table in metadata.tables.values() for index in table.indexes}
    assert _indexes(ledger) >= named


def test_indexes_are_all_there_afterwards(ledger: SqlLedger, other: SqlLedger, tmp_path: Path) -> None:
    before = _indexes(other)
    fill(ledger, random.Random(9), 20)
    carry(ledger, other, tmp_path / "file")
    assert _indexes(other) == before


def test_an_export_sees_one_moment_while_others_write(ledger: SqlLedger, other: SqlLedger, tmp_path: Path) -> None:
    queue(ledger, [new(intent(number)) for number in range(50)])
    before = all_rows(ledger)
    written: list[SweepRecord] = []

    def meanwhile(table: str, done: int, _rows: int) -> None:
        if table == "sweeps" and not done and not written:
            written.append(queue(ledger, [new(intent(number)) for number in range(50, 90)], after(5)))

    ledger.export_to(tmp_path / "file", force=False, made_by="test", progress=meanwhile)
    assert written
    other.import_from(tmp_path / "file", progress=silent)
    assert all_rows(other) == before


def test_a_newer_ledger_and_what_is_not_known_are_refused(
    ledger: SqlLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    with SqlLedger.in_memory() as source:
        source.export_to(file, force=False, made_by="test", progress=silent)
    known = dump.carried()
    monkeypatch.setattr(dump, "carried", lambda: {name: one for name, one in known.items() if name != "caps"})
    with pytest.raises(LedgerError, match=r"holds what this program does not know of \(caps\)"):
        ledger.import_from(file, progress=silent)
    monkeypatch.undo()
    monkeypatch.setattr(dump, "VERSION", 7)
    with pytest.raises(LedgerError, match=r"newer dicom-router \(its ledger's version is 8, this program knows 7\)"):
        ledger.import_from(file, progress=silent)


def test_an_older_export_fills_what_it_does_not_know_with_defaults(
    ledger: SqlLedger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one will be read that this version made, once tables have got another column."""
    file = tmp_path / "file"
    whole = dump.carried()

    def without() -> dict[str, Any]:
        bare = whole["transfers"].to_metadata(type(whole["transfers"].metadata)())
        bare._columns.remove(bare.c.availability)
        return {**whole, "transfers": bare}

    with SqlLedger.in_memory() as source:
        queue(source, [new(intent(1))])
        monkeypatch.setattr(dump, "carried", without)
        source.export_to(file, force=False, made_by="test", progress=silent)
    monkeypatch.undo()
    ledger.import_from(file, progress=silent)
    assert [one.intent for one in ledger.transfers()] == [intent(1)]


def test_the_census_tells_what_there_is(ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    queue(ledger, [new(intent(1)), new(intent(2))])
    now = database_of(ledger).clock().now()
    ledger.announce(ServiceInfo(owner="one", address="127.0.0.1:1", seen_at=now))
    state = ledger.census()
    rows = {one.name: one for one in state.tables}
    assert (rows["transfers"].rows, rows["transfers"].exact) == (2, True)
    assert (state.version, state.open_transfers, state.oldest_queued_at) == (8, 2, NOW)
    assert [one.owner for one in state.services] == ["one"]
    assert state.size > 0
    assert state.database.split()[0] in {"SQLite", "PostgreSQL"}
    monkeypatch.setattr(census, "COUNTED_ROWS", 1)
    rows = {one.name: one for one in ledger.census().tables}
    assert (rows["transfers"].exact, rows["sweeps"].exact) == (False, True)


def _receipt(number: int) -> Receipt:
    return Receipt(
        study_instance_uid="1.2.826.1",
        series_instance_uid="1.2.826.1.1",
        sop_instance_uid=f"1.2.826.1.1.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae_title="ARCHIVE",
        size=100,
        path=f"1.2.826.1/1.2.826.1.1/1.2.826.1.1.{number}.dcm",
        received_at=NOW,
    )


def _indexes(ledger: SqlLedger) -> set[str]:
    with database_of(ledger).read() as connection:
        seen = inspect(connection)
        return {str(one["name"]) for table in seen.get_table_names() for one in seen.get_indexes(table)}
