"""What the engine needs of a ledger for appointments and their priors; a part of `ports.Ledger`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from router.domain.appointment import Appointment, AppointmentReport, AppointmentState, News, Notice
from router.domain.hl7 import Merge
from router.domain.relevance import Prior
from router.domain.transfer import NewTransfer


class AppointmentLedger(Protocol):
    """Appointments. Raises only LedgerError. Every method is one transaction; thread-safe."""

    def note(
        self,
        notices: Sequence[Notice],
        now: datetime,
        repeat: Mapping[str, float],
        *,
        again: bool = False,
        sweep_id: int | None = None,
    ) -> list[News]:
        """Take news of appointments, durably, in one transaction; what each was to what is known, in order.

        `repeat` by rule, see `appointment.reconcile`. With `again` a person asks: each is looked at now, and belongs
        to that person's sweep `sweep_id`. Patient IDs that gave way to others (`merge_patients`) are replaced.
        """

    def hasten(self, rule: str, sweep_id: int, now: datetime) -> int:
        """Make all that wait for their time due now, for a person's sweep. Returns how many."""

    def claim_appointment(self, sources: Sequence[str], now: datetime, lease_seconds: float) -> Appointment | None:
        """Take the due (or abandoned) appointment that starts first, of those whose priors are at these sources."""

    def renew_appointment(self, appointment: Appointment, now: datetime, lease_seconds: float) -> bool:
        """Prolong the lease of one that is being looked at. False where the claim was lost."""

    def finish_appointment(
        self,
        appointment: Appointment,
        report: AppointmentReport,
        record: Sequence[Prior],
        transfers: Sequence[NewTransfer],
        now: datetime,
    ) -> bool:
        """Write how the look ended, queue what was chosen, remember each decision. False where the claim was lost.

        Transfers of `record`'s taken studies belong to the appointment (and to its `sweep_id`), also those that were
        in the ledger before; what this queues is its own, and is cancelled with it. A report that says WAITING leaves
        the record of before.
        """

    def appointment(self, appointment_id: int) -> Appointment | None:
        """One appointment."""

    def appointments(
        self,
        *,
        rule: str = "",
        states: Sequence[AppointmentState] = (),
        sweeps: Sequence[int] = (),
        limit: int = 1000,
    ) -> list[Appointment]:
        """Appointments by these properties (all of those given), the soonest due first."""

    def waiting_sources(self) -> set[str]:
        """Where the priors are of appointments that wait."""

    def expected(self, rule: str, first: datetime, last: datetime) -> list[Appointment]:
        """Those of a rule, not cancelled, that start within these moments (both inclusive)."""

    def priors_of(self, appointment_id: int) -> list[Prior]:
        """What the last look decided about each candidate."""

    def priors_considered(self, study_instance_uid: str, limit: int = 100) -> list[tuple[Appointment, Prior]]:
        """The latest decisions about a study as a prior, the newest first."""

    def brought(
        self, rule: str, patient_id: str, issuer: str, first: datetime, last: datetime
    ) -> dict[str, dict[str, str]]:
        """What a rule has taken for a patient's appointments: destination -> Study Instance UID -> group.

        Those count that start (or, without a start, were last looked at) within these moments and are not cancelled.
        """

    def reasons_of(self, transfer_id: int) -> list[tuple[Appointment, Prior]]:
        """For which appointments a transfer was chosen, and why."""

    def delivered_since(
        self, source: str, destination: str, study_instance_uids: Sequence[str], moment: datetime
    ) -> dict[str, int | None]:
        """Of these studies those whose transfer ended complete or unproven since then, with their instances."""

    def hasten_transfers(self, deadline_before: datetime) -> int:
        """Make queued transfers urgent whose deadline is before that moment. Returns how many."""

    def merge_patients(self, merges: Sequence[Merge], now: datetime) -> None:
        """Remember that patient IDs gave way to others; open appointments go over to the new ones."""

    def former_ids(self, patient_id: str, issuer: str) -> list[tuple[str, str]]:
        """Patient IDs with issuers that gave way to this one, directly or by others; at most 10."""

    def forget_appointments(self, before: datetime) -> int:
        """Forget those that ended, and started, before that moment. Returns how many."""
