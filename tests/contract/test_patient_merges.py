"""Patient IDs that gave way to others, in every ledger: which news is renamed, and what is looked for again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.appointment import Appointment, AppointmentReport, AppointmentState, News, Notice
from router.domain.dicom import Identifier
from router.domain.hl7 import Merge
from router.domain.sweep import SweepDue
from router.ledger.ledger import SqlLedger
from tests.contract.ledgers import LEASE, NOW, after
from tests.contract.test_appointments import DONE, HOUR, REPEAT, brought, found, note, notice, states, taken_up

DAY = timedelta(days=1)
S, N = AppointmentState, News
FAILED = AppointmentReport(state=S.FAILED, cause="refused", reason="It is away.")


def of(patient_id: str, issuer: str = "", key: str = "a", **changes: object) -> Notice:
    """News of a patient's appointment."""
    current = Identifier.of(PatientID=patient_id, IssuerOfPatientID=issuer, Modality="MR")
    return notice(key, patient_id=patient_id, issuer=issuer, current=current, **changes)


def the_one(ledger: SqlLedger) -> Appointment:
    (one,) = ledger.appointments()
    return one


class TestNews:
    def test_is_renamed_by_the_exact_issuer_only(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge("P", "", "Q", ""), Merge("P", "H", "R", "H")], NOW)
        note(ledger, of("P", "H", "exact"), of("P", "K", "other"), of("P", "", "none"))
        named = {one.key: (one.patient_id, one.issuer) for one in ledger.appointments()}
        assert named == {"exact": ("R", "H"), "other": ("P", "K"), "none": ("Q", "")}

    def test_is_left_alone_where_its_id_gave_way_to_several_patients(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge("P", "H", "Q", "H"), Merge("P", "K", "Z", "K")], NOW)
        note(ledger, of("P"))
        assert the_one(ledger).patient_id == "P"

    def test_takes_the_issuer_and_the_data_set_of_the_new_id(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge("P", "H", "Q", "N")], NOW)
        assert note(ledger, of("P", "H"), of("Q", "N")) == [N.NEW, N.REPEATED]
        one = the_one(ledger)
        assert (one.patient_id, one.issuer) == ("Q", "N")
        assert (one.current.text("PatientID"), one.current.text("IssuerOfPatientID")) == ("Q", "N")

    def test_under_the_old_id_ends_what_is_known_under_the_new_one(self, ledger: SqlLedger) -> None:
        note(ledger, of("P"))
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        assert note(ledger, of("P", cancelled=True)) == [N.CANCELLED]
        assert (the_one(ledger).state, the_one(ledger).patient_id) == (S.CANCELLED, "Q")

    def test_is_renamed_after_the_ledger_was_opened_anew(self, url: str) -> None:
        with SqlLedger.open(url) as ledger:
            ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        with SqlLedger.open(url) as ledger:
            note(ledger, of("P"))
            assert the_one(ledger).patient_id == "Q"
            assert ledger.former_ids("Q", "") == [("P", "")]

    def test_of_many_patients_at_once_is_renamed_each_for_itself(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge(f"old {n}", "", f"new {n}", "") for n in range(0, 1000, 2)], NOW)
        note(ledger, *(of(f"old {n}", key=str(n)) for n in range(1000)))
        named = {int(one.key): one.patient_id for one in ledger.appointments(limit=2000)}
        assert named == {n: f"{'old' if n % 2 else 'new'} {n}" for n in range(1000)}


class TestAppointments:
    def test_that_wait_keep_their_time(self, ledger: SqlLedger) -> None:
        note(ledger, of("P", due_at=NOW + HOUR))
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        assert (the_one(ledger).state, the_one(ledger).due_at) == (S.WAITING, NOW + HOUR)

    @pytest.mark.parametrize("start_at", [NOW + HOUR, NOW - HOUR, None])
    @pytest.mark.parametrize("report", [DONE, FAILED])
    def test_that_were_looked_at_are_looked_at_again_for_the_new_id_has_its_own_priors(
        self, ledger: SqlLedger, report: AppointmentReport, start_at: object
    ) -> None:
        said = of("P", start_at=start_at)
        (sweep,) = ledger.add_sweeps([SweepDue(rule="mr", source="archive", due_at=NOW, manual=True)])
        ledger.note([said], NOW, REPEAT, again=True, sweep_id=sweep)
        assert ledger.finish_appointment(taken_up(ledger), report, [], [], NOW)
        ledger.merge_patients([Merge("P", "", "Q", "")], after(1))
        again = taken_up(ledger, after(1))
        assert (again.patient_id, again.attempts, again.cause, again.reason) == ("Q", 0, "", "")
        assert again.sweep_id is None
        found(ledger, again, [1], after(2))
        # The message is sent once more: nothing is under the old ID any more.
        ledger.merge_patients([Merge("P", "", "Q", "")], after(3))
        assert ledger.claim_appointment(["archive"], after(4), LEASE) is None

    def test_that_are_long_over_are_renamed_only(self, ledger: SqlLedger) -> None:
        brought(ledger, of("P", start_at=NOW))
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW + 2 * DAY)
        assert (the_one(ledger).state, the_one(ledger).patient_id) == (S.DONE, "Q")

    def test_that_are_cancelled_stay_so(self, ledger: SqlLedger) -> None:
        note(ledger, of("P"), of("P", cancelled=True))
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        assert the_one(ledger).state is S.CANCELLED
        assert ledger.claim_appointment(["archive"], NOW, LEASE) is None

    def test_that_are_being_looked_at_for_a_person_stay_that_persons(self, ledger: SqlLedger) -> None:
        (sweep,) = ledger.add_sweeps([SweepDue(rule="mr", source="archive", due_at=NOW, manual=True)])
        ledger.note([of("P", start_at=NOW - 9 * DAY)], NOW, REPEAT, again=True, sweep_id=sweep)
        lost = taken_up(ledger)
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        assert not ledger.finish_appointment(lost, DONE, [], [], NOW)
        again = taken_up(ledger)
        assert (again.patient_id, again.sweep_id) == ("Q", sweep)

    def test_of_another_issuer_are_left_alone(self, ledger: SqlLedger) -> None:
        note(ledger, of("P", "H", "h"), of("P", "K", "k"), of("P", "", "none"))
        ledger.merge_patients([Merge("P", "H", "Q", "H")], NOW)
        named = {one.key: (one.patient_id, one.issuer) for one in ledger.appointments()}
        assert named == {"h": ("Q", "H"), "k": ("P", "K"), "none": ("P", "")}

    def test_keep_what_was_queued_for_them_and_cancel_it_with_them(self, ledger: SqlLedger) -> None:
        one = brought(ledger, of("P"))
        ledger.merge_patients([Merge("P", "", "Q", "")], NOW)
        assert ledger.brought("mr", "Q", "", NOW, NOW + 3 * DAY) == {"ws": {"1.2.826.1": "g", "1.2.826.2": "g"}}
        note(ledger, of("Q", cancelled=True), at=after(1))
        assert [state.value for state in states(ledger).values()] == ["cancelled", "cancelled"]
        assert ledger.appointment(one.id) is not None


class TestFormerIds:
    def test_are_the_latest_merged_first(self, ledger: SqlLedger) -> None:
        for number in range(15):
            ledger.merge_patients([Merge(f"P{number}", "H", "Q", "H")], after(number))
        assert ledger.former_ids("Q", "H") == [(f"P{number}", "H") for number in range(14, 4, -1)]

    def test_follow_a_chain_of_one_issuer(self, ledger: SqlLedger) -> None:
        ledger.merge_patients([Merge("A", "H", "B", "H"), Merge("B", "", "X", "")], NOW)
        ledger.merge_patients([Merge("B", "H", "C", "H")], after(1))
        assert set(ledger.former_ids("C", "H")) == {("A", "H"), ("B", "H")}
        note(ledger, of("A", "H"))
        assert the_one(ledger).patient_id == "C"

    def test_of_a_merge_with_itself_are_none(self, ledger: SqlLedger) -> None:
        note(ledger, of("P", "H"))
        before = the_one(ledger)
        ledger.merge_patients([Merge("P", "H", "P", "H")], after(1))
        assert ledger.former_ids("P", "H") == []
        assert the_one(ledger) == before


IDS = st.tuples(st.sampled_from("ABC"), st.sampled_from(["H", "K"]))
MERGES = st.lists(st.lists(IDS, min_size=2, max_size=2, unique=True), min_size=1, max_size=6)


@given(MERGES, IDS)
def test_after_any_merges_news_is_renamed_once_and_for_all(
    pairs: list[list[tuple[str, str]]], said: tuple[str, str]
) -> None:
    with SqlLedger.in_memory() as ledger:
        for at, (old, new) in enumerate(pairs):
            ledger.merge_patients([Merge(*old, *new)], after(at))
        note(ledger, of(*said))
        once = the_one(ledger)
        note(ledger, of(once.patient_id, once.issuer))
        twice = the_one(ledger)
        assert (twice.patient_id, twice.issuer) == (once.patient_id, once.issuer), "no chain is left, and no circle"
        if pairs[-1][1] == said:
            assert once.patient_id == said[0], "what was merged into last is in use"
