"""Sub-operations as they are told to metrics: each once, and never more of them than there is evidence for. No I/O."""

from __future__ import annotations

import threading
from collections import OrderedDict

from router.domain.dicom import SubOperationCounts
from router.domain.events import SubOperationsCounted
from router.domain.transfer import Transfer
from router.engine.ports import Observer

_SIZE = 10_000


class _Attempt:
    """What the source claims of one attempt, and what has been told of it."""

    def __init__(self, before: int | None) -> None:
        self.before = before
        self.claimed = 0
        self.claimed_warning = 0
        self.told = 0
        self.told_warning = 0

    def claim(self, increase: SubOperationCounts) -> None:
        self.claimed += (increase.completed or 0) + (increase.warning or 0)
        self.claimed_warning += increase.warning or 0

    def raise_to(self, number: int) -> tuple[int, int]:
        """Completed and warnings to tell, so that `number` of them are told in all; nothing is ever taken back."""
        more = max(0, number - self.told)
        warning = min(more, self.claimed_warning - self.told_warning)
        self.told += more
        self.told_warning += warning
        return more - warning, warning


class Tallies:
    """Counts the sub-operations of attempts. Thread-safe.

    A source may count what it never sent, or not count at all. So completed sub-operations (warnings included) are told
    when something else shows them: at once where instances arrive here, with the first look for evidence elsewhere.
    Only where nobody can be asked is the source believed. Failed ones, and those that remain, nobody else knows of.

    Attempts of another process are not known here: what they moved is told where they run.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._attempts: OrderedDict[int, _Attempt] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, transfer: Transfer, before: int | None) -> None:
        """An attempt begins; the destination holds `before` of the expected instances, None where nobody knows."""
        with self._lock:
            self._attempts[transfer.id] = _Attempt(before)
            self._attempts.move_to_end(transfer.id)
            if len(self._attempts) > _SIZE:
                self._attempts.popitem(last=False)

    def hear(self, transfer: Transfer, increase: SubOperationCounts, shown: int | None) -> None:
        """A response counts more; `shown` instances have arrived in this attempt, None: nobody will ever say."""
        completed = warning = 0
        with self._lock:
            attempt = self._attempts.get(transfer.id)
            if attempt is not None:
                attempt.claim(increase)
                completed, warning = attempt.raise_to(attempt.claimed if shown is None else min(attempt.claimed, shown))
        self._tell(transfer, SubOperationCounts(increase.remaining, completed, increase.failed, warning))

    def look(self, transfer: Transfer, there: int | None) -> None:
        """Evidence shows that `there` of the expected instances have arrived; None: there is no evidence to be had."""
        with self._lock:
            attempt = self._attempts.get(transfer.id)
            if attempt is None:
                return
            number = attempt.claimed
            if there is not None and attempt.before is not None:
                number = there - attempt.before
            elif there is not None:  # some may have been there before
                number = min(there, attempt.claimed or there)
            completed, warning = attempt.raise_to(number)
        if completed or warning:
            self._tell(transfer, SubOperationCounts(None, completed, 0, warning))

    def end(self, transfer: Transfer) -> None:
        """No more evidence is looked for."""
        with self._lock:
            self._attempts.pop(transfer.id, None)

    def _tell(self, transfer: Transfer, counts: SubOperationCounts) -> None:
        intent = transfer.intent
        self._observer(
            SubOperationsCounted(
                rule=transfer.rule,
                source=intent.source,
                destination=intent.destination,
                transfer=transfer.id,
                counts=counts,
            )
        )
