"""Known before and seen after: what a rule passes on, by `plan`, `explain`, `apply`, `transfers` and the board."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.simulator import SimulatedPacs
from tests.support.dcmtk import Address, storescu
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles, make_study


class Place:
    """A scanner that pushes, a router, and where it passes things on to."""

    def __init__(self, directory: Path, research: SimulatedPacs) -> None:
        self.directory = directory
        self.research = research
        self.nodes = {
            "scanner": node("SCANNER", free_port(), push="allow", timezone="UTC"),
            "bystander": node("OTHER", free_port(), push="allow"),
            "research": node("RESEARCH", research.port, timeouts={"connect": "2s"}),
            "spare": node("SPARE", free_port(), timeouts={"connect": "2s"}),
        }
        self.site = Site(directory / "site", nodes=self.nodes, rules=self.rules("1s"))

    @staticmethod
    def rules(stable: str, modality: str = "CT") -> dict[str, Any]:
        return {
            "to-research": {
                "arrival": {"from": ["scanner"], "stable": stable},
                "where": {"Modality": modality},
                "forward": {"to": ["research"], "retry": {"attempts": 1}},
            }
        }

    def wait_long(self) -> None:
        """What comes from now on is not quiet for an hour."""
        self.site.configure(nodes=self.nodes, rules=self.rules("1h"))

    def push(self, name: str, *, calling: str = "SCANNER", **values: Any) -> StudyFiles:
        made = make_study(self.directory / name, **values)
        storescu(Address("ROUTER", self.site.dicom_port), made.files, calling=calling)
        return made


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with SimulatedPacs("RESEARCH") as research:
        yield Place(tmp_path, research)


def disable(place: Place) -> None:
    """What arrives is left to be asked for."""
    rules = place.rules("1s")
    rules["to-research"]["enabled"] = False
    place.site.configure(nodes=place.nodes, rules=rules)


def stored_while_disabled(place: Place) -> tuple[StudyFiles, StudyFiles]:
    disable(place)
    with place.site.run():
        ct, mr = place.push("ct", instances=3, modality="CT"), place.push("mr", instances=2, modality="MR")
        place.push("unasked", calling="OTHER", instances=1, modality="CT")
        wait_for(lambda: len(place.site.stored()) == 6, "all of it in the store")
    place.site.configure(nodes=place.nodes, rules=place.rules("1s"))
    return ct, mr


def test_a_plan_says_what_would_go_and_apply_sends_that_and_no_more(place: Place) -> None:
    ct, mr = stored_while_disabled(place)
    wait_for(lambda: all(one["decision"] != "hold" for one in plan(place)), "it to be quiet")
    rows = {one["study_instance_uid"]: one for one in plan(place)}
    assert set(rows) == {ct.study_instance_uid, mr.study_instance_uid}
    goes, stays = rows[ct.study_instance_uid], rows[mr.study_instance_uid]
    assert (goes["source"], goes["destination"], goes["decision"], goes["expected"]) == ("local", "research", "move", 3)
    assert (stays["decision"], stays["code"], stays["reason"]) == ("skip", "condition", "Modality is not CT")
    said = place.site.call("plan").stdout
    assert "to-research: 2 studies in the store with something from scanner" in said
    assert "1 transfer with 3 instances to forward" in said
    assert not place.research.stored

    hasty = place.site.call("apply", "--timeout", "0")
    assert hasty.returncode == 1, "who does not wait is not told that all is there"
    assert "Nothing to forward" not in hasty.stdout
    done = place.site.apply()
    assert [(one["destination"], one["verdict"], one["completed"]) for one in done["transfers"]] == [
        ("research", "complete", 3)
    ]
    assert done["forwards"] == [{"rule": "to-research", "studies": 2, "to_forward": 1, "arriving": 0, "reason": ""}]
    assert len(place.research.stored) == 3

    again = place.site.apply("--rule", "to-research")
    assert (again["transfers"], again["forwards"][0]["to_forward"]) == ([], 0)
    assert "Nothing to forward" in place.site.call("apply").stdout
    estimate = place.site.json("plan")["estimate"]["rules"][0]
    assert (estimate["transfers"], estimate["skipped"]) == (0, 2)


def plan(place: Place) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.site.json("plan")["transfers"]
    return found


def test_a_plan_against_a_changed_configuration_says_what_differs(place: Place) -> None:
    ct, mr = stored_while_disabled(place)
    wait_for(lambda: all(one["decision"] != "hold" for one in plan(place)), "it to be quiet")
    changed = Site(place.directory / "changed", nodes=place.nodes, rules=place.rules("1s", "MR"))
    found = place.site.json("plan", "--against", str(changed.rules_directory))
    (rule,) = found["rules"]
    assert (rule["added"], rule["removed"]) == (1, 1)
    assert {one["study_instance_uid"] for one in rule["differences"]} >= {ct.study_instance_uid, mr.study_instance_uid}


def test_an_explanation_says_who_sent_it_what_failed_and_how_the_transfer_stands(place: Place) -> None:
    with place.site.run():
        ct, mr = place.push("ct", instances=3, modality="CT"), place.push("mr", instances=1, modality="MR")
        wait_for(lambda: len(place.research.stored) == 3, "the CT at its destination")
        wait_for(lambda: not under_way(place), "the end of the transfer")
        (taken,) = place.site.json("explain", ct.study_instance_uid)["rules"]
        (left,) = place.site.json("explain", mr.study_instance_uid)["rules"]
        text = place.site.call("explain", ct.study_instance_uid).stdout
    assert (taken["found"], left["found"]) == (True, False)
    assert taken["notes"][0] == "3 instances have arrived here: 3 from scanner."
    assert {one["gate"]: one["state"] for one in taken["gates"]}["quiet"] == "pass"
    assert [(one["destination"], one["decision"], one["code"]) for one in taken["decisions"]] == [
        ("research", "skip", "done")
    ]
    (clause,) = left["clauses"]
    assert [(part["text"], part["seen"], part["passed"]) for part in clause["parts"]] == [
        ("Modality is CT", ["MR"], False)
    ]
    assert "to-research (arrivals here from scanner): taken" in text
    assert "forwarded before" in text


def under_way(place: Place) -> list[dict[str, Any]]:
    found = place.site.json("transfers", "list")["transfers"]
    return [one for one in found if one["verdict"] in (None, "queued", "moving", "verifying")]


def test_what_still_arrives_is_counted_and_its_explanation_says_until_when(place: Place) -> None:
    place.wait_long()
    with place.site.run() as router:
        ct = place.push("ct", instances=2, modality="CT")
        wait_for(lambda: arriving(router) == 1, "the study to be waited for")
        (rule,) = json.loads(router.get("/api/v1/board"))["rules"]
        assert (rule["trigger"], rule["source"]) == ("arrival", "local")
        assert rule["next_at"] is not None
        assert "1 study still arriving" in place.site.call("top", "--once").stdout
        (explained,) = place.site.json("explain", ct.study_instance_uid)["rules"]
        gate = next(one for one in explained["gates"] if one["gate"] == "quiet")
        assert (gate["state"], gate["opens_at"] is not None) == ("wait", True)
        assert [(one["decision"], one["code"]) for one in explained["decisions"]] == [("hold", "quiet")]
        done = place.site.apply()
        assert (done["transfers"], done["forwards"][0]["arriving"]) == ([], 1)
        (waits,) = plan(place)
        assert (waits["decision"], waits["code"], waits["expected"]) == ("hold", "quiet", 2)
    assert not place.research.stored


def arriving(router: RunningRouter) -> int:
    (rule,) = json.loads(router.get("/api/v1/board"))["rules"]
    number: int = rule["arriving"]
    return number


def test_a_transfer_says_what_it_carries_and_that_it_comes_from_this_router(place: Place) -> None:
    with place.site.run() as router:
        place.push("ct", instances=3, modality="CT")
        wait_for(lambda: len(place.research.stored) == 3, "the CT at its destination")
        wait_for(lambda: not under_way(place), "the end of the transfer")
        (one,) = place.site.json("transfers", "list", "--source", "local")["transfers"]
        shown = place.site.call("transfers", "show", str(one["id"])).stdout
        assert place.site.json("transfers", "show", str(one["id"]))["carries"] == {"series": 1, "instances": 3}
        assert "this router" in router.get("/")
    assert "3 instances in 1 series" in shown
    assert "this router" in shown
