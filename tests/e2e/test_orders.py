"""Orders over a real socket, from the message to the images: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.hl7 import framed, message, order
from tests.support.order_load import Department, run_load
from tests.support.process import wait_for


@pytest.fixture
def department(tmp_path: Path) -> Iterator[Department]:
    department = Department(tmp_path / "site", 5)
    yield department
    department.close()


def eventually(probe: Any) -> None:
    wait_for(probe, "what the test is about", 80.0, 0.2)


def in_hours(hours: float) -> datetime:
    return (datetime.now().astimezone() + timedelta(hours=hours)).replace(second=0, microsecond=0)


def hl7_time(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H%M}"


def states(department: Department) -> list[str]:
    return sorted(one["state"] for one in department.appointments())


def starts(department: Department) -> set[datetime]:
    return {datetime.fromisoformat(one["start"]) for one in department.appointments()}


def held_back(department: Department, lead: str = "1h", **rule: Any) -> None:
    """The rule waits for its lead."""
    path = department.site.rules_directory / "site.yaml"
    content = yaml.safe_load(path.read_text("utf-8"))
    content["rules"]["priors"]["order"] = {"lead": lead, **rule}
    path.write_text(yaml.safe_dump(content), "utf-8")


def siu(event: str, start: datetime, patient: str = "PAT0") -> bytes:
    return message(
        f"SCH|PL-9|FI-9|||||CT abdomen^CT abdomen||30|min|^^^{hl7_time(start)}^^^",
        f"PID|1||{patient}^^^HOSPITAL^MR||Muster^Erika||19640812|F",
        "RGS|1",
        "AIS|1||CTABD^CT Abdomen^LOCAL",
        kind=f"SIU^{event}",
        control_id=event,
    )


def test_an_order_brings_the_priors_and_says_nothing_of_the_patient(department: Department) -> None:
    with department.site.run() as router, department.client() as client:
        answer = client.ask(order("A1", patient="PAT0", start=hl7_time(in_hours(30))))
        assert (answer.code, answer.control_id) == ("AA", "1")
        eventually(lambda: states(department) == ["done"])
        eventually(lambda: len(department.workstation.instances) == 1)
        assert [one["taken"] for one in department.appointments()] == [1]
        assert client.ask(order("A1", patient="PAT0", start=hl7_time(in_hours(30)))).code == "AA"
        assert 'dicom_router_appointments_total{news="new",rule="priors",trigger="order"} 1.0' in router.metrics()
        assert router.stop() == 0
    for secret in ("PAT0", "Muster", "Erika", "19640812"):
        assert secret not in router.log


def test_appointments_are_made_moved_and_cancelled(department: Department) -> None:
    held_back(department)
    with department.site.run() as router, department.client() as client:
        first, second = in_hours(20), in_hours(40)
        assert client.ask(siu("S12", first)).code == "AA"
        assert (states(department), starts(department)) == (["waiting"], {first})
        assert client.ask(siu("S13", second)).code == "AA"
        assert (states(department), starts(department)) == (["waiting"], {second})
        assert client.ask(siu("S15", second)).code == "AA"
        assert states(department) == ["cancelled"]
        assert client.ask(order("A2", patient="PAT1", start=hl7_time(first))).code == "AA"
        assert client.ask(order("A2", patient="PAT1", start=hl7_time(first), control="CA")).code == "AA"
        assert states(department) == ["cancelled", "cancelled"]
        assert client.ask(siu("S12", in_hours(0.5))).code == "AA"  # on again, and within its lead
        eventually(lambda: states(department) == ["cancelled", "done"])
        assert sorted(one["candidates"] for one in department.appointments()) == [0, 2]
        assert router.stop() == 0


def test_a_merged_patient_s_priors_are_found_under_the_old_id(department: Department) -> None:
    merge = message(
        "EVN|A40|20260301",
        "PID|1||NEW1^^^HOSPITAL^MR||Muster^Erika||19640812|F",
        "MRG|PAT3^^^HOSPITAL^MR",
        kind="ADT^A40",
        control_id="m",
    )
    with department.site.run() as router, department.client() as client:
        assert client.ask(merge).code == "AA"
        assert client.ask(order("A3", patient="NEW1", start=hl7_time(in_hours(30)))).code == "AA"
        eventually(lambda: [one["taken"] for one in department.appointments()] == [1])
        eventually(lambda: len(department.workstation.instances) == 1)
        assert router.stop() == 0
    (arrived,) = department.workstation.instances
    assert arrived.header.PatientID == "PAT3"


def test_an_admission_counts_for_a_rule_that_names_it(department: Department) -> None:
    held_back(department, events=["ADT^A04"])
    admission = message(
        "EVN|A04|20260301",
        "PID|1||PAT2^^^HOSPITAL^MR||Muster^Erika||19640812|F",
        "PV1|1|O|WARD^1|||||||||||||||||V77",
        kind="ADT^A04",
        control_id="a",
    )
    with department.site.run() as router, department.client() as client:
        assert client.ask(order("A1", patient="PAT0", start=hl7_time(in_hours(3)))).code == "AA"
        assert states(department) == [], "an order is none of the events that the rule names"
        assert client.ask(admission).code == "AA"
        eventually(lambda: states(department) == ["done"])
        assert router.stop() == 0


@pytest.mark.parametrize("patient", ["PAT*", "P?T1", "PAT\\E\\1", "P" * 80])
def test_a_patient_id_that_would_widen_a_query_is_refused_without_being_repeated(
    department: Department, patient: str
) -> None:
    with department.site.run() as router, department.client() as client:
        answer = client.ask(order("A1", patient=patient, start=hl7_time(in_hours(3))))
        assert answer.code == "AE"
        assert patient.encode() not in answer.raw
        assert states(department) == []
        assert 'dicom_router_order_messages_refused_total{reason="unusable-value"} 1.0' in router.metrics()
        assert client.ask(order("A1", patient="PAT1", start=hl7_time(in_hours(3)))).code == "AA"
        assert router.stop() == 0
        assert patient not in router.log


def test_what_was_acknowledged_survives_a_kill(department: Department) -> None:
    held_back(department)
    with department.site.run() as router, department.client() as client:
        assert client.ask(order("A1", patient="PAT0", start=hl7_time(in_hours(30)))).code == "AA"
        router.kill()
    assert states(department) == ["waiting"]
    with department.site.run() as router, department.client() as client:
        assert client.ask(order("A1", patient="PAT0", start=hl7_time(in_hours(0.5)))).code == "AA"
        eventually(lambda: states(department) == ["done"])
        assert router.stop() == 0


def test_whatever_comes_the_listener_goes_on(department: Department) -> None:
    path = department.site.rules_directory / "site.yaml"
    content = yaml.safe_load(path.read_text("utf-8"))
    content["router"]["hl7"] |= {"timeout": "1s", "maximum_size": "64KiB", "connections": 4, "from": ["RIS"]}
    path.write_text(yaml.safe_dump(content), "utf-8")
    good = order("A1", patient="PAT0", start=hl7_time(in_hours(30)))
    with department.site.run() as router:
        for data, code in (
            (b"not a message at all", "AE"),
            (good[:40], "AE"),
            (good.replace(b"ORM^O01", b"ORU^R01"), "AR"),
            (good.replace(b"|RIS|", b"|EVIL|"), "AR"),
            (good + b"NTE|1||" + b"x" * (1 << 17) + b"\r", "AR"),
            (good.replace(b"PID|", b"PIX|"), "AE"),
            (good, "AA"),
        ):
            with department.client() as client:
                assert client.ask(data).code == code, data[:60]
        slow = department.client()
        slow.write(framed(good)[:50])
        idle = [department.client() for _ in range(8)]
        assert slow.ended(), "a message that does not end is given up"
        assert sum(one.ended() for one in idle[4:]) == 4, "more connections than are allowed"
        for one in [slow, *idle]:
            one.close()
        eventually(lambda: _answers(department, good))
        assert router.stop() == 0


def _answers(department: Department, data: bytes) -> bool:
    try:
        with department.client() as client:
            return client.ask(data).code == "AA"
    except (OSError, EOFError):
        time.sleep(0.2)
        return False


def test_a_thousand_orders_of_which_most_are_repeats_bring_one_look_for_each_patient(tmp_path: Path) -> None:
    department = Department(tmp_path / "site", 200)
    try:
        with department.site.run() as router:
            load = run_load(department, router, 1000, None)
            eventually(lambda: len(department.workstation.instances) == 200)
            assert router.stop() == 0
    finally:
        department.close()
    assert load.accepted == load.sent == 1000
    assert (load.appointments, load.looks, load.taken) == (200, 200, 200)
    assert load.memory[-1] - load.memory[0] < 64 << 20, "nothing grows with the orders"
