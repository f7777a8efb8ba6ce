"""The quarantine as its users meet it: what a sender is told, what is listed, and what release and removal do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from router.dimse import command as commands
from tests.support.dcmtk import Address, storescu
from tests.support.ports import free_port
from tests.support.process import wait_for
from tests.support.router import RunningRouter, Site, node
from tests.support.samples import StudyFiles, make_study
from tests.wire.scu import CT, IMPLICIT, associate, store


@pytest.fixture
def site(tmp_path: Path) -> Site:
    nodes = {
        "scanner": node("SCANNER", free_port(), push="allow"),
        "kiosk": node("KIOSK", free_port(), push="quarantine"),
    }
    return Site(tmp_path / "site", nodes=nodes, rules={}, router={"log": {"format": "json"}})


@pytest.fixture
def router(site: Site) -> Iterator[RunningRouter]:
    with site.run() as running:
        yield running


@pytest.fixture
def study(tmp_path: Path) -> StudyFiles:
    return make_study(tmp_path / "study", instances=2)


def test_a_push_to_quarantine_is_refused_listed_and_released_beside_a_service(
    site: Site, router: RunningRouter, study: StudyFiles
) -> None:
    said = storescu(Address("ROUTER", site.dicom_port), study.files, "--no-halt", calling="KIOSK", check=False).stdout
    assert "0x124" in said, "a sender that believes its image archived may delete it"
    assert site.stored() == {}
    wait_for(lambda: "dicom_router_quarantine_objects 2.0" in router.metrics(), "the gauge")
    assert 'dicom_router_quarantine_total{reason="not-asked-for"} 2.0' in router.metrics()
    listed = site.json("quarantine", "list")["objects"]
    assert [(one["number"], one["reason"], one["node"]) for one in listed] == [
        (2, "not-asked-for", "kiosk"),
        (1, "not-asked-for", "kiosk"),
    ]
    shown = site.json("quarantine", "show", "1")
    assert shown["study_instance_uid"] == study.study_instance_uid
    assert dcmread(shown["file"]).StudyInstanceUID == study.study_instance_uid
    assert site.json("quarantine", "release", "1")["released"] == [1]
    assert set(site.stored()) == {shown["sop_instance_uid"]}
    [stored] = site.json("store", "list")["studies"]
    assert (stored["instances"], stored["from"]) == (1, ["kiosk"])
    assert site.json("quarantine", "remove", "2", "7", code=1)["removed"] == [2]
    assert site.json("quarantine", "list")["objects"] == []
    wait_for(lambda: "dicom_router_quarantine_objects 0.0" in router.metrics(), "the gauge again")
    assert study.study_instance_uid not in router.log


def test_what_cannot_be_decoded_is_kept_and_not_released(site: Site, router: RunningRouter, study: StudyFiles) -> None:
    association = associate(site.dicom_port, ((CT, (IMPLICIT,)),), calling="SCANNER")
    answer = store(association, "1.2.3.4", b"\x08\x00\x16\x00\xff\xff\xff\x7fnonsense" * 100)
    association.release(10.0)
    said = answer.text(commands.ERROR_COMMENT)
    assert (answer.status, said) == (0xC001, "The data set cannot be parsed; quarantined")
    wait_for(lambda: 'dicom_router_quarantine_total{reason="unparseable"} 1.0' in router.metrics(), "it is counted")
    done = site.call("quarantine", "release", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"Object 1 cannot be released: its data set is cut off, or cannot be decoded; .*\n", done.stderr
    )
    assert "unparseable" in site.call("quarantine", "list").stdout
    assert site.stored() == {}


def test_commands_say_what_is_wrong(site: Site) -> None:
    done = site.call("quarantine", "list")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "no object store" in done.stderr
    site.store.mkdir()
    assert site.call("quarantine", "list").stdout == "Nothing is in quarantine.\n"
    done = site.call("quarantine", "show", "3")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
