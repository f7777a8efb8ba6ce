"""A study that arrives, or that a sweep finds, brings its patient's priors along."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import Address, Orthanc, storescu
from tests.support.ports import free_port
from tests.support.prefetch import Hospital, count, prior
from tests.support.process import wait_for
from tests.support.router import RunningRouter, node
from tests.support.samples import add_instance

GROUPS = [{"name": "same-region", "where": {"anatomy": "same", "modality": "same"}, "max": 2, "within": "5y"}]
TO_WORKSTATION = {"to": ["workstation"], "retry": {"attempts": 5, "delay": "1s"}}


class Emergency(Hospital):
    """A hospital whose archive has two relevant priors and two others of the patient who comes in now."""

    def __init__(self, directory: Path, archive: Orthanc, workstation: Orthanc, stack: ExitStack) -> None:
        super().__init__(directory, archive, workstation)
        workstation.register("ROUTER", self.site.dicom_port)
        self.stack = stack
        self.nodes["scanner"] = node("SCANNER", free_port(), push="allow")
        self.current = prior(self.files, days_ago=0, instances=3, accession="NOW")
        self.wanted = [prior(self.files, days_ago=days) for days in (100, 800)]
        self.load(*self.wanted, prior(self.files, days_ago=50, description="MR Head"))
        self.load(prior(self.files, days_ago=3000))

    def rule(self, name: str, **trigger: Any) -> None:
        self.rules[name] = {**trigger, "priors": {"source": "archive", "groups": GROUPS}, "move": TO_WORKSTATION}

    def run(self) -> RunningRouter:
        return self.stack.enter_context(self.configure().run())

    def send(self, *files: Path) -> None:
        """Store instances here, as a modality does."""
        storescu(Address("ROUTER", self.site.dicom_port), files, calling="SCANNER")

    def brought(self) -> bool:
        return set(self.workstation.instances()) == set().union(*(study.instances for study in self.wanted))


@pytest.fixture
def emergency(tmp_path: Path, start_orthanc: Callable[..., Orthanc]) -> Iterator[Emergency]:
    with ExitStack() as stack:
        yield Emergency(tmp_path, start_orthanc(), start_orthanc(ae_title="WS1"), stack)


def test_a_study_that_is_stored_here_brings_its_priors_when_no_more_of_it_comes(emergency: Emergency) -> None:
    emergency.rule("arrived", arrival={"stable": "20s"})  # the others come in time on a busy machine too
    router = emergency.run()
    first, *others = emergency.current.files
    emergency.send(first)
    (waiting,) = wait_for(emergency.appointments, "the arrival")
    assert (str(waiting.state), waiting.trigger, waiting.start_at) == ("waiting", "arrival", None)
    emergency.send(*others)
    wait_for(emergency.brought, "the priors")
    (appointment,) = emergency.wait_for_states("done")
    assert appointment.due_at > waiting.due_at, "each instance puts it off"
    assert (appointment.candidates, appointment.taken) == (4, 2)
    assert {one.deadline_at for one in emergency.transfers()} == {None}
    looks = count(router, "prior_looks_total")
    assert looks == 1
    emergency.send(*others)  # sent twice: nothing new has come
    assert emergency.brought() and count(router, "appointments_total", news="new") == 1


def test_a_study_that_is_moved_here_brings_its_priors(emergency: Emergency) -> None:
    """One rule takes it from the archive into the own store; another sees it arrive."""
    emergency.load(emergency.current)
    sweep = {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}}
    emergency.rules["collect"] = {"sweep": sweep, "move": {"to": ["local"]}}
    emergency.rule("arrived", arrival={"from": ["archive"], "stable": "1s"})
    emergency.run()
    emergency.site.apply("--rule", "collect")
    wait_for(emergency.brought, "the priors")
    assert [one.rule for one in emergency.wait_for_states("done")] == ["arrived"]
    assert set(emergency.site.stored()) == emergency.current.instances


def test_what_does_not_fulfil_the_rule_or_comes_from_elsewhere_brings_nothing(emergency: Emergency) -> None:
    emergency.rule("arrived", arrival={"stable": "1s"}, where={"Modality": "CT"})
    emergency.rule("from-archive", arrival={"from": ["archive"], "stable": "1s"})
    emergency.run()
    emergency.send(*emergency.current.files)
    (appointment,) = emergency.wait_for_states("done")
    assert (appointment.rule, appointment.taken) == ("arrived", 0)
    assert appointment.reason == "The study that arrived does not fulfil the rule's condition."
    assert emergency.transfers() == []


def test_a_study_that_a_sweep_finds_brings_its_priors_and_stays_where_it_is(emergency: Emergency) -> None:
    emergency.load(emergency.current)
    sweep = {"source": "archive", "every": "1h", "keys": {"StudyDate": "today-1d..today"}}
    emergency.rule("swept", sweep=sweep)
    emergency.configure()
    plan = emergency.site.json("plan")
    assert sum(one["decision"] == "move" for one in plan["transfers"]) == 2
    assert emergency.received() == 0
    done = emergency.site.apply()
    assert {one["verdict"] for one in done["transfers"]} == {"complete"}
    assert emergency.brought(), "the priors, and not the current study"
    emergency.archive.upload(add_instance(emergency.current))  # it grows, which changes nothing
    again = emergency.site.apply()
    assert emergency.brought() and {one["attempts"] for one in again["transfers"]} <= {1}
