"""The C-MOVE SCP: which instances, to whom, and what the mover hears about it (PS3.4 section C.4.2)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from .archive import Instance
from .behaviour import Behaviour
from .delivery import Result
from .session import CANCELLED, PENDING, SUCCESS, Counts, Session, failed_list

_WARNING = 0xB000
_UNABLE_TO_PERFORM = 0xA702
_PENDING_FOREVER_SECONDS = 0.05


class Sends(Protocol):
    """What a move sends instances with."""

    def send(self, instances: Sequence[Instance]) -> Iterator[Result]:
        """Store the instances one by one; yields the result of each."""


NewDelivery = Callable[[], AbstractContextManager[Sends]]


@dataclass(slots=True)
class _Tally:
    """The counters of one move."""

    remaining: int
    completed: int = 0
    failed: int = 0
    warning: int = 0

    def add(self, result: Result) -> None:
        setattr(self, result, getattr(self, result) + 1)
        self.remaining -= 1

    @property
    def done(self) -> int:
        return self.completed + self.failed + self.warning


class Move:
    """One C-MOVE whose identifier and destination are known to be good."""

    def __init__(
        self, session: Session, instances: Sequence[Instance], behaviour: Behaviour, new_delivery: NewDelivery
    ) -> None:
        self._session = session
        self._instances = instances
        self._behaviour = behaviour
        self._new_delivery = new_delivery
        self._tally = _Tally(remaining=len(instances))
        self._failed: list[str] = []

    def run(self) -> None:
        """Serve it."""
        behaviour = self._behaviour
        if not self._wait(behaviour.move_start_delay_seconds):
            return
        if not self._perform():
            return
        while behaviour.pending_forever:
            self._respond_pending()
            if not self._session.wait(_PENDING_FOREVER_SECONDS):
                return
            if self._cancel_counts():
                self._respond_cancelled()
                return
        self._respond_final()

    def _perform(self) -> bool:
        """The sub-operations; False if the move has ended before they were gone through."""
        behaviour, session = self._behaviour, self._session
        # What `deliver_fraction` holds back is claimed to be completed after the others.
        delivered = int(len(self._instances) * behaviour.deliver_fraction)
        refused = self._instances[: min(behaviour.fail_instances, delivered)]
        with self._new_delivery() as delivery:
            sending = delivery.send(self._instances[len(refused) : delivered])
            for number, instance in enumerate(self._instances):
                if number == behaviour.hang_move_after:
                    session.hang()
                    return False
                if number == behaviour.abort_move_after:
                    session.abort()
                    if not behaviour.continue_after_mover_left:
                        return False
                if self._cancel_counts():
                    return self._respond_cancelled()
                if not self._wait(behaviour.suboperation_delay_seconds):
                    return False
                if self._cancel_counts():
                    return self._respond_cancelled()
                if number < len(refused):
                    result: Result = "failed"
                elif number < delivered:
                    result = next(sending)
                else:
                    result = "completed"
                self._tally.add(result)
                if result == "failed":
                    self._failed.append(str(instance.sop_instance))
                    if behaviour.hang_after_failure:
                        session.hang()
                        return False
                if behaviour.send_pending:
                    self._respond_pending()
        if behaviour.hang_move_after is not None and behaviour.hang_move_after >= len(self._instances):
            session.hang()
            return False
        if behaviour.abort_move_after is not None and behaviour.abort_move_after >= len(self._instances):
            session.abort()
            return False
        return True

    def _wait(self, seconds: float) -> bool:
        """Wait between sub-operations; False if there shall be no more."""
        behaviour = self._behaviour
        return self._session.wait(
            seconds, though_left=behaviour.continue_after_mover_left, until_cancelled=not behaviour.ignore_cancel
        )

    def _cancel_counts(self) -> bool:
        return self._session.cancelled and not self._behaviour.ignore_cancel

    def _counts(self, *, final: bool, remaining: int | None) -> Counts | None:
        wanted = self._behaviour.counters_in_final if final else self._behaviour.counters_in_pending
        if not wanted:
            return None
        failed = None if self._behaviour.omit_failed_counter else self._tally.failed
        return Counts(remaining, self._completed_counter(), failed, self._tally.warning)

    def _completed_counter(self) -> int:
        completed = self._tally.completed
        match self._behaviour.completed_counter:
            case "restarting":
                return completed % 3
            case "falling":
                return min(completed, len(self._instances) - completed)
            case "double":
                return 2 * completed
            case "zero":
                return 0
        return completed

    def _respond_pending(self) -> None:
        self._session.respond(PENDING, counts=self._counts(final=False, remaining=self._tally.remaining))

    def _respond_cancelled(self) -> Literal[False]:
        if self._behaviour.abort_after_cancel_seconds is not None:
            self._session.wait(self._behaviour.abort_after_cancel_seconds)
            self._session.abort()
        else:
            self._finish(CANCELLED, remaining=self._tally.remaining)
        return False

    def _respond_final(self) -> None:
        tally = self._tally
        status = SUCCESS
        if tally.failed and tally.failed == tally.done:
            status = _UNABLE_TO_PERFORM
        elif tally.failed or tally.warning:
            status = _WARNING
        if self._behaviour.final_move_status is not None:
            status = self._behaviour.final_move_status
        self._finish(status, remaining=None)

    def _finish(self, status: int, remaining: int | None) -> None:
        listed = self._listed() if status != SUCCESS else []
        identifier = failed_list(listed) if listed else None
        self._session.finish(status, identifier=identifier, counts=self._counts(final=True, remaining=remaining))

    def _listed(self) -> list[str]:
        match self._behaviour.failed_list:
            case "absent":
                return []
            case "repeated":
                return self._failed[:1] * len(self._failed)
            case "first":
                return self._failed[:1]
        return self._failed


def deliver_later(
    instances: Sequence[Instance], behaviour: Behaviour, new_delivery: NewDelivery, stopping: threading.Event
) -> threading.Thread:
    """Deliver in a thread of its own, for a PACS that answers Success before it has begun."""

    def work() -> None:
        if stopping.wait(behaviour.deliver_later_seconds or 0.0):
            return
        sent = int(len(instances) * behaviour.deliver_fraction)
        with new_delivery() as delivery:
            for _ in delivery.send(instances[min(behaviour.fail_instances, sent) : sent]):
                if stopping.wait(behaviour.suboperation_delay_seconds):
                    return

    thread = threading.Thread(target=work, name="simulator delivery", daemon=True)
    thread.start()
    return thread
