"""From a real worklist to the right priors at a real workstation, before the patient is at the scanner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from router.domain.transfer import Transfer
from router.ledger.ledger import SqlLedger
from router.simulator import SimulatedPacs, make_study
from tests.support.peers import Orthanc, Storescp
from tests.support.prefetch import BORN, KNEE_PRIORS, PATIENT, Hospital, count, nine_priors
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles
from tests.support.worklist import Wlmscpfs, scheduled

HOUR = timedelta(hours=1)


class Ward(Hospital):
    """A hospital with a worklist of one MR of the knee, and nine earlier studies of the patient."""

    def __init__(
        self, directory: Path, archive: Orthanc, workstation: Storescp | Orthanc, worklist: Wlmscpfs, stack: ExitStack
    ) -> None:
        super().__init__(directory, archive, workstation)
        self.worklist = worklist
        self.stack = stack
        self.priors = nine_priors(self.files, "ACC1")
        self.load(*self.priors.values())
        self.taken = [self.priors["taken"], self.priors["taken-too"]]
        self.start_at = whole_minute(datetime.now(UTC) + 26 * HOUR)
        self.schedule(self.start_at)
        self.nodes["ris"] = node(worklist.ae_title, worklist.port, timezone="UTC")
        self.rule()

    def rule(self, **worklist: Any) -> None:
        """The rule; without `lead` a step's priors are wanted as soon as it is known."""
        self.rules["priors"] = {
            "worklist": {
                "source": "ris",
                "every": "1s",
                "keys": {"ScheduledProcedureStepStartDate": "today..today+4d", "Modality": "MR"},
                **worklist,
            },
            "priors": KNEE_PRIORS,
            "move": {"to": ["workstation"], "retry": {"attempts": 3, "delay": "1s"}},
        }
        self.configure()

    def schedule(self, start_at: datetime, **step: Any) -> None:
        """Put the step into the worklist, or change it there."""
        item = scheduled("ACC1", date=f"{start_at:%Y%m%d}", time=f"{start_at:%H%M%S}", patient_id=PATIENT, **step)
        self.worklist.put(item)

    def run(self) -> RunningRouter:
        return self.stack.enter_context(self.configure().run())

    def again(self, router: RunningRouter, looks: int = 2) -> None:
        """Wait until the worklist has been looked at anew, so many times."""
        swept = count(router, "sweeps_total", result="complete")
        wait_for(lambda: count(router, "sweeps_total", result="complete") >= swept + looks, "looks at the worklist")


def whole_minute(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)


def starts(row: dict[str, Any], key: str) -> datetime:
    return datetime.fromisoformat(row[key])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def worklist(tmp_path: Path) -> Iterator[Wlmscpfs]:
    with Wlmscpfs(tmp_path / "ris") as running:
        yield running


@pytest.fixture
def ward(
    tmp_path: Path,
    start_orthanc: Callable[..., Orthanc],
    start_storescp: Callable[..., Storescp],
    worklist: Wlmscpfs,
    stack: ExitStack,
) -> Ward:
    """With a workstation that cannot be asked what it holds."""
    return Ward(tmp_path, start_orthanc(), start_storescp(ae_title="WS1", unique_files=True), worklist, stack)


@pytest.fixture
def asked(tmp_path: Path, start_orthanc: Callable[..., Orthanc], worklist: Wlmscpfs, stack: ExitStack) -> Ward:
    """With a workstation that can be asked."""
    workstation = start_orthanc(ae_title="WS1")
    ward = Ward(tmp_path, start_orthanc(), workstation, worklist, stack)
    workstation.register("ROUTER", ward.site.dicom_port)
    return ward


@pytest.fixture(params=["ward", "asked"])
def either(request: pytest.FixtureRequest) -> Ward:
    found: Ward = request.getfixturevalue(request.param)
    return found


# --- what is chosen ---------------------------------------------------------------------------------------------------


def by_study(rows: list[dict[str, Any]], priors: dict[str, StudyFiles]) -> dict[str, dict[str, Any]]:
    """Rows about studies by the words of `nine_priors`."""
    names = {study.study_instance_uid: name for name, study in priors.items()}
    return {names[row["study_instance_uid"]]: row for row in rows}


def moved(ward: Ward) -> dict[str, Transfer]:
    """The transfers by the words of `nine_priors`."""
    names = {study.study_instance_uid: name for name, study in ward.priors.items()}
    return {names[one.intent.study_instance_uid]: one for one in ward.transfers()}


def codes(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["code"] for name, row in rows.items() if row["decision"] != "move"}


LEFT_OUT = {word: word for word in ("full", "too-old", "no-group", "excluded", "exception", "current", "undated")}


def test_two_of_nine_priors_are_moved_before_the_appointment_and_the_others_have_a_reason(either: Ward) -> None:
    ward, site = either, either.site
    plan = site.json("plan")
    planned = by_study(plan["transfers"], ward.priors)
    assert {name for name, row in planned.items() if row["decision"] == "move"} == {"taken", "taken-too"}
    assert codes(planned) == LEFT_OUT
    assert [(one["trigger"], one["taken"], starts(one, "start")) for one in plan["appointments"]] == [
        ("worklist", 2, ward.start_at)
    ]
    assert ward.received() == 0, "a plan moves nothing"
    assert not (site.directory / "ledger.db").exists(), "a plan writes nothing"

    done = site.apply()
    assert [sweep["complete"] for sweep in done["sweeps"]] == [True]
    assert datetime.now(UTC) < ward.start_at and ward.has(*ward.taken)
    assert ward.received() == sum(len(study.instances) for study in ward.taken)
    verdict = "unproven" if isinstance(ward.workstation, Storescp) else "complete"
    assert {(one["verdict"], one["attempts"]) for one in done["transfers"]} == {(verdict, 1)}
    assert {starts(one, "deadline") for one in done["transfers"]} == {ward.start_at}

    (appointment,) = ward.appointments()
    facts = ("state", "candidates", "taken", "complete", "trigger", "rule")
    show = site.json("appointments", "show", str(appointment.id))
    assert [show["appointment"][fact] for fact in facts] == ["done", 9, 2, True, "worklist", "priors"]
    shown = by_study(show["candidates"], ward.priors)
    assert codes(shown) == LEFT_OUT
    assert all(row["reason"] for row in shown.values())
    assert {name: row["group"] for name, row in shown.items() if row["decision"] == "move"} == {
        "taken": "same-region",
        "taken-too": "by-ct",
    }
    for name, row in shown.items():  # what was planned is what was done
        assert [planned[name][key] for key in ("code", "group", "score")] in (
            [row["code"], row["group"], row["score"]],
            ["new", row["group"], row["score"]],
        )


def test_the_record_of_a_transfer_and_of_a_study_says_why(ward: Ward) -> None:
    ward.site.apply()
    transfers = moved(ward)
    assert set(transfers) == {"taken", "taken-too"}
    shown = ward.site.json("transfers", "show", str(transfers["taken"].id))
    (why,) = shown["appointments"]
    assert (why["rule"], why["group"], why["decision"]) == ("priors", "same-region", "move")
    assert why["score"] and "anatomy same" in why["breakdown"]
    explained = ward.site.json("explain", ward.priors["exception"].study_instance_uid)
    (why,) = explained["considered"]
    assert (why["decision"], why["code"], explained["transfers"]) == ("skip", "exception", [])
    explained = ward.site.json("explain", ward.priors["taken"].study_instance_uid)
    assert [one["code"] for one in explained["considered"]] == ["taken"]
    assert [one["id"] for one in explained["transfers"]] == [transfers["taken"].id]


def test_the_run_again_moves_nothing(either: Ward) -> None:
    ward = either
    ward.site.apply()
    received = ward.received()
    again = ward.site.apply()
    assert ward.received() == received, "nothing came twice, nothing else came"
    assert {one["study_instance_uid"] for one in again["transfers"]} <= {s.study_instance_uid for s in ward.taken}
    assert [one.attempts for one in ward.transfers()] == [1, 1], "no further C-MOVE"
    plan = ward.site.json("plan")
    assert [one for one in plan["transfers"] if one["decision"] == "move"] == []


def test_what_the_workstation_lost_is_brought_again_when_somebody_asks(asked: Ward) -> None:
    asked.site.apply()
    assert isinstance(asked.workstation, Orthanc)
    asked.workstation.delete_study(asked.priors["taken"].study_instance_uid)
    asked.site.apply()
    assert asked.has(*asked.taken)
    assert asked.received() == 4, "and nothing else instead"


def test_what_the_workstation_has_already_uses_up_no_quota(asked: Ward) -> None:
    assert isinstance(asked.workstation, Orthanc)
    asked.workstation.upload(*asked.priors["taken"].files)
    asked.site.apply()
    assert set(moved(asked)) == {"full", "taken-too"}
    (appointment,) = asked.appointments()
    shown = by_study(asked.site.json("appointments", "show", str(appointment.id))["candidates"], asked.priors)
    assert (shown["taken"]["code"], shown["full"]["code"]) == ("present", "taken")


# --- the service ------------------------------------------------------------------------------------------------------


def test_the_service_brings_them_by_itself_and_once(ward: Ward) -> None:
    ward.site.settings["log"] = {"level": "debug"}
    router = ward.run()
    wait_for(lambda: ward.has(*ward.taken), "the priors")
    ward.wait_for_states("done")
    wait_for(lambda: count(router, "priors_ended_total", rule="priors", result="on_time") == 2, "two on time")
    ward.again(router, 3)
    assert ward.received() == 4
    assert count(router, "appointments_total", news="new") == 1
    assert count(router, "appointments_total", news="repeated") >= 2
    assert count(router, "prior_looks_total", result="done") == 1, "the archive was asked once"
    assert count(router, "priors_selected_total", group="same-region") == 1
    assert router.stop() == 0
    for secret in (PATIENT + "^", BORN, "ACC1", "Knee", "2.25.", "Doe"):
        assert secret not in router.log


def test_they_are_looked_for_a_lead_before_the_appointment(ward: Ward) -> None:
    ward.rule(lead="2h")
    router = ward.run()
    (waiting,) = ward.wait_for_states("waiting")
    assert waiting.due_at == ward.start_at - 2 * HOUR
    soon = whole_minute(datetime.now(UTC) + HOUR)
    ward.schedule(soon)  # it has been moved forward: there is no lead left
    wait_for(lambda: ward.has(*ward.taken), "the priors")
    assert {one.deadline_at for one in ward.transfers()} == {soon}
    assert count(router, "appointments_total", news="moved") == 1


def test_a_moved_appointment_moves_the_deadline_of_what_has_not_begun(ward: Ward) -> None:
    ward.close_workstation()
    router = ward.run()
    rows = ward.wait_for_transfers("queued", "queued")
    assert {one.deadline_at for one in rows} == {ward.start_at}
    held = rows[0].id
    ward.site.json("transfers", "hold", str(held))
    for later in (ward.start_at + 3 * HOUR, ward.start_at - 5 * HOUR):
        ward.schedule(later)
        wait_for(lambda at=later: {one.deadline_at for one in ward.transfers()} == {at}, "its deadline", interval=0.1)
        assert [one.start_at for one in ward.appointments()] == [later]
    assert count(router, "appointments_total", news="moved") == 2
    assert ward.transfer_states() == ["held", "queued"]
    assert ward.received() == 0


def test_a_cancelled_appointment_that_waits_for_its_lead_brings_nothing(ward: Ward) -> None:
    ward.rule(lead="1h")
    router = ward.run()
    ward.wait_for_states("waiting")
    ward.worklist.remove("ACC1")
    ward.wait_for_states("cancelled")
    ward.again(router)
    assert (ward.transfers(), ward.received()) == ([], 0)
    ward.schedule(whole_minute(datetime.now(UTC) + HOUR / 2))  # and now it takes place after all
    wait_for(lambda: ward.has(*ward.taken), "the priors")
    assert count(router, "appointments_total", news="revived") == 1


@pytest.mark.parametrize("how", ["taken away", "by its status"])
def test_a_cancelled_appointment_cancels_what_its_closed_destination_keeps_waiting(ward: Ward, how: str) -> None:
    ward.close_workstation()
    router = ward.run()
    ward.wait_for_transfers("queued", "queued")
    if how == "taken away":
        ward.worklist.remove("ACC1")
    else:
        ward.schedule(ward.start_at, status="DISCONTINUED")
    rows = ward.wait_for_transfers("cancelled", "cancelled")
    assert {one.cause for one in rows} == {"appointment-cancelled"}
    assert ward.states() == ["cancelled"]
    assert router.stop() == 0
    ward.open_workstation()
    router = ward.run()
    ward.again(router)
    assert ward.received() == 0, "it stays so"


def test_a_cancelled_appointment_cancels_what_is_to_be_tried_again_and_it_may_come_back(ward: Ward) -> None:
    """The archive does not know the workstation: it refuses each move, and so it is asked again later."""
    ward.archive.unregister(ward.workstation.ae_title)
    ward.rules["priors"]["move"]["retry"] = {"attempts": 5, "delay": "10m"}
    router = ward.run()
    wait_for(lambda: [one.attempts > 0 for one in ward.transfers()] == [True, True], "two attempts", interval=0.1)
    ward.wait_for_transfers("queued", "queued")
    ward.worklist.remove("ACC1")
    ward.wait_for_transfers("cancelled", "cancelled")
    assert isinstance(ward.workstation, Storescp)
    ward.archive.register(ward.workstation.ae_title, ward.workstation.port)
    ward.again(router)
    assert ward.received() == 0
    ward.schedule(ward.start_at)
    wait_for(lambda: ward.has(*ward.taken), "the priors")
    ward.wait_for_states("done")
    assert ward.received() == 4


# --- an archive that records what it is asked ----------------------------------------------------------------------


class Watched:
    """A router between a real worklist and an archive that records all it is asked."""

    def __init__(self, directory: Path, worklist: Wlmscpfs, stack: ExitStack, *, known: bool = True) -> None:
        """`known`: whether the archive knows the router, so that it can send there."""
        self.worklist = worklist
        self.stack = stack
        self.site = Site(directory / "site", nodes={}, rules={}, router={"drain": "0s"})
        patients = {"P1": "P1", "P2": "P2", "SECRET-A": "A", "SECRET-B": "B"}
        studies = [
            one
            for patient in patients
            for one in make_study(
                seed=patient,
                modality="MR",
                description="MR Knee",
                patient_id=patient,
                patient_birth_date=BORN,
                patient_sex="F",
                study_date=datetime.now(UTC).date() - timedelta(days=100),
                instances=1,
            )
        ]
        destinations = {"ROUTER": ("127.0.0.1", self.site.dicom_port)} if known else {}
        self.archive = stack.enter_context(SimulatedPacs("ARCHIVE", studies=studies, destinations=destinations))
        self.site.configure(
            nodes={
                "archive": node("ARCHIVE", self.archive.port, timezone="UTC"),
                "ris": node(worklist.ae_title, worklist.port, timezone="UTC"),
            },
            rules={
                "priors": {
                    "worklist": {"source": "ris", "every": "1s"},
                    "priors": KNEE_PRIORS,
                    "move": {"to": ["local"]},
                }
            },
        )

    def schedule(self, accession: str, patient_id: Any) -> None:
        at = datetime.now(UTC) + HOUR
        self.worklist.put(self._item(accession, at, patient_id))

    def _item(self, accession: str, at: datetime, patient_id: Any) -> Dataset:
        item = scheduled(accession, date=f"{at:%Y%m%d}", time=f"{at:%H%M%S}")
        item.PatientID = patient_id
        return item

    def asked_for(self) -> set[str]:
        """Patient IDs that the archive was asked for, in questions that are not about one study."""
        asked = [find.keys for find in self.archive.record.of("find")]
        return {keys.get("PatientID", "") for keys in asked if not keys.get("StudyInstanceUID")}

    def transfers(self) -> list[Transfer]:
        with SqlLedger.open(self.site.settings["ledger"], read_only=True) as ledger:
            return ledger.transfers()


def test_a_cancelled_appointment_cancels_what_a_stopped_route_keeps_waiting(
    tmp_path: Path, worklist: Wlmscpfs, stack: ExitStack
) -> None:
    """And what is scheduled again is moved when the way is free."""
    watched = Watched(tmp_path, worklist, stack, known=False)
    watched.schedule("ACC1", "P1")
    router = stack.enter_context(watched.site.run())
    wait_for(lambda: count(router, "route_stopped", source="archive", destination="local") == 1, "a stopped route")
    assert [one.state for one in watched.transfers()] == ["queued"]
    watched.worklist.remove("ACC1")
    wait_for(lambda: [one.cause for one in watched.transfers()] == ["appointment-cancelled"], "its end", interval=0.1)
    watched.archive.set_destination("ROUTER", "127.0.0.1", watched.site.dicom_port)
    watched.schedule("ACC2", "P2")
    watched.site.json("apply", "--rule", "priors")  # which tries the route at once
    wait_for(lambda: len(watched.site.stored()) == 1, "the prior of the other patient")
    assert sorted(one.state for one in watched.transfers()) == ["cancelled", "complete"]


HOSTILE: dict[str, list[Any]] = {
    "wildcard": ["*", "SECRET*", "SECRET-?"],
    "backslash": [["SECRET-A", "SECRET-B"]],
    "too-long": ["SECRET" * 12],
}
"""Reason -> patient IDs; several values of one are joined by a backslash on the wire."""


def test_a_worklist_cannot_widen_a_query(tmp_path: Path, worklist: Wlmscpfs, stack: ExitStack) -> None:
    watched = Watched(tmp_path, worklist, stack)
    for reason, patient_ids in HOSTILE.items():
        for number, patient_id in enumerate(patient_ids):
            watched.schedule(f"{reason}{number}", patient_id)
    watched.schedule("GOOD", "P2")
    router = stack.enter_context(watched.site.run())
    wait_for(lambda: len(watched.site.stored()) == 1, "the prior of the other patient")
    for reason, patient_ids in HOSTILE.items():
        refused = count(router, "values_refused_total", trigger="worklist", reason=reason)
        assert refused >= len(patient_ids), reason
    assert watched.asked_for() == {"P2"}
    assert [one["state"] for one in watched.site.json("appointments", "list")["appointments"]] == ["done"]
    assert router.stop() == 0
    assert "SECRET" not in router.log
