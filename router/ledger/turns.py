"""Writers of one process take turns at a database that has but one writer; those that may share a commit.

To make a commit last takes longer than all else in it. So writers of single rows that wait at one moment share one:
the first begins a transaction, and as it ends hands it on to the next that waits, and so on; the last commits, and only
then all of them know that their work will stay. Each has a savepoint, so that one who fails takes back his own alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection

from router.errors import LedgerError

MOST = 64
"""Writers that share a commit, at most."""
LONGEST_SECONDS = 0.05
"""A transaction that has gone on for so long is handed on no more: the first of its writers waits."""

_SAVEPOINT, _RELEASE = "SAVEPOINT writer", "RELEASE writer"
_TAKE_BACK = "ROLLBACK TO writer"


class _Group:
    """A transaction that several write in, one after the other."""

    def __init__(self, transaction: AbstractContextManager[Connection]) -> None:
        self._transaction = transaction
        self.connection = transaction.__enter__()
        self.began = time.monotonic()
        self.writers = 1
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._ending = False
        self._given_up: BaseException | None = None

    def may_grow(self) -> bool:
        return self.writers < MOST and time.monotonic() - self.began < LONGEST_SECONDS and self._given_up is None

    def give_up(self, error: BaseException) -> bool:
        """Have nobody's work stay, for this reason. False where it is too late: it is being committed."""
        with self._lock:
            if not self._ending:
                self._given_up = self._given_up or error
            return not self._ending

    def intact(self) -> bool:
        """Whether the transaction goes on: some errors make the database end it."""
        raw = self.connection.connection.driver_connection
        return raw is not None and bool(raw.in_transaction)

    def end(self, error: BaseException | None) -> None:
        """Commit, or take all of it back where there was an error that concerns all. Raises nothing."""
        with self._lock:
            self._ending = True
            error = error or self._given_up
        try:
            # A context manager that is told of an error rolls back, and lets it pass.
            self._transaction.__exit__(type(error) if error else None, error, None)
        except BaseException as failed:  # noqa: BLE001  each of its writers is told
            self.error = failed
        else:
            self.error = error
        self.ended.set()


class _Writer:
    def __init__(self, *, beside: bool) -> None:
        self.beside = beside
        self.turn = threading.Event()
        self.group: _Group | None = None
        """The transaction that it was handed; None: it is to begin one."""


class Turns:
    """Whose turn it is, first come first served; thread-safe. `begin` makes a transaction, `busy` the error of it.

    What `begin` gives rolls back where it is left with an error, else commits.
    """

    def __init__(
        self, begin: Callable[[], AbstractContextManager[Connection]], busy: Callable[[], LedgerError], patience: float
    ) -> None:
        self._begin = begin
        self._busy = busy
        self._patience = patience
        self._lock = threading.Lock()
        self._waiting: deque[_Writer] = deque()
        self._taken = False

    @contextmanager
    def write(self, *, beside: bool) -> Iterator[Connection]:
        """A transaction, by oneself or, `beside` others, perhaps with others that write beside.

        When it is left without an error it is committed. Raises LedgerError where its turn does not come.
        """
        writer = _Writer(beside=beside)
        self._wait(writer)
        try:
            group = writer.group or _Group(self._begin())
        except BaseException:
            self._pass_on()
            raise
        joined = writer.group is not None
        raw = group.connection.connection.driver_connection
        assert raw is not None
        try:
            if joined:
                raw.execute(_SAVEPOINT)
            yield group.connection
            if joined:
                raw.execute(_RELEASE)
        except BaseException as error:
            self._leave_failed(group, writer, error, joined=joined)
            raise
        if self._hand_on(group, writer):
            self._wait_for_end(group)
        else:
            group.end(None)
            self._pass_on()
        if group.error is not None:
            raise group.error

    def _wait(self, writer: _Writer) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            self._waiting.append(writer)
        if writer.turn.wait(self._patience):
            return
        with self._lock:
            if not writer.turn.is_set():
                self._waiting.remove(writer)
                raise self._busy()

    def _wait_for_end(self, group: _Group) -> None:
        """Until it is known whether one's work stays: who is told that it was too busy may rely on it that it does not.

        Only a commit that takes longer than a writer waits at all leaves that open.
        """
        if group.ended.wait(self._patience):
            return
        error = self._busy()
        if group.give_up(error):
            raise error
        if not group.ended.wait(self._patience):
            raise error

    def _leave_failed(self, group: _Group, writer: _Writer, error: BaseException, *, joined: bool) -> None:
        """Take back what one has written, and let the others go on, or not where the transaction is gone."""
        try:
            if joined and group.intact():
                raw = group.connection.connection.driver_connection
                assert raw is not None
                raw.execute(_TAKE_BACK)
                raw.execute(_RELEASE)
                if not self._hand_on(group, writer):
                    group.end(None)
                    self._pass_on()
                return
        except BaseException as failed:  # noqa: BLE001  then nobody's work stays, and all are told
            error = failed
        group.end(error)
        self._pass_on()

    def _hand_on(self, group: _Group, writer: _Writer) -> bool:
        """Give the transaction to the next that waits, where he may share it. False: it is to be ended."""
        with self._lock:
            if not (writer.beside and self._waiting and self._waiting[0].beside and group.may_grow()):
                return False
            following = self._waiting.popleft()
            group.writers += 1
            following.group = group
            following.turn.set()
            return True

    def _pass_on(self) -> None:
        """The next that waits may begin."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().turn.set()
            else:
                self._taken = False
