"""The ledger as a SQLite file: what it creates, how it fails, what a crash leaves, which index answers."""

from __future__ import annotations

import contextlib
import re
import select
import sqlite3
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from router.domain.commitment import CommitmentAnswer
from router.domain.forward_choice import Health
from router.domain.hl7 import Merge
from router.domain.overview import ServiceInfo
from router.domain.passing import ArrivalReport
from router.domain.receipt import Receipt
from router.domain.sweep import SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Instance, Route, State, Stop
from router.errors import LedgerError, LedgerMissing
from router.ledger import database, migrations, sqlite, tables
from router.ledger.ledger import SqlLedger
from tests.contract import test_appointments as appointments
from tests.contract import test_arrivals as arrived
from tests.contract.ledgers import LEASE, NOW, after, claim, intent, look, new, queue, running_sweep

COMPLETE = SweepReport(state=SweepState.COMPLETE)
ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "ledger"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.db"


def open_at(path: Path, **options: bool) -> SqlLedger:
    return SqlLedger.open(f"sqlite:///{path}", **options)


@contextlib.contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as any other program sees it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


def python(script: str, *arguments: object) -> list[str]:
    """The command that runs a script with the ledger at hand."""
    head = """
        import sys
        from router.domain.sweep import *
        from router.domain.transfer import *
        from router.errors import LedgerError
        from router.ledger.ledger import SqlLedger
        from tests.contract.ledgers import *
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script), *map(str, arguments)]


class TestOpening:
    def test_makes_the_directory_and_a_durable_file(self, path: Path) -> None:
        open_at(path).close()
        with raw(path) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("SELECT value FROM meta").fetchall() == [(str(migrations.VERSION),)]

    def test_only_to_read_makes_nothing(self, path: Path) -> None:
        with open_at(path, read_only=True) as ledger:
            assert ledger.transfers() == []
            assert ledger.facts("archive", ["1.2"]) == {}
            assert ledger.last_sweeps() == []
            with pytest.raises(LedgerError, match="reading only"):
                queue(ledger, [new(intent(1))])
        assert not path.parent.exists()

    def test_only_to_read_an_empty_file_is_an_empty_ledger(self, tmp_path: Path) -> None:
        (tmp_path / "empty.db").touch()
        with raw(tmp_path / "vacuumed.db") as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.execute("DROP TABLE t")
        for name in ("empty.db", "vacuumed.db"):
            before = (tmp_path / name).read_bytes()
            with open_at(tmp_path / name, read_only=True) as ledger:
                assert ledger.backlog() == []
            assert (tmp_path / name).read_bytes() == before

    def test_only_to_read_beside_a_writer(self, path: Path) -> None:
        with open_at(path) as writer, open_at(path, read_only=True) as reader:
            assert reader.transfers() == []
            queue(writer, [new(intent(1))])
            assert reader.transfers() == writer.transfers()

    def test_without_creating(self, path: Path) -> None:
        for read_only in (False, True):
            with pytest.raises(LedgerMissing, match=re.escape(f"no ledger at {path} yet")):
                open_at(path, create=False, read_only=read_only)
        assert not path.parent.exists()

    def test_only_to_read_what_is_no_ledger_yet(self, tmp_path: Path) -> None:
        (tmp_path / "empty.db").touch()
        with raw(tmp_path / "vacuumed.db") as connection:
            connection.execute("CREATE TABLE t (x)")
            connection.execute("DROP TABLE t")
        for name in ("empty.db", "vacuumed.db"):
            with pytest.raises(LedgerMissing, match=re.escape(str(tmp_path / name))):
                open_at(tmp_path / name, create=False, read_only=True)

    def test_a_path_through_a_file_is_an_error_and_not_an_empty_ledger(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for create in (False, True):
            with pytest.raises(LedgerError, match=r"/file/ledger\.db cannot be opened") as caught:
                open_at(tmp_path / "file" / "ledger.db", create=create, read_only=True)
            assert not isinstance(caught.value, LedgerMissing)

    def test_a_relative_path_is_told_in_full(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(LedgerMissing) as caught:
            SqlLedger.open("sqlite:///./data/ledger.db", create=False)
        sentence = (
            f"There is no ledger at {tmp_path}/data/ledger.db yet; relative paths start at the working directory."
        )
        assert str(caught.value) == sentence

    def test_several_processes_at_once(self, path: Path) -> None:
        script = """
            from router.domain.overview import ServiceInfo
            ledger = SqlLedger.open(sys.argv[1])
            ledger.announce(ServiceInfo(owner=sys.argv[2], address="", seen_at=NOW))
        """
        commands = [python(script, f"sqlite:///{path}", number) for number in range(6)]
        processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for command in commands]
        errors = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 6, errors
        with open_at(path) as ledger:
            assert len(ledger.services(NOW)) == 6

    def test_in_memory(self) -> None:
        with SqlLedger.in_memory() as ledger, SqlLedger.in_memory() as other:
            queue(ledger, [new(intent(1))])
            assert claim(ledger).intent == intent(1)
            assert other.transfers() == []


def _columns(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Every table and index with its columns, whatever their order."""
    names = connection.execute("SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    return {
        (name, column[1] if kind == "table" else str(column[2]))
        for name, kind in names
        for column in connection.execute(f"PRAGMA {'table' if kind == 'table' else 'index'}_info({name})")
    }


def _triggers(connection: sqlite3.Connection) -> set[str]:
    return {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'")}


class TestVersions:
    def test_a_newer_one_is_refused(self, path: Path) -> None:
        open_at(path).close()
        with raw(path) as connection:
            connection.execute(f"UPDATE meta SET value = '{migrations.VERSION + 1}'")
        for read_only in (False, True):
            with pytest.raises(LedgerError, match="newer dicom-router"):
                open_at(path, read_only=read_only)

    def test_an_older_one_is_brought_up_to_date_step_by_step(self, path: Path) -> None:
        with open_at(path) as ledger:
            queue(ledger, [new(intent(1))])
        engine = sa.create_engine(f"sqlite:///{path}")
        newer = migrations.VERSION + 2
        steps = {
            newer - 1: lambda connection: connection.exec_driver_sql("ALTER TABLE transfers ADD COLUMN colour TEXT"),
            newer: lambda connection: connection.exec_driver_sql("UPDATE transfers SET colour = 'red'"),
        }
        with engine.begin() as connection:
            migrations.migrate(connection, newer, steps)
            migrations.migrate(connection, newer, steps)
        engine.dispose()
        with raw(path) as connection:
            assert connection.execute("SELECT colour FROM transfers").fetchall() == [("red",)]
            assert connection.execute("SELECT value FROM meta").fetchall() == [(str(newer),)]

    @pytest.mark.parametrize("version", range(1, migrations.VERSION))
    def test_a_ledger_of_each_older_version_goes_on(self, path: Path, version: int) -> None:
        path.parent.mkdir(exist_ok=True)
        with raw(path) as connection:
            connection.executescript((DATA / f"version-{version}.sql").read_text(encoding="utf-8"))
        with open_at(path) as ledger:
            assert {transfer.state for transfer in ledger.transfers()} == {State.QUEUED, State.VERIFYING}
            assert ledger.claim_verification(["local"], NOW, 60.0) is not None
        fresh = path.with_name("fresh.db")
        open_at(fresh).close()
        with raw(path) as old, raw(fresh) as new_one:
            assert _columns(old) == _columns(new_one)
            assert _triggers(old) == _triggers(new_one)
            assert sum(count for (count,) in old.execute("SELECT count FROM transfer_counts")) == 2

    def test_only_to_read_an_older_one_asks_for_the_router(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        open_at(path).close()
        monkeypatch.setattr(database, "VERSION", migrations.VERSION + 1)
        monkeypatch.setattr(database, "refuse_newer", lambda version: None)
        with pytest.raises(LedgerError, match="older version"):
            open_at(path, read_only=True)

    def test_another_programs_tables_are_left_alone(self, path: Path) -> None:
        path.parent.mkdir()
        with raw(path) as connection:
            connection.execute("CREATE TABLE meta (name, value)")
        for read_only in (False, True):
            with pytest.raises(LedgerError, match="something else"):
                open_at(path, read_only=read_only)
        with raw(path) as connection:
            assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("meta",)]


class TestErrors:
    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("ledger.db", "not a database URL"),
            ("sqlite://", "does not name a file"),
            ("sqlite:///:memory:", "does not name a file"),
            ("sqlite:///a.db?mode=ro", "does not name a file"),
            ("nosuch+driver://user:secret@host/name", "is kept in SQLite or PostgreSQL"),
        ],
    )
    def test_a_wrong_url(self, url: str, message: str) -> None:
        with pytest.raises(LedgerError, match=message) as caught:
            SqlLedger.open(url)
        assert "secret" not in str(caught.value)
        assert "sqlite:///" in str(caught.value)

    def test_not_a_database(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_text("This is not a database. " * 100)
        for read_only in (False, True):
            with pytest.raises(LedgerError, match="is not a database; choose another file") as caught:
                open_at(path, read_only=read_only)
            assert str(path) in str(caught.value)

    def test_a_directory_in_its_place(self, path: Path) -> None:
        path.mkdir(parents=True)
        (path / "something").touch()
        with pytest.raises(LedgerError, match="cannot be opened"):
            open_at(path)

    def test_a_file_in_place_of_its_directory(self, path: Path) -> None:
        path.parent.touch()
        with pytest.raises(LedgerError, match="cannot be opened"):
            open_at(path)

    def test_damaged(self, path: Path) -> None:
        with open_at(path) as ledger:
            queue(ledger, [new(intent(n)) for n in range(500)])
        content = bytearray(path.read_bytes())
        content[8192:] = b"\xa5" * len(content[8192:])
        path.write_bytes(content)
        with pytest.raises(LedgerError, match="is damaged; stop the router and restore"), open_at(path) as ledger:
            ledger.transfers()

    def test_locked_by_another_process(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite, "WAIT_SECONDS", 0.2)
        with open_at(path) as ledger, raw(path) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerError, match="locked by another process"):
                ledger.withdraw("me")
            other.execute("ROLLBACK")
            ledger.withdraw("me")

    def test_no_room_left(self, path: Path) -> None:
        # The limit on a file's size stands in for a full disk: the write fails in the same place.
        script = """
            import resource, signal
            ledger = SqlLedger.open(sys.argv[1])
            queue(ledger, [new(intent(0))])
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
            try:
                for number in range(1, 50):
                    queue(ledger, [new(intent(1000 * number + n)) for n in range(500)], after(number))
            except LedgerError as error:
                print(error)
            print(len(ledger.transfers(limit=100_000)) % 500)
        """
        done = subprocess.run(python(script, f"sqlite:///{path}"), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        message, rest = done.stdout.splitlines()
        assert re.search(r"(disk is full|the disk reports an error, or is full)", message), message
        assert rest == "1"
        with raw(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_never_tells_an_identifier(self, path: Path) -> None:
        with open_at(path) as ledger:
            sweep = running_sweep(ledger)
            report = SweepReport(state=SweepState.COMPLETE)
            wrong: list[dict[str, Any]] = [{"priority": 9}, {"count": 2**70}, {"rule": "\udc80"}]
            for bad in (new(intent(4711), **one) for one in wrong):
                with pytest.raises(LedgerError) as caught:
                    ledger.finish_sweep(sweep, report, [bad], [], NOW)
                told = "".join(traceback.format_exception(caught.value))
                assert "4711" not in told
                assert "P1" not in told
            assert ledger.transfers() == []
            assert ledger.finish_sweep(sweep, report, [new(intent(4711))], [], NOW)

    def test_closed(self, path: Path) -> None:
        ledger = open_at(path)
        ledger.close()
        with pytest.raises(LedgerError, match="is closed"):
            ledger.transfers()


class TestCrashes:
    def test_a_killed_writer_leaves_whole_sweeps_only(self, path: Path) -> None:
        script = """
            ledger = SqlLedger.open(sys.argv[1])
            for number in range(100_000):
                queue(ledger, [new(intent(1000 * number + n)) for n in range(300)], after(number))
                moving = claim(ledger, after(number))
                ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), after(number), after(number))
                print(number, flush=True)
        """
        for round_number in range(3):
            directory = path.parent / str(round_number)
            process = subprocess.Popen(
                python(script, f"sqlite:///{directory}/ledger.db"), cwd=ROOT, stdout=subprocess.PIPE, bufsize=0
            )
            assert process.stdout is not None
            acknowledged = b""
            while acknowledged.count(b"\n") < 3 + round_number:
                assert select.select([process.stdout], [], [], 60)[0], "it does not get on"
                acknowledged += process.stdout.read(64)
            process.kill()
            acknowledged += process.stdout.read()
            process.wait(60)
            process.stdout.close()
            with open_at(directory / "ledger.db") as ledger:
                counts: dict[int, int] = {}
                for transfer in ledger.transfers(limit=1_000_000):
                    number = int(transfer.intent.study_instance_uid.split(".")[-1]) // 1000
                    counts[number] = counts.get(number, 0) + 1
                assert set(counts.values()) == {300}
                assert len(counts) >= acknowledged.count(b"\n")
                assert len(ledger.transfers(states=[State.VERIFYING])) >= acknowledged.count(b"\n")
                # What it held is verified first.
                held = ledger.transfers(states=[State.MOVING])
                assert len(held) <= 1
                running = len(ledger.open_sweeps())
                assert ledger.expire_leases(after(10**6)) <= len(held) + running
                assert ledger.transfers(states=[State.MOVING]) == []
            with raw(directory / "ledger.db") as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    def test_several_processes_share_the_work(self, path: Path) -> None:
        with open_at(path) as ledger:
            queue(ledger, [new(intent(n)) for n in range(120)])
        script = """
            ledger = SqlLedger.open(sys.argv[1])
            while moving := ledger.claim_transfer(["archive"], NOW, LEASE):
                print(moving.id)
                ledger.finish(moving, Finish(happening=Happening.FAIL), NOW, NOW)
        """
        commands = [python(script, f"sqlite:///{path}") for _ in range(3)]
        processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for command in commands]
        claimed = [int(line) for process in processes for line in process.communicate(timeout=60)[0].split()]
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(claimed) == len(set(claimed)) == 120
        with open_at(path) as ledger:
            assert len(ledger.transfers(states=[State.FAILED])) == 120


class Plans:
    """Every statement the ledger sends to the database, with the plan SQLite makes for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[str, Any] = {}

    def __enter__(self) -> Plans:
        sa.event.listen(sa.Engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._note)

    def _note(self, _c: object, _u: object, statement: str, parameters: Any, _o: object, many: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            self._seen[statement] = parameters[0] if many else parameters

    def lines(self) -> list[tuple[str, int, str]]:
        """(statement, parent, what SQLite does) for all that was seen."""
        with raw(self._path) as connection:
            return [
                (statement, parent, step)
                for statement, parameters in self._seen.items()
                for _, parent, _, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]


class Steps:
    """SQLite counts the instructions of its virtual machine: a measure of work that no busy machine disturbs."""

    def __init__(self) -> None:
        self.steps = 0

    def __enter__(self) -> Steps:
        sa.event.listen(sa.pool.Pool, "connect", self._listen)
        return self

    def __exit__(self, *_: object) -> None:
        sa.event.remove(sa.pool.Pool, "connect", self._listen)

    def _listen(self, connection: sqlite3.Connection, _: object) -> None:
        connection.set_progress_handler(self._count, 1)

    def _count(self) -> int:
        self.steps += 1
        return 0


class TestIndexes:
    def test_the_hot_queries_never_scan_a_table_nor_sort_one(self, path: Path) -> None:
        receipt = Receipt(
            study_instance_uid="1.1", series_instance_uid="1.2", sop_instance_uid="1.3", sop_class_uid="1.4",
            transfer_syntax_uid="1.5", calling_ae_title="A", size=1, path="p", received_at=NOW,
        )  # fmt: skip
        with open_at(path) as ledger:
            queue(ledger, [new(intent(n)) for n in range(20)])
            with Plans(path) as plans:
                queue(ledger, [new(intent(n), happening=Happening.AGAIN) for n in range(10, 30)], after(1))
                moving = ledger.claim_transfer(["archive", "pacs"], after(1), LEASE)
                assert moving is not None
                ledger.renew(moving, NOW, LEASE, None)
                ledger.set_expected(moving, [Instance("1.1", "1.2")])
                ledger.expected_instances(moving.id)
                ledger.finish(moving, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
                assert ledger.claim_verification(["ws", "local"], after(1), LEASE)
                assert ledger.expire_leases(after(999)) == 1
                ledger.finish(look(ledger, after(999)), Finish(happening=Happening.PROVEN), NOW, NOW)
                ledger.facts("archive", ["1.2", "1.3"])
                ledger.transfers(sweeps=[1])
                ledger.transfers(sweeps=[1, 2], states=[State.QUEUED])
                ledger.transfers(states=[State.FAILED, State.COMPLETE])
                ledger.transfers(study_instance_uid="1.2")
                ledger.transfer(1)
                ledger.attempts(1)
                ledger.open_sweeps()
                ledger.add_receipts([receipt])
                ledger.receipt_paths("1.1")
                ledger.received("1.1")
                ledger.received("1.1", "1.2")
            lines = plans.lines()
        assert len({statement for statement, _, _ in lines}) > 20
        tables_scanned = re.compile(rf"SCAN ({'|'.join(tables.metadata.tables)})\b")
        assert [line for line in lines if tables_scanned.match(line[2]) and "USING" not in line[2]] == []
        claims = [line for line in lines if "UNION ALL" in line[0]]
        assert {index for _, _, step in claims for index in re.findall(r"ix_\w+", step)} == {
            "ix_transfers_queue", "ix_transfers_verification",
            "ix_transfers_state",  # whether something near line is being moved already
        }  # fmt: skip
        # What is sorted are the firsts of the lanes; within a lane, beside the search, the index is in order already.
        lanes = "ix_transfers_(queue|verification)"
        searches = {(statement, parent) for statement, parent, step in claims if re.search(lanes, step)}
        sorts = {(statement, parent) for statement, parent, step in claims if "TEMP B-TREE" in step}
        assert len(searches) == 2 * 3 + 2
        assert searches & sorts == set()

    def test_the_backlog_reads_what_is_counted_and_looks_into_indexes(self, path: Path) -> None:
        with open_at(path) as ledger, Plans(path) as plans:
            ledger.backlog()
        steps = {step for _, _, step in plans.lines() if "transfers" in step and "counts" not in step}
        assert steps == {
            "SEARCH transfers USING INDEX ix_transfers_oldest (source=? AND destination=?)",
            "SEARCH transfers USING INDEX ix_transfers_routes (source=? AND destination=? AND priority=?)",
        }

    def test_an_overview_reads_indexes_and_sorts_nothing_big(self, path: Path) -> None:
        with open_at(path) as ledger:
            queue(ledger, [new(intent(1))])
            with Plans(path) as plans:
                ledger.overview(100, 50)
            lines = plans.lines()
        open_ones = "ix_transfers_leases|ix_sweeps_due|ix_sweeps_running"
        scanned = re.compile(rf"SCAN (transfers|sweeps)\b(?! USING INDEX ({open_ones}))")
        assert [line for line in lines if scanned.match(line[2])] == []
        sorts = [statement for statement, _, step in lines if "TEMP B-TREE" in step and "FROM transfers" in statement]
        assert all("lease_until IS NOT NULL" in statement for statement in sorts), "only what workers hold"
        used = {index for _, _, step in lines for index in re.findall(r"ix_\w+", step)}
        assert {"ix_transfers_ended", "ix_transfers_state", "ix_transfers_leases", "ix_sweeps_latest"} <= used

    def test_to_look_at_it_takes_as_many_steps_with_many_rows_as_with_few(self, path: Path) -> None:
        def fill(first: int, last: int) -> None:
            with open_at(path) as ledger:
                queue(ledger, [new(intent(n)) for n in range(first, last)])
                for number in range(first, last, 500):
                    ledger.finish_sweep(running_sweep(ledger, after(number + 9)), COMPLETE, [], [], after(number + 9))
            with raw(path) as connection:
                for place, state in enumerate(("complete", "failed", "verifying")):
                    ended = "NULL" if state == "verifying" else "id"
                    connection.execute(
                        f"UPDATE transfers SET state = ?, finished_at = {ended} WHERE id % 4 = ?", (state, place)
                    )

        def looked(counted: Steps) -> tuple[int, int]:
            with open_at(path) as ledger:
                ledger.overview(10, 5)
                counted.steps = 0
                ledger.backlog()
                scraped = counted.steps
                ledger.overview(10, 5)
                return scraped, counted.steps - scraped

        fill(0, 1000)
        with Steps() as counted:
            few = looked(counted)
        fill(1000, 20_000)
        with Steps() as counted:
            many = looked(counted)
        assert min(few) > 50
        assert many[0] <= few[0] * 1.2
        assert many[1] <= few[1] * 1.2

    def test_storage_commitment_reads_indexes(self, path: Path) -> None:
        with open_at(path) as ledger:
            queue(ledger, [new(intent(1))])
            ledger.finish(claim(ledger), Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
            looked = look(ledger)
            with Plans(path) as plans:
                ledger.request_commitment(looked, "ws", ["2.25.1"], NOW)
                ledger.commitments(looked.id)
                ledger.awaits_commitment(looked.id)
                ledger.answer_commitment(CommitmentAnswer(transaction_uid="2.25.1", calling_ae_title=""), ["ws"], NOW)
                ledger.finish(looked, Finish(happening=Happening.LATER), NOW, NOW)
            steps = [step for _, _, step in plans.lines()]
        assert [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step] == []
        found = {index for step in steps for index in re.findall(r"ix_commitments_\w+|PRIMARY KEY", step)}
        assert {"ix_commitments_transfer", "ix_commitments_requested", "PRIMARY KEY"} <= found

    def test_appointments_read_indexes(self, path: Path) -> None:
        said = appointments.notice
        with open_at(path) as ledger:
            appointments.brought(ledger, said("a"))
            with Plans(path) as plans:
                appointments.brought(ledger, said("b"))
                appointments.note(ledger, said("a", start_at=after(60)))
                appointments.note(ledger, said("a", cancelled=True))
                appointments.note(ledger, said("a"))
                claimed = appointments.taken_up(ledger)
                ledger.renew_appointment(claimed, NOW, LEASE)
                ledger.expire_leases(after(999))
                ledger.expected("mr", NOW, after(1))
                ledger.brought("mr", "P", "", NOW, after(1))
                ledger.priors_of(claimed.id)
                ledger.priors_considered("1.2")
                ledger.reasons_of(1)
                ledger.delivered_since("archive", "ws", ["1.2"], NOW)
                ledger.hasten_transfers(after(10**6))
                ledger.merge_patients([Merge("P", "H", "Q", "H")], NOW)
                ledger.former_ids("Q", "H")
                ledger.appointments(sweeps=[1])
                ledger.forget_appointments(NOW)
            lines = plans.lines()
        assert len({statement for statement, _, _ in lines}) > 20
        scanned = re.compile(rf"SCAN ({'|'.join([*tables.metadata.tables, 'other'])})\b")
        assert [line for line in lines if scanned.match(line[2])] == []
        # A state alone finds all that waits or has ended.
        assert [line for line in lines if "ix_transfers_state" in line[2]] == []
        turns = [step for statement, _, step in lines if "turn_at" in statement and "ORDER BY" in statement]
        assert any("ix_appointments_turn" in step for step in turns)

    def test_arrivals_read_indexes(self, path: Path) -> None:
        rules, seconds = arrived.ANY, ArrivalReport(due_at=after(65))
        with open_at(path) as ledger, Plans(path) as plans:
            arrived.arrive(ledger, rules, arrived.receipt(1))
            arrived.look(ledger, rules, 60, report=seconds)
            arrived.look(ledger, rules, 65, {"a": Health.DOWN})
            arrived.run(ledger, Happening.PROVEN, 66)
            arrived.arrive(ledger, rules, arrived.receipt(2))
            pending = arrived.begin(ledger, 200)
            ledger.renew_arrival(pending, after(200), LEASE)
            ledger.expire_leases(after(999))
            ledger.arrivals(study=arrived.STUDY)
            ledger.arrivals(rule="r")
            ledger.receipts_of(arrived.STUDY, "1")
            ledger.forget_arrivals(NOW)
            lines = plans.lines()
        assert len({statement for statement, _, _ in lines}) > 20
        scanned = re.compile(rf"SCAN ({'|'.join(tables.metadata.tables)})\b")
        assert [line for line in lines if scanned.match(line[2])] == []
        assert {"ix_arrivals_due", "ix_arrivals_looking", "ix_arrivals_rule", "ix_arrivals_done"} <= {
            index for _, _, step in lines for index in re.findall(r"ix_\w+", step)
        }

    def test_an_arrival_takes_as_many_steps_with_many_as_with_few(self, path: Path) -> None:
        def fill(connection: sqlite3.Connection, first: int, last: int) -> None:  # a third each is over, not due, due
            columns = "(study_instance_uid, rule, due_at, noted_at, state, finished_at)"
            at = int(NOW.timestamp() * 1e6)
            rows = [
                (f"9.{number}", "r", at + number % 3 * 10**9, at, "done" if number % 3 == 0 else "waiting", at)
                for number in range(first, last)
            ]
            connection.executemany(f"INSERT INTO arrivals {columns} VALUES (?, ?, ?, ?, ?, ?)", rows)

        def work(ledger: SqlLedger, counted: Steps, number: int) -> int:
            counted.steps = 0
            receipt = msgspec.structs.replace(arrived.receipt(1, at=-100), study_instance_uid=f"1.{number}")
            arrived.arrive(ledger, arrived.ALL, receipt)
            arrived.look(ledger, arrived.ALL, 0)
            return counted.steps

        with Steps() as counted, open_at(path) as ledger, raw(path) as connection:
            fill(connection, 0, 200)
            work(ledger, counted, 1)
            few = work(ledger, counted, 2)
            fill(connection, 200, 20_000)
            assert work(ledger, counted, 3) < 2 * few

    def test_an_appointment_takes_as_many_steps_with_many_as_with_few(self, path: Path) -> None:
        def fill(ledger: SqlLedger, first: int, last: int) -> None:
            said = [appointments.notice(str(number), patient_id=str(number)) for number in range(first, last)]
            appointments.note(ledger, *said)
            with raw(path) as connection:  # two thirds have ended, or are not due yet
                connection.execute("UPDATE appointments SET state = 'done' WHERE id % 3 = 0")
                connection.execute("UPDATE appointments SET due_at = due_at + 9000000000 WHERE id % 3 = 1")

        def work(ledger: SqlLedger, counted: Steps, name: str) -> int:
            counted.steps = 0
            appointments.note(ledger, appointments.notice(name, patient_id=name))
            one = ledger.claim_appointment(["archive", "pacs"], NOW, LEASE)
            assert one is not None
            appointments.found(ledger, one, queued=[])
            return counted.steps

        with Steps() as counted, open_at(path) as ledger:
            fill(ledger, 0, 200)
            work(ledger, counted, "first")
            few = work(ledger, counted, "few")
            fill(ledger, 200, 10_000)
            work(ledger, counted, "second")
            many = work(ledger, counted, "many")
        assert few > 100
        assert many <= few * 1.3

    @pytest.mark.parametrize("blocked", [False, True])
    def test_a_claim_takes_as_many_steps_with_many_rows_as_with_few(self, path: Path, blocked: bool) -> None:
        def work(ledger: SqlLedger, counted: Steps) -> int:
            counted.steps = 0
            for probe in range(2 if blocked else 0):
                ledger.claim_probe(Route("archive", "blocked"), after(9999 if probe else 0), LEASE, after(99999))
            moved = claim(ledger, after(9999))
            ledger.finish(moved, Finish(happening=Happening.MOVED, moved=True), NOW, NOW)
            ledger.finish(look(ledger), Finish(happening=Happening.PROVEN), NOW, NOW)
            return counted.steps

        with open_at(path) as ledger:
            if blocked:  # what cannot move is the most urgent, the oldest and the most
                queue(ledger, [new(intent(n, destination="blocked"), priority=0) for n in range(10**6, 10**6 + 20)])
                stop = Stop(cause="destination-unknown", reason="", probe_at=after(9999))
                ledger.finish(claim(ledger), Finish(happening=Happening.STOPPED, stop=stop), NOW, NOW)
            queue(ledger, [new(intent(n)) for n in range(20)])
        with Steps() as counted:
            with open_at(path) as ledger:
                work(ledger, counted)
                few = work(ledger, counted)
            with open_at(path) as ledger:
                queue(ledger, [new(intent(n)) for n in range(20, 15_000)])
                if blocked:
                    many_more = range(10**6 + 20, 10**6 + 15_000)
                    queue(ledger, [new(intent(n, destination="blocked"), priority=0) for n in many_more])
                work(ledger, counted)
                many = work(ledger, counted)
        assert few > 100
        assert many <= few * 1.2


def test_a_service_that_was_killed_is_known_to_be_dead_at_once(path: Path) -> None:
    info = ServiceInfo(owner="a", address="", seen_at=NOW)
    with open_at(path) as watcher:
        with open_at(path) as service:
            service.attend(NOW)
            service.announce(info)
            assert watcher.services(NOW) == [info]
        # Its lock went with it, though it never said that it stops.
        assert watcher.services(NOW) == []


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_or_another_takes_no_more_writes(path: Path, replaced: bool) -> None:
    with open_at(path) as ledger:
        queue(ledger, [new(intent(1))])
        path.rename(path.with_name("moved.db"))
        if replaced:
            open_at(path).close()
        with pytest.raises(LedgerError, match="restart the router"):
            ledger.claim_transfer(["archive"], NOW, LEASE)
