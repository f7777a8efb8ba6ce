"""Bad input is normal input: each fault ends as one clear sentence, a metric, an exit code, and delays nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from router.simulator import CALLING_NOT_RECOGNISED, Behaviour, SimulatedPacs, make_study
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import Site, node


def rule(source: str, *destinations: str, **move: Any) -> dict[str, Any]:
    settings = {"to": list(destinations or ["local"]), "retry": {"attempts": 1}, **move}
    return {"sweep": {"source": source, "every": "1h", "keys": {"StudyDate": "today-30d..today"}}, "move": settings}


class Ward:
    """Simulated archives behind one router."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.stack = stack
        self.site = Site(directory, nodes={}, rules={})
        self.nodes: dict[str, Any] = {}
        self.rules: dict[str, Any] = {}

    def archive(
        self, name: str, behaviour: Behaviour | None = None, *, instances: int = 3, **settings: Any
    ) -> SimulatedPacs:
        title = name.upper()[:16]
        studies = make_study(seed=name, modality="CT", description="Chest", study_date=_today(), instances=instances)
        pacs = SimulatedPacs(
            title, studies=studies, behaviour=behaviour, destinations={"ROUTER": ("127.0.0.1", self.site.dicom_port)}
        )
        self.stack.enter_context(pacs)
        self.nodes[name] = node(title, pacs.port, **settings)
        self.rules[f"from-{name}"] = rule(name)
        return pacs

    def configure(self) -> Site:
        self.site.configure(nodes=self.nodes, rules=self.rules)
        return self.site


def _today() -> str:
    from datetime import date

    return f"{date.today():%Y%m%d}"


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    with ExitStack() as stack:
        yield Ward(tmp_path / "site", stack)


def one_sentence(reason: str, *parts: str) -> None:
    for part in parts:
        assert part in reason
    assert "\n" not in reason
    assert "Traceback" not in reason
    assert not re.search(r"\d+\.\d+\.\d+\.\d+\.\d+", reason), "no UID"


def failed_sweep(site: Site) -> str:
    done = site.apply(code=1)
    (sweep,) = done["sweeps"]
    assert sweep["state"] == "failed"
    assert not sweep["complete"]
    return str(sweep["reason"])


def failed_transfer(site: Site, verdict: str = "failed") -> dict[str, Any]:
    done = site.apply(code=1)
    (transfer,) = done["transfers"]
    assert transfer["verdict"] == verdict, transfer
    return dict(transfer)


def test_an_unreachable_source(ward: Ward) -> None:
    port = free_port()
    ward.nodes["archive"] = node("ARCHIVE", port)
    ward.rules["r"] = rule("archive")
    one_sentence(failed_sweep(ward.configure()), "archive", str(port), "refused")


def test_a_source_that_does_not_know_us(ward: Ward) -> None:
    ward.archive("archive", Behaviour(reject=CALLING_NOT_RECOGNISED))
    one_sentence(failed_sweep(ward.configure()), "archive", "ROUTER")


def test_a_wrong_ae_title(ward: Ward) -> None:
    ward.archive("archive", Behaviour(check_called_ae_title=True))
    ward.nodes["archive"]["ae_title"] = "WRONG"
    one_sentence(failed_sweep(ward.configure()), "archive", "WRONG")


def test_a_source_that_hangs_when_asked(ward: Ward) -> None:
    ward.archive("archive", Behaviour(hang_on_find=True), find={"inactivity": "2s"})
    one_sentence(failed_sweep(ward.configure()), "archive")


def test_a_source_that_hangs_before_the_association(ward: Ward) -> None:
    ward.archive("archive", Behaviour(hang_on_associate=True), timeouts={"negotiation": "2s"})
    one_sentence(failed_sweep(ward.configure()), "archive")


def test_a_source_that_may_not_be_queried(ward: Ward) -> None:
    ward.archive("archive", Behaviour(refuse_find_status=0x0124))
    one_sentence(failed_sweep(ward.configure()), "archive", "0124")


def test_a_source_that_hangs_in_the_move(ward: Ward) -> None:
    ward.archive("archive", Behaviour(hang_move_after=0), move={"inactivity": "2s"})
    transfer = failed_transfer(ward.configure())
    one_sentence(transfer["reason"], "0 of 3")


def test_an_unknown_move_destination(ward: Ward) -> None:
    ward.archive("archive")
    ward.nodes["workstation"] = node("NOBODY", free_port())
    ward.rules["from-archive"] = rule("archive", "workstation")
    transfer = failed_transfer(ward.configure())
    assert transfer["status"] == "0xA801"
    one_sentence(transfer["reason"], "A801", "enter it there")


@pytest.mark.parametrize("status", [0xA702, 0xC000])
def test_an_unknown_move_destination_in_disguise(ward: Ward, status: int) -> None:
    ward.archive("archive", Behaviour(unknown_destination_status=status))
    ward.nodes["workstation"] = node("NOBODY", free_port())
    ward.rules["from-archive"] = rule("archive", "workstation", verify="none")
    assert failed_transfer(ward.configure())["status"] == f"0x{status:04X}"


def test_an_answer_that_does_not_decode_makes_the_sweep_incomplete(ward: Ward) -> None:
    pacs = ward.archive("archive")
    pacs.add(make_study(seed="other", modality="CT", study_date=_today(), instances=2))
    pacs.behaviour = Behaviour(undecodable_row=0)
    done = ward.configure().apply(code=1)
    assert done["sweeps"][0]["state"] == "incomplete"
    one_sentence(done["sweeps"][0]["reason"], "archive", "decode")


def test_a_data_set_that_does_not_decode_is_refused_and_named_as_missing(ward: Ward) -> None:
    ward.archive("archive", Behaviour(undecodable_instances=1))
    site = ward.configure()
    transfer = failed_transfer(site, "partial")
    assert (transfer["expected"], transfer["completed"]) == (3, 2)
    shown = site.json("transfers", "show", str(transfer["id"]))
    assert len(shown["missing"]) == 1
    assert len(site.stored()) == 2
    assert list(site.store.rglob("*.part*")) == []


def test_a_full_disk_refuses_and_loses_nothing(ward: Ward) -> None:
    ward.archive("archive")
    ward.site.settings["minimum_free"] = "999999GiB"
    site = ward.configure()
    transfer = failed_transfer(site)
    assert site.stored() == {}
    assert transfer["failed"] == 3
    ward.site.settings["minimum_free"] = 0
    again = ward.configure().apply(code=0)
    assert [one["verdict"] for one in again["transfers"]] == ["complete"]
    assert len(site.stored()) == 3


def test_yaml_that_cannot_be_read(ward: Ward) -> None:
    ward.archive("archive")
    site = ward.configure()
    (site.rules_directory / "broken.yaml").write_text("rules:\n  a: [\n")
    (site.rules_directory / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    checked = site.call("validate")
    assert checked.returncode == 1
    assert re.search(r"broken\.yaml:\d+:\d+: error ", checked.stdout)
    assert "binary.yaml" in checked.stdout
    for command in (["run"], ["apply"], ["plan"]):
        done = site.call(*command)
        assert done.returncode == 2, command
        assert "Traceback" not in done.stderr
        assert "has errors" in done.stderr.splitlines()[-1]


def test_a_port_that_is_taken(ward: Ward) -> None:
    ward.archive("archive")
    site = ward.configure()
    with site.run():
        other = Site(ward.directory / "other", nodes=ward.nodes, rules=ward.rules)
        other.settings["listen"] = f"127.0.0.1:{site.dicom_port}"
        other.configure(nodes=ward.nodes, rules=ward.rules)
        done = other.call("apply")
    assert done.returncode in (1, 2)
    assert str(site.dicom_port) in done.stderr
    assert "router.listen" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_ledger_that_is_no_ledger(ward: Ward) -> None:
    ward.archive("archive")
    site = ward.configure()
    (site.directory / "ledger.db").write_bytes(b"this is not a database, and it is long enough to be read as one" * 99)
    done = site.call("apply")
    assert done.returncode == 1
    assert "ledger" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_faults_of_others_delay_nobody(ward: Ward) -> None:
    """One service, several archives that misbehave, one that does not: it is served as if it were alone."""
    # Who waited for one that hangs would wait for longer than a command may take here.
    hangs = {"inactivity": "300s", "total": "300s"}
    slow = {"find": hangs, "move": hangs, "timeouts": {"negotiation": "300s"}}
    ward.archive("hangs-on-associate", Behaviour(hang_on_associate=True), **slow)
    ward.archive("hangs-on-find", Behaviour(hang_on_find=True), **slow)
    ward.archive("hangs-on-move", Behaviour(hang_move_after=0), **slow)
    ward.archive("rejects", Behaviour(reject=CALLING_NOT_RECOGNISED))
    ward.nodes["dead"] = node("DEAD", free_port())
    ward.rules["from-dead"] = rule("dead")
    ward.archive("healthy", instances=20)
    ward.site.settings["drain"] = "1s"
    site = ward.configure()
    with site.run() as router:
        site.apply("--rule", "from-healthy")
        (transfer,) = site.json("transfers", "list", "--source", "healthy")["transfers"]
        assert transfer["verdict"] == "complete"
        failed = r'dicom_router_sweeps_total\{result="failed",rule="from-(dead|rejects)",source="\w+"\} [1-9]'
        wait_for(lambda: len(re.findall(failed, router.metrics())) == 2, "the failures in the metrics")
        metrics = router.metrics()
        assert 'dicom_router_node_up{node="dead"} 0.0' in metrics
        assert 'dicom_router_node_up{node="healthy"} 1.0' in metrics
        assert re.search(
            r'associations_total\{node="rejects",result="rejected_permanent",role="requestor"\} [1-9]', metrics
        )
        assert router.stop(seconds=60) == 0
    assert "Traceback" not in router.log
