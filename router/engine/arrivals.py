"""When instances last arrived here: a C-MOVE to `local` whose instances come in is alive, however silent."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

_SIZE = 10_000


class Arrivals:
    """Remembers the last arrival and their number per study, for a bounded number of studies."""

    def __init__(self) -> None:
        self._at: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, study_instance_uid: str) -> None:
        """An instance of the study is in the store."""
        with self._lock:
            self._at[study_instance_uid] = time.monotonic(), self._at.get(study_instance_uid, (0.0, 0))[1] + 1
            self._at.move_to_end(study_instance_uid)
            if len(self._at) > _SIZE:
                self._at.popitem(last=False)

    def last(self, study_instance_uid: str) -> float:
        """Monotonic time of the last arrival; 0.0 where there was none."""
        with self._lock:
            return self._at.get(study_instance_uid, (0.0, 0))[0]

    def number(self, study_instance_uid: str) -> int:
        """How many instances of the study arrived since this router started, repetitions included."""
        with self._lock:
            return self._at.get(study_instance_uid, (0.0, 0))[1]
