"""The log of a running router: who finds what by which words, and that no identifier is ever in it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from router.domain.pseudonym import Pseudonyms
from router.simulator import CALLING_NOT_RECOGNISED, Behaviour, SimulatedPacs, make_study
from tests.support.process import wait_for
from tests.support.router import COMMAND, RunningRouter, Site, node

SECRETS = ("SECRET", "Secret", "secret", "19700101", "2.25.", "1.2.840", "1.2.826")
KEY = "7f3a5b0c99d241e8aa01"


class Ward:
    """Two archives, one of which fails, and a router that logs JSON at debug."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.site = Site(directory, nodes={}, rules={})
        self.stack = stack
        self.uids: dict[str, str] = {}
        self.nodes: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}
        self.pacs("archive")
        self.pacs("failing", Behaviour(fail_instances=2))

    def pacs(self, name: str, behaviour: Behaviour | None = None) -> None:
        study = make_study(
            seed=name,
            description="Secret disease",
            study_date=date.today(),
            instances=5,
            patient_id="SECRETID",
            patient_name="Secret^Name",
            accession="SECRETACC",
        )
        self.uids[name] = str(study[0].StudyInstanceUID)
        pacs = SimulatedPacs(name.upper(), studies=study, behaviour=behaviour)
        pacs.set_destination("ROUTER", "127.0.0.1", self.site.dicom_port)
        self.stack.enter_context(pacs)
        self.nodes[name] = node(name.upper(), pacs.port)
        self.rules[f"from-{name}"] = {
            "sweep": {"source": name, "every": "1h", "keys": {"StudyDate": "today-1d..today"}},
            "move": {"to": ["local"], "retry": {"attempts": 1}},
        }
        self.site.configure(nodes=self.nodes, rules=self.rules)

    def run(self, **log: Any) -> RunningRouter:
        self.site.settings["log"] = {"format": "json", "level": "debug", **log}
        self.site.configure(nodes=self.nodes, rules=self.rules)
        return self.stack.enter_context(self.site.run())

    def transfers(self, *more: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.site.json("transfers", "list", *more)["transfers"]
        return found

    def moved(self) -> bool:
        found = self.transfers()
        return len(found) == len(self.rules) and all(one["verdict"] for one in found)

    def pseudonym(self, name: str) -> str:
        return self.site.call("pseudonym", self.uid(name)).stdout.strip()

    def uid(self, name: str) -> str:
        return self.uids[name]


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with contextlib.ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


def lines(router: RunningRouter) -> list[dict[str, Any]]:
    return [json.loads(line) for line in router.log.splitlines()]


def test_a_study_is_followed_from_its_uid_to_its_lines_and_back(ward: Ward) -> None:
    router = ward.run()
    wait_for(ward.moved, "both transfers")
    assert router.stop() == 0
    for name, verdict in (("archive", "complete"), ("failing", "partial")):
        study = ward.pseudonym(name)
        (transfer,) = ward.transfers("--study", study)
        assert (transfer["study_instance_uid"], transfer["study"]) == (ward.uid(name), study)
        assert ward.transfers("--study", ward.uid(name)) == [transfer]
        shown = ward.site.json("transfers", "show", str(transfer["id"]))
        assert shown["transfer"]["study"] == study
        assert study in ward.site.call("transfers", "show", str(transfer["id"])).stdout
        own = [line for line in lines(router) if line.get("study") == study]
        assert {line["transfer"] for line in own} == {transfer["id"]}
        told = [line["event"] for line in own]
        for event in ("move begins", "C-MOVE response", "sub-operations counted", "look for evidence begins"):
            assert event in told, event
        (end,) = [line for line in own if line["event"] == "transfer ended"]
        assert end["verdict"] == verdict
        assert own == [line for line in lines(router) if line.get("transfer") == transfer["id"]]
    assert ward.transfers("--study", "0123456789ab") == []


def test_all_that_happens_while_a_sweep_is_made_carries_its_number(ward: Ward) -> None:
    ward.pacs("strangers", Behaviour(reject=CALLING_NOT_RECOGNISED))
    router = ward.run()
    wait_for(lambda: router.log.count("sweep ended") == 3, "the sweeps")
    assert router.stop() == 0
    sweeps = defaultdict(list)
    for line in lines(router):
        if "sweep" in line:
            sweeps[line["sweep"]].append(line)
    assert len(sweeps) == 3
    for of_one in sweeps.values():
        assert of_one[0]["event"] == "sweep begins"
        assert of_one[-1]["event"] == "sweep ended"
        assert len({line["rule"] for line in of_one if "rule" in line}) == 1
    (refused,) = [line for line in lines(router) if line["event"] == "association failed"]
    assert (refused["node"], refused["level"]) == ("strangers", "warning")
    assert sweeps[refused["sweep"]][0]["rule"] == "from-strangers"


@pytest.mark.parametrize("format_", ["json", "console"])
def test_at_debug_no_line_holds_an_identifier_and_each_event_is_one_line(ward: Ward, format_: str) -> None:
    ward.pacs("garbled", Behaviour(undecodable_instances=2, undecodable_row=0))
    ward.pacs("strangers", Behaviour(reject=CALLING_NOT_RECOGNISED))
    ward.pacs("aborting", Behaviour(abort_move_after=2))
    ward.pacs("unknowing", Behaviour(stores_from="NOT_CONFIGURED"))
    router = ward.run(format=format_)
    wait_for(lambda: router.log.count("sweep ended") >= 6, "the sweeps")
    ward.site.call("apply")
    assert router.stop() == 0
    for name in ward.nodes:
        assert name in router.log
    for secret in (*SECRETS, *ward.uids.values()):
        assert secret not in router.log, "no identifier in a log line"
    assert "Traceback" not in router.log
    if format_ == "json":
        assert all({"timestamp", "level", "event"} <= line.keys() for line in lines(router))
    else:
        assert all(line[:4] == str(date.today().year) for line in router.log.splitlines())


def test_the_first_and_the_last_lines_say_what_runs_and_what_is_left(ward: Ward) -> None:
    ward.rules["from-failing"]["sweep"]["settle"] = "1h"
    router = ward.run(level="info")
    wait_for(lambda: router.log.count("sweep ended") == 2 and "transfer ended" in router.log, "what moves")
    assert router.stop() == 0
    started = next(line for line in lines(router) if line["event"] == "started")
    assert started["listen"] == f"127.0.0.1:{ward.site.dicom_port}"
    assert started["http"] == f"127.0.0.1:{ward.site.http_port}"
    loaded = next(line for line in lines(router) if line["event"] == "configuration loaded")
    assert started["content_hash"] == loaded["content_hash"]
    version = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert started["version"] in version
    left = next(line for line in lines(router) if line["event"] == "left for the next start")
    assert {key: left[key] for key in ("queued", "held", "moving", "verifying")} == {
        "queued": 0,
        "held": 1,
        "moving": 0,
        "verifying": 0,
    }
    assert lines(router)[-1]["event"] == "stopped"


def test_at_warning_a_night_in_which_all_goes_well_is_silent(ward: Ward) -> None:
    del ward.nodes["failing"], ward.rules["from-failing"]
    router = ward.run(level="warning")
    wait_for(ward.moved, "the transfer")
    assert router.stop() == 0
    assert router.log == ""


def test_a_configured_key_makes_the_pseudonyms_wherever_the_router_is(ward: Ward, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    router = ward.run(key={"file": str(tmp_path / "key")})
    wait_for(ward.moved, "both transfers")
    assert router.stop() == 0
    expected = Pseudonyms(KEY.encode()).of(ward.uid("archive"))
    assert ward.pseudonym("archive") == expected
    assert expected in router.log
    assert KEY not in router.log
    (tmp_path / "key").unlink()
    refused = ward.site.call("pseudonym", ward.uid("archive"))
    assert refused.returncode == 2
    assert "router.log.key: the file" in refused.stderr.splitlines()[-1]
    (transfer,) = ward.transfers("--study", ward.uid("archive"))
    assert transfer["study"] is None, "who may not read the key is told no other pseudonym"


def test_without_its_key_the_router_works_and_says_which_key_it_takes(ward: Ward, tmp_path: Path) -> None:
    router = ward.run(key={"file": str(tmp_path / "nowhere")})
    wait_for(ward.moved, "both transfers")
    assert router.stop() == 0
    (trouble,) = [line for line in lines(router) if line["event"] == "trouble"]
    assert trouble["where"] == "pseudonyms are made with the ledger's own key"
    assert "router.log.key: the file" in trouble["error"]
    del ward.site.settings["log"]["key"]
    ward.site.configure(nodes=ward.nodes, rules=ward.rules)
    assert ward.pseudonym("archive") in router.log


def test_nothing_stands_for_a_study_where_nothing_is_wanted(ward: Ward) -> None:
    router = ward.run(identifiers="none")
    wait_for(ward.moved, "both transfers")
    assert router.stop() == 0
    assert all("study" not in line for line in lines(router))
    assert {line["transfer"] for line in lines(router) if "transfer" in line} == {1, 2}


def test_pseudonyms_of_many_studies_are_read_from_standard_input_in_order(ward: Ward) -> None:
    nothing = ward.site.call("pseudonym", "1.2.3")
    assert nothing.returncode == 1
    assert "There is no ledger" in nothing.stderr
    ward.site.apply(code=None)
    uids = [ward.uid("archive"), ward.uid("failing"), "1.2.3"]
    command = [*COMMAND, "--config", str(ward.site.rules_directory), "pseudonym"]

    def piped(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], cwd=ward.site.directory, input=text, capture_output=True, text=True, timeout=100
        )

    names = [ward.site.call("pseudonym", uid).stdout.strip() for uid in uids]
    assert len(set(names)) == 3
    assert piped("\n".join([uids[1], "", f"{uids[2]} "]), uids[0], "-").stdout.split() == names
    as_json = json.loads(piped("\n".join(uids), "-", "--format", "json").stdout)
    assert as_json == {
        "pseudonyms": [{"study_instance_uid": uid, "study": name} for uid, name in zip(uids, names, strict=True)]
    }
    refused = piped("SECRETID\n", "-")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "is no UID" in refused.stderr
