"""Which piece of work a line of the log is about: bound while the work is done, and its beginning told at debug."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from router.domain.appointment import Appointment
from router.domain.passing import PendingArrival
from router.domain.sweep import SweepRecord
from router.domain.transfer import State, Transfer
from router.observe import logs


class Correlation:
    """Binds the number of a transfer, sweep or appointment, and the study's pseudonym. `engine.ports.Correlate`."""

    def __init__(self, pseudonym: Callable[[str], str]) -> None:
        self._pseudonym = pseudonym

    @contextmanager
    def __call__(self, work: Transfer | SweepRecord | Appointment | PendingArrival) -> Iterator[None]:
        """While it lasts, what this thread logs is said of this piece of work."""
        if isinstance(work, Transfer):
            study = self._pseudonym(work.intent.study_instance_uid)
            with logs.bound(transfer=work.id, study=study):
                logs.logger().debug(
                    "move begins" if work.state is State.MOVING else "look for evidence begins",
                    rule=work.rule,
                    source=work.intent.source,
                    destination=work.intent.destination,
                )
                yield
        elif isinstance(work, SweepRecord):
            with logs.bound(sweep=work.id):
                logs.logger().debug("sweep begins", rule=work.due.rule, source=work.due.source)
                yield
        elif isinstance(work, PendingArrival):
            with logs.bound(study=self._pseudonym(work.study_instance_uid)):
                logs.logger().debug("look at a study that arrived begins", rule=work.rule)
                yield
        else:
            study = self._pseudonym(work.current.text("StudyInstanceUID"))
            with logs.bound(appointment=work.id, study=study):
                logs.logger().debug("look for priors begins", rule=work.rule, source=work.source)
                yield
