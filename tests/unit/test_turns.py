"""Writers that share a commit: each has its own work or none of it, and knows it only once it is there to stay."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import LedgerError
from router.ledger import turns
from router.ledger.turns import Turns
from tests.support.process import READY_SECONDS


class Fault(Exception):
    """A writer's own mistake."""


def raw(connection: Any) -> sqlite3.Connection:
    """The connection of the driver."""
    found = connection.connection.driver_connection
    assert isinstance(found, sqlite3.Connection)
    return found


class Bank:
    """A SQLite file behind turns, that counts its commits."""

    def __init__(self, path: Path) -> None:
        self._raw = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._raw.execute("CREATE TABLE work (name INTEGER PRIMARY KEY)")
        self._path = path
        self.commits = 0
        self.refuse = False
        self.before_commit: Callable[[], None] = lambda: None
        self.turns = Turns(self._transaction, lambda: LedgerError("busy"), READY_SECONDS)

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        self._raw.execute("BEGIN IMMEDIATE")
        try:
            yield SimpleNamespace(connection=SimpleNamespace(driver_connection=self._raw))
            if self.refuse:
                raise sqlite3.OperationalError("the disk is full")
            self.before_commit()
            self._raw.execute("COMMIT")
            self.commits += 1
        except BaseException:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            raise

    def work(self, name: int, *, beside: bool = True, fault: BaseException | None = None) -> None:
        with self.turns.write(beside=beside) as connection:
            raw(connection).execute("INSERT INTO work VALUES (?)", (name,))
            if fault is not None:
                raise fault

    def kept(self) -> set[int]:
        """What another connection sees."""
        with sqlite3.connect(self._path) as other:
            return {name for (name,) in other.execute("SELECT name FROM work")}

    @contextmanager
    def crowd(self, waiting: int) -> Iterator[None]:
        """Somebody writes until so many wait for their turn, and all that come in between do."""
        with self.turns.write(beside=False):
            yield
            while len(self.turns._waiting) < waiting:
                threading.Event().wait(0.001)


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bank:
    monkeypatch.setattr(turns, "LONGEST_SECONDS", READY_SECONDS)  # who shares a commit is no matter of speed here
    return Bank(tmp_path / "bank.db")


def test_those_that_wait_at_the_same_moment_share_a_commit(bank: Bank) -> None:
    with ThreadPoolExecutor(8) as pool, bank.crowd(8):
        work = [pool.submit(bank.work, name) for name in range(8)]
    assert [one.result(READY_SECONDS) for one in work] == [None] * 8
    assert (bank.kept(), bank.commits) == (set(range(8)), 2)


def test_one_by_one_each_has_its_own(bank: Bank) -> None:
    for name in range(3):
        bank.work(name)
        assert name in bank.kept()
    assert bank.commits == 3


def test_who_is_to_be_alone_is(bank: Bank) -> None:
    with ThreadPoolExecutor(8) as pool, bank.crowd(4):
        work = [pool.submit(bank.work, name, beside=False) for name in range(4)]
    for one in work:
        one.result(READY_SECONDS)
    assert bank.commits == 5


def test_a_transaction_does_not_go_on_for_ever(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "MOST", 3)
    with ThreadPoolExecutor(9) as pool, bank.crowd(9):
        work = [pool.submit(bank.work, name) for name in range(9)]
    for one in work:
        one.result(READY_SECONDS)
    assert bank.commits == 1 + 3
    monkeypatch.setattr(turns, "LONGEST_SECONDS", 0.0)
    with ThreadPoolExecutor(9) as pool, bank.crowd(9):
        work = [pool.submit(bank.work, name + 9) for name in range(9)]
    for one in work:
        one.result(READY_SECONDS)
    assert bank.commits == 4 + 1 + 9


def test_a_commit_that_fails_fails_for_all_that_share_it(bank: Bank) -> None:
    with ThreadPoolExecutor(4) as pool, bank.crowd(4):
        work = [pool.submit(bank.work, name) for name in range(4)]
    first = bank.kept()
    assert first == set(range(4))
    bank.refuse = True
    with pytest.raises(sqlite3.OperationalError):
        bank.work(9)
    with pytest.raises(sqlite3.OperationalError), ThreadPoolExecutor(4) as pool, bank.crowd(4):
        work = [pool.submit(bank.work, name) for name in range(10, 14)]
    assert [type(one.exception(READY_SECONDS)) for one in work] == [sqlite3.OperationalError] * 4
    bank.refuse = False
    assert bank.kept() == first
    bank.work(20)
    assert bank.kept() == first | {20}


def test_an_error_that_ends_the_transaction_ends_it_for_all(bank: Bank) -> None:
    def breaking() -> None:
        with bank.turns.write(beside=True) as connection:
            raw(connection).execute("ROLLBACK")  # as SQLite does where the disk is full
            raise sqlite3.OperationalError("the disk is full")

    with ThreadPoolExecutor(4) as pool, bank.crowd(3):
        work = []
        for at, deed in enumerate((lambda: bank.work(1), lambda: bank.work(2), breaking)):
            work.append(pool.submit(deed))
            while len(bank.turns._waiting) <= at:
                threading.Event().wait(0.001)
    assert [type(one.exception(READY_SECONDS)) for one in work] == [sqlite3.OperationalError] * 3
    assert bank.kept() == set()
    bank.work(3)
    assert bank.kept() == {3}


def test_who_waits_too_long_is_told_and_holds_nobody_up(bank: Bank) -> None:
    bank.turns._patience = 0.01
    with bank.turns.write(beside=False), pytest.raises(LedgerError, match="busy"):
        bank.work(1)
    bank.work(2)
    assert bank.kept() == {2}


def impatient(monkeypatch: pytest.MonkeyPatch, until: threading.Event) -> None:
    """Who waits for the end of a transaction has waited too long for the first time once this is so."""

    class Ended(threading.Event):
        waited = False

        def wait(self, timeout: float | None = None) -> bool:
            if self.waited:
                return super().wait(timeout)
            self.waited = True
            assert until.wait(READY_SECONDS)
            return self.is_set()

    make = turns._Group.__init__

    def making(group: turns._Group, transaction: Any) -> None:
        make(group, transaction)
        group.ended = Ended()

    monkeypatch.setattr(turns._Group, "__init__", making)


def test_who_is_told_that_it_was_too_busy_has_written_nothing(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, told = threading.Event(), threading.Event()
    impatient(monkeypatch, writing)

    def slow() -> None:
        with bank.turns.write(beside=True) as connection:
            raw(connection).execute("INSERT INTO work VALUES (2)")
            writing.set()
            assert told.wait(READY_SECONDS)

    with ThreadPoolExecutor(2) as pool:
        with bank.crowd(2):
            first = pool.submit(bank.work, 1)
            while not bank.turns._waiting:
                threading.Event().wait(0.001)
            second = pool.submit(slow)
        assert isinstance(first.exception(READY_SECONDS), LedgerError)
        told.set()
        assert isinstance(second.exception(READY_SECONDS), LedgerError)
    assert bank.kept() == set()
    bank.work(3)
    assert bank.kept() == {3}


def test_who_waits_for_a_slow_commit_is_told_how_it_ended(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    committing, asked = threading.Event(), threading.Event()
    impatient(monkeypatch, committing)
    give_up = turns._Group.give_up

    def asking(group: turns._Group, error: BaseException) -> bool:
        given_up = give_up(group, error)
        asked.set()
        return given_up

    def commit_slowly() -> None:
        if bank.commits:  # not that of the crowd
            committing.set()
            assert asked.wait(READY_SECONDS)

    monkeypatch.setattr(turns._Group, "give_up", asking)
    bank.before_commit = commit_slowly
    with ThreadPoolExecutor(2) as pool, bank.crowd(2):
        work = [pool.submit(bank.work, name) for name in range(2)]
    assert [one.result(READY_SECONDS) for one in work] == [None, None]
    assert (bank.kept(), bank.commits) == ({0, 1}, 2)


def test_a_transaction_that_does_not_begin_holds_nobody_up(bank: Bank) -> None:
    begin, bank.turns._begin = bank.turns._begin, lambda: (_ for _ in ()).throw(Fault())
    with pytest.raises(Fault):
        bank.work(1)
    bank.turns._begin = begin
    bank.work(2)
    assert bank.kept() == {2}


@settings(deadline=None, max_examples=40)
@given(deeds=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
def test_each_has_all_of_its_work_or_none(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[bool, bool]]
) -> None:
    bank = Bank(tmp_path_factory.mktemp("bank") / "bank.db")
    with ThreadPoolExecutor(len(deeds) + 1) as pool, bank.crowd(len(deeds)):
        work = [
            pool.submit(bank.work, name, beside=beside, fault=Fault() if fails else None)
            for name, (beside, fails) in enumerate(deeds)
        ]
    failed = {name for name, one in enumerate(work) if isinstance(one.exception(READY_SECONDS), Fault)}
    assert failed == {name for name, (_, fails) in enumerate(deeds) if fails}
    assert bank.kept() == set(range(len(deeds))) - failed
    assert not bank.turns._taken
