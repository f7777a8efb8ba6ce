"""Forwarding where other replicas hold instances: what can be had is sent, the rest waits until its replica is back.

What an attempt has waited for is known to the next one: as long as nothing of that can be had there is nothing to send.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import msgspec

from router.domain.exchange import Standing, StoredObject, StoreOutcome
from router.domain.store_outcome import UNDECIDED
from router.domain.transfer import Finish, Happening, Transfer
from router.engine.forward_port import Shelf
from router.errors import StoreAway

AWAY = "replica-away"
"""Cause of a transfer that waits for another replica."""
PAUSE = timedelta(seconds=15)
"""Between two looks whether it is back; they cost no attempt, and nobody outside is asked anything."""
_ENDS = frozenset({Happening.MOVED, Happening.FAIL, Happening.RETRY, Happening.PROVEN, Happening.NO_EVIDENCE})


class Awaited:
    """What one attempt cannot have. One thread.

    `before`: SOP Instance UIDs of what the transfer waits for; all else was offered to the destination already.
    """

    def __init__(self, shelf: Shelf, transfer: Transfer, before: Collection[str] = ()) -> None:
        self._shelf = shelf
        self._before = frozenset(before) if transfer.cause == AWAY else frozenset()
        self._back = False
        """Some of that can be had."""
        self._unsent: set[str] = set()
        """What can be had and was not offered yet."""
        self._away: set[str] = set()
        self._why = ""

    def to_be_had(self, objects: Sequence[StoredObject]) -> list[StoredObject]:
        """Those of these that are to be sent now. None where nothing is back: what could be had was sent before.

        Raises LedgerError.
        """
        away, self._why = self._shelf.away(objects)
        self._away = set(away)
        found = [one for one in objects if one.sop_instance_uid not in away]
        self._unsent = {one.sop_instance_uid for one in found}
        self._back = not self._before.isdisjoint(self._unsent)
        return [] if self.waits else found

    @property
    def away(self) -> frozenset[str]:
        """SOP Instance UIDs of what cannot be had."""
        return frozenset(self._away)

    @property
    def waits(self) -> bool:
        """Whether it has waited already, and nothing of what it waited for can be had now either."""
        return bool(self._before and self._away) and not self._back

    @property
    def broke_off(self) -> bool:
        """Whether some is away and not all of the rest was offered: that goes on before anything is waited for."""
        return bool(self._away and self._unsent - self._away)

    def offered(self, outcome: StoreOutcome) -> None:
        """What became of an instance."""
        if outcome.standing not in UNDECIDED:
            self._unsent.discard(outcome.stored.sop_instance_uid)

    def open(self, stored: StoredObject) -> tuple[int, int]:
        """As the shelf does; what cannot be had is remembered."""
        try:
            return self._shelf.open(stored)
        except StoreAway as error:
            self._away.add(stored.sop_instance_uid)
            self._why = self._why or str(error)
            raise

    def is_for(self, outcome: StoreOutcome) -> bool:
        """Whether an instance was not sent because it is awaited: that says nothing of the destination."""
        return outcome.standing is Standing.UNREADABLE and outcome.stored.sop_instance_uid in self._away

    def waiting(self, now: datetime, expected: int, there: int) -> Finish:
        """The end of an attempt that sends nothing."""
        return self._wait(Finish(happening=Happening.RETRY, expected=expected, completed=there), now)

    def after(self, finish: Finish, now: datetime) -> Finish:
        """The end of an attempt that has sent what there was, or broke off and is to be made again."""
        goes_on = self.broke_off and finish.happening is Happening.RETRY
        return self._wait(finish, now) if self._away and finish.happening in _ENDS and not goes_on else finish

    def _wait(self, finish: Finish, now: datetime) -> Finish:
        return msgspec.structs.replace(
            finish, happening=Happening.RETRY, next_at=now + PAUSE, cause=AWAY, reason=self._why, moved=False
        )
