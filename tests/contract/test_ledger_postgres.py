"""The ledger in PostgreSQL: how it is opened, fails and comes back, who leads, who is told, who writes beside."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from router.domain.commitment import CommitmentAnswer
from router.domain.holds import HeldRoute
from router.domain.levels import NEARLINE
from router.domain.overview import ServiceInfo
from router.domain.sweep import SweepDue, SweepReport, SweepState
from router.domain.transfer import Finish, Happening, Route, State, Stop
from router.errors import LedgerError, LedgerMissing
from router.ledger import database, intents, migrations, postgres, sessions
from router.ledger import ledger as ledger_module
from router.ledger.counting import CHANGES_KEPT
from router.ledger.ledger import SqlLedger
from router.membership import Membership
from tests.contract.ledgers import LEASE, NOW, after, claim, hold, intent, look, new, queue, running_sweep
from tests.support import boards
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer, ledger_database, server
from tests.support.process import READY_SECONDS, wait_for

ROOT = Path(__file__).parents[2]
MOVED = Finish(happening=Happening.MOVED, moved=True)
COMPLETE = SweepReport(state=SweepState.COMPLETE)


@pytest.fixture
def empty() -> Iterator[str]:
    """The URL of a database without any table."""
    with server().database() as url:
        yield url


@pytest.fixture
def url() -> Iterator[str]:
    """The URL of an empty ledger."""
    with ledger_database() as url:
        yield url


@pytest.fixture
def ledger(url: str) -> Iterator[SqlLedger]:
    with SqlLedger.open(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def durable() -> Iterator[PostgresServer]:
    """A server that keeps what is committed, to be ended by force."""
    started = PostgresServer(durable=True)
    started.start()
    yield started
    started.end()


@pytest.fixture
def fragile(durable: PostgresServer) -> Iterator[str]:
    """The URL of a database on it."""
    with durable.database() as url:
        yield url


def name_of(url: str) -> str:
    return url.rsplit("/", 1)[1]


def kill_connections(url: str, running: PostgresServer | None = None) -> None:
    """End every connection to a database, as an administrator may."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def python(script: str, *arguments: object) -> list[str]:
    """The command that runs a script with the ledger at hand."""
    head = """
        import sys
        from router.domain.sweep import *
        from router.domain.transfer import *
        from router.ledger import postgres
        from router.ledger.ledger import SqlLedger
        from tests.contract.ledgers import *
        postgres.LOST_SECONDS = 0.0
    """
    return [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(script), *map(str, arguments)]


Act = Callable[[SqlLedger], object]


def _word(ledger: SqlLedger) -> Act:
    queue(ledger, [new(intent(1), hold=hold())])
    (held,) = ledger.transfers()
    return lambda other: other.apply(held.id, Happening.RELEASE, NOW)


def _let_go(ledger: SqlLedger) -> Act:
    queue(ledger, [new(intent(1), hold=hold())])
    return lambda other: other.release_held(HeldRoute("ct", "archive", "ws", 1), 1, NOW)


def _left(ledger: SqlLedger) -> Act:
    queue(ledger, [new(intent(1))])
    left = [claim(ledger)]
    return lambda other: other.release_claims(left, NOW)


def _stopped(ledger: SqlLedger) -> Route:
    queue(ledger, [new(intent(1))])
    moving, stop = claim(ledger), Stop(cause="busy", reason="Full.", probe_at=after(60))
    ledger.finish(moving, Finish(happening=Happening.STOPPED, moved=True, stop=stop), NOW, NOW)
    return moving.route


def _resumed(ledger: SqlLedger) -> Act:
    route = _stopped(ledger)
    return lambda other: other.resume_route(route)


def _tried(ledger: SqlLedger) -> Act:
    route = _stopped(ledger)
    return lambda other: other.probe_route(route, NOW)


def _committed(ledger: SqlLedger) -> Act:
    queue(ledger, [new(intent(1))])
    ledger.finish(claim(ledger), MOVED, NOW, NOW)
    assert ledger.request_commitment(look(ledger), "ws", ["1.2.3"], NOW)
    answer = CommitmentAnswer(transaction_uid="1.2.3", calling_ae_title="WS")
    return lambda other: other.answer_commitment(answer, ["ws"], NOW)


TOLD: dict[str, Callable[[SqlLedger], Act]] = {
    "sweeps": lambda _: lambda other: other.add_sweeps([SweepDue(rule="ct", source="archive", due_at=NOW)]),
    "a person's word": _word,
    "what a rule lets go": _let_go,
    "what a service leaves": _left,
    "a route that flows again": _resumed,
    "a route that is tried": _tried,
    "a storage commitment": _committed,
}
"""What makes work due: what prepares it, and what then does it."""


class TestOpening:
    def test_makes_tables_of_todays_version(self, empty: str) -> None:
        with SqlLedger.open(empty) as ledger:
            queue(ledger, [new(intent(1))])
        with SqlLedger.open(empty, create=False) as ledger, SqlLedger.open(empty, read_only=True) as reader:
            assert reader.transfers() == ledger.transfers() != []
            with pytest.raises(LedgerError, match="reading only"):
                queue(reader, [new(intent(2))])

    def test_one_that_is_not_there(self, empty: str) -> None:
        for read_only in (False, True):
            with pytest.raises(LedgerMissing, match=r"no ledger in postgresql://router@127\.0\.0\.1:\d+/test_\d+ yet"):
                SqlLedger.open(empty, create=False, read_only=read_only)
        with SqlLedger.open(empty, read_only=True) as nothing:
            assert nothing.transfers() == []
        assert server().do("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", name_of(empty)) == []

    def test_many_services_at_once_on_an_empty_database(self, empty: str) -> None:
        script = """
            from router.domain.overview import ServiceInfo
            ledger = SqlLedger.open(sys.argv[1])
            ledger.announce(ServiceInfo(owner=sys.argv[2], address="", seen_at=NOW))
        """
        commands = [python(script, empty, number) for number in range(4)]
        processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for command in commands]
        errors = [process.communicate(timeout=READY_SECONDS)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, errors
        with SqlLedger.open(empty) as ledger:
            assert len(ledger.services(NOW)) == 4

    def test_a_newer_version_is_refused(self, url: str) -> None:
        server().do(f"UPDATE meta SET value = '{migrations.VERSION + 1}'", name_of(url))
        for read_only in (False, True):
            with pytest.raises(LedgerError, match="newer dicom-router"):
                SqlLedger.open(url, read_only=read_only)

    def test_an_older_version_is_brought_up_to_date_or_only_looked_at(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newer = migrations.VERSION + 1

        def to_newer(connection: Any) -> None:
            connection.exec_driver_sql("ALTER TABLE transfers ADD COLUMN colour TEXT")

        monkeypatch.setattr(database, "VERSION", newer)
        monkeypatch.setattr(database, "refuse_newer", lambda version: migrations.refuse_newer(version, newer))
        monkeypatch.setattr(
            database, "migrate", lambda connection: migrations.migrate(connection, newer, {newer: to_newer})
        )
        with pytest.raises(LedgerError, match="older version"):
            SqlLedger.open(url, read_only=True)
        for _ in range(2):
            SqlLedger.open(url).close()
        assert server().do("SELECT colour FROM transfers", name_of(url)) == []
        server().drop(name_of(url))

    def test_tables_of_something_else_are_left_alone(self, empty: str) -> None:
        server().do("CREATE TABLE meta (name text, value text)", name_of(empty))
        for read_only in (False, True):
            with pytest.raises(LedgerError, match="something else"):
                SqlLedger.open(empty, read_only=read_only)

    def test_texts_are_in_the_order_of_their_bytes_whatever_the_language(self, ledger: SqlLedger, url: str) -> None:
        found = server().do(
            "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' "
            "AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C'",
            name_of(url),
        )
        assert found == [(0,)]


class TestErrors:
    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("postgresql://router:secret@", "does not name a database"),
            ("postgresql://router:secret@host:5432", "does not name a database"),
            ("postgresql://router:secret@host/name?nosuch=1", "not a URL of PostgreSQL"),
            ("postgresql://router:sec ret@ho[st/name", "not a URL of PostgreSQL"),
        ],
    )
    def test_a_wrong_url(self, url: str, message: str) -> None:
        with pytest.raises(LedgerError, match=message) as caught:
            SqlLedger.open(url)
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert postgres.EXAMPLE in str(caught.value)

    def test_nobody_listens(self) -> None:
        url = f"postgresql+psycopg://router:secret@127.0.0.1:{free_port()}/name"
        with pytest.raises(LedgerError, match=r"cannot be reached; check host and port") as caught:
            SqlLedger.open(url)
        assert "secret" not in "".join(traceback.format_exception(caught.value))

    def test_no_such_host(self) -> None:
        with pytest.raises(LedgerError, match="host name is not known"):
            SqlLedger.open("postgresql://router@nosuch.invalid/name")

    def test_no_such_database_and_no_such_user(self) -> None:
        with pytest.raises(LedgerError, match="does not exist; create the database"):
            SqlLedger.open(server().url("nosuch"))
        with pytest.raises(LedgerError, match="user or password is wrong"):
            SqlLedger.open(server().url("postgres", user="nobody"))

    def test_of_several_hosts_one_that_runs_and_may_be_written_to(self, url: str) -> None:
        several = url.replace("@", f"@127.0.0.1:{free_port()},")
        with SqlLedger.open(several) as ledger:
            queue(ledger, [new(intent(1))])
        assert "," in ledger._database.name

    def test_a_user_who_may_only_read_is_told(self, url: str) -> None:
        server().do("CREATE ROLE reader LOGIN")
        try:
            server().do("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader", name_of(url))
            with SqlLedger.open(server().url(name_of(url), user="reader")) as ledger:
                assert ledger.transfers() == []
                with pytest.raises(LedgerError, match="does not allow this to the user"):
                    ledger.add_sweeps([SweepDue(rule="ct", source="archive", due_at=NOW)])
        finally:
            server().do("DROP OWNED BY reader", name_of(url))
            server().do("DROP ROLE reader")

    def test_a_database_that_may_only_be_read_is_told(self, url: str) -> None:
        due = [SweepDue(rule="ct", source="archive", due_at=NOW)]
        with (
            SqlLedger.open(f"{url}?options=-c%20default_transaction_read_only%3Don") as ledger,
            pytest.raises(LedgerError, match="may only be read"),
        ):
            ledger.add_sweeps(due)

    def test_never_tells_an_identifier(self, ledger: SqlLedger) -> None:
        sweep = running_sweep(ledger)
        wrong: list[dict[str, Any]] = [{"priority": 9}, {"count": 2**70}, {"count": 2**40}, {"rule": "\udc80"}]
        for bad in (new(intent(4711), **one) for one in wrong):
            with pytest.raises(LedgerError) as caught:
                ledger.finish_sweep(sweep, COMPLETE, [bad], [], NOW)
            told = "".join(traceback.format_exception(caught.value))
            assert "4711" not in told
            assert "P1" not in told
        assert ledger.transfers() == []
        assert ledger.finish_sweep(sweep, COMPLETE, [new(intent(4711))], [], NOW)

    def test_a_null_character_is_replaced(self, ledger: SqlLedger) -> None:
        queue(ledger, [new(intent(1), rule="a\0b\\u0000")])
        assert ledger.transfers()[0].rule == "a\ufffdb\\u0000"
        held = ledger.apply(ledger.transfers()[0].id, Happening.HOLD, NOW, "why\0not")
        assert held.reason == "why\ufffdnot"

    def test_who_waits_too_long_for_a_turn_is_told(self, url: str) -> None:
        with SqlLedger.open(f"{url}?options=-c%20lock_timeout%3D200ms") as ledger, SqlLedger.open(url) as other:
            with other._database.write():
                with pytest.raises(LedgerError, match="too busy"):
                    ledger.add_sweeps([])
                with pytest.raises(LedgerError, match="too busy"):
                    ledger.withdraw("me")
                assert ledger.transfers() == []
            ledger.withdraw("me")

    def test_closed(self, ledger: SqlLedger) -> None:
        ledger.close()
        with pytest.raises(LedgerError, match="is closed"):
            ledger.transfers()


class TestDatabaseThatGoesAway:
    CALLS: tuple[Callable[[SqlLedger], object], ...] = (
        lambda ledger: ledger.transfers(),
        lambda ledger: ledger.backlog(),
        lambda ledger: queue(ledger, [new(intent(7))]),
        lambda ledger: ledger.claim_transfer(["archive"], NOW, LEASE),
        lambda ledger: ledger.expire_leases(NOW),
        lambda ledger: ledger.announce(ServiceInfo(owner="me", address="", seen_at=NOW)),
    )

    def test_connections_that_died_while_nobody_used_them_are_replaced(self, ledger: SqlLedger, url: str) -> None:
        queue(ledger, [new(intent(1)), new(intent(2))])
        for call in self.CALLS:
            with ThreadPoolExecutor(5) as pool:  # all connections of the pool are in use, and then rest
                list(pool.map(lambda _: ledger.transfers(), range(20)))
            kill_connections(url)
            call(ledger)

    @pytest.mark.parametrize("begin", ["read", "write", "beside"])
    def test_one_that_dies_in_a_transaction_is_an_error_and_the_next_works(
        self, ledger: SqlLedger, url: str, begin: str
    ) -> None:
        queue(ledger, [new(intent(1))])
        held = ledger._database
        transaction = held.read() if begin == "read" else held.write(beside=begin == "beside")

        def look_twice() -> None:
            with transaction as connection:
                connection.exec_driver_sql("SELECT count(*) FROM transfers")
                kill_connections(url)
                connection.exec_driver_sql("SELECT count(*) FROM transfers")

        with pytest.raises(LedgerError, match="ended the connection"):
            look_twice()
        assert len(ledger.transfers()) == 1
        assert claim(ledger).intent == intent(1)

    def test_a_commit_that_does_not_come_about_changes_nothing(self, ledger: SqlLedger, url: str) -> None:
        def write() -> None:
            with ledger._database.write() as connection:
                intents.add(connection, [new(intent(1))], NOW)
                kill_connections(url)

        with pytest.raises(LedgerError, match="ended the connection"):
            write()
        assert ledger.transfers() == []

    def test_what_was_committed_outlives_a_crash_of_the_database(self, durable: PostgresServer, fragile: str) -> None:
        with SqlLedger.open(fragile) as ledger:
            done = 0
            for round_number in range(3):
                stopping = threading.Event()
                ends: list[int] = []

                def work(first: int, stopping: threading.Event = stopping, ends: list[int] = ends) -> None:
                    number = first
                    with contextlib.suppress(LedgerError):
                        while not stopping.is_set():
                            queue(ledger, [new(intent(number))], after(number))
                            ends.append(number)
                            number += 1

                worker = threading.Thread(target=work, args=(done,))
                worker.start()
                wait_for(lambda seen=ends: len(seen) > 5, "some work")
                durable.stop(immediately=True)
                worker.join(READY_SECONDS)
                assert not worker.is_alive(), "an error ends it"
                for call in self.CALLS:
                    with pytest.raises(LedgerError, match="cannot be reached"):
                        call(ledger)
                assert not ledger.leads()
                ledger.tell()
                durable.start()
                found = {one.intent for one in ledger.transfers(limit=100_000)}
                assert {intent(number) for number in ends} <= found, f"round {round_number}"
                assert len(found) <= done + len(ends) + 1
                done = len(found) + 1
            assert ledger.leads()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that hangs is given up soon, but one that a busy machine holds up is not."""
    monkeypatch.setattr(postgres, "ANSWER_SECONDS", 5.0)
    monkeypatch.setattr(postgres, "BEGIN_SECONDS", 5.0)
    monkeypatch.setattr(sessions, "ANSWER_SECONDS", 5.0)


@contextlib.contextmanager
def paused(running: PostgresServer) -> Iterator[None]:
    running.pause()
    try:
        yield
    finally:
        running.resume()


@pytest.mark.usefixtures("impatient")
class TestDatabaseThatHangs:
    """It keeps its connections and takes new ones, and says nothing: as when its storage stalls."""

    def test_every_call_ends_and_goes_on_afterwards(self, durable: PostgresServer, fragile: str) -> None:
        with SqlLedger.open(f"{fragile}?connect_timeout=2") as ledger, ThreadPoolExecutor(16) as pool:
            queue(ledger, [new(intent(1)), new(intent(2))])
            assert ledger.leads()
            list(pool.map(lambda _: ledger.transfers(), range(20)))  # connections rest in the pool
            with paused(durable):
                leads = pool.submit(ledger.leads)
                calls = [pool.submit(call, ledger) for call in TestDatabaseThatGoesAway.CALLS]
                for call in calls:
                    assert isinstance(call.exception(READY_SECONDS), LedgerError)
                assert leads.result(READY_SECONDS) is False
                assert pool.submit(ledger.leads).result(READY_SECONDS) is False
                pool.submit(ledger.tell).result(READY_SECONDS)
            wait_for(lambda: works(lambda: ledger.transfers()), "the database to answer again")
            assert len(ledger.transfers()) == 2
            assert claim(ledger).intent == intent(1)
            wait_for(ledger.leads, "to lead again")

    def test_a_transaction_under_way_ends_and_says_why(self, durable: PostgresServer, fragile: str) -> None:
        with SqlLedger.open(f"{fragile}?connect_timeout=2") as ledger, ThreadPoolExecutor(1) as pool:

            def write() -> None:
                with ledger._database.write() as connection:
                    intents.add(connection, [new(intent(1))], NOW)
                    durable.pause()
                    connection.exec_driver_sql("SELECT count(*) FROM transfers")

            try:
                error = pool.submit(write).exception(READY_SECONDS)
            finally:
                durable.resume()
            assert isinstance(error, LedgerError)
            assert "does not answer" in str(error)
            backend: Any = ledger._database._backend
            assert backend._away, "it counts as away: nothing is lost for a while afterwards"
            wait_for(lambda: works(lambda: ledger.transfers()), "the database to answer again")
            assert ledger.transfers() == []

    def test_what_may_take_long_is_not_given_up(self, durable: PostgresServer, fragile: str) -> None:
        with SqlLedger.open(fragile) as ledger:
            with ledger._database.read(long=True) as connection:
                assert connection.exec_driver_sql("SELECT 1 FROM pg_sleep(8)").scalar() == 1
            with pytest.raises(LedgerError, match="does not answer"), ledger._database.read() as connection:
                connection.exec_driver_sql("SELECT 1 FROM pg_sleep(8)")

    def test_many_who_ask_in_turn_do_not_each_wait(
        self, durable: PostgresServer, fragile: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "_SLOW_SECONDS", 0.5)
        monkeypatch.setattr(postgres, "_PAUSE_SECONDS", READY_SECONDS)
        tried: list[object] = []

        def counted(changes: object) -> object:
            tried.append(changes)
            return opens(changes)

        with SqlLedger.open(f"{fragile}?connect_timeout=2") as ledger:
            backend: Any = ledger._database._backend
            opens = backend._open
            monkeypatch.setattr(backend, "_open", counted)
            with paused(durable):
                for _ in range(20):
                    with pytest.raises(LedgerError, match="cannot be reached"):
                        ledger.transfers()
            assert len(tried) == 1

    def test_who_stops_does_not_wait_for_the_leaders_lock_and_gives_it_up(
        self, durable: PostgresServer, fragile: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "_RELEASE_SECONDS", 0.1)
        monkeypatch.setattr(sessions, "ANSWER_SECONDS", READY_SECONDS)
        with SqlLedger.open(fragile) as one, SqlLedger.open(fragile) as other, ThreadPoolExecutor(2) as pool:
            assert one.leads()
            with paused(durable):
                asked = pool.submit(one.leads)
                backend: Any = one._database._backend
                wait_for(backend._leader._turn.locked, "it to ask the database")
                pool.submit(one.resign).result(READY_SECONDS)
                assert not asked.done(), "the answer is still awaited"
            assert asked.result(READY_SECONDS) is False, "the database said that it leads; but it has resigned"
            wait_for(other.leads, "the other to lead")


def works(call: Callable[[], object]) -> bool:
    try:
        call()
    except LedgerError:
        return False
    return True


class TestTime:
    def test_the_clock_is_the_databases(self, ledger: SqlLedger) -> None:
        ((said,),) = server().do("SELECT clock_timestamp()")
        assert isinstance(said, datetime)
        assert abs((ledger.clock().now() - said).total_seconds()) < READY_SECONDS
        first = ledger.clock().now()
        assert first.tzinfo is UTC
        assert ledger.clock().now() >= first

    def test_it_goes_on_without_the_database(self, durable: PostgresServer, fragile: str) -> None:
        with SqlLedger.open(fragile) as ledger:
            durable.stop(immediately=True)
            try:
                backend: Any = ledger._database._backend
                backend._clock._compared -= 3600  # it was compared long ago
                before = ledger.clock().now()
                assert ledger.clock().now() >= before
                assert abs((before - datetime.now(UTC)).total_seconds()) < READY_SECONDS
            finally:
                durable.start()

    def test_after_a_start_of_the_database_no_lease_is_lost_for_a_while(
        self, durable: PostgresServer, fragile: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with SqlLedger.open(fragile) as ledger:
            queue(ledger, [new(intent(1)), new(intent(2))])
            running_sweep(ledger, after(1))
            moving = claim(ledger)
            monkeypatch.setattr(postgres, "LOST_SECONDS", 3600.0)
            durable.stop(immediately=True)
            durable.start()
            assert ledger.expire_leases(after(1000)) == 0
            assert ledger.lost_at(after(1000)) < NOW, "who was not seen may live"
            assert ledger.claim_sweep(["archive"], after(1000), LEASE) is None
            assert ledger.renew(moving, after(1000), LEASE, None), "the worker lives"
        with SqlLedger.open(fragile) as another:
            assert another.expire_leases(after(5000)) == 0, "one that comes later knows when the database started"
        monkeypatch.setattr(postgres, "LOST_SECONDS", 0.0)
        with SqlLedger.open(fragile) as later:
            assert later.lost_at(after(5000)) == after(5000)
            assert later.expire_leases(after(5000)) == 2


class TestLeading:
    def test_one_leads_and_when_it_is_gone_another_does(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
            assert one.leads()
            assert one.leads()
            assert not other.leads()
            one.close()
            wait_for(other.leads, "the other to lead")
            assert not one.leads()
            with SqlLedger.open(url, read_only=True) as reader:
                assert not reader.leads()

    def test_who_has_lost_the_connection_leads_no_more_until_it_asks_again(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
            assert one.leads()
            kill_connections(url)
            wait_for(other.leads, "the other to lead")
            assert not one.leads()
            assert not one.leads()

    def test_a_leader_that_was_killed_is_followed(self, url: str) -> None:
        script = """
            import time
            ledger = SqlLedger.open(sys.argv[1])
            print(ledger.leads(), flush=True)
            time.sleep(600)
        """
        process = subprocess.Popen(python(script, url), cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            with SqlLedger.open(url) as ledger:
                assert not ledger.leads()
                os.kill(process.pid, signal.SIGKILL)
                wait_for(ledger.leads, "the other to lead")
        finally:
            process.kill()
            process.communicate(timeout=READY_SECONDS)


class TestTelling:
    @pytest.fixture
    def heard(self, url: str) -> Iterator[tuple[SqlLedger, threading.Event]]:
        """A ledger that listens, and what is set when it hears something."""
        woken, stopping = threading.Event(), threading.Event()
        with SqlLedger.open(url) as listening:
            thread = threading.Thread(target=listening.listen, args=(woken.set, stopping))
            thread.start()
            try:
                wait_for(
                    lambda: server().do(
                        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'",
                        name_of(url),
                    ),
                    "somebody to listen",
                )
                yield listening, woken
            finally:
                stopping.set()
                thread.join(READY_SECONDS)
        assert not thread.is_alive()

    def test_others_are_told_and_nobody_himself(
        self, url: str, heard: tuple[SqlLedger, threading.Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "_TELL_SECONDS", 0.0)
        listening, woken = heard
        with SqlLedger.open(url) as other:
            listening.tell()
            other.tell()
            assert woken.wait(READY_SECONDS)
            woken.clear()
            queue(other, [new(intent(1))])
            assert woken.wait(READY_SECONDS), "what is queued is told"

    @pytest.mark.parametrize("way", sorted(TOLD))
    def test_what_makes_work_due_is_told(
        self, way: str, url: str, heard: tuple[SqlLedger, threading.Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postgres, "_TELL_SECONDS", 0.0)
        _, woken = heard
        with SqlLedger.open(url) as silent, SqlLedger.open(url) as other:
            monkeypatch.setattr(silent._database, "tell", lambda: None)
            act = TOLD[way](silent)
            woken.clear()
            act(other)
            assert woken.wait(READY_SECONDS)

    def test_a_process_that_ends_tells_what_it_has_not_told(
        self, url: str, heard: tuple[SqlLedger, threading.Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, woken = heard
        with SqlLedger.open(url) as other:
            other.tell()
            assert woken.wait(READY_SECONDS)
            woken.clear()
            monkeypatch.setattr(postgres, "_TELL_SECONDS", 3600.0)
            other.tell()
        assert woken.wait(READY_SECONDS)

    def test_a_service_wakes_when_another_tells_until_it_leaves(self, url: str) -> None:
        woken, also = threading.Event(), threading.Event()
        given = boards.rules()
        with SqlLedger.open(url) as ledger, SqlLedger.open(url) as other:
            member = Membership(
                "a",
                ledger,
                ledger.clock(),
                "store",
                rules=lambda: given,
                address=lambda: "",
                told=(woken.set, also.set),
                lead=lambda leads: None,
                after=lambda: None,
                deposed=lambda: None,
            )
            member.join()

            def is_woken() -> bool:
                other.add_sweeps([SweepDue(rule="ct", source="archive", due_at=NOW)])
                return woken.wait(1.0)

            wait_for(is_woken, "the service to hear")
            assert also.wait(READY_SECONDS)
            member.leave()
            assert not any(one.name == "hear" for one in threading.enumerate())

    def test_of_many_at_once_the_last_is_told_too(self, url: str, heard: tuple[SqlLedger, threading.Event]) -> None:
        listening, _ = heard
        told, stopping = threading.Semaphore(0), threading.Event()
        with SqlLedger.open(url) as other:
            thread = threading.Thread(target=other.listen, args=(told.release, stopping))
            thread.start()
            try:
                backend: Any = listening._database._backend
                for _ in range(50):
                    listening.tell()
                wait_for(lambda: not backend._untold, "the last to be told")
                assert told.acquire(timeout=READY_SECONDS)
            finally:
                stopping.set()
                thread.join(READY_SECONDS)

    def test_who_could_not_hear_for_a_while_looks_for_himself(
        self, url: str, heard: tuple[SqlLedger, threading.Event]
    ) -> None:
        _, woken = heard
        woken.clear()
        kill_connections(url)
        assert woken.wait(READY_SECONDS)


class TestWorkers:
    def test_many_claim_and_none_is_taken_twice_or_lost(self, url: str) -> None:
        with SqlLedger.open(url) as ledger:
            queue(ledger, [new(intent(n)) for n in range(2000)])
        script = """
            from concurrent.futures import ThreadPoolExecutor
            ledger = SqlLedger.open(sys.argv[1])
            def work(_):
                taken, idle = [], 0
                while idle < 3:
                    moving = ledger.claim_transfer(["archive"], NOW, LEASE)
                    if moving is None:
                        idle += 1
                        continue
                    taken.append(moving.id)
                    if len(taken) % 10 == 0:
                        ledger.finish(moving, Finish(happening=Happening.FAIL), NOW, NOW)
                return taken
            with ThreadPoolExecutor(4) as pool:
                for taken in pool.map(work, range(4)):
                    print(*taken)
        """
        commands = [python(script, url) for _ in range(3)]
        processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for command in commands]
        claimed = [int(one) for process in processes for one in process.communicate(timeout=280)[0].split()]
        assert [process.returncode for process in processes] == [0, 0, 0]
        assert len(claimed) == len(set(claimed)) == 2000
        with SqlLedger.open(url) as ledger:
            counted = {row.state: row.count for row in ledger.backlog()}
            assert set(counted) == {State.MOVING, State.FAILED}
            assert sum(counted.values()) == 2000

    def test_who_finds_the_first_locked_takes_the_next_at_once(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
            queue(one, [new(intent(n)) for n in range(3)])
            with one._database.write(beside=True) as connection:
                connection.exec_driver_sql("SELECT 1 FROM transfers WHERE study_instance_uid LIKE '%%.0' FOR UPDATE")
                assert claim(other).intent == intent(1)
                for moving in (claim(other),):
                    other.finish(moving, MOVED, NOW, NOW)
                assert look(other).intent == intent(2)
                assert other.claim_transfer(["archive"], NOW, LEASE) is None
            assert claim(other).intent == intent(0)

    def test_two_verifications_at_a_place_go_to_two(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
            queue(one, [new(intent(n)) for n in range(2)])
            for _ in range(2):
                one.finish(claim(one), MOVED, NOW, NOW)
            with one._database.write(beside=True) as connection:
                connection.exec_driver_sql("SELECT 1 FROM transfers WHERE study_instance_uid LIKE '%%.0' FOR UPDATE")
                assert look(other).intent == intent(1)
                assert other.claim_verification(["ws"], NOW, LEASE) is None

    def test_of_what_is_near_line_one_at_a_time_comes_from_a_source(self, url: str) -> None:
        with SqlLedger.open(url) as ledger:
            studies = [new(intent(n)) for n in range(40)]
            queue(ledger, [type(one)(**{**_fields(one), "availability": NEARLINE}) for one in studies])

            def work(_: int) -> int:
                with SqlLedger.open(url) as mine:
                    claimed = [mine.claim_transfer(["archive"], NOW, LEASE) for _ in range(3)]
                return sum(one is not None for one in claimed)

            with ThreadPoolExecutor(8) as pool:
                assert sum(pool.map(work, range(8))) == 1

    def test_a_sweep_is_claimed_by_one(self, url: str) -> None:
        with SqlLedger.open(url) as one, SqlLedger.open(url) as other:
            one.add_sweeps([SweepDue(rule="ct", source="archive", due_at=NOW, tier=tier) for tier in range(20)])

            def work(ledger: SqlLedger) -> list[int]:
                found = []
                while (sweep := ledger.claim_sweep(["archive"], NOW, LEASE)) is not None:
                    found.append(sweep.id)
                return found

            with ThreadPoolExecutor(8) as pool:
                claimed = [number for found in pool.map(work, [one, other] * 4) for number in found]
            claimed += work(one)
            assert len(claimed) == len(set(claimed)) == 20


def _fields(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


class TestCounts:
    def test_changes_are_summed_up_and_now_and_then_put_away(self, ledger: SqlLedger, url: str) -> None:
        queue(ledger, [new(intent(n)) for n in range(CHANGES_KEPT)])
        assert server().do("SELECT count(*) FROM count_changes", name_of(url)) == [(1,)], "one statement, one change"
        for _ in range(CHANGES_KEPT // 2):
            claim(ledger)
        before = {(row.state, row.count) for row in ledger.backlog()}
        assert before == {(State.MOVING, CHANGES_KEPT // 2), (State.QUEUED, CHANGES_KEPT // 2)}
        assert ledger.expire_leases(NOW) == 0
        assert server().do("SELECT count(*) FROM count_changes", name_of(url)) == [(0,)]
        assert {(row.state, row.count) for row in ledger.backlog()} == before

    def test_what_is_deleted_counts_no_more(self, ledger: SqlLedger, url: str) -> None:
        queue(ledger, [new(intent(n)) for n in range(5)])
        server().do("DELETE FROM transfers WHERE study_instance_uid LIKE '%.1'", name_of(url))
        assert [row.count for row in ledger.backlog()] == [4]


class TestSweepsInParts:
    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ledger_module, "_AT_ONCE", 10)

    def test_others_write_between_the_parts(self, ledger: SqlLedger, url: str) -> None:
        sweep = running_sweep(ledger)
        assert ledger.finish_sweep(sweep, COMPLETE, [new(intent(n)) for n in range(35)], [], NOW)
        assert len(ledger.transfers(sweeps=[sweep.id])) == 35
        assert server().do("SELECT count(*) FROM count_changes", name_of(url)) == [(4,)]

    def test_one_that_dies_between_them_is_due_again_and_finds_them_known(
        self, ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = [new(intent(n)) for n in range(35)]
        sweep = running_sweep(ledger)
        queued, times = intents.queue, iter(range(100))

        def dies(*arguments: Any) -> int:
            if next(times) == 2:
                raise LedgerError("The ledger went away.")
            return queued(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(intents, "queue", dies)
            with pytest.raises(LedgerError):
                ledger.finish_sweep(sweep, COMPLETE, wanted, [], NOW)
        assert len(ledger.transfers()) == 20
        assert [one.state for one in ledger.open_sweeps()] == [SweepState.RUNNING]
        again = ledger.claim_sweep(["archive"], after(1000), LEASE)
        assert again is not None
        assert not ledger.finish_sweep(sweep, COMPLETE, wanted, [], after(1000)), "it is another's"
        known = ledger.facts("archive", [one.intent.study_instance_uid for one in wanted])
        assert len(known) == 20
        assert ledger.finish_sweep(again, COMPLETE, wanted, [], after(1000))
        assert len(ledger.transfers()) == 35
        assert len(ledger.transfers(sweeps=[again.id])) == 35
        assert ledger.open_sweeps() == []

    def test_the_lease_lasts_as_long_as_the_parts_do(self, ledger: SqlLedger) -> None:
        sweep = running_sweep(ledger)
        until: list[datetime] = []
        real = ledger._database.write

        @contextlib.contextmanager
        def watched(**words: Any) -> Iterator[Any]:
            with real(**words) as connection:
                yield connection
                found = connection.exec_driver_sql("SELECT lease_until FROM sweeps").scalar()
                until.append(found)

        ledger._database.write = watched  # type: ignore[method-assign]
        assert ledger.finish_sweep(sweep, COMPLETE, [new(intent(n)) for n in range(25)], [], NOW)
        assert until[0] < until[1]
        assert until[2] is None


def test_a_waiting_writer_is_not_passed_by_those_who_come_later(url: str) -> None:
    with SqlLedger.open(url) as one, SqlLedger.open(url) as other, ThreadPoolExecutor(3) as pool:
        order: list[str] = []
        stopping = threading.Event()

        def busy() -> int:
            times = 0
            while not stopping.is_set():
                one.withdraw("me")
                times += 1
            return times

        def alone() -> None:
            for _ in range(20):
                other.add_sweeps([])
            order.append("done")

        workers = [pool.submit(busy) for _ in range(2)]
        started = time.monotonic()
        pool.submit(alone).result(READY_SECONDS)
        stopping.set()
        assert all(worker.result(READY_SECONDS) > 0 for worker in workers), time.monotonic() - started
        assert order == ["done"]
