"""Leads where no other service on this ledger does: one of them makes sweeps due and tells what concerns all."""

from __future__ import annotations

import threading
from collections.abc import Callable

from router.engine.ports import Trouble
from router.errors import LedgerError

LOOK_SECONDS = 2.0
JOIN_SECONDS = 10.0
"""For so long a look that is under way is waited for; the database may be frozen."""


class Leading:
    """Asks every other second whether this service leads, and begins and ends what only the leader does.

    `leads` asks the ledger (LedgerError: then it does not), `resign` lets another lead. `begin` and `end` are called in
    turn, from one thread at a time; where `begin` fails this service leads all the same, and it is tried again at the
    next look.
    """

    def __init__(
        self,
        *,
        leads: Callable[[], bool],
        resign: Callable[[], object],
        begin: Callable[[], None],
        end: Callable[[], None],
        trouble: Trouble,
    ) -> None:
        self._ask = leads
        self._resign = resign
        self._begin = begin
        self._end = end
        self._trouble = trouble
        self._stopping, self._stopped = threading.Event(), threading.Event()
        self._leads = self._begun = False
        self._thread: threading.Thread | None = None

    @property
    def leads(self) -> bool:
        """Whether this service led when the ledger was asked last."""
        return self._leads

    def start(self) -> None:
        """Look at once, then go on in a thread."""
        self.look()
        thread = threading.Thread(target=self._looking, name="lead", daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """Lead no more, and let another: what is still under way here may take long to end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
        self._stopped.set()
        self._let_go()

    def _looking(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Once. Never raises."""
        try:
            leads = self._ask()
        except LedgerError as error:
            leads = False
            self._trouble("lead", error)
        self._leads = leads and not self._stopping.is_set()
        self._follow()
        if self._stopped.is_set():  # `stop` waits no more: what was taken or begun since then is let go of here
            self._let_go()

    def _let_go(self) -> None:
        self._leads = False
        self._follow()
        self._resign()

    def _follow(self) -> None:
        try:
            if self._leads and not self._begun:
                self._begin()
                self._begun = True
            elif self._begun and not self._leads:
                self._begun = False
                self._end()
        except Exception as error:  # noqa: BLE001  whatever it is, the next look may do better
            self._trouble("lead", error)
