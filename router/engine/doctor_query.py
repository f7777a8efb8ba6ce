"""The doctor's few cheap C-FIND requests to a node: of today, of a few days, of tomorrow, of a worklist."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from router.domain import checkup_node, checkup_wire
from router.domain.checkup import Around, Check, Result, skipped, spelled_days
from router.domain.checkup_node import Answer
from router.domain.dicom import Identifier, QueryRetrieveLevel, known_tag
from router.domain.levels import RETURN_KEYS
from router.domain.worklist import STEP_SEQUENCE
from router.engine.ports import Peers
from router.errors import WireError

MATCHES = 101
"""Matches of the cheap query before it is cancelled: archives that cut at 100 show it."""
FEW_MATCHES = 20
LOOKBACKS = (7, 30)
"""Days back from today that are asked for, one after the other, where today brought no study."""
QUERIES = 9
"""C-FIND requests in all, or fewer where the node's `queries_per_minute` allows fewer."""

_TIMEZONE = known_tag("TimezoneOffsetFromUTC")


class Questions:
    """The requests to one node."""

    def __init__(self, peers: Peers, around: Around, now: datetime, cancelled: threading.Event) -> None:
        self._peers = peers
        self._around = around
        self._node = around.node
        self._now = now
        self._cancelled = cancelled
        self._allowed = min(QUERIES, self._node.limits.queries_per_minute or QUERIES)
        self._left = self._allowed
        self._refused = False
        self._days_back: int | None = None
        """How far back from today studies were asked for; None: not at all."""

    def find(self, level: QueryRetrieveLevel, keys: Identifier, maximum: int) -> Answer | None:
        """A C-FIND within the number that is allowed; None where there are none left. Raises WireError."""
        if self._left <= 0:
            self._refused = True
            return None
        self._left -= 1
        started = time.monotonic()
        result = self._peers.find(self._node, level, keys, maximum=maximum, cancelled=self._cancelled)
        first, _, last = keys.text("StudyDate").partition("-")
        seconds = time.monotonic() - started
        return Answer(result=result, asked=maximum, seconds=seconds, first=first, last=last or first)

    def _days(self, first: int, last: int) -> str:
        """A range of days, counted from the node's today. Both ends are given: some archives want them."""
        today = self._now.astimezone(ZoneInfo(self._node.timezone)).date()
        return "-".join(dict.fromkeys(f"{today + timedelta(days=offset):%Y%m%d}" for offset in (first, last)))

    def _spent(self) -> tuple[str, str]:
        """Why a query was not sent, and what to change for it."""
        if self._allowed < QUERIES:
            place = self._around.at("limits", "queries_per_minute")
            return f"queries_per_minute allows no more than {self._allowed}", f"to have it asked, raise {place}"
        return f"{QUERIES} queries are all that it gets", "ask again later"

    def no_image(self) -> Check:
        """That there is no image to ask for, and whether that was asked."""
        if self._refused:
            why, advice = self._spent()
            return skipped("move", "no-more", f"Not tried: not all queries for an image were sent, {why}.", advice)
        if self._days_back is None:
            return skipped("move", "no-image", "Not tried: it was not asked for studies, so no image is known.")
        days = spelled_days(self._days_back)
        return skipped("move", "no-image", f"Not tried: it lists no image of {days} that could be asked for.")

    def _of_days(self, first: int, last: int, maximum: int) -> Answer | None:
        """A C-FIND for the studies of these days. Raises WireError."""
        keys = Identifier(dict.fromkeys(RETURN_KEYS[QueryRetrieveLevel.STUDY], ()))
        keys.elements |= Identifier.of(StudyDate=self._days(first, last)).elements
        keys.elements[_TIMEZONE] = ()
        return self.find(QueryRetrieveLevel.STUDY, keys, maximum)

    def studies(self, learned: int | None, *, thorough: bool) -> tuple[list[Check], list[Identifier] | None]:
        """Checks, and the studies that were found; None where it is no use to go on.

        `learned` is its cap by the ledger. `thorough`: rules ask it for studies; else only whether it answers matters.
        """
        checks: list[Check] = []
        try:
            rows = self._studies(checks, learned, thorough)
        except WireError as error:
            checks.append(checkup_wire.broken("query", error.cause, str(error), self._around))
            return checks, None
        return checks, rows

    def _studies(self, checks: list[Check], learned: int | None, thorough: bool) -> list[Identifier] | None:
        around = self._around
        today = self._of_days(0, 0, MATCHES)
        if today is None:
            why, advice = self._spent()
            checks.append(skipped("query", "no-more", f"Not asked: {why}.", advice))
            return []
        self._days_back = 0
        checks.append(checkup_node.answered(today, around))
        if checks[-1].result is Result.FAIL:
            return None
        rows = list(today.rows)
        if not thorough:
            return rows
        for days in LOOKBACKS:
            older = self._of_days(-days, -1, FEW_MATCHES) if not rows else None
            if older is not None:
                rows += older.rows
                self._days_back = days
        if rows:
            checks.append(checkup_node.returned(rows, around))
            checks.append(checkup_node.encoded(rows, around))
        else:
            none = f"Not to be told: it has no study of {spelled_days(self._days_back)}"
            code, more = (
                ("no-more", f", and was not asked further back: {self._spent()[0]}")
                if self._refused
                else ("no-study", "")
            )
            checks += [skipped(check, code, f"{none}{more}.") for check in ("attributes", "character set")]
        ahead = self._of_days(1, 2, FEW_MATCHES)
        coming: Sequence[Identifier] = ahead.rows if ahead is not None else ()
        checks.append(checkup_node.timed([*today.rows, *coming], around, self._now))
        checks.append(checkup_node.capped(today, learned, around))
        return rows

    def worklist(self) -> Check:
        """A worklist query for today (PS3.4 section K.4.1)."""
        step = Identifier.of(ScheduledProcedureStepStartDate=self._days(0, 0), Modality="")
        keys = Identifier.of(PatientID="", PatientName="", AccessionNumber="")
        keys.elements[STEP_SEQUENCE] = (step,)
        self._left -= 1  # it is asked first, and at least one is allowed
        started = time.monotonic()
        try:
            result = self._peers.worklist(self._node, keys, maximum=FEW_MATCHES, cancelled=self._cancelled)
        except WireError as error:
            return checkup_wire.broken("worklist query", error.cause, str(error), self._around)
        answer = Answer(result=result, asked=FEW_MATCHES, seconds=time.monotonic() - started, first="", last="")
        return checkup_node.answered_worklist(answer, self._around)
