"""Orders over a real socket: from an HL7 message to the priors at a real workstation."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.hl7 import PATIENT, Answer, MllpClient, framed, message, order
from tests.support.order_load import resident
from tests.support.peers import Orthanc, Storescp
from tests.support.ports import free_port
from tests.support.prefetch import Hospital, count, patient_of, prior
from tests.support.process import wait_for
from tests.support.router import RunningRouter
from tests.support.samples import StudyFiles

HOUR = timedelta(hours=1)
BORN = "19640812"
CONNECTIONS_ALLOWED = 6
PID = f"PID|1||{PATIENT}^^^HOSPITAL^MR||Muster^Erika||{BORN}|F"


class Clinic(Hospital):
    """A hospital whose orders come by HL7, with a patient who has one prior of the abdomen and one of the head."""

    def __init__(self, directory: Path, archive: Orthanc, workstation: Storescp, stack: ExitStack) -> None:
        self.hl7_port = free_port()
        hl7 = {
            "listen": f"127.0.0.1:{self.hl7_port}",
            "timezone": "UTC",
            "from": ["RIS"],
            "connections": CONNECTIONS_ALLOWED,
            "maximum_size": "64KiB",
            "timeout": "2s",
        }
        super().__init__(directory, archive, workstation, router={"hl7": hl7})
        self.stack = stack
        self.abdomen = self.study("CT Abdomen")
        self.load(self.abdomen, self.study("CT Head"))
        self.start_at = datetime.now(UTC).replace(second=0, microsecond=0) + 26 * HOUR
        self.rule()

    def study(self, description: str, patient_id: str = PATIENT) -> StudyFiles:
        return prior(self.files, days_ago=300, modality="CT", description=description, patient_id=patient_id, born=BORN)

    def rule(self, name: str = "from-orders", **trigger: Any) -> None:
        """A rule; without `lead` priors are wanted as soon as the order is known."""
        self.rules[name] = {
            "order": trigger,
            "priors": {
                "source": "archive",
                "groups": [{"name": "same-region", "where": {"anatomy": "same"}, "max": 2, "within": "3y"}],
            },
            "move": {"to": ["workstation"], "retry": {"attempts": 5, "delay": "1s"}},
        }

    def run(self) -> RunningRouter:
        return self.stack.enter_context(self.configure().run())

    def client(self) -> MllpClient:
        return self.stack.enter_context(MllpClient(self.hl7_port))

    def ask(self, data: bytes) -> Answer:
        with MllpClient(self.hl7_port) as client:
            return client.ask(data)

    def order(self, accession: str = "ACC-1", start_at: datetime | None = None, **fields: str) -> Answer:
        return self.ask(order(accession, start=f"{start_at or self.start_at:%Y%m%d%H%M}", **fields))

    def slot(self, event: str, start_at: datetime, patient: str = PID) -> Answer:
        """An appointment by SIU."""
        at = f"{start_at:%Y%m%d%H%M%S}"
        return self.ask(
            message(
                f"SCH|A-1^HIS|B-1^RIS|||||ROUTINE|NORMAL|30|min|^^^{at}",
                patient,
                "RGS|1|A",
                f"AIS|1|A|CTABD^CT Abdomen^LOCAL|{at}",
                kind=f"SIU^{event}",
            )
        )


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def clinic(
    tmp_path: Path, start_orthanc: Callable[..., Orthanc], start_storescp: Callable[..., Storescp], stack: ExitStack
) -> Clinic:
    return Clinic(tmp_path, start_orthanc(), start_storescp(ae_title="WS1", unique_files=True), stack)


def news(router: RunningRouter, word: str) -> float:
    return count(router, "appointments_total", trigger="order", news=word)


# --- what messages bring ----------------------------------------------------------------------------------------------


def test_an_order_brings_the_priors_once_and_nobody_learns_whose(clinic: Clinic) -> None:
    clinic.site.settings["log"] = {"level": "debug"}
    router = clinic.run()
    assert clinic.order().code == "AA"
    wait_for(lambda: clinic.has(clinic.abdomen), "the prior")
    (appointment,) = clinic.wait_for_states("done")
    assert (appointment.start_at, appointment.trigger, appointment.taken) == (clinic.start_at, "order", 1)
    (transfer,) = clinic.transfers()
    assert transfer.deadline_at == clinic.start_at
    assert [clinic.order().code for _ in range(3)] == ["AA"] * 3
    assert news(router, "repeated") == 3
    assert count(router, "order_messages_total", event="ORM^O01", code="AA") == 4
    assert count(router, "prior_looks_total") == 1
    assert clinic.received() == 2
    exposition = router.metrics()
    assert router.stop() == 0
    for secret in (PATIENT, "Muster", "ACC-1", BORN, clinic.abdomen.study_instance_uid):
        assert secret not in router.log and secret not in exposition


def test_an_appointment_is_moved_and_cancelled_by_its_messages(clinic: Clinic) -> None:
    """S12 makes it, S13 moves it and its transfer's deadline, S15 cancels what has not begun."""
    clinic.close_workstation()
    router = clinic.run()
    assert clinic.slot("S12", clinic.start_at).code == "AA"
    (transfer,) = clinic.wait_for_transfers("queued")
    assert transfer.deadline_at == clinic.start_at
    later = clinic.start_at + 30 * HOUR
    assert clinic.slot("S13", later).code == "AA"
    assert [one.start_at for one in clinic.appointments()] == [later], "it is written down before it is acknowledged"
    assert [one.deadline_at for one in clinic.transfers()] == [later]
    assert clinic.slot("S15", later).code == "AA"
    assert (clinic.states(), clinic.transfer_states()) == (["cancelled"], ["cancelled"])
    assert [news(router, word) for word in ("new", "moved", "cancelled")] == [1, 1, 1]
    assert clinic.received() == 0


def test_a_cancelled_order_that_waits_for_its_lead_brings_nothing(clinic: Clinic) -> None:
    clinic.rule(lead="1h")
    router = clinic.run()
    assert clinic.order().code == "AA"
    assert [one.due_at for one in clinic.wait_for_states("waiting")] == [clinic.start_at - HOUR]
    assert clinic.order(control="CA").code == "AA"
    assert clinic.states() == ["cancelled"]
    assert clinic.order("ACC-2", datetime.now(UTC) + HOUR / 2).code == "AA"
    wait_for(lambda: clinic.has(clinic.abdomen), "the prior of the other order")
    assert clinic.order("ACC-3", control="CA").code == "AA", "what was never known is no trouble"
    assert news(router, "unknown") == 1
    assert clinic.states() == ["cancelled", "done"]


def test_after_a_merge_the_priors_of_the_old_patient_id_are_found(clinic: Clinic) -> None:
    """One order waits under the old ID; what has the new one, and what has the old one, belongs to it."""
    clinic.rule(lead="25h")
    old = clinic.study("CT Abdomen", patient_id="4710")
    clinic.load(old)
    clinic.run()
    assert clinic.order(patient="4710").code == "AA"
    clinic.wait_for_states("waiting")
    merge = message("EVN|A40|20260301081400", PID, "MRG|4710^^^HOSPITAL^MR", kind="ADT^A40")
    assert clinic.ask(merge).code == "AA"
    assert [one.patient_id for one in clinic.appointments()] == [PATIENT]
    assert clinic.order(start_at=clinic.start_at - 3 * HOUR, patient="4710").code == "AA", "somebody is behind"
    wait_for(lambda: clinic.has(clinic.abdomen, old), "the priors under both IDs")
    (appointment,) = clinic.wait_for_states("done")
    assert (appointment.patient_id, appointment.candidates, appointment.taken) == (PATIENT, 3, 2)


def test_an_admission_counts_for_the_rule_that_names_it_only(clinic: Clinic) -> None:
    admission = message("EVN|A04|20260301081400", PID, "PV1|1|O", kind="ADT^A04")
    router = clinic.run()
    assert clinic.ask(admission).code == "AA"
    assert clinic.appointments() == []
    router.stop()
    clinic.rule("walk-in", events=["ADT^A04"])
    clinic.rules["walk-in"]["priors"]["groups"] = [{"name": "latest", "max": 1}]
    clinic.run()
    assert clinic.ask(admission).code == "AA"
    wait_for(lambda: clinic.received() == 2, "the latest prior")
    assert [one.rule for one in clinic.wait_for_states("done")] == ["walk-in"]


# --- what must not happen ---------------------------------------------------------------------------------------------

HOSTILE = ["SECRET*", "*", "SECRET?", "SECRET\\E\\A", "SECRET\\X07\\A", "SECRET" * 12]
"""Wildcards, a backslash and a control character as HL7 escapes them, and more than a value may have."""


def test_a_patient_id_that_would_widen_a_query_is_refused_counted_and_not_told(clinic: Clinic) -> None:
    router = clinic.run()
    for patient in HOSTILE:
        answer = clinic.order(patient=patient)
        assert answer.code == "AE", patient
        assert b"SECRET" not in answer.raw
    assert count(router, "order_messages_refused_total", reason="unusable-value") == len(HOSTILE)
    assert count(router, "order_messages_total", code="AE") == len(HOSTILE)
    assert clinic.appointments() == []
    assert clinic.order().code == "AA", "others are taken"
    assert router.stop() == 0
    assert "SECRET" not in router.log


def test_an_acknowledged_order_survives_the_death_of_the_service(clinic: Clinic) -> None:
    clinic.archive.unregister("WS1")  # so that nothing is moved before
    router = clinic.run()
    client = clinic.client()
    client.write(framed(order(start=f"{clinic.start_at:%Y%m%d%H%M}")))
    assert client.answer().code == "AA"
    router.kill()
    assert [one.start_at for one in clinic.appointments()] == [clinic.start_at]
    assert isinstance(clinic.workstation, Storescp)
    clinic.archive.register("WS1", clinic.workstation.port)
    clinic.run()
    wait_for(lambda: clinic.has(clinic.abdomen), "the prior", 60)
    clinic.wait_for_states("done")


def test_malformed_huge_and_slow_messages_get_the_right_answer_and_others_are_still_heard(clinic: Clinic) -> None:
    router = clinic.run()
    client = clinic.client()
    assert client.ask(order(application="EVIL")).code == "AR"
    assert client.ask(message(PID, kind="ORM^O01")).code == "AE"  # no order in it
    assert client.ask(message(PID, kind="ORU^R01")).code == "AR"
    assert client.ask(order(start="yesterday")).code == "AE"
    assert client.ask(b"hello").code in ("AE", "AR")
    slow, huge = clinic.client(), clinic.client()
    slow.write(b"\x0bMSH|^~\\&|RIS|")
    huge.write(b"\x0b" + order()[:-1] + b"|" + b"A" * (80 << 10) + b"\r\x1c\r")
    assert huge.answer().code == "AR"
    assert client.ask(order(start=f"{clinic.start_at:%Y%m%d%H%M}")).code == "AA", "meanwhile"
    assert slow.ended()
    reasons = ("not-allowed", "unsupported", "too-large", "incomplete")
    assert [count(router, "order_messages_refused_total", reason=word) for word in reasons] == [1, 1, 1, 1]
    wait_for(lambda: clinic.has(clinic.abdomen), "the prior")
    assert clinic.order().code == "AA"
    assert len(clinic.appointments()) == 1
    assert '"ok"' in router.get("/readyz")


def test_more_connections_than_are_allowed_are_closed_and_those_that_are_open_go_on(clinic: Clinic) -> None:
    router = clinic.run()
    first = clinic.client()
    assert first.ask(order(start=f"{clinic.start_at:%Y%m%d%H%M}")).code == "AA"
    others = [clinic.client() for _ in range(CONNECTIONS_ALLOWED - 1)]
    assert clinic.client().ended()
    wait_for(  # it is counted after it is closed
        lambda: count(router, "order_messages_refused_total", reason="too-many-connections") == 1, "it to be counted"
    )
    assert first.ask(order(start=f"{clinic.start_at:%Y%m%d%H%M}")).code == "AA"
    for one in others:
        one.close()

    def taken() -> bool:
        try:
            return clinic.order().code == "AA"
        except (OSError, EOFError):  # the router has not seen yet that they hung up
            return False

    wait_for(taken, "room for another", interval=0.2)


# --- many -------------------------------------------------------------------------------------------------------------

PATIENTS, TIMES, CONNECTIONS = 200, 5, 2
_MORE = 64 << 20
"""Bytes of memory that the work of 200 patients may take: a bound for leaks, no measure."""


def test_a_thousand_orders_of_which_most_are_repeats_bring_each_prefetch_once(clinic: Clinic) -> None:
    studies = [patient_of(clinic.files, number) for number in range(PATIENTS)]
    clinic.load(*studies)
    clinic.nodes["archive"]["limits"] = {"associations": 4}
    router = clinic.run()
    start = f"{clinic.start_at:%Y%m%d%H%M}"
    answers: list[list[str]] = [[] for _ in range(CONNECTIONS)]

    def send(connection: int, times: range) -> None:
        client = clinic.client()
        for time in times:
            for number in range(connection, PATIENTS, CONNECTIONS):
                data = order(f"MANY-{number}", patient=f"MANY-{number}", start=start, control_id=f"{time}-{number}")
                answers[connection].append(client.ask(data).code)

    def send_all(times: range) -> None:
        threads = [threading.Thread(target=send, args=(one, times)) for one in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)

    send_all(range(1))
    before = resident(router.pid)
    send_all(range(1, TIMES))
    assert Counter(code for codes in answers for code in codes) == {"AA": PATIENTS * TIMES}
    assert len(clinic.appointments()) == PATIENTS
    wait_for(lambda: clinic.received() == PATIENTS, "the priors of all", 120, 0.5)
    assert clinic.wait_for_states(*["done"] * PATIENTS)
    assert Counter(one.taken for one in clinic.appointments()) == {1: PATIENTS}
    assert Counter(one.attempts for one in clinic.transfers()) == {1: PATIENTS}
    assert (news(router, "new"), news(router, "repeated")) == (PATIENTS, PATIENTS * (TIMES - 1))
    assert count(router, "prior_looks_total") == PATIENTS
    assert clinic.has(*studies) and clinic.received() == PATIENTS
    assert resident(router.pid) < before + _MORE
