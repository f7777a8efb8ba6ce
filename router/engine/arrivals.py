"""When instances last arrived: a C-MOVE to `local` whose instances come in is alive, however silent.

Where several services work on one ledger, what one of them asks for may arrive at another: then the ledger is asked.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from router.errors import LedgerError

_SIZE = 10_000
ASK_SECONDS = 5.0
"""How long a study must have been quiet here before the ledger is asked, and between two questions about it."""


class Indexed(NamedTuple):
    """What the ledger has of a study."""

    instances: int
    elsewhere: int
    """Those in the stores of other services."""
    last_at: datetime | None


class _Look(NamedTuple):
    at: float
    first: Indexed
    found: Indexed
    changed_at: float


class Arrivals:
    """Remembers the last arrival and their number per study, for a bounded number of studies. Thread-safe."""

    def __init__(
        self, indexed: Callable[[str], Indexed | None] = lambda study: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`indexed` says what the ledger has of a study, None where no other service works on it."""
        self._indexed = indexed
        self._clock = clock
        self._at: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._looks: OrderedDict[str, _Look] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, study_instance_uid: str) -> None:
        """An instance of the study is in the store."""
        with self._lock:
            self._at[study_instance_uid] = self._clock(), self._at.get(study_instance_uid, (0.0, 0))[1] + 1
            self._at.move_to_end(study_instance_uid)
            if len(self._at) > _SIZE:
                self._at.popitem(last=False)

    def last(self, study_instance_uid: str, *, fresh: bool = False) -> float:
        """Monotonic time of the last arrival; 0.0 where there was none.

        Of what came to another service it is when that was noticed. With `fresh` the ledger is asked now.
        """
        with self._lock:
            here = self._at.get(study_instance_uid, (0.0, 0))[0]
        if not fresh and self._clock() - here < ASK_SECONDS:
            return here
        look = self._look(study_instance_uid, fresh=fresh)
        return max(here, look.changed_at) if look is not None else here

    def number(self, study_instance_uid: str) -> int:
        """How many instances of the study arrived since this router started, repetitions included.

        Of what came to other services, since the first question about the study.
        """
        look = self._look(study_instance_uid)
        with self._lock:
            here = self._at.get(study_instance_uid, (0.0, 0))[1]
        return here + (max(look.found.elsewhere - look.first.elsewhere, 0) if look is not None else 0)

    def _look(self, study: str, *, fresh: bool = False) -> _Look | None:
        """What is known of arrivals elsewhere; None where nothing is."""
        now = self._clock()
        with self._lock:
            before = self._looks.get(study)
        if before is not None and not fresh and now - before.at < ASK_SECONDS:
            return before
        found: Indexed | None = None
        with contextlib.suppress(LedgerError):  # what it would have said it says a while later
            found = self._indexed(study)
        if found is None:
            return before
        if before is None:
            look = _Look(now, found, found, 0.0)
        else:
            look = _Look(now, before.first, found, before.changed_at if found == before.found else now)
        with self._lock:
            self._looks[study] = look
            self._looks.move_to_end(study)
            if len(self._looks) > _SIZE:
                self._looks.popitem(last=False)
        return look
