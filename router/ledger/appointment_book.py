"""The part of the ledger that knows appointments and their priors: each query by name, in its transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from router.domain.appointment import Appointment, AppointmentReport, AppointmentState, News, Notice
from router.domain.hl7 import Merge
from router.domain.relevance import Prior
from router.domain.transfer import NewTransfer
from router.ledger import appointment_transfers as belonging
from router.ledger import appointments as queries
from router.ledger import merges as merge_queries
from router.ledger.database import Database


class AppointmentBook:
    """The appointments of a ledger. Raises only LedgerError; thread-safe. See `engine.appointment_port`."""

    _database: Database

    def note(
        self,
        notices: Sequence[Notice],
        now: datetime,
        repeat: Mapping[str, float],
        *,
        again: bool = False,
        sweep_id: int | None = None,
    ) -> list[News]:
        """Take news of appointments, durably; what each was to what is known, in order."""
        if not notices:
            return []
        if not again and sweep_id is None:
            # Most of what comes is said again and again, and was durable the first time.
            with self._database.read() as connection:
                if queries.says_nothing(connection, notices, now, repeat):
                    return [News.REPEATED] * len(notices)
        with self._database.write() as connection:
            news = queries.note(connection, notices, now, repeat, again=again, sweep_id=sweep_id)
        self._database.tell()
        return news

    def hasten(self, rule: str, sweep_id: int, now: datetime) -> int:
        """Make all that wait for their time due now, for a person's sweep. Returns how many."""
        with self._database.write() as connection:
            hastened = queries.hasten(connection, rule, sweep_id, now)
        self._database.tell()
        return hastened

    def claim_appointment(self, sources: Sequence[str], now: datetime, lease_seconds: float) -> Appointment | None:
        """Take the due (or abandoned) appointment that starts first, of those whose priors are at these sources."""
        with self._database.read() as connection:
            if not queries.any_to_claim(connection, sources, now, self._database.lost_at(now)):
                return None
        with self._database.write() as connection:
            return queries.claim(connection, sources, now, self._database.lost_at(now), lease_seconds)

    def renew_appointment(self, appointment: Appointment, now: datetime, lease_seconds: float) -> bool:
        """Prolong the lease of one that is being looked at. False where the claim was lost."""
        with self._database.write() as connection:
            return queries.renew(connection, appointment, now, lease_seconds)

    def finish_appointment(
        self,
        appointment: Appointment,
        report: AppointmentReport,
        record: Sequence[Prior],
        transfers: Sequence[NewTransfer],
        now: datetime,
    ) -> bool:
        """Write how the look ended, queue what was chosen, remember each decision. False where the claim was lost."""
        with self._database.write() as connection:
            ours = queries.finish(connection, appointment, report, record, transfers, now)
        if transfers:
            self._database.tell()
        return ours

    def appointment(self, appointment_id: int) -> Appointment | None:
        """One appointment."""
        with self._database.read() as connection:
            return queries.one(connection, appointment_id)

    def appointments(
        self,
        *,
        rule: str = "",
        states: Sequence[AppointmentState] = (),
        sweeps: Sequence[int] = (),
        limit: int = 1000,
    ) -> list[Appointment]:
        """Appointments by these properties (all of those given), the soonest due first."""
        with self._database.read() as connection:
            return queries.find(connection, rule, states, sweeps, limit)

    def waiting_sources(self) -> set[str]:
        """Where the priors are of appointments that wait."""
        with self._database.read() as connection:
            return queries.waiting_sources(connection)

    def expected(self, rule: str, first: datetime, last: datetime) -> list[Appointment]:
        """Those of a rule, not cancelled, that start within these moments (both inclusive)."""
        with self._database.read() as connection:
            return queries.expected(connection, rule, first, last)

    def priors_of(self, appointment_id: int) -> list[Prior]:
        """What the last look decided about each candidate."""
        with self._database.read() as connection:
            return belonging.priors_of(connection, appointment_id)

    def priors_considered(self, study_instance_uid: str, limit: int = 100) -> list[tuple[Appointment, Prior]]:
        """The latest decisions about a study as a prior, the newest first."""
        with self._database.read() as connection:
            decided = belonging.considered(connection, study_instance_uid, limit)
            found = ((queries.one(connection, number), prior) for number, prior in decided)
            return [(one, prior) for one, prior in found if one is not None]

    def brought(
        self, rule: str, patient_id: str, issuer: str, first: datetime, last: datetime
    ) -> dict[str, dict[str, str]]:
        """What a rule has taken for a patient's appointments: destination -> Study Instance UID -> group."""
        with self._database.read() as connection:
            return belonging.brought(connection, rule, patient_id, issuer, first, last)

    def reasons_of(self, transfer_id: int) -> list[tuple[Appointment, Prior]]:
        """For which appointments a transfer was chosen, and why."""
        with self._database.read() as connection:
            decided = belonging.reasons_of(connection, transfer_id)
            found = ((queries.one(connection, number), prior) for number, prior in decided)
            return [(one, prior) for one, prior in found if one is not None]

    def delivered_since(
        self, source: str, destination: str, study_instance_uids: Sequence[str], moment: datetime
    ) -> dict[str, int | None]:
        """Of these studies those whose transfer ended complete or unproven since then, with their instances."""
        with self._database.read() as connection:
            return belonging.delivered_since(connection, source, destination, study_instance_uids, moment)

    def hasten_transfers(self, deadline_before: datetime) -> int:
        """Make queued transfers urgent whose deadline is before that moment. Returns how many."""
        with self._database.read() as connection:
            if not belonging.any_to_hasten(connection, deadline_before):
                return 0
        with self._database.write() as connection:
            return belonging.hasten(connection, deadline_before)

    def merge_patients(self, merges: Sequence[Merge], now: datetime) -> None:
        """Remember that patient IDs gave way to others; open appointments go over to the new ones."""
        with self._database.write() as connection:
            merge_queries.merge(connection, merges, now)

    def former_ids(self, patient_id: str, issuer: str) -> list[tuple[str, str]]:
        """Patient IDs with issuers that gave way to this one, directly or by others; at most 10."""
        with self._database.read() as connection:
            return merge_queries.former_ids(connection, patient_id, issuer)

    def forget_appointments(self, before: datetime) -> int:
        """Forget those that ended, and started, before that moment. Returns how many."""
        with self._database.write() as connection:
            return queries.forget(connection, before)
